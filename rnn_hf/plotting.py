"""Figures without a display, written as drafts and moved into place; matplotlib is an extra."""

import math
import os
from pathlib import Path
from typing import Any

from rnn_hf.errors import MissingPackageError


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, sizes in inches.

    Raises:
        MissingPackageError: matplotlib is not installed; the message names the extra.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("plots need matplotlib: pip install 'rnn_hf[plot]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, png: Path) -> None:
    """Write a figure as a PNG file."""
    draft = png.with_name(f".writing-{png.name}")
    figure.savefig(draft, dpi=130)
    os.replace(draft, png)


def scale_by_logarithm(axes: Any) -> None:
    """Draw the second axis in logarithms, with round numbers."""
    axes.set_yscale("log")
    ticks = log_ticks(*axes.get_ylim())
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_yticks([], minor=True)


def log_ticks(low: float, high: float) -> list[float]:
    """Some 3 to 9 round numbers from `low` to `high`, both positive, for an axis in logarithms.

    >>> log_ticks(3.4, 31), log_ticks(70, 10_500), log_ticks(77, 79)
    ([4, 5, 6, 8, 10, 15, 20, 30], [100, 200, 500, 1000, 2000, 5000, 10000], [77, 77.4, 77.8, 78.2, 78.6, 79])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    else:  # a narrow range, which is nearly linear
        step = 10.0 ** math.floor(math.log10(high - low))
        step = step if high - low > 4 * step else step / 5
        ticks = [step * part for part in range(math.ceil(low / step), math.floor(high / step) + 1)]
    ticks = [float(f"{tick:.6g}") for tick in ticks[:: math.ceil(len(ticks) / 9)]]
    return [int(tick) if tick == int(tick) else tick for tick in ticks]
