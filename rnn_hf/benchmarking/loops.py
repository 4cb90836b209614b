"""Whole training loops in turn: the package's, transformers' `Trainer`, and those of other projects."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from tqdm.auto import tqdm
from transformers import Trainer, TrainingArguments

from rnn_hf.benchmarking.padding import benchmark_padding
from rnn_hf.benchmarking.training import (
    TRAINING_SIZES,
    TrainingSize,
    benchmark_bf16,
    benchmark_steps,
    row_of,
    training_steps,
)
from rnn_hf.benchmarking.vocabulary import benchmark_vocabulary
from rnn_hf.models import RNNConfig, RNNForCausalLM
from rnn_hf.timing import alone, announced, in_turn, rise_of_peak
from rnn_hf.training.loop import TrainingRun
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.setup import keep_freed_memory


STEPS, STEPS_FOR_MEMORY = 30, 15  # the latter at least, to read each word of 10,000 once
OURS, TRAINER = "ours", "transformers Trainer"


def write_text(size: TrainingSize, steps: int, directory: Path) -> None:
    """Text of random words for so many steps, each word at least once, as train.txt, valid.txt and test.txt."""
    words = np.random.default_rng(0).integers(size.vocab_size - 2, size=size.batch_size * size.window * steps)
    words[: size.vocab_size - 2] = range(size.vocab_size - 2)
    for split in ("train", "valid", "test"):
        (directory / f"{split}.txt").write_text(" ".join(map(str, words[:-1])))  # the end of the line is a token too


def our_run(size: TrainingSize, directory: Path, tied: bool, **flags: Any) -> TrainingRun:
    """A run of the package's training loop on the text of `write_text`, ready for `run_epoch`; with more `flags`."""
    values = {
        "train_file": directory / "train.txt", "validation_file": directory / "valid.txt",
        "output_dir": directory / "ours",
        "cell_type": size.cell_type, "hidden_size": size.hidden_size, "num_hidden_layers": size.num_hidden_layers,
        "tie_word_embeddings": tied, "per_device_train_batch_size": size.batch_size, "window": size.window,
        "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "use_cpu": True, "disable_tqdm": True,
        "num_train_epochs": 1000, "logging_steps": 50, **flags,
    }  # fmt: skip
    run = TrainingRun(parse_arguments([part for name, value in values.items() for part in (f"--{name}", str(value))]))
    run.wrapped.train()
    return run


def run_epoch(run: TrainingRun) -> None:
    """All steps of an epoch, with data, clipping and logging; without validation and checkpoints."""
    bar = tqdm(disable=True)
    for _ in range(len(run.stream)):
        run._step(bar)


