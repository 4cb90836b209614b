"""Figures without a display, written as drafts and moved into place; matplotlib is an extra."""

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
