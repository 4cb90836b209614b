"""A training step of the package against the same step written by hand, and its loop against transformers' own."""

import statistics
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
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
    if hasattr(F, "linear_cross_entropy"):
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


def loops(size: TrainingSize, steps: int, directory: Path) -> dict[str, Callable[[], object]]:
    """So many steps of the package's training loop and of transformers' `Trainer`, on a model of the same size.

    Whole loops, with data, logging and clipping; without validation and checkpoints. `Trainer` carries no state and
    returns logits, as it does for every model.
    """
    words = np.random.default_rng(0).integers(size.vocab_size - 2, size=size.batch_size * size.window * steps)
    (directory / "text.txt").write_text(" ".join(map(str, [*range(size.vocab_size - 2), *words])))
    values = {
        "train_file": directory / "text.txt", "validation_file": directory / "text.txt",
        "output_dir": directory / "ours",
        "cell_type": size.cell_type, "hidden_size": size.hidden_size, "num_hidden_layers": size.num_hidden_layers,
        "tie_word_embeddings": False, "per_device_train_batch_size": size.batch_size, "window": size.window,
        "learning_rate": 0.1, "lr_scheduler_type": "constant", "use_cpu": True, "disable_tqdm": True,
        "num_train_epochs": 1000, "logging_steps": 50,
    }  # fmt: skip
    options = TrainingArguments(
        str(directory), max_steps=steps, per_device_train_batch_size=size.batch_size, optim="sgd", learning_rate=0.1,
        lr_scheduler_type="constant", max_grad_norm=0.25, use_cpu=True, report_to="none", save_strategy="no",
        logging_steps=50, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    assert options.device.type == "cpu"  # transformers sets Accelerate's state anew where this is first asked for
    run = TrainingRun(parse_arguments([part for name, value in values.items() for part in (f"--{name}", str(value))]))
    run.wrapped.train()
    bar = tqdm(disable=True)

    def ours() -> None:
        for _ in range(steps):
            run._step(bar)

    theirs = RNNForCausalLM(run.model.config)
    rows = (
        run.corpus.streams["train"][: size.batch_size * size.window * steps].reshape(-1, size.window).astype("int64")
    )
    data = [{"input_ids": row, "labels": row} for row in rows]

    def trainer() -> None:
        with redirect_stdout(StringIO()):
            Trainer(theirs, options, train_dataset=data).train()

    return {"ours": ours, "transformers Trainer": trainer}


def benchmark_loops(rounds: int = 5, steps: int = 30) -> list[dict[str, Any]]:
    """Time of whole training loops on a CPU: rows as in `benchmark_training`, for the first two sizes."""
    rows: list[dict[str, Any]] = []
    for size in TRAINING_SIZES[:2]:
        with TemporaryDirectory() as directory:
            times = in_turn(loops(size, steps, Path(directory)), rounds)
        tokens = size.batch_size * size.window * steps
        rows.append(row_of(f"{size}, whole loop", times, tokens))
    return rows
