"""Write the tables of README.md from what runs and benchmarks wrote, never typed.

    python scripts/results.py [--check]

model_cards/NAME/ holds what a run and scripts/evaluate.py --save wrote, results/ what scripts/benchmark.py --json did.
"""

import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path


ROOT = Path(__file__).parents[1]


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def perplexities() -> str:
    """One row a run: sizes and time from run.json, perplexity over every token from scripts/evaluate.py."""
    titles = ("recipe", "corpus", "parameters", "epochs", "minutes (threads)", "seed", "unigram", "validation", "test")
    rows = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    for directory in sorted((ROOT / "model_cards").glob("*/")):
        run, scores = read(directory / "run.json"), read(directory / "evaluation.json")["scores"]
        result, arguments, unigram = run["result"], run["arguments"], run["data"]["unigram_validation_perplexity"]
        corpus, seed = arguments["data"]["dataset_name"], arguments["training"]["seed"]
        validation, test = (f"{scores[split]['perplexity']:.2f}" for split in ("validation", "test"))
        size = f"{run['parameters']:,} | {result['epochs']:g} | {result['minutes']:.0f} ({run['threads']})"
        rows.append(f"| `{directory.name}` | {corpus} | {size} | {seed} | {unigram:.1f} | {validation} | **{test}** |")
    return "\n".join(rows)


def ratios(file: str) -> str:
    """One row a size of a benchmark, a column for each thing compared to."""
    benchmark = read(ROOT / "results" / file)
    names = list(dict.fromkeys(name for row in benchmark["rows"] for name in row["ratio"]))
    rows = ["| size | " + " | ".join(f"to {name}" for name in names) + " |", "|" + " --- |" * (1 + len(names))]
    for row in benchmark["rows"]:
        cells = [f"{row['ratio'][name]:.2f}" if name in row["ratio"] else "" for name in names]
        rows.append(f"| {row['size']} | {' | '.join(cells)} |")
    about = "{rounds} rounds, {threads} threads, torch {versions[torch]}, device {device}".format(**benchmark)
    return "\n".join([*rows, "", f"({about})"])


def memory() -> str:
    """Resident memory over the number of tokens."""
    rows = read(ROOT / "results" / "benchmark_generate.json")["memory"]
    line = "{tokens:,}: {megabytes generating:.0f} and {megabytes scoring:.0f}"
    return "Resident megabytes after so many tokens generated, and scored: " + "; ".join(
        line.format(**r) for r in rows
    )


def render(text: str) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- end NAME -->` written anew."""
    tables = {"results": perplexities(), "speed": ratios("benchmark_train.json"), "memory": memory()}
    for name, table in (tables | {"generation": ratios("benchmark_generate.json")}).items():
        parts = re.split(rf"(<!-- (?:end )?{name} -->\n)", text)
        if len(parts) != 5:
            raise ValueError(f"README.md needs one pair of marks <!-- {name} --> and <!-- end {name} -->")
        before, start, _, end, after = parts
        text = f"{before}{start}{table}\n{end}{after}"
    return text


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md is out of date")
    readme = ROOT / "README.md"
    rendered = render(text := readme.read_text(encoding="utf-8"))
    if parser.parse_args().check:
        print("README.md is up to date" if rendered == text else "README.md is out of date: run scripts/results.py")
        return int(rendered != text)
    readme.write_text(rendered, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
