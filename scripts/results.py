"""Write the tables of the manual from what runs and benchmarks wrote, never typed, and a notebook of one page.

    python scripts/results.py [--check]

model_cards/NAME/ holds what a run and scripts/evaluate.py --save wrote, results/ what scripts/benchmark.py --json did.
"""

from argparse import ArgumentParser
from pathlib import Path

from rnn_hf.benchmarking.pages import PAGES, notebook, render
from rnn_hf.commands import run_command


ROOT = Path(__file__).parents[1]
NOTEBOOK = "docs/teaching.ipynb"  # of the page of that name


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    is_check, old = parser.parse_args().check, 0
    for page in [*PAGES, NOTEBOOK]:
        text = (ROOT / page).read_text(encoding="utf-8") if (ROOT / page).exists() else ""
        if page == NOTEBOOK:
            rendered = notebook((ROOT / page).with_suffix(".md").read_text(encoding="utf-8"))
        else:
            rendered = render(page, text, ROOT)
        if is_check:
            print(f"{page} is {'up to date' if rendered == text else 'out of date: run scripts/results.py'}")
            old += rendered != text
        else:
            (ROOT / page).write_text(rendered, encoding="utf-8")
    return int(old > 0)


if __name__ == "__main__":
    run_command(main)
