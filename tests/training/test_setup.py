"""What does not fit is refused before long work."""

import ctypes
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from accelerate.utils import LoggerType

from rnn_hf.loading import load_model
from rnn_hf.timing import alone
from rnn_hf.training import setup
from rnn_hf.training.setup import check_distribution, keep_freed_memory


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_weights_are_refused_with_the_reason(kind):
    with pytest.raises(ValueError, match=f"{kind.value} is not supported.*use plain data parallelism"):
        check_distribution(SimpleNamespace(distributed_type=kind))
    check_distribution(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU))


def test_a_tracker_that_is_unknown_or_not_installed_is_refused_before_the_first_step(run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`report_to` tensorbord: there is no such tracker, only .*tensorboard"):
        run("a", report_to="tensorbord")
    monkeypatch.setattr(setup, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    assert setup.trackers_of("none") == setup.trackers_of("") == []
    assert setup.trackers_of("tensorboard, all") == ["tensorboard", "all"]
    with pytest.raises(ImportError, match=r"`report_to` wandb .*: pip install wandb"):
        run("a", report_to="tensorboard,wandb")
    assert not (tmp_path / "a").exists()


def test_weights_of_another_vocabulary_are_refused_by_word_and_taken_with_its_tokenizer(run, tmp_path, text):
    """The other text has as many words, in another order, so its ids have the same range."""
    run("first", max_steps=1)
    lines = (text / "train.txt").read_text().splitlines()
    other = tmp_path / "other.txt"
    other.write_text("\n".join([*lines, *["7 7 7"] * 400]))
    flags = {"train_file": other, "init_from": tmp_path / "first", "max_steps": 1, "learning_rate": 1e-30}
    with pytest.raises(ValueError, match=r"`init_from` .*the id of '.*' is \d+ there and \d+ here: train with `tok"):
        run("second", **flags)
    assert not (tmp_path / "second").exists()
    run("second", tokenizer=tmp_path / "first", **flags)
    (first, ids), (second, same) = (load_model(str(tmp_path / name)) for name in ("first", "second"))
    assert ids.get_vocab() == same.get_vocab()
    torch.testing.assert_close(first.get_input_embeddings().weight, second.get_input_embeddings().weight)


def resident() -> int:
    """Bytes of memory that this process has from the system."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def left_by_a_step(is_kept: bool) -> int:
    """Bytes that the process still has when 20 MB are freed, of which an older glibc keeps up to 32."""
    if is_kept:
        keep_freed_memory()
    before = resident()
    torch.ones(5_000_000)
    return resident() - before


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's own"
)
@pytest.mark.slow
def test_memory_that_a_step_frees_is_there_for_the_next():
    assert alone(left_by_a_step, False) < 10_000_000 < alone(left_by_a_step, True)


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