def trainer_loop(size: TrainingSize, steps: int, directory: Path) -> Callable[[], object]:
    """So many steps of transformers' `Trainer` on a model of the package, which then carries no state and returns
    logits, as every model does there."""
    options = TrainingArguments(
        str(directory), max_steps=steps, per_device_train_batch_size=size.batch_size, optim="sgd", learning_rate=0.1,
        lr_scheduler_type="constant", max_grad_norm=0.25, use_cpu=True, report_to="none", save_strategy="no",
        logging_steps=50, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    assert options.device.type == "cpu"  # transformers sets Accelerate's state again where this is first asked for
    model = RNNForCausalLM(RNNConfig(
        vocab_size=size.vocab_size, hidden_size=size.hidden_size, num_hidden_layers=size.num_hidden_layers,
        cell_type=size.cell_type, tie_word_embeddings=False,
    ))  # fmt: skip
    rows = np.random.default_rng(0).integers(size.vocab_size, size=(size.batch_size * steps, size.window))
    data = [{"input_ids": row, "labels": row} for row in rows]

    def run() -> None:
        with redirect_stdout(StringIO()):
            Trainer(model, options, train_dataset=data).train()

    return run


def peer_epoch(peer: Path, size: TrainingSize, directory: Path) -> Callable[[], object]:
    """An epoch of main.py of a checkout of word_language_model or awd-lstm-lm, by its own `train()`, on the text of
    `write_text`, tied and without dropout.

    Its module is run as a script that trains for no epochs and then finds no saved model, which leaves its names.

    Raises:
        ValueError: It could not be run; the message has its error.
    """
    flags = {
        "data": directory, "model": "LSTM", "emsize": size.hidden_size, "nhid": size.hidden_size,
        "nlayers": size.num_hidden_layers, "batch_size": size.batch_size, "bptt": size.window, "lr": 0.1,
        "clip": 0.25, "epochs": 0, "log-interval": 10**9, "dropout": 0, "save": directory / "none.pt",
    }  # fmt: skip
    arguments = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    if (peer / "weight_drop.py").is_file():  # awd-lstm-lm, which always ties
        off = ("dropouth", "dropouti", "dropoute", "wdrop", "alpha", "beta", "wdecay")
        arguments += ["--cuda", *(part for name in off for part in (f"--{name}", "0"))]  # which turns CUDA off
    else:
        arguments.append("--tied")
    source = (peer / "main.py").read_text(encoding="utf-8")
    names = {"__name__": "peer"}
    argv_before = sys.argv
    modules_before = set(sys.modules)
    directory_before = Path.cwd()
    sys.argv = ["main.py", *arguments]
    sys.path.insert(0, str(peer))
    os.chdir(directory)  # awd-lstm-lm writes its corpus where it stands
    try:
        with redirect_stdout(StringIO()):
            exec(compile(source, str(peer / "main.py"), "exec"), names)
    except FileNotFoundError as error:
        if error.filename != str(flags["save"]):
            raise ValueError(f"--peer {peer}: main.py does not run: {error}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"--peer {peer}: main.py does not run: {error!r}") from error
    finally:
        sys.argv = argv_before
        sys.path.remove(str(peer))
        os.chdir(directory_before)
        for name in set(sys.modules) - modules_before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(peer)):
                del sys.modules[name]
    return cast(Callable[[], object], names["train"])


def loop_of(name: str, size: TrainingSize, steps: int, directory: Path, tied: bool = False) -> Callable[[], object]:
    """So many steps of a whole loop: `OURS`, `TRAINER`, or the checkout of a peer, which is tied."""
    if name == TRAINER:
        return trainer_loop(size, steps, directory)
    write_text(size, steps, directory)
    if name != OURS:
        return peer_epoch(Path(name), size, directory)
    run = our_run(size, directory, tied)
    return lambda: run_epoch(run)


def benchmark_loops(rounds: int = 5, steps: int = STEPS, peers: Sequence[Path] = ()) -> Iterator[dict[str, Any]]:
    """Time of whole training loops on a CPU: rows as in `benchmark_steps`, for the first two sizes.

    Raises:
        ValueError: As `peer_epoch`.
    """
    for size in announced("whole loops", TRAINING_SIZES[:2]):
        for other in (TRAINER, *map(str, peers)):
            tied = other != TRAINER
            with TemporaryDirectory() as name:
                # Trainer comes first, as it sets Accelerate's state again.
                theirs = loop_of(other, size, steps, Path(name))
                candidates = {OURS: loop_of(OURS, size, steps, Path(name), tied), Path(other).name: theirs}
                times = in_turn(candidates, rounds)
            yield row_of(f"{size}, whole loop{', tied' * tied}", times, size.batch_size * size.window * steps)


def benchmark_memory(peers: Sequence[Path] = ()) -> Iterator[dict[str, Any]]:
    """Memory of training on a CPU, for the first two sizes: rows of `size` and `megabytes` of each loop beyond model
    and data, at its peak.

    Each runs in a fresh process with the memory settings that its users get: the package's loop keeps freed memory,
    which is part of what it needs, and the others leave glibc's defaults.
    """
    names = (OURS, "by hand, same loss", "by hand, cross_entropy", TRAINER, *map(str, peers))
    for size in announced("memory of training", TRAINING_SIZES[:2]):
        yield {"size": str(size), "megabytes": {Path(name).name: alone(_peak_of, name, size) for name in names}}


def _peak_of(name: str, size: TrainingSize) -> float:
    with TemporaryDirectory() as directory:
        if name.startswith("by hand"):
            step = training_steps(size, torch.device("cpu"))[name]
            return rise_of_peak(lambda: [step() for _ in range(STEPS_FOR_MEMORY)])
        return rise_of_peak(loop_of(name, size, STEPS_FOR_MEMORY, Path(directory), tied=True))


class ReadStream:
    """A stream whose reading shows in a profile."""

    def __init__(self, stream: Any):
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, window: int) -> Any:
        with record_function("reading"):
            return self.stream[window]


