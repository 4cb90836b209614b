"""What a run leaves behind beside the model: run.json, metrics.jsonl and the loss curve."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rnn_hf.files import read_json_lines, write_text
from rnn_hf.plotting import new_figure, save_figure


PACKAGES = ("rnn_hf", "transformers", "datasets", "accelerate", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on; of torch the build too, as in `2.13.0+cpu`."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def command_line() -> str:
    """The command of this process, its program by file name."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


class Metrics:
    """The file metrics.jsonl: one JSON object a line, each with its `step`.

    Args:
        path: The file; it is replaced in one piece.
        rows: What it begins with: the history of a run that goes on.
    """

    def __init__(self, path: Path, rows: Iterable[dict[str, Any]] = ()):
        self.path = path
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, **values: float) -> None:
        """Append one line.

        Raises:
            OSError: It cannot be written; no part of it is left.
        """
        size = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError:
            os.truncate(self.path, size)
            raise


def plot_curve(metrics: Path, png: Path) -> None:
    """Draw perplexity over steps, training and validation, from a metrics.jsonl.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    rows = read_json_lines(metrics)
    figure = new_figure(7, 4.2)
    axes = figure.add_subplot()
    styles: list[tuple[str, str, dict[str, Any]]] = [
        ("train_perplexity", "training (with dropout)", {"color": "0.6", "linewidth": 1}),
        ("validation_perplexity", "validation", {"color": "C0", "marker": "o", "markersize": 4}),
    ]
    for key, label, style in styles:
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    best = min((row["validation_perplexity"] for row in rows if "validation_perplexity" in row), default=None)
    axes.set(xlabel="optimizer steps", ylabel="perplexity (log scale)", yscale="log")
    if best is not None:
        axes.set_title(f"best validation perplexity {best:.1f}", fontsize=10)
    ticks = (10, 20, 50, 70, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10000)
    low, high = axes.get_ylim()
    axes.set_yticks([t for t in ticks if low <= t <= high], [str(t) for t in ticks if low <= t <= high])
    axes.set_yticks([], minor=True)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    save_figure(figure, png)
