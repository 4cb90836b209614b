"""The picture of a run over its optimizer steps."""

from pathlib import Path
from typing import Any

from rnn_hf.files import read_json, read_json_lines
from rnn_hf.plotting import new_figure, save_figure, scale_by_logarithm
from rnn_hf.tasks import PERPLEXITY, Metric, metric_of_run


MOST = 1e6  # at which higher perplexities are drawn: a run that diverges would leave no room for the rest


def plot_curve(metrics: Path, png: Path) -> None:
    """Draw a run over its steps from a metrics.jsonl: of a language model perplexity, training and validation, and the
    norm of the gradient; of others the metric that decides, and the loss. The title is by the run.json next to it.

    Raises:
        MissingPackageError: matplotlib is not installed; the message names the extra.
    """
    rows = read_json_lines(metrics)
    record = read_json(metrics.with_name("run.json")) or {}
    metric = metric_of_run(record)
    figure = new_figure(7, 5.6)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1) if metric is PERPLEXITY else (3, 2))
    train = {"color": "0.6", "linewidth": 1}
    validation = {"color": "C0", "marker": "o", "markersize": 4}
    if metric is PERPLEXITY:
        styles: list[tuple[Any, str, str, dict[str, Any]]] = [
            (above, "train_perplexity", "training (with dropout)", train),
            (above, "validation_perplexity", "validation", validation),
            (below, "grad_norm", "", {"color": "0.4", "linewidth": 1}),
        ]
    else:
        styles = [
            (above, f"validation_{metric.name}", "validation", validation),
            (below, "train_loss", "training (with dropout)", train),
            (below, "validation_loss", "validation", validation),
        ]
    for axes, key, label, style in styles:
        points = [(row["step"], row[key]) for row in rows if key in row]
        if metric is PERPLEXITY:
            points = [(step, min(value, MOST)) for step, value in points if value > 0]
        elif axes is above:
            points = [(step, metric.shown(value)) for step, value in points]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    above.set_title(_title(record, metric, metrics), fontsize=10)
    if metric is PERPLEXITY:
        is_cut = any(row.get(key, 0) > MOST for row in rows for key in ("train_perplexity", "validation_perplexity"))
        above.set(ylabel=f"perplexity (log scale{f', cut at {MOST:,.0f}' * is_cut})")
        below.set(xlabel="optimizer steps", ylabel="gradient norm")
    else:
        above.set(ylabel=metric.column)
        below.set(xlabel="optimizer steps", ylabel="loss")
    for axes in (axes for axes in (above, below) if axes.lines):
        if metric is PERPLEXITY:
            scale_by_logarithm(axes)
        axes.grid(alpha=0.3)
    for axes in (above, below):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    save_figure(figure, png)


def _title(record: dict[str, Any], metric: Metric, metrics: Path) -> str:
    name = metrics.resolve().parent.name
    result = record.get("result")
    if not result or not result["best_step"]:
        return name
    best = result[f"best_validation_{metric.name}"]
    best_text = metric.label(best) if best < MOST else f"{metric.title} >{MOST:g}"
    columns = record["arguments"]["training"]["per_device_eval_batch_size"]
    about = f"validation, {columns} columns" if metric is PERPLEXITY else "validation"
    return f"{name}: best {best_text} at step {result['best_step']:,} ({about})"
