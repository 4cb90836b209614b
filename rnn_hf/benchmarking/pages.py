"""The tables of README.md and of the manual, from what runs and benchmarks wrote."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnn_hf.files import read_json, read_json_lines


def perplexities(root: Path) -> str:
    """One row a recipe: what its run and scripts/evaluate.py wrote, or that it was not run, and what others had."""
    titles = ("parameters", "epochs", "minutes (threads)", "device", "seed", "validation", "test")
    rows = []
    for recipe in sorted((root / "scripts" / "recipes").glob("*.yaml")):
        published = re.search("^# Published: (.*)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)
        found = [root / where / recipe.stem for where in ("model_cards", "results")]
        found = [directory for directory in found if (directory / "run.json").is_file()]
        if found:
            cells = cells_of(found[0])
        elif published is not None:
            cells = ["", "not run here", *[""] * 5]
        else:
            continue
        row = {"recipe": f"`{recipe.stem}`", **dict(zip(titles, cells, strict=True))}
        rows.append(row | {"published": published[1] if published else ""})
    return table(rows)


def cells_of(directory: Path) -> list[str]:
    """What `perplexities` says of a run: its scores, or how far it was run and the validation on the way."""
    run = read_json(directory / "run.json")
    result, options = run["result"], run["arguments"]["training"]
    minutes = f"{result['minutes']:.0f} ({run['threads']})"
    if result["is_complete"]:
        scores = read_json(directory / "evaluation.json")["scores"]
        epochs = f"{result['epochs']:g}"
        scored = [f"{scores['validation']['perplexity']:.2f}", f"**{scores['test']['perplexity']:.2f}**"]
    else:
        done = f"{result['epochs']:.2g}" if result["epochs"] < 10 else f"{result['epochs']:.0f}"
        epochs = f"not run here in full: {done} of {options['num_train_epochs']}"
        scored = [f"{result['best_validation_perplexity']:.1f} on the way", ""]
    return [f"{run['parameters']:,}", epochs, minutes, run["device"], str(options["seed"]), *scored]


PERPLEXITIES = (120, 100, 90, 80)


def budget(root: Path) -> str:
    """One row a recipe for Penn Treebank that was run: minutes until validation was as good as each perplexity."""
    rows = []
    for file in sorted([*(root / "model_cards").glob("ptb_*/run.json"), *(root / "results").glob("ptb_*/run.json")]):
        if file.parent.name.startswith("ptb_brief"):
            continue  # their runs were paused, and the minutes hold that
        result = read_json(file)["result"]
        lines = read_json_lines(file.parent / "metrics.jsonl")
        points = [(line["step"], line["validation_perplexity"]) for line in lines if "validation_perplexity" in line]
        cells = {}
        for wanted in PERPLEXITIES:
            step = next((step for step, found in points if found <= wanted), None)
            minutes = None if step is None else step / result["steps"] * result["minutes"]
            cells[f"to {wanted}"] = "" if minutes is None else f"{minutes:.{int(minutes < 1)}f}"
        if any(cells.values()):
            rows.append({"recipe": f"`{file.parent.name}`", **cells})
    return table(rows)


def adapted(root: Path) -> str:
    """One row a model and adaptation: scores of scripts/adapt.py and the static ones."""
    rows = []
    for file in sorted((root / "model_cards").glob("*/evaluation.json")):
        evaluation = read_json(file)
        static = evaluation["scores"]["test"]["perplexity"]
        for name, found in evaluation.get("adapted", {}).items():
            validation, test = (f"{found['scores'][split]['perplexity']:.2f}" for split in ("validation", "test"))
            rows.append({
                "model": f"`{file.parent.name}`", "adaptation": name, "validation": validation, "test": f"**{test}**",
                "test, static": f"{static:.2f}",
            })  # fmt: skip
    return table(rows)


def table(rows: list[dict[str, Any]], **titles: str) -> str:
    """Rows of a benchmark as a table; what holds several numbers takes a column for each, empty where a row lacks one.

    Args:
        rows: Of a benchmark.
        titles: Of the columns by key, in their order; `{}` stands for the name of one of several numbers. Default: all
            keys as they come.

    >>> print(table([{"ratio": {"by hand": 0.987}, "size": "small", "more": 1}], size="size", ratio="to {}"))
    | size | to by hand |
    | --- | --- |
    | small | 0.99 |
    """
    found: list[dict[str, str]] = [{} for _ in rows]
    for cells, row in zip(found, rows, strict=True):
        for key in titles or row:
            value = row[key]
            title = titles.get(key, f"{key}, {{}}" if isinstance(value, dict) else key)
            for name, number in (value if isinstance(value, dict) else {"": value}).items():
                # Ratios have three digits in the file, of which two mean something.
                cells[title.format(name)] = f"{number:.2f}" if key == "ratio" else _written(number)
    columns = list(dict.fromkeys(title for cells in found for title in cells))
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(cells.get(title, '') for title in columns)} |" for cells in found]
    return "\n".join(lines)


def _written(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def conditions(benchmark: dict[str, Any], is_timed: bool = True) -> str:
    """The line under a table: how often, on which machine and with which settings it was measured.

    Args:
        benchmark: What `scripts/benchmark.py --json` wrote; older files lack `machine`.
        is_timed: Whether all was measured in the benchmark's own process, whose memory settings then count.
    """
    machine = benchmark.get("machine")
    if machine is None:
        about = [f"{benchmark['threads']} threads", "CPU not recorded"]
    else:
        about = [f"{machine['threads']} threads", machine["cpu"], "/".join(machine["instructions"]), machine["blas"]]
        about += [] if machine["onednn"] else ["oneDNN off"]
        about += ["freed memory kept"] if is_timed and machine["keeps_freed_memory"] else []
        about += [f"{name}={value}" for name, value in sorted(machine["environment"].items())]
        about += [machine["gpu"]] if "gpu" in machine else []
    return "({rounds} rounds, {about}, torch {versions[torch]})".format(about=", ".join(about), **benchmark)


def part(what: str, key: str, is_timed: bool = True, **titles: str) -> Callable[[Path], str]:
    """One table of a benchmark's file, and the conditions that it was measured under; `titles` as of `table`."""

    def render_part(root: Path) -> str:
        benchmark = read_json(root / "results" / f"benchmark_{what}.json")
        if key not in benchmark:
            return "Not measured."
        return f"{table(benchmark[key], **titles)}\n\n{conditions(benchmark, is_timed)}"

    return render_part


