"""The backbone over a padded batch against the same rectangle of tokens without padding."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from rnn_hf.benchmarking.training import CELL_TYPES, TrainingSize, config_of, random_window, synchronize_of
from rnn_hf.models import RNNModel
from rnn_hf.timing import announced, in_turn, ratio


PADDED_SIZES = [TrainingSize(cell_type, width, 2, 32, 64) for cell_type in CELL_TYPES for width in (128, 256)]
SIDES = ("left", "right", "anywhere")
PASSES = ("forward", "forward and backward")


def padding_mask(side: str, rows: int, length: int) -> torch.Tensor:
    """The mask of a batch of which a quarter is padding: `(rows, length)`, true at real tokens.

    Its rows have half of the tokens to all of them, in random order. `side` is where padding is: `left`, `right`, or
    `anywhere`, between tokens too.
    """
    generator = torch.Generator().manual_seed(0)
    counts = torch.linspace(length / 2, length, rows).round()[torch.randperm(rows, generator=generator), None]
    steps = torch.arange(length)
    if side == "left":
        return steps >= length - counts
    if side == "right":
        return steps < counts
    return torch.rand(rows, length, generator=generator).argsort(dim=1) < counts


def padded_passes(size: TrainingSize, device: torch.device) -> dict[str, Callable[[], object]]:
    """Runs of the backbone over the same tokens by `SIDE, PASS`: each of `unpadded` and `SIDES`, each of `PASSES`.

    Forward is without gradients, as in evaluation; backward begins with a fixed gradient, zero at padding.
    """
    model: Any = RNNModel(config_of(size))
    model.to(device)
    ids, _ = random_window(size, device)
    upstream = torch.randn(*ids.shape, size.hidden_size, generator=torch.Generator().manual_seed(0)).to(device)

    def run(is_training: bool, mask: torch.Tensor | None, gradient: torch.Tensor) -> None:
        model.train(is_training)
        with torch.set_grad_enabled(is_training):
            hidden = model(ids, attention_mask=mask).last_hidden_state
        if is_training:
            model.zero_grad()
            hidden.backward(gradient)

    runs: dict[str, Callable[[], object]] = {}
    for side in ("unpadded", *SIDES):
        mask = None if side == "unpadded" else padding_mask(side, *ids.shape).to(device)
        gradient = upstream if mask is None else upstream * mask[..., None]
        runs |= {f"{side}, {name}": partial(run, name != "forward", mask, gradient) for name in PASSES}
    return runs


def benchmark_padding(rounds: int = 9, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Time of the backbone over padded batches: one row a size of `PADDED_SIZES`.

    Yields:
        Rows of `size`, `milliseconds` of each of `PASSES` without padding, medians, and `ratio` to these with padding
        on each side; 1 is as fast as without padding.
    """
    target = torch.device(device)
    for size in announced("padded batch", PADDED_SIZES):
        times = in_turn(padded_passes(size, target), 3 * rounds, synchronize_of(target))  # of milliseconds
        unpadded = {name: f"unpadded, {name}" for name in PASSES}
        pairs = [(f"{side}, {name}", unpadded[name]) for side in SIDES for name in PASSES]
        yield {
            "size": str(size),
            "milliseconds": {name: round(1000 * statistics.median(times[unpadded[name]]), 2) for name in PASSES},
            "ratio": {padded: round(ratio(times, padded, plain), 3) for padded, plain in pairs},
        }
