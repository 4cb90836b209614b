"""A training step of the package against the same step written by hand, and its loop against transformers' own."""

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import Trainer, TrainingArguments

from rnn_hf.benchmarking.timing import BareLanguageModel, in_turn, ratio
from rnn_hf.models import RNNConfig, RNNForCausalLM
from rnn_hf.training.arguments import parse_arguments
from rnn_hf.training.loop import TrainingRun


@dataclass(frozen=True)
class TrainingSize:
    """One row of the training benchmark."""

    cell_type: Literal["lstm", "gru", "rnn"]
    hidden_size: int
    num_hidden_layers: int
    batch_size: int
    window: int
    vocab_size: int = 10_000

    def __str__(self) -> str:
        shape = f"{self.num_hidden_layers}x{self.hidden_size}"
        return f"{self.cell_type} {shape}, batch {self.batch_size}, window {self.window}"


TRAINING_SIZES = [
    TrainingSize("lstm", 200, 2, 20, 35),
    TrainingSize("lstm", 650, 2, 20, 35),
    TrainingSize("lstm", 256, 2, 64, 35),
    TrainingSize("gru", 256, 2, 20, 35),
    TrainingSize("rnn", 256, 2, 20, 35),
]


def training_steps(size: TrainingSize, device: torch.device) -> dict[str, Callable[[], object]]:
    """One optimizer step of the package and of the hand-written loop with each loss, on the same data and sizes."""
    config = RNNConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        cell_type=size.cell_type,
        tie_word_embeddings=False,
    )
    ours, bare = RNNForCausalLM(config).train(), BareLanguageModel(config).train()
    ours.to(device)
    bare.to(device)
    generator = torch.Generator().manual_seed(0)
    shape = (size.batch_size, size.window + 1)
    tokens = torch.randint(size.vocab_size, shape, generator=generator).to(device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()
    states: dict[str, Any] = {}

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()

    def package(optimizer: torch.optim.Optimizer) -> None:
        outputs = ours(
            inputs, past_key_values=states.get("ours"), shift_labels=targets, use_cache=True, skip_logits=True
        )
        states["ours"] = outputs.past_key_values.detach()
        step(ours, optimizer, outputs.loss)

    def by_hand(optimizer: torch.optim.Optimizer, kind: str) -> None:
        loss, state = bare(inputs, targets, states.get(kind), kind)
        states[kind] = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        step(bare, optimizer, loss)

    our_sgd, bare_sgd = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (ours, bare))
    candidates: dict[str, Callable[[], object]] = {"ours": lambda: package(our_sgd)}
    candidates["by hand, same loss"] = lambda: by_hand(bare_sgd, "fused")
    candidates["by hand, cross_entropy"] = lambda: by_hand(bare_sgd, "plain")
    return candidates


def row_of(label: str, times: dict[str, list[float]], tokens: int) -> dict[str, Any]:
    """A row of the benchmark: speed of the package, and its time as a ratio to that of each other candidate."""
    ratios = {name: round(ratio(times, "ours", name), 3) for name in times if name != "ours"}
    speed = round(tokens / statistics.median(times["ours"]))
    return {"size": label, "tokens_per_second": speed, "ratio": ratios}


def benchmark_training(rounds: int = 9, device: str = "cpu") -> list[dict[str, Any]]:
    """Time of a training step against the same step written by hand: one row a size of `TRAINING_SIZES`.

    Returns:
        Rows of `size`, `tokens_per_second` of the package, and `ratio` of its time to that of each other candidate;
        below 1 the package is faster.
    """
    target = torch.device(device)
    rows: list[dict[str, Any]] = []
    for size in TRAINING_SIZES:
        synchronize = torch.cuda.synchronize if target.type == "cuda" else lambda: None
        times = in_turn(training_steps(size, target), rounds, synchronize)
        tokens = size.batch_size * size.window
        rows.append(row_of(str(size), times, tokens))
    return rows