# Tables of speed.json of `scripts/gpu_check.py`, and their columns.
GPU_SPEED: dict[str, dict[str, str]] = {
    "step": {
        "size": "size", "type": "numbers", "ms": "ms", "ratio": "vs {}", "tokens_per_second": "tokens/s",
        "share": "% of matrix rate",
    },
    "decode": {"size": "size", "milliseconds": "ms a token, {}", "ratio": "vs {}"},
    "stack": {"size": "size", "ratio": "stacked vs one call, {}"},
    "loss": {"size": "size", "ratio": "in parts vs all logits, {}"},
}  # fmt: skip


def gpu_speed(directory: Path, name: str) -> str:
    """One of `GPU_SPEED` and its conditions, from the files of `scripts/gpu_check.py` in a directory."""
    measured = (read_json(directory / "speed.json") or {}).get(name, [])
    rows = [row for row in measured if row.get("ratio")]
    if not rows:
        return "Not measured."
    for row in rows:
        row["ms"] = row["milliseconds"].get("ours", "")
        row["share"] = f"{100 * row['share_of_matrix_rate']:.1f}" if "share_of_matrix_rate" in row else ""
    return f"{table(rows, **GPU_SPEED[name])}\n\n({rows[0]['rounds']} rounds, {gpu_conditions(directory)})"


def gpu_conditions(directory: Path) -> str:
    facts = read_json(directory / "facts.json") or {}
    about = [facts.get("gpu", "GPU not recorded")]
    about += [facts["machine"]["cpu"]] if "machine" in facts else []
    about += [f"{label} {facts[key]}" for key, label in (("cuda", "CUDA"), ("cudnn", "cuDNN")) if key in facts]
    about += [f"torch {facts['versions']['torch']}"] if "versions" in facts else []
    return ", ".join(about)


def gpu_training(directory: Path) -> str:
    """The run of `scripts/gpu_check.py`: how far it came, and the scores of its best model."""
    train = read_json(directory / "train.json") or {}
    if "result" not in train:
        return train.get("error", "Not run.")
    result, scores = train["result"], train.get("scores", [{}])[0]
    row = {
        "parameters": train["parameters"], "minutes": result["minutes"], "epochs": result["epochs"],
        "steps": result["steps"], "tokens/s": round(train["tokens_per_second"] or 0),
        "validation": scores.get("validation", ""), "test": f"**{scores['test']}**" if "test" in scores else "",
    }  # fmt: skip
    how = "run to its end" if result["is_complete"] else "NOT run to its end"
    return f"{table([row])}\n\n({how}, {gpu_conditions(directory)})"