# Which operators of a profile a part of the step is, all that they call included. Those of the optimizer: the step,
# the norm of the gradient, and clipping, where the norm is above --max_grad_norm.
PARTS = {
    "recurrence": ("aten::lstm", "MkldnnRnnLayerBackward0"),
    "softmax and loss": ("LinearCrossEntropy", "LinearCrossEntropyBackward"),
    "optimizer and clipping": ("Optimizer.step#SGD.step", "aten::linalg_vector_norm", "aten::_foreach_mul_"),
    "reading": ("reading",),
}


def benchmark_shares(steps: int = STEPS) -> Iterator[dict[str, Any]]:
    """Where the time of the package's loop goes on a CPU, for the first two sizes.

    Yields:
        Rows of `size` and `percent`: of each of `PARTS`; of `Python`, which is all that torch's operators and its
        autograd engine did not take, and of `Python of the loss`, within what autograd sees as one operator, the work
        of the profiler included in both; and of `other arithmetic`.
    """
    engine = torch.autograd._engine_run_backward

    def shown_engine(*arguments: Any, **options: Any) -> Any:
        with record_function("engine"):
            return engine(*arguments, **options)

    for size in announced("shares of a step", TRAINING_SIZES[:2]):
        with TemporaryDirectory() as name:
            write_text(size, steps, Path(name))
            run = our_run(size, Path(name), tied=False)
            run.epoch_stream = cast(Any, ReadStream(run.epoch_stream))
            run_epoch(run)
            run.epoch_stream = cast(Any, ReadStream(run.epoch_stream))
            with (
                patch.object(torch.autograd, "_engine_run_backward", shown_engine),
                profile(activities=[ProfilerActivity.CPU]) as measured,
                record_function("all"),
            ):
                run_epoch(run)
        events = {event.key: event for event in measured.key_averages()}
        times = defaultdict(float, {key: event.cpu_time_total for key, event in events.items()})
        parts = {part: sum(times[key] for key in keys) for part, keys in PARTS.items()}
        python = {"Python": "all", "Python of the loss": "LinearCrossEntropy"}
        parts |= {part: events[key].self_cpu_time_total for part, key in python.items()}
        parts["softmax and loss"] -= parts["Python of the loss"]
        whole = times["all"]
        parts["other arithmetic"] = whole - sum(parts.values())
        yield {"size": str(size), "percent": {part: round(100 * time / whole, 1) for part, time in parts.items()}}


def benchmark_training(
    rounds: int = 9, device: str = "cpu", peers: Sequence[Path] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows of the training benchmark with their tables: `rows` of times, `padding`, `bf16` and, on a CPU,
    `memory`, `shares` and `vocabulary`.

    On a CPU the process keeps freed memory, as a run of the package does: so all that is timed has this in common.

    Raises:
        ValueError: As `peer_epoch`.
    """
    if device == "cpu":
        keep_freed_memory()
    yield from zip(repeat("rows"), benchmark_steps(rounds, device))
    yield from zip(repeat("padding"), benchmark_padding(rounds, device))
    yield from zip(repeat("bf16"), benchmark_bf16(rounds, device))
    if device != "cpu":
        return
    peers = [peer.resolve() for peer in peers]
    yield from zip(repeat("rows"), benchmark_loops(max(3, rounds // 2), peers=peers))  # each of which is many steps
    yield from zip(repeat("memory"), benchmark_memory(peers))
    yield from zip(repeat("shares"), benchmark_shares())
    yield from zip(repeat("vocabulary"), benchmark_vocabulary(rounds))
