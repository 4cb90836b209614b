"""What the output layer costs as the vocabulary grows: the loss in parts, over all logits, and adaptive softmax."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rnn_hf.models.loss_rnn import linear_cross_entropy
from rnn_hf.timing import alone, announced, in_turn, ratio, rise_of_peak


VOCABULARIES = (10_000, 50_000, 250_000)
OUTPUT_LAYERS = ("in parts", "all logits", "adaptive softmax")


def output_step(name: str, vocab_size: int, tokens: int = 700, width: int = 200) -> Callable[[], object]:
    """Loss and gradients of one of `OUTPUT_LAYERS`, for words as frequent as Zipf's law has them.

    Adaptive softmax (Grave et al., 2017, "Efficient softmax approximation for GPUs") is torch's, cut at a 25th and a
    fifth of the words. It is another model: what it saves, it saves on rare words.
    """
    torch.manual_seed(0)
    odds = 1 / (np.arange(vocab_size) + 2.7)
    targets = torch.from_numpy(np.random.default_rng(0).choice(vocab_size, tokens, p=odds / odds.sum()))
    hidden = torch.randn(tokens, width, requires_grad=True)
    layer: Any = nn.Linear(width, vocab_size)
    if name == "adaptive softmax":
        layer = nn.AdaptiveLogSoftmaxWithLoss(width, vocab_size, [vocab_size // 25, vocab_size // 5])

    def run() -> None:
        for tensor in (hidden, *layer.parameters()):
            tensor.grad = None
        if name == "in parts":
            loss = linear_cross_entropy(hidden, layer.weight, layer.bias, targets)
        elif name == "all logits":
            loss = F.cross_entropy(layer(hidden), targets, reduction="sum")
        else:
            loss = layer(hidden, targets).loss
        loss.backward()

    return run


def benchmark_vocabulary(rounds: int = 9) -> Iterator[dict[str, Any]]:
    """Rows of `words`, `ratio` of the time in parts to that of each other layer, and `megabytes` at the peak beyond
    the weights, each layer in a process of its own."""
    for words in announced("vocabulary", VOCABULARIES):
        times = in_turn({name: output_step(name, words) for name in OUTPUT_LAYERS}, max(3, rounds // 2))
        yield {
            "words": words,
            "ratio": {name: round(ratio(times, OUTPUT_LAYERS[0], name), 3) for name in OUTPUT_LAYERS[1:]},
            "megabytes": {name: alone(_peak_of, name, words) for name in OUTPUT_LAYERS},
        }


def _peak_of(name: str, words: int) -> float:
    return rise_of_peak(output_step(name, words))