def gpu_tests(directory: Path) -> str:
    """What the tests on a GPU said: counts, and a line a failure."""
    tests = read_json(directory / "tests.json") or {}
    if "counts" not in tests:
        return tests.get("error", "Not run.")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in tests["counts"].items())
    lines = [f"- `{failure['test']}`: {failure['message']}" for failure in tests["failures"]]
    return "\n".join([f"{counts} in {tests['seconds']:.0f} seconds ({gpu_conditions(directory)})", *lines])


# Tables of a page from results/gpu, by their marks.
GPU_TABLES: dict[str, Callable[[Path], str]] = {
    "gpu tests": lambda root: gpu_tests(root / "results" / "gpu"),
    "gpu steps": lambda root: gpu_speed(root / "results" / "gpu", "step"),
    "gpu decoding": lambda root: gpu_speed(root / "results" / "gpu", "decode"),
    "gpu layers": lambda root: gpu_speed(root / "results" / "gpu", "stack"),
    "gpu training": lambda root: gpu_training(root / "results" / "gpu"),
}


def summary_of_gpu(directory: Path) -> str:
    """The most telling figures of `scripts/gpu_check.py`, and the first errors of rows."""
    facts, speed = (read_json(directory / f"{name}.json") or {} for name in ("facts", "speed"))
    lines = [f"{key}: {facts.get(key, 'not measured')}" for key in ("memory", "matrix", "lstm")]
    parts = {"tests": gpu_tests(directory), "train": gpu_training(directory)}
    parts |= {name: gpu_speed(directory, name) for name in ("step", "decode", "stack")}
    lines += [f"\n{name}\n\n{text}" for name, text in parts.items()]
    tables = [rows for content in (facts, speed) for rows in content.values() if isinstance(rows, list)]
    errors = [
        f"{row.get('size', '')} {row.get('type', '')}: {row['error']}"
        for rows in tables
        for row in rows
        if "error" in row
    ]
    errors += [f"{row['size']}: {row['errors']}" for rows in tables for row in rows if row.get("errors")]
    errors += [f"{content['error']}" for content in (facts, speed) if "error" in content]
    return "\n".join([*lines, f"\n{len(errors)} rows with errors", *(text[:200] for text in errors[:6])])


def client(root: Path) -> str:
    """The client without torch, as code."""
    text = (root / "docs" / "onnx_client.py").read_text(encoding="utf-8")
    return f"```python\n{text}```"


MEMORY = {"tokens": "tokens", "megabytes generating": "MB generating", "megabytes scoring": "MB scoring"}
# What is between <!-- NAME --> and <!-- end NAME --> on each page.
PAGES: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {
        "results": perplexities,
        "budget": budget,
        "adapted": adapted,
        "speed": part("train", "rows", size="size", ratio="vs {}"),
        "padding": part("train", "padding", size="size", ratio="{}"),
        "bf16": part("train", "bf16", size="size", ratio="vs {}"),
        "training memory": part("train", "memory", is_timed=False, size="size", megabytes="{}"),
        "shares": part("train", "shares", size="size", percent="{}"),
        "vocabulary": part("train", "vocabulary", words="words", ratio="time vs {}", megabytes="MB, {}"),
        "generation": part("generate", "rows", size="size", ratio="vs {}"),
        "memory": part("generate", "memory", is_timed=False, **MEMORY),
        **GPU_TABLES,
    },
    "docs/deployment.md": {
        "client": client,
        "steps": part("deploy", "rows", size="size", milliseconds="ms, {}", ratio="runner vs {}"),
        "prompt": part("deploy", "prompt", size="size", milliseconds="ms, {}", ratio="runner vs {}"),
        "checkpoints": part("deploy", "checkpoints", model="model", perplexity="perplexity, {}", megabytes="MB, {}"),
        "cold start": part("deploy", "cold_start", is_timed=False, process="process", seconds="seconds"),
    },
}


def render(page: str, text: str, root: Path) -> str:
    """The text of one of `PAGES` with what is between its marks rendered again, from files under `root`.

    Raises:
        ValueError: A pair of marks is missing.
    """
    for name, content in PAGES[page].items():
        parts = re.split(rf"(<!-- (?:end )?{name} -->\n)", text)
        if len(parts) != 5:
            raise ValueError(f"{page} needs one pair of marks <!-- {name} --> and <!-- end {name} -->")
        before, start, _, end, after = parts
        text = f"{before}{start}{content(root)}\n{end}{after}"
    return text
