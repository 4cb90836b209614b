"""Figures of `rnn_hf.analysis`: models side by side, and units over a text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnn_hf.errors import InputError
from rnn_hf.plotting import new_figure, save_figure


MOST_TOKENS = 120  # whose names can be read below a heat map
# What the ends of a gate are called, or of the activation of an Elman cell, by its kind.
ENDS = {
    "lstm": ("closed: below 0.1", "open: above 0.9"),
    "gru": ("closed: below 0.1", "open: above 0.9"),
    "tanh": ("below -0.8", "above 0.8"),
    "sigmoid": ("below 0.1", "above 0.9"),
    "relu": ("below 0.1", "above 0.9"),
}
GATED = ("lstm", "gru")


def plot_inspection(inspections: Mapping[str, Mapping[str, Any]], png: Path, text: str = "") -> None:
    """Draw what `rnn_hf.analysis.inspect` gives: a row a model, with gradient norms over distance, spectral radii,
    saturation and, for a model with `training` (see `training_norms`), the norm of the gradient over training.

    Args:
        inspections: By the name of the model.
        png: File to write.
        text: What the models were run over, for the title.

    Raises:
        MissingPackageError: matplotlib is not installed; the message names the extra.
    """
    width = 3 + any(content.get("training") for content in inspections.values())
    figure = new_figure(4.2 * width, 3.7 * len(inspections) + 0.4)
    panels = figure.subplots(len(inspections), width, squeeze=False, sharex="col")
    for row, (name, content) in zip(panels, inspections.items(), strict=True):
        _draw_norms(row[0], content["gradient_norms"])
        _draw_radii(row[1], content["spectral_radius"], content["kind"])
        _draw_saturation(row[2], content["saturation"], content["kind"])
        if width > 3:
            _draw_training(row[3], content.get("training"))
        row[0].set_title(name, loc="left", fontsize=10, fontweight="bold")
        for panel in row:
            panel.grid(alpha=0.3)
            panel.set_axisbelow(True)
            panel.tick_params(labelbottom=True)
    for column in (0, 3)[: width - 2]:  # norms of one scale, so that models compare
        low, high = zip(*(row[column].get_ylim() for row in panels if row[column].has_data()), strict=True)
        for row in panels:
            row[column].set_ylim(min(low), max(high))
    figure.suptitle(f"Over {text}" if text else "", fontsize=10)
    save_figure(figure, png)


def _draw_norms(panel: Any, norms: Sequence[Sequence[float]]) -> None:
    for index, values in enumerate(norms):
        panel.plot(range(1, len(values) + 1), values, label=f"layer {index}")
    panel.set(xlabel="steps back, k", ylabel="norm of $dh_T / dh_{T-k}$", yscale="log")
    panel.legend(fontsize=8)


def _draw_radii(panel: Any, layers: Sequence[Mapping[str, float]], kind: str) -> None:
    names = [f"{name} {index}" for index, layer in enumerate(layers) for name in layer]
    _bars(panel, names, [value for layer in layers for value in layer.values()], "matrix and layer")
    panel.set(xlabel="spectral radius of the recurrent matrix")
    if kind in GATED:
        caution = "of single gates: 1 is no limit between\nfading and growing, as gates scale the state"
        panel.set_title(caution, fontsize=8)
    else:
        panel.axvline(1, color="C3", linestyle="--", linewidth=1.2, label="1: below it gradients fade")
        _legend_above(panel, 1)


def _draw_saturation(panel: Any, layers: Sequence[Mapping[str, Mapping[str, float]]], kind: str) -> None:
    shares = {f"{name} {index}": ends for index, layer in enumerate(layers) for name, ends in layer.items()}
    low, high = ([ends[side] for ends in shares.values()] for side in ("closed", "open"))
    names = ENDS[kind]
    ylabel = "gate and layer" if kind in GATED else "activation and layer"
    _bars(panel, list(shares), low, ylabel, label=names[0])
    _bars(panel, list(shares), high, ylabel, left=[1 - value for value in high], label=names[1])
    panel.set(xlabel="share of values", xlim=(0, 1))
    _legend_above(panel, 2)


def _draw_training(panel: Any, training: Mapping[str, Any] | None) -> None:
    panel.set(xlabel="optimizer steps", ylabel="norm of the gradient in training")
    if not training:
        panel.annotate("not recorded by its run", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.4")
        panel.set_yticks([])
        return
    panel.plot(training["steps"], training["norms"], linewidth=1)
    panel.set(yscale="log")
    if training["clipped_at"]:
        panel.axhline(training["clipped_at"], color="C3", linestyle="--", linewidth=1.2, label="clipped above this")
        _legend_above(panel, 1)


def _bars(panel: Any, names: list[str], values: list[float], ylabel: str, **options: Any) -> None:
    """Horizontal bars, the first on top; a few do not fill the panel."""
    panel.barh(names, values, height=0.7, **options)
    middle, half = (len(names) - 1) / 2, max(len(names), 5) / 2
    panel.set(ylim=(middle + half, middle - half), ylabel=ylabel)


def _legend_above(panel: Any, columns: int) -> None:
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, fontsize=8)


def plot_units(
    layers: Mapping[str, np.ndarray], words: Sequence[str], png: Path, value: str = "hidden", units: int = 40,
    title: str = "",
) -> None:  # fmt: skip
    """Draw units over a text as a heat map, a panel a layer, time from left to right (Karpathy et al., 2015).

    Units that change most are shown, in the order of the words at which they are highest.

    Args:
        layers: By the title of a panel: values `(T, units)`.
        words: The T words.
        png: File to write.
        value: What the values are, for the scale; gates are between 0 and 1.
        units: How many to show of each layer, at most.
        title: Of the figure.

    Raises:
        InputError: No unit, or more words than can be read.
        MissingPackageError: matplotlib is not installed; the message names the extra.
    """
    if units < 1:
        raise InputError(f"`units` must be at least 1, got {units}")
    if not 1 <= len(words) <= MOST_TOKENS:
        raise InputError(f"a heat map shows from 1 to {MOST_TOKENS} tokens, not {len(words)}")
    order = {name: _most_changing(values, units) for name, values in layers.items()}
    shown = {name: values[:, order[name]] for name, values in layers.items()}
    figure = new_figure(3 + 0.21 * len(words), 1 + sum(1.2 + 0.15 * values.shape[1] for values in shown.values()))
    panels = figure.subplots(len(layers), 1, squeeze=False)[:, 0]
    low = min(float(values.min()) for values in shown.values())
    most = max(float(np.abs(values).max()) for values in shown.values())
    # Two hues from the middle of the scale on where values have signs, one hue where they have none.
    scale = ("RdBu_r", -most, most) if low < 0 else ("Blues", 0, max(most, 1))
    names = [word.strip() or repr(word)[1:-1] for word in words]
    for panel, (name, values) in zip(panels, shown.items(), strict=True):
        options = dict(zip(("cmap", "vmin", "vmax"), scale, strict=True))
        image = panel.imshow(values.T, aspect="auto", interpolation="nearest", **options)
        panel.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        panel.set_yticks(range(values.shape[1]), map(str, order[name]), fontsize=6)
        panel.set(ylabel=f"unit, the {values.shape[1]} of {layers[name].shape[1]} that change most")
        panel.set_title(name, fontsize=10, loc="left")
        figure.colorbar(image, ax=panel, label=value, pad=0.01)
    panels[-1].set_xlabel("token that was read")
    figure.suptitle(title, fontsize=10)
    save_figure(figure, png)


def _most_changing(values: np.ndarray, units: int) -> np.ndarray:
    """Numbers of the units of `(T, units)` that change most, by the step at which each is highest."""
    most = np.argsort(-values.std(axis=0), kind="stable")[:units]
    return most[np.argsort(values[:, most].argmax(axis=0), kind="stable")]
