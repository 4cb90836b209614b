"""The tables of README.md, from what runs and benchmarks wrote."""

import json
import re
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def perplexities(root: Path) -> str:
    """One row a recipe: what its run and scripts/evaluate.py wrote, or that it was not run, and what others had."""
    titles = (
        "recipe",
        "parameters",
        "epochs",
        "minutes (threads)",
        "device",
        "seed",
        "validation",
        "test",
        "published",
    )
    rows = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    for recipe in sorted((root / "scripts" / "recipes").glob("*.yaml")):
        published = re.search("^# Published: (.*)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)
        found = [root / where / recipe.stem for where in ("model_cards", "results")]
        found = [directory for directory in found if (directory / "evaluation.json").is_file()]
        cells = ["", "not run here", *[""] * 5]
        if found:
            run, scores = read(found[0] / "run.json"), read(found[0] / "evaluation.json")["scores"]
            validation, test = (f"{scores[split]['perplexity']:.2f}" for split in ("validation", "test"))
            result, seed = run["result"], run["arguments"]["training"]["seed"]
            minutes = f"{result['minutes']:.0f} ({run['threads']})"
            cells = [f"{run['parameters']:,}", f"{result['epochs']:g}", minutes, run["device"], str(seed), validation]
            cells.append(f"**{test}**")
        elif published is None:
            continue
        rows.append(f"| `{recipe.stem}` | {' | '.join(cells)} | {published[1] if published else ''} |")
    return "\n".join(rows)


PERPLEXITIES = (120, 100, 90, 80)


def budget(root: Path) -> str:
    """One row a recipe for Penn Treebank that was run: minutes until validation was as good as each perplexity."""
    rows = ["| recipe | " + " | ".join(f"to {value}" for value in PERPLEXITIES) + " |", "|" + " --- |" * 5]
    for file in sorted([*(root / "model_cards").glob("ptb_*/run.json"), *(root / "results").glob("ptb_*/run.json")]):
        result = read(file)["result"]
        lines = (json.loads(line) for line in (file.parent / "metrics.jsonl").read_text("utf-8").splitlines())
        points = [(line["step"], line["validation_perplexity"]) for line in lines if "validation_perplexity" in line]
        cells = []
        for wanted in PERPLEXITIES:
            step = next((step for step, found in points if found <= wanted), None)
            cells.append("" if step is None else f"{step / result['steps'] * result['minutes']:.0f}")
        rows.append(f"| `{file.parent.name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def adapted(root: Path) -> str:
    """One row a model and adaptation: scores of scripts/adapt.py beside the static ones."""
    rows = ["| model | adaptation | validation | test | test, static |", "|" + " --- |" * 5]
    for file in sorted((root / "model_cards").glob("*/evaluation.json")):
        evaluation = read(file)
        static = evaluation["scores"]["test"]["perplexity"]
        for name, found in evaluation.get("adapted", {}).items():
            validation, test = (f"{found['scores'][split]['perplexity']:.2f}" for split in ("validation", "test"))
            rows.append(f"| `{file.parent.name}` | {name} | {validation} | **{test}** | {static:.2f} |")
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
    tables = {"results": perplexities(root), "budget": budget(root), "adapted": adapted(root)}
    tables |= {"speed": ratios(training), "generation": ratios(generation), "memory": memory(generation)}
    for name, table in tables.items():
        parts = re.split(rf"(<!-- (?:end )?{name} -->\n)", text)
        if len(parts) != 5:
            raise ValueError(f"README.md needs one pair of marks <!-- {name} --> and <!-- end {name} -->")
        before, start, _, end, after = parts
        text = f"{before}{start}{table}\n{end}{after}"
    return text
