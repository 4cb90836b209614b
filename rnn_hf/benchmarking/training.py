"""A training step of the package against the same step written by hand, and under autocast against float32."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from rnn_hf.benchmarking.by_hand import BareLanguageModel
from rnn_hf.models import RNNConfig, RNNForCausalLM
from rnn_hf.timing import announced, in_turn, ratio
from rnn_hf.training.arguments import TrainingArguments
from rnn_hf.training.objective import Objective
from rnn_hf.training.setup import keep_freed_memory


CellType = Literal["lstm", "gru", "rnn"]
CELL_TYPES: tuple[CellType, ...] = get_args(CellType)


@dataclass(frozen=True)
class TrainingSize:
    """One row of the training benchmark."""

    cell_type: CellType
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


def config_of(size: TrainingSize) -> RNNConfig:
    return RNNConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        cell_type=size.cell_type,
        tie_word_embeddings=False,
    )


def random_window(size: TrainingSize, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The same random tokens each time, and the token after each, both `(batch, window)`."""
    shape = (size.batch_size, size.window + 1)
    tokens = torch.randint(size.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)
    return tokens[:, :-1], tokens[:, 1:].contiguous()


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    optimizer.zero_grad()


def our_step(size: TrainingSize, device: torch.device, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """One optimizer step of the package, which carries its state; under autocast where `dtype` is not float32."""
    model = RNNForCausalLM(config_of(size)).train().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = random_window(size, device)
    state: Any = None

    def run() -> None:
        nonlocal state
        with nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype):
            outputs = model(inputs, cache=state, shift_labels=targets, use_cache=True, skip_logits=True)
        state = outputs.cache.detach()
        update(model, optimizer, outputs.loss)

    return run


def training_steps(size: TrainingSize, device: torch.device) -> dict[str, Callable[[], object]]:
    """One optimizer step of the package and of the hand-written loop with each loss, on the same data and sizes."""
    bare = BareLanguageModel(config_of(size)).train().to(device)
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
    inputs, targets = random_window(size, device)
    states: dict[str, Any] = {}

    def by_hand(kind: str) -> None:
        loss, state = bare(inputs, targets, states.get(kind), kind)
        states[kind] = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        update(bare, optimizer, loss)

    return {
        "ours": our_step(size, device),
        "by hand, same loss": partial(by_hand, "fused"),
        "by hand, cross_entropy": partial(by_hand, "plain"),
    }


def synchronize_of(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done its work."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def row_of(label: str, times: dict[str, list[float]], tokens: int) -> dict[str, Any]:
    """A row of the benchmark: speed of the package, and its time as a ratio to that of each other candidate."""
    ratios = {name: round(ratio(times, "ours", name), 3) for name in times if name != "ours"}
    speed = round(tokens / statistics.median(times["ours"]))
    return {"size": label, "tokens_per_second": speed, "ratio": ratios}


def benchmark_steps(rounds: int = 9, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Time of a training step against the same step written by hand: one row a size of `TRAINING_SIZES`.

    Yields:
        Rows of `size`, `tokens_per_second` of the package, and `ratio` of its time to that of each other candidate;
        below 1 the package is faster.
    """
    target = torch.device(device)
    for size in announced("training step", TRAINING_SIZES):
        times = in_turn(training_steps(size, target), rounds, synchronize_of(target))
        yield row_of(str(size), times, size.batch_size * size.window)


BF16_SIZES = [
    TrainingSize(cell_type, hidden_size, 2, batch_size, 35)
    for cell_type in CELL_TYPES
    for hidden_size in (200, 650)
    for batch_size in (20, 64)
]


def benchmark_bf16(rounds: int = 9, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Time of a step of the package under bfloat16 autocast against float32, as `benchmark_steps` has its rows; one a
    size of `BF16_SIZES`."""
    target = torch.device(device)
    for size in announced("step under bf16 autocast", BF16_SIZES):
        candidates = {"ours": our_step(size, target, torch.bfloat16), "float32": our_step(size, target)}
        times = in_turn(candidates, rounds, synchronize_of(target))
        yield row_of(str(size), times, size.batch_size * size.window)


SAMPLED_WORDS = 1500
SAMPLED_SIZES = [TrainingSize(cell_type, 400, 2, 32, 35) for cell_type in CELL_TYPES]


def sampled_steps(size: TrainingSize) -> dict[str, Callable[[], object]]:
    """A training step with the softmax over all words, and over sampled ones, on tokens of the frequencies of a text:
    the n-th word is 1/n as frequent as the first one (Zipf, 1935)."""
    generator = torch.Generator().manual_seed(0)
    frequencies = 1 / torch.arange(1, size.vocab_size + 1)
    drawn = frequencies.multinomial(size.batch_size * (size.window + 1), replacement=True, generator=generator)
    tokens = drawn.view(size.batch_size, -1)

    def step_of(words: int) -> Callable[[], object]:
        model = RNNForCausalLM(config_of(size)).train()
        objective = Objective(model, TrainingArguments(sampled_softmax=words), 1e6 * frequencies)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def run() -> None:
            loss, _, _ = objective(tokens[:, :-1], tokens[:, 1:], None)
            update(model, optimizer, loss)

        return run

    return {"ours": step_of(SAMPLED_WORDS), "all words": step_of(0)}


def benchmark_sampled(rounds: int = 9) -> Iterator[tuple[str, dict[str, Any]]]:
    """Time of a training step over sampled words against one over all, on a CPU: rows as in `benchmark_steps`, under
    the name of their table, one a size of `SAMPLED_SIZES`."""
    keep_freed_memory()
    for size in announced("sampled softmax", SAMPLED_SIZES):
        yield "rows", row_of(str(size), in_turn(sampled_steps(size), rounds), size.batch_size * size.window)
