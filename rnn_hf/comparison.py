"""Training runs side by side, and those that differ in the seed alone taken together."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.errors import InputError
from rnn_hf.evaluation import finite_perplexity
from rnn_hf.files import read_json, read_json_lines, read_text
from rnn_hf.plotting import new_figure, save_figure, scale_by_logarithm
from rnn_hf.runs import describe_weights, read_run
from rnn_hf.tasks import METRICS, PERPLEXITY, Metric, metric_of_run


# Arguments that say where and with how many words a run is made, not what it is.
INCIDENTAL = {
    "seed", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit",
    "logging_steps", "report_to", "disable_tqdm", "push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy",
    "train_file", "validation_file", "test_file",
    *(corpus.directory_argument for corpus in CORPORA.values() if corpus.directory_argument),
}  # fmt: skip
LARGEST = finite_perplexity(math.inf)  # what a file says of a run that went astray
SCORES = ("validation", "test", "bits_per_character")


def compare(directories: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """What runs are and how far they came, by the files that they wrote.

    Args:
        directories: Of runs.

    Returns:
        `runs`, a row a run as of `describe_run`; and `groups`, a row for each set of runs that differ in the seed
        alone: names of `runs`, `seeds`, and of each score that all have its `mean` and sample `deviation`.

    Raises:
        InputError: As `describe_run`.
    """
    runs, groups = [], defaultdict(list)
    for directory in directories:
        row = describe_run(directory)
        runs.append(row)
        groups[_identity(read_run(directory / "run.json") or {}, row)].append(row)
    several = [rows for rows in groups.values() if len({row["seed"] for row in rows}) > 1]
    return {"runs": runs, "groups": [_summary(rows) for rows in several]}


def describe_run(directory: Path) -> dict[str, Any]:
    """One run as plain values, `None` for what is not known.

    `validation` is the best score of the run's own validation, by the metric of its task (`metric`), which every run
    has, and `test` that of evaluation.json, if it was made of the weights that are there. `bits_per_character` is of
    validation, for language models of characters.

    Raises:
        InputError: There is no run in the directory, or one of its files is broken.
    """
    run = read_run(directory / "run.json")
    if run is None:
        inside = sorted(path.parent.name for path in directory.glob("*/run.json"))
        hint = f"; there are runs in it: {', '.join(inside)}" if inside else ""
        raise InputError(f"{directory} has no run.json of a training run{hint}")
    model, data, training = (run["arguments"][part] for part in ("model", "data", "training"))
    rows, result = read_json_lines(directory / "metrics.jsonl"), run.get("result") or {}
    metric = metric_of_run(run)
    scores = [row[f"validation_{metric.name}"] for row in rows if f"validation_{metric.name}" in row]
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    score = result.get(f"best_validation_{metric.name}")
    score = score if score is not None else metric.best(scores)
    if score is not None and score >= LARGEST:
        score = math.inf
    loss = result.get("best_validation_loss") or min(losses, default=None)
    is_of_characters = data.get("tokenizer") == "char" or (run.get("data") or {}).get("unit") == "character"
    recipe = run["arguments"].get("recipe")
    sides = [str(model[name]) for name in ("num_encoder_layers", "num_decoder_layers") if name in model]
    return {
        "run": directory.name or str(directory),
        "recipe": Path(recipe).stem if recipe else None,
        "cell": model.get("cell_type"),
        "size": f"{' + '.join(sides) or model.get('num_hidden_layers')} x {model.get('hidden_size')}",
        "parameters": run.get("parameters"),
        "epochs": result.get("epochs", rows[-1].get("epoch") if rows else None),
        "epochs_planned": training.get("num_train_epochs"),
        "is_complete": result.get("is_complete", False),
        "seed": training.get("seed"),
        "minutes": result.get("minutes"),
        "metric": metric.name,
        "validation": score,
        "test": _test(directory, metric),
        "bits_per_character": loss / math.log(2) if is_of_characters and loss is not None else None,
    }


def table_rows(comparison: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    """A comparison as cells of text: a row a run, then a row a group of seeds, empty columns left out."""
    rows = []
    has_several = len({run["metric"] for run in comparison["runs"]}) > 1
    for run in comparison["runs"]:
        epochs = "" if run["epochs"] is None else f"{run['epochs']:.3g}"
        epochs += "" if run["is_complete"] else f" of {run['epochs_planned']}"
        parts = {"run": run["run"], "recipe": run["recipe"], "cell": run["cell"], "size": run["size"]}
        parts |= {"parameters": f"{run['parameters']:,}" if run["parameters"] else None, "epochs": epochs}
        parts |= {"seed": run["seed"], "minutes": None if run["minutes"] is None else f"{run['minutes']:.1f}"}
        parts |= {"metric": METRICS[run["metric"]].column if has_several else None}
        rows.append(parts | {name: None if run[name] is None else _text(name, run[name], run) for name in SCORES})
    for group in comparison["groups"]:
        scores = {
            name: f"{_text(name, group[name]['mean'], group)} ± {_text(name, group[name]['deviation'], group)}"
            for name in SCORES
            if name in group
        }
        rows.append(dict.fromkeys(rows[0]) | {"run": f"mean of {', '.join(group['runs'])}"} | scores)
    filled = [column for column in rows[0] if any(row[column] not in (None, "") for row in rows)] if rows else []
    return [{column: "" if row[column] is None else str(row[column]) for column in filled} for row in rows]


def _text(name: str, value: float, row: Mapping[str, Any]) -> str:
    return f"{value:.2f}" if name == "bits_per_character" else METRICS[row["metric"]].text(value)


def _test(directory: Path, metric: Metric) -> float | None:
    """The metric of evaluation.json on the test split, unless the weights in the directory are others."""
    evaluation = read_json(directory / "evaluation.json") or {}
    if (directory / "model.safetensors").is_file() and evaluation.get("weights") != describe_weights(directory):
        return None
    return ((evaluation.get("scores") or {}).get("test") or {}).get(metric.name)


def _identity(run: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The same text for runs that differ in the seed alone: arguments, words of the training text, and how far."""
    parts = {
        part: {name: value for name, value in run["arguments"][part].items() if name not in INCIDENTAL}
        for part in ("model", "data", "training")
    }
    counts = run.get("data") or {}
    corpus = (counts.get("train_sha1"), counts.get("vocab_size"))
    return json.dumps([parts, corpus, row["is_complete"] or row["epochs"]], sort_keys=True)


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"runs": [row["run"] for row in rows], "seeds": [row["seed"] for row in rows]}
    summary["metric"] = rows[0]["metric"]
    for score in SCORES:
        values = [row[score] for row in rows]
        if all(value is not None and math.isfinite(value) for value in values):
            summary[score] = {"mean": mean(values), "deviation": stdev(values)}
    return summary


