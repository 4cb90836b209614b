"""What a classifier takes for what, as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnn_hf.plotting import new_figure, save_figure


MOST_NUMBERS = 25  # classes, above which cells are too small for numbers


def plot_confusion(confusion: np.ndarray, names: Sequence[str], title: str, png: Path) -> None:
    """Draw which class was taken for which, coloured by the share of each true class.

    Args:
        confusion: Counts, `(classes, classes)`, true classes in rows.
        names: Of the classes.
        title: Above the picture.
        png: File to write.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    size = max(4.0, 0.45 * len(names) + 2)
    figure = new_figure(size + 1, size)
    axes = figure.subplots()
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    positions = range(len(names))
    axes.set_xticks(positions, names, rotation=90)
    axes.set_yticks(positions, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)
    figure.colorbar(image, label="share of the true class")
    if len(names) <= MOST_NUMBERS:
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=7, color=color)
    save_figure(figure, png)
