"""The tables of README.md and of docs/, from what runs and benchmarks wrote."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rnn_hf.files import read_json, read_json_lines


def recipes(root: Path) -> Iterator[tuple[str, str, Path | None]]:
    """Name of each recipe, what its file says is published, and the directory of its run if it was run."""
    for recipe in sorted((root / "scripts" / "recipes").glob("*.yaml")):
        published = re.search("^# Published: (.*)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)
        directories = (root / where / recipe.stem for where in ("model_cards", "results"))
        run = next((directory for directory in directories if (directory / "run.json").is_file()), None)
        yield recipe.stem, published[1] if published else "", run


def finished(root: Path) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Name, published figures, run.json and scores of each recipe that was run to its end."""
    for name, published, directory in recipes(root):
        if directory and (run := read_json(directory / "run.json"))["result"]["is_complete"]:
            yield name, published, run, read_json(directory / "evaluation.json")["scores"]


def perplexities(root: Path) -> str:
    """One row a recipe that was run to its end: its scores, and what others published."""
    rows = []
    for name, published, _, scores in finished(root):
        validation, test = (f"{scores[split]['perplexity']:.2f}" for split in ("validation", "test"))
        rows.append({"recipe": f"`{name}`", "test": f"**{test}**", "validation": validation, "published": published})
    return table(rows)


def summary(root: Path) -> str:
    """The same in short for the README, without the series of brief runs."""
    rows = []
    for name, _, run, scores in finished(root):
        if not name.startswith("ptb_brief"):
            cells = {"recipe": f"`{name}`", "test perplexity": f"{scores['test']['perplexity']:.2f}"}
            rows.append(cells | {"parameters": run["parameters"], "minutes": round(run["result"]["minutes"])})
    return table(rows)


def runs(root: Path) -> str:
    """One row a recipe that was run to its end: its size, and what the run took."""
    rows = []
    for name, _, run, _ in finished(root):
        result = run["result"]
        row = {"recipe": f"`{name}`", "parameters": run["parameters"], "epochs": f"{result['epochs']:g}"}
        row |= {"minutes (threads)": f"{result['minutes']:.0f} ({run['threads']})", "device": run["device"]}
        rows.append(row | {"seed": run["arguments"]["training"]["seed"]})
    return table(rows)


def unfinished(root: Path) -> str:
    """One row a recipe with a run that was stopped, or with published figures and no run: how far it was run."""
    rows = []
    for name, published, directory in recipes(root):
        if directory and not (run := read_json(directory / "run.json"))["result"]["is_complete"]:
            rows.append({"recipe": f"`{name}`", **progress_of(run), "published": published})
        elif not directory and published:
            rows.append({"recipe": f"`{name}`", "epochs run": "none", "validation so far": "", "published": published})
    return table(rows)


def progress_of(run: dict[str, Any]) -> dict[str, str]:
    """How far a run came that was stopped, from its run.json, and its best validation by then."""
    result = run["result"]
    done = f"{result['epochs']:.2g}" if result["epochs"] < 10 else f"{result['epochs']:.0f}"
    epochs = f"{done} of {run['arguments']['training']['num_train_epochs']}"
    return {"epochs run": epochs, "validation so far": f"{result['best_validation_perplexity']:.1f}"}


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
        "results": perplexities, "runs": runs, "unfinished": unfinished, "budget": budget, "adapted": adapted,
    },
    "docs/speed.md": {
        "speed": steps,
        "loops": loops,
        "padding": part("train", "padding", size="size", ratio="{}"),
        "bf16": part("train", "bf16", size="size", ratio="vs {}"),
        "training memory": by_size("memory", "loop", "megabytes", is_timed=False),
        "shares": by_size("shares", "part", "percent"),
        "vocabulary": part("train", "vocabulary", words="words", ratio="time vs {}", megabytes="MB, {}"),
        "generation": part("generate", "rows", size="size", ratio="vs {}"),
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
