"""Where a network looked when it wrote each word of a translation, as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluating
from rnn_hf.loading import input_device
from rnn_hf.plotting import new_figure, save_figure


@dataclass(frozen=True)
class Alignment:
    """Weights of attention between words.

    Attributes:
        source: S words, the last one of which is the end token.
        target: T words, the last one of which is the end token.
        weights: `(T, S)`; a row has 1 in all. Pieces of one source word are summed, of one target word averaged, and
            so are the heads of an attention that has several.
    """

    source: list[str]
    target: list[str]
    weights: np.ndarray


@torch.no_grad()
def alignment_of(model: Any, tokenizer: PreTrainedTokenizerBase, text: str, translation: str) -> Alignment:
    """The weights of attention with which a network writes a translation, its own or another.

    Args:
        model: An `RNNForConditionalGeneration` with attention; its training mode is restored afterwards.
        tokenizer: Its own, with an end token behind each text.
        text: What is read.
        translation: What is written.

    Raises:
        InputError: The model has no attention.
    """
    if model.config.attention is None:
        raise InputError("the model has no `attention`: there is nothing to see")
    source, target = tokenizer(text), tokenizer(text_target=translation)
    ids, labels = (torch.tensor([part.input_ids], device=input_device(model)) for part in (source, target))
    with evaluating(model):
        output = model(input_ids=ids, labels=labels, output_attentions=True)
    weights = output.cross_attentions[0][0].cpu().double().mean(dim=0).numpy()
    read, written = word_groups(tokenizer, source), word_groups(tokenizer, target)
    columns = np.stack([weights[:, places].sum(axis=1) for _, places in read], axis=1)
    rows = np.stack([columns[places].mean(axis=0) for _, places in written])
    return Alignment([word for word, _ in read], [word for word, _ in written], rows)


def word_groups(tokenizer: PreTrainedTokenizerBase, encoded: Any) -> list[tuple[str, list[int]]]:
    """The words of an encoded text with the places of their pieces; each special token is a word of its own."""
    groups: list[tuple[int | None, list[int]]] = []
    for place, word in enumerate(encoded.word_ids(0)):
        if word is not None and groups and groups[-1][0] == word:
            groups[-1][1].append(place)
        else:
            groups.append((word, [place]))
    ids: Sequence[int] = encoded.input_ids
    return [(str(tokenizer.decode([ids[place] for place in places])).strip(), places) for _, places in groups]


def plot_alignment(alignment: Alignment, png: Path) -> None:
    """Draw weights of attention: a row a word of the translation, from above to below.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    width, height = len(alignment.source), len(alignment.target)
    figure = new_figure(max(4.0, 1.6 + 0.4 * width), max(3.0, 1.2 + 0.34 * height))
    axes = figure.subplots()
    image = axes.imshow(alignment.weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(width), alignment.source, rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(height), alignment.target)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for edge in axes.spines.values():
        edge.set_visible(False)
    figure.colorbar(image, ax=axes, label="weight", shrink=0.8)
    save_figure(figure, png)