# What word_language_model and awd-lstm-lm print at the end of an epoch: its seconds, and the validation perplexity.
END_OF_EPOCH = re.compile(r"\| end of epoch +\d+ \| time: *([\d.]+)s \| valid loss +[\d.]+ \| valid ppl +([\d.]+)")
# Up to how many times the best perplexity is drawn: the first epochs would fill the page.
MOST_TIMES_BEST = 2.5


def plot_runs(directories: Sequence[Path], rows: Sequence[dict[str, Any]], logs: Sequence[Path], png: Path) -> None:
    """Draw the validation of runs over the hours that they took, times threads on a CPU.

    Args:
        directories: Of the runs.
        rows: Of the same runs in the same order, by one metric, as of `describe_run`.
        logs: What `word_language_model` or `awd-lstm-lm` printed on one thread.
        png: To write.

    Raises:
        InputError: Runs by several metrics, without a validation, or without an end; a log without an end of an epoch.
        MissingPackageError: matplotlib is not installed; the message names the extra.
    """
    metrics = {row["metric"] for row in rows}
    if len(metrics) > 1:
        raise InputError(f"runs with {' and '.join(sorted(metrics))} do not go into one picture: name those with one")
    metric = METRICS[metrics.pop()]
    if logs and metric is not PERPLEXITY:
        raise InputError(f"`logs` have perplexities, and these runs have {metric.title}: leave them out")
    # Pairs, as runs of two folders may have one name.
    curves = [(row["run"], _curve_of_run(path, metric)) for path, row in zip(directories, rows, strict=True)]
    curves += [(log.stem, _curve_of_log(log)) for log in logs]
    for name, curve in curves:
        if not curve:
            raise InputError(f"{name} was not validated yet: leave it out")
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    for name, curve in curves:
        axes.plot([hours for hours, _ in curve], [metric.shown(value) for _, value in curve], ".-", label=name)
    if metric is PERPLEXITY:
        best = min(value for _, curve in curves for _, value in curve)
        axes.set_ylim(0.97 * best, MOST_TIMES_BEST * best)
        scale_by_logarithm(axes)
    axes.set(xlabel="hours of training, times threads on a CPU", ylabel=f"validation {metric.column}")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, png)


def _curve_of_run(directory: Path, metric: Metric) -> list[tuple[float, float]]:
    """Each validation of a run: hours until then, and the metric."""
    run, rows = read_run(directory / "run.json") or {}, read_json_lines(directory / "metrics.jsonl")
    if not run.get("result"):
        raise InputError(f"{directory.name} goes on or was cut off: its run.json does not have its minutes yet")
    threads = run["threads"] if run["device"] == "cpu" else 1
    hours_a_step = threads * run["result"]["minutes"] / 60 / max(1, run["result"]["steps"])
    name = f"validation_{metric.name}"
    return [(row["step"] * hours_a_step, row[name]) for row in rows if name in row]


def _curve_of_log(file: Path) -> list[tuple[float, float]]:
    curve, hours = [], 0.0
    for seconds, perplexity in END_OF_EPOCH.findall(read_text(file)):
        hours += float(seconds) / 3600
        curve.append((hours, float(perplexity)))
    if not curve:
        raise InputError(f"{file} has no end of an epoch as word_language_model and awd-lstm-lm print it")
    return curve
