"""A training step of the package against the same step written by hand."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from rnn_hf.benchmarking.timing import BareLanguageModel, in_turn, ratio
from rnn_hf.models import RNNConfig, RNNForCausalLM


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


def benchmark_steps(rounds: int = 9, device: str = "cpu") -> list[dict[str, Any]]:
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