def write_text(size: TrainingSize, steps: int, directory: Path) -> None:
    """Text of random words for so many steps, each word at least once, as train.txt, valid.txt and test.txt."""
    words = np.random.default_rng(0).integers(size.vocab_size - 2, size=size.batch_size * size.window * steps)
    words[: size.vocab_size - 2] = range(size.vocab_size - 2)
    for split in ("train", "valid", "test"):
        (directory / f"{split}.txt").write_text(" ".join(map(str, words[:-1])))  # the end of the line is a token too


def our_run(size: TrainingSize, directory: Path, tied: bool) -> TrainingRun:
    """A run of the package's training loop on the text of `write_text`, ready for `run_epoch`."""
    values = {
        "train_file": directory / "train.txt", "validation_file": directory / "valid.txt",
        "output_dir": directory / "ours",
        "cell_type": size.cell_type, "hidden_size": size.hidden_size, "num_hidden_layers": size.num_hidden_layers,
        "tie_word_embeddings": tied, "per_device_train_batch_size": size.batch_size, "window": size.window,
        "learning_rate": 0.1, "lr_scheduler_type": "constant", "use_cpu": True, "disable_tqdm": True,
        "num_train_epochs": 1000, "logging_steps": 50,
    }  # fmt: skip
    run = TrainingRun(parse_arguments([part for name, value in values.items() for part in (f"--{name}", str(value))]))
    run.wrapped.train()
    return run


def run_epoch(run: TrainingRun) -> None:
    """All steps of an epoch, with data, clipping and logging; without validation and checkpoints."""
    bar = tqdm(disable=True)
    for _ in range(len(run.stream)):
        run._step(bar)


def loops(size: TrainingSize, steps: int, directory: Path) -> dict[str, Callable[[], object]]:
    """So many steps of the package's training loop and of transformers' `Trainer`, on a model of the same size.

    `Trainer` carries no state and returns logits, as it does for every model.
    """
    options = TrainingArguments(
        str(directory), max_steps=steps, per_device_train_batch_size=size.batch_size, optim="sgd", learning_rate=0.1,
        lr_scheduler_type="constant", max_grad_norm=0.25, use_cpu=True, report_to="none", save_strategy="no",
        logging_steps=50, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    assert options.device.type == "cpu"  # transformers sets Accelerate's state anew where this is first asked for
    write_text(size, steps, directory)
    run = our_run(size, directory, tied=False)
    theirs = RNNForCausalLM(run.model.config)
    rows = run.corpus.streams["train"].reshape(-1, size.window).astype("int64")
    data = [{"input_ids": row, "labels": row} for row in rows]

    def trainer() -> None:
        with redirect_stdout(StringIO()):
            Trainer(theirs, options, train_dataset=data).train()

    return {"ours": lambda: run_epoch(run), "transformers Trainer": trainer}


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
    source, names = (peer / "main.py").read_text(encoding="utf-8"), {"__name__": "peer"}
    before, modules, place = sys.argv, set(sys.modules), Path.cwd()
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
        sys.argv = before
        sys.path.remove(str(peer))
        os.chdir(place)
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(peer)):
                del sys.modules[name]
    train: Any = names["train"]
    return train


def benchmark_loops(rounds: int = 5, steps: int = 30, peers: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Time of whole training loops on a CPU: rows as in `benchmark_training`, for the first two sizes.

    Raises:
        ValueError: As `peer_epoch`.
    """
    rows: list[dict[str, Any]] = []
    for size in TRAINING_SIZES[:2]:
        tokens = size.batch_size * size.window * steps
        with TemporaryDirectory() as name:
            times = in_turn(loops(size, steps, Path(name)), rounds)
            rows.append(row_of(f"{size}, whole loop", times, tokens))
        for peer in peers:
            with TemporaryDirectory() as name:
                write_text(size, steps, Path(name))
                theirs, run = peer_epoch(peer.resolve(), size, Path(name)), our_run(size, Path(name), tied=True)
                candidates: dict[str, Callable[[], object]] = {
                    "ours": partial(run_epoch, run),
                    peer.resolve().name: theirs,
                }
                rows.append(row_of(f"{size}, whole loop, tied", in_turn(candidates, rounds), tokens))
    return rows
