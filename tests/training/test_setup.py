"""What does not fit is refused before long work."""

import ctypes
import resource
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType

from rnn_hf.benchmarking.timing import alone
from rnn_hf.training.setup import check_distribution, keep_freed_memory


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_weights_are_refused_with_the_reason(kind):
    with pytest.raises(ValueError, match=f"{kind.value} is not supported.*use plain data parallelism"):
        check_distribution(SimpleNamespace(distributed_type=kind))
    check_distribution(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU))


def pages_of_a_step(is_kept: bool) -> int:
    """Pages that the system hands out for a block of 40 MB that was freed before."""
    if is_kept:
        keep_freed_memory()
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's own"
)
def test_memory_that_a_step_frees_is_there_for_the_next():
    assert alone(pages_of_a_step, True) < 100 < 5_000 < alone(pages_of_a_step, False)


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    keep_freed_memory()


@pytest.mark.parametrize("largest, kept", [(1 << 30, [(-3, 1 << 30)]), (1 << 25, [(-3, 1 << 30), (-3, 1 << 25)])])
def test_an_older_glibc_is_asked_for_what_it_takes(monkeypatch, largest, kept):
    calls = []

    def mallopt(parameter, value):
        calls.append((parameter, value))
        return parameter == -1 or value <= largest

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert calls == [*kept, (-1, (1 << 31) - 1)]
