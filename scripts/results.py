"""Write the tables of README.md from what runs and benchmarks wrote, never typed.

    python scripts/results.py [--check]

model_cards/NAME/ holds what a run and scripts/evaluate.py --save wrote, results/ what scripts/benchmark.py --json did.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

from rnn_hf.results import render


ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md is out of date")
    readme = ROOT / "README.md"
    rendered = render(text := readme.read_text(encoding="utf-8"), ROOT)
    if parser.parse_args().check:
        print("README.md is up to date" if rendered == text else "README.md is out of date: run scripts/results.py")
        return int(rendered != text)
    readme.write_text(rendered, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
