"""The tables of README.md and of docs/, from what runs and benchmarks wrote."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnn_hf.benchmarking.markdown import conditions, table
from rnn_hf.benchmarking.results import (
    adapted,
    budget,
    classification,
    forecasts,
    perplexities,
    runs,
    speech,
    summary,
    translations,
    unfinished,
)
from rnn_hf.files import read_json


def part(what: str, key: str, is_timed: bool = True, **titles: str) -> Callable[[Path], str]:
    """One table of a benchmark's file, and the conditions that it was measured under; `titles` as of `table`."""

    def render_part(root: Path) -> str:
        benchmark = read_json(root / "results" / f"benchmark_{what}.json") or {}
        if key not in benchmark:
            return "Not measured."
        return f"{table(benchmark[key], **titles)}\n\n{conditions(benchmark, is_timed)}"

    return render_part


WHOLE = ", whole loop"  # in the size of a row of a benchmark of training that is no single step


def steps(root: Path) -> str:
    """Training steps against the same by hand."""
    benchmark = read_json(root / "results" / "benchmark_train.json")
    rows = [row for row in benchmark["rows"] if WHOLE not in row["size"]]
    return f"{table(rows, size='size', ratio='vs {}')}\n\n{conditions(benchmark)}"


def loops(root: Path) -> str:
    """Whole training loops, one row a size and other loop."""
    benchmark = read_json(root / "results" / "benchmark_train.json")
    rows = [
        {"size": row["size"].replace(WHOLE, ""), "other loop": other, "ratio": number}
        for row in benchmark["rows"]
        for other, number in row["ratio"].items()
        if WHOLE in row["size"]
    ]
    return f"{table(rows)}\n\n{conditions(benchmark)}"


def by_size(key: str, name: str, values: str, is_timed: bool = True) -> Callable[[Path], str]:
    """One table of the benchmark of training, with a column a size and a row for each of its `values`."""

    def render_by_size(root: Path) -> str:
        benchmark = read_json(root / "results" / "benchmark_train.json")
        names = dict.fromkeys(other for row in benchmark[key] for other in row[values])
        rows = [{name: other} | {row["size"]: row[values][other] for row in benchmark[key]} for other in names]
        return f"{table(rows)}\n\n{conditions(benchmark, is_timed)}"

    return render_by_size


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
    "README.md": {"summary": summary},
    "docs/results.md": {
        "results": perplexities, "runs": runs, "classification": classification, "speech": speech,
        "forecasts": forecasts, "translations": translations,
        "unfinished": unfinished,
        "budget": budget, "adapted": adapted,
    },
    "docs/speed.md": {
        "speed": steps,
        "loops": loops,
        "padding": part("train", "padding", size="size", ratio="{}"),
        "bf16": part("train", "bf16", size="size", ratio="vs {}"),
        "sampled": part("sample", "rows", size="size", ratio="vs {}"),
        "both directions": part("classify", "bidirectional", size="size", ratio="vs {}"),
        "tagging": part("classify", "tagging", model="model", words_per_second="words/s, {}"),
        "training memory": by_size("memory", "loop", "megabytes", is_timed=False),
        "shares": by_size("shares", "part", "percent"),
        "vocabulary": part("train", "vocabulary", words="words", ratio="time vs {}", megabytes="MB, {}"),
        "generation": part("generate", "rows", size="size", ratio="vs {}"),
        "streams": part(
            "hear", "streams", piece="piece", milliseconds="ms, {}", ratio="vs {}", real_time_factor="real-time factor"
        ),
        "whole speech": part("hear", "whole", seconds="seconds", real_time_factor="real-time factor"),
        "translation speed": part("translate", "translation", case="case", milliseconds="ms, {}", ratio="vs {}"),
        "forecast speed": part("forecast", "forecasts", case="case", milliseconds="ms, {}", ratio="vs {}"),
        "memory": part("generate", "memory", is_timed=False, **MEMORY),
    },
    "docs/gpu.md": GPU_TABLES,
    "docs/deployment.md": {
        "client": client,
        "steps": part("deploy", "rows", size="size", milliseconds="{}"),
        "step ratios": part("deploy", "rows", size="size", ratio="vs {}"),
        "prompt": part("deploy", "prompt", size="size", milliseconds="ms, {}", ratio="runner vs {}"),
        "checkpoints": part("deploy", "checkpoints", model="model", perplexity="perplexity, {}", megabytes="MB, {}"),
        "cold start": part("deploy", "cold_start", is_timed=False, process="process", seconds="seconds"),
    },
}  # fmt: skip


def notebook(text: str) -> str:
    """A page of Markdown as a Jupyter notebook: its blocks of Python are cells of code, the rest cells of text."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(re.split(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)):
        if source := part.strip("\n"):
            cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
            kind: dict[str, Any] = {"cell_type": "markdown"}
            if number % 2:
                kind = {"cell_type": "code", "execution_count": None, "outputs": []}
            cells.append(kind | cell)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    content = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


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
