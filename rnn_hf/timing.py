"""Things run in turn, their times compared within rounds, and the memory that they take."""

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


logger = logging.getLogger(__name__)
Item = TypeVar("Item")


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
