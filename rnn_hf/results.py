"""The tables of README.md, from what runs and benchmarks wrote."""

import json
import re
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def perplexities(root: Path) -> str:
    """One row a run: sizes and time from run.json, perplexity over every token from scripts/evaluate.py."""
    titles = ("recipe", "corpus", "parameters", "epochs", "minutes (threads)", "seed", "unigram", "validation", "test")
    rows = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    for directory in sorted((root / "model_cards").glob("*/")):
        run, scores = read(directory / "run.json"), read(directory / "evaluation.json")["scores"]
        result, arguments, unigram = run["result"], run["arguments"], run["data"]["unigram_validation_perplexity"]
        corpus, seed = arguments["data"]["dataset_name"], arguments["training"]["seed"]
        validation, test = (f"{scores[split]['perplexity']:.2f}" for split in ("validation", "test"))
        size = f"{run['parameters']:,} | {result['epochs']:g} | {result['minutes']:.0f} ({run['threads']})"
        rows.append(f"| `{directory.name}` | {corpus} | {size} | {seed} | {unigram:.1f} | {validation} | **{test}** |")
    return "\n".join(rows)


def ratios(file: Path) -> str:
    """One row a size of a benchmark, a column for each thing compared to."""
    benchmark = read(file)
    names = list(dict.fromkeys(name for row in benchmark["rows"] for name in row["ratio"]))
    rows = ["| size | " + " | ".join(f"to {name}" for name in names) + " |", "|" + " --- |" * (1 + len(names))]
    for row in benchmark["rows"]:
        cells = [f"{row['ratio'][name]:.2f}" if name in row["ratio"] else "" for name in names]
        rows.append(f"| {row['size']} | {' | '.join(cells)} |")
    about = "{rounds} rounds, {threads} threads, torch {versions[torch]}, device {device}".format(**benchmark)
    return "\n".join([*rows, "", f"({about})"])


def memory(file: Path) -> str:
    """Resident memory over the number of tokens."""
    rows = read(file)["memory"]
    line = "{tokens:,}: {megabytes generating:.0f} and {megabytes scoring:.0f}"
    return "Resident megabytes after so many tokens generated, and scored: " + "; ".join(
        line.format(**r) for r in rows
    )


def render(text: str, root: Path) -> str:
    """`text` with what stands between `<!-- NAME -->` and `<!-- end NAME -->` written anew, from files under `root`.

    Raises:
        ValueError: A pair of marks is missing.
    """
    training, generation = (root / "results" / f"benchmark_{what}.json" for what in ("train", "generate"))
    tables = {"results": perplexities(root), "speed": ratios(training), "memory": memory(generation)}
    for name, table in (tables | {"generation": ratios(generation)}).items():
        parts = re.split(rf"(<!-- (?:end )?{name} -->\n)", text)
        if len(parts) != 5:
            raise ValueError(f"README.md needs one pair of marks <!-- {name} --> and <!-- end {name} -->")
        before, start, _, end, after = parts
        text = f"{before}{start}{table}\n{end}{after}"
    return text
