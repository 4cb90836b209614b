"""Write the tables of README.md from the files under results/: what runs and benchmarks wrote, never typed.

    python scripts/results.py [--check]

model_cards/NAME/ holds the run.json of a run and the evaluation.json that scripts/evaluate.py --save wrote of the
weights there; results/benchmark_train.json is what scripts/benchmark.py train --json wrote.
"""

import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path


ROOT = Path(__file__).parents[1]


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def perplexities(root: Path) -> str:
    """One row a run: sizes and time from run.json, perplexity over every token from scripts/evaluate.py."""
    titles = ("recipe", "corpus", "parameters", "epochs", "minutes (threads)", "seed", "unigram", "validation", "test")
    rows = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    for directory in sorted((root / "model_cards").glob("*/")):
        run, scores = read(directory / "run.json"), read(directory / "evaluation.json")["scores"]
        result, seed = run["result"], run["arguments"]["training"]["seed"]
        corpus, unigram = run["arguments"]["data"]["dataset_name"], run["data"]["unigram_validation_perplexity"]
        validation, test = (f"{scores[split]['perplexity']:.2f}" for split in ("validation", "test"))
        rows.append(
            f"| `{directory.name}` | {corpus} | {run['parameters']:,} | {result['epochs']:g} | "
            f"{result['minutes']:.0f} ({run['threads']}) | {seed} | {unigram:.1f} | {validation} | **{test}** |"
        )
    return "\n".join(rows)


def speed(root: Path) -> str:
    """One row a size of the training benchmark."""
    benchmark = read(root / "results" / "benchmark_train.json")
    names = list(benchmark["rows"][0]["ratio"])
    rows = ["| size | " + " | ".join(f"to {name}" for name in names) + " |", "|" + " --- |" * (1 + len(names))]
    for row in benchmark["rows"]:
        rows.append(f"| {row['size']} | " + " | ".join(f"{row['ratio'][name]:.2f}" for name in names) + " |")
    about = f"{benchmark['rounds']} rounds, {benchmark['threads']} threads, torch {benchmark['versions']['torch']}"
    return "\n".join([*rows, "", f"({about}, device {benchmark['device']})"])


def render(text: str, root: Path) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- end NAME -->` written anew."""
    for name, table in (("results", perplexities(root)), ("speed", speed(root))):
        parts = re.split(rf"(<!-- (?:end )?{name} -->\n)", text)
        if len(parts) != 5:
            raise ValueError(f"README.md needs one pair of marks <!-- {name} --> and <!-- end {name} -->")
        before, start, _, end, after = parts
        text = f"{before}{start}{table}\n{end}{after}"
    return text


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md is out of date")
    arguments = parser.parse_args()
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    rendered = render(text, ROOT)
    if arguments.check:
        print("README.md is up to date" if rendered == text else "README.md is out of date: run scripts/results.py")
        return int(rendered != text)
    readme.write_text(rendered, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
