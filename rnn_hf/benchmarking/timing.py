"""Things run in turn, their times compared within rounds; and the network written by hand to compare with."""

import ctypes
import gc
import logging
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.nn import functional as F

from rnn_hf.models import RNNConfig
from rnn_hf.models.layers_rnn import CELLS
from rnn_hf.models.loss_rnn import linear_cross_entropy


logger = logging.getLogger(__name__)
Item = TypeVar("Item")


class BareLanguageModel(nn.Module):
    """What one writes by hand: `nn.Embedding`, a multi-layer `nn.LSTM` and `nn.Linear`, nothing else but the linear
    layer of `output_projection_size`.

    The yardstick of the training benchmark. `loss` is `"fused"` for the loss that the package uses, or `"plain"` for
    logits and `cross_entropy`.
    """

    def __init__(self, config: RNNConfig):
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.rnn = CELLS[config.cell_type](
            width, config.hidden_size, num_layers=config.num_hidden_layers, batch_first=True
        )
        size = config.output_projection_size
        self.projection = nn.Linear(config.hidden_size, size) if size else nn.Identity()
        self.output = nn.Linear(size or config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.output.weight = self.embedding.weight

    def forward(self, inputs, targets, state, loss):
        hidden, state = self.rnn(self.embedding(inputs), state)
        hidden, targets = self.projection(hidden).flatten(0, 1), targets.flatten()
        if loss == "plain":
            return F.cross_entropy(self.output(hidden), targets), state
        return linear_cross_entropy(hidden, self.output.weight, self.output.bias, targets) / len(targets), state


def announced(what: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items, each logged when its turn comes, as rows of a benchmark take minutes."""
    for item in items:
        logger.info("%s: %s", what, item)
        yield item


def in_turn(
    candidates: Mapping[str, Callable[[], object]], rounds: int, synchronize: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, all candidates in every round.

    A candidate runs twice in a round and the second run counts: the first one brings caches and the allocator to the
    state that its own loop would find, in place of the one that the candidate before it left.

    >>> times = in_turn({"a": lambda: None, "b": lambda: None}, rounds=3)
    >>> {name: len(seconds) for name, seconds in times.items()}
    {'a': 3, 'b': 3}
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            candidate()
            synchronize()
            start = time.perf_counter()
            candidate()
            synchronize()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], name: str, over: str) -> float:
    """Median over the rounds of the time of `name` over that of `over` in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[over], strict=True))


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process, whose memory is then its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def rise_of_peak(run: Callable[[], object]) -> float:
    """Megabytes that two runs need beyond what was in use before, at their peak; on Linux."""
    gc.collect()
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc
        malloc_trim(0)  # what is free but kept would serve the runs unseen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
    before = _peak()
    run()
    run()
    return round((_peak() - before) / 1000, 1)


def _peak() -> float:
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kibibytes) * 1.024
