"""Speed as ratios: two or more things run in turn in one process, medians of several rounds."""

import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rnn_hf.models import RNNConfig, RNNForCausalLM
from rnn_hf.models.modeling_rnn import CELLS, LOSS_CHUNK_ROWS, RNNLayer


class BareLanguageModel(nn.Module):
    """What one writes by hand: `nn.Embedding`, a multi-layer `nn.LSTM` and `nn.Linear`, nothing else.

    The yardstick of the training benchmark. `loss` is `"fused"` for torch's chunked linear cross entropy, the
    loss that the package uses, or `"plain"` for logits and `cross_entropy`.
    """

    def __init__(self, config: RNNConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rnn = CELLS[config.cell_type](
            config.hidden_size, config.hidden_size, num_layers=config.num_hidden_layers, batch_first=True
        )
        self.output = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, inputs, targets, state, loss):
        hidden, state = self.rnn(self.embedding(inputs), state)
        hidden, targets = hidden.flatten(0, 1), targets.flatten()
        if loss == "plain":
            return F.cross_entropy(self.output(hidden), targets), state
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=LOSS_CHUNK_ROWS)
        weight, bias = self.output.weight, self.output.bias
        return F.linear_cross_entropy(hidden, weight, targets, linear_bias=bias, options=options), state


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


@dataclass(frozen=True)
class DecodingSize:
    """One row of the generation benchmark."""

    cell_type: Any
    hidden_size: int
    num_hidden_layers: int
    batch_size: int
    vocab_size: int = 10_000

    def __str__(self) -> str:
        return f"{self.cell_type} {self.num_hidden_layers}x{self.hidden_size}, batch {self.batch_size}"


DECODING_SIZES = [
    DecodingSize(cell_type, hidden_size, layers, batch_size)
    for cell_type, hidden_size, layers in (
        ("lstm", 200, 2), ("lstm", 650, 2), ("lstm", 1150, 3), ("gru", 650, 2), ("rnn", 650, 2)
    )
    for batch_size in (1, 32)
]  # fmt: skip
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.9}


@contextmanager
def stock_generation(model: RNNForCausalLM) -> Iterator[None]:
    """`generate()` by transformers' own loop, each step through the fused modules."""
    model.decodes_directly = RNNLayer.steps_directly = False
    try:
        yield
    finally:
        model.decodes_directly = RNNLayer.steps_directly = True


def bare_copy(model: RNNForCausalLM) -> BareLanguageModel:
    """The same network written by hand, with the same weights."""
    bare = BareLanguageModel(model.config).to(model.device).eval()
    bare.embedding.load_state_dict(model.model.embed_tokens.state_dict())
    bare.output.load_state_dict(model.lm_head.state_dict())
    for index, layer in enumerate(model.model.layers):
        weights = {name.replace("_l0", f"_l{index}"): value for name, value in layer.rnn.state_dict().items()}
        bare.rnn.load_state_dict(weights, strict=False)
    return bare


@torch.no_grad()
def decode_by_hand(bare: BareLanguageModel, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """The greedy loop that one writes by hand, from `(B, 1)` to `(B, count + 1)` tokens."""
    found, state = [tokens], None
    for _ in range(count):
        hidden, state = bare.rnn(bare.embedding(found[-1]), state)
        found.append(bare.output(hidden).argmax(dim=-1))
    return torch.cat(found, dim=1)


def decoding_runs(size: DecodingSize, count: int) -> dict[str, Callable[[], torch.Tensor]]:
    """`count` tokens by the package's `generate()`, by transformers' loop, and by hand; greedy, and sampled."""
    torch.manual_seed(0)
    config = RNNConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        cell_type=size.cell_type,
        tie_word_embeddings=False,
        initializer_range=0.5,
    )
    model = RNNForCausalLM(config).eval()
    model.flatten_parameters()
    bare = bare_copy(model)
    prompt = torch.randint(size.vocab_size, (size.batch_size, 1))
    mask = torch.ones_like(prompt)
    options = {"attention_mask": mask, "max_new_tokens": count, "pad_token_id": 0}

    def stock(**how: Any) -> torch.Tensor:
        with stock_generation(model):
            return model.generate(prompt, **options, **how)

    runs = {
        "ours": lambda: model.generate(prompt, do_sample=False, **options),
        "by hand": lambda: decode_by_hand(bare, prompt, count),
        "stock generate()": lambda: stock(do_sample=False),
        "ours, sampling": lambda: model.generate(prompt, **options, **SAMPLING),
        "stock generate(), sampling": lambda: stock(**SAMPLING),
    }
    if size.cell_type == "lstm" and find_spec("onnxruntime") and find_spec("onnx"):
        runs["ONNX Runtime by hand"] = onnx_loop(config, bare, prompt, count)
    return runs


def onnx_loop(
    config: RNNConfig, bare: BareLanguageModel, prompt: torch.Tensor, count: int
) -> Callable[[], torch.Tensor]:
    """The greedy loop over ONNX Runtime for an LSTM, on as many threads as torch has."""
    import onnxruntime

    class Step(BareLanguageModel):
        def forward(self, tokens, hidden, cell):  # type: ignore[override]
            outputs, (hidden, cell) = self.rnn(self.embedding(tokens), (hidden, cell))
            return self.output(outputs[:, -1]), hidden, cell

    step = Step(config).eval().requires_grad_(False)
    step.load_state_dict(bare.state_dict())

    shape = (bare.rnn.num_layers, len(prompt), bare.rnn.hidden_size)
    zeros, file = torch.zeros(shape), io.BytesIO()
    names = ["tokens", "hidden", "cell"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old exporter says at length that there is a new one
        torch.onnx.export(step, (prompt, zeros, zeros), file, input_names=names, dynamo=False)  # type: ignore[arg-type]
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = torch.get_num_threads()
    # Its idle threads would wait by spinning, on the cores of whoever runs next.
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file.getvalue(), session_options, providers=["CPUExecutionProvider"])

    def run() -> torch.Tensor:
        tokens, hidden, cell = prompt.numpy(), zeros.numpy(), zeros.numpy()
        found = [tokens]
        for _ in range(count):
            logits, hidden, cell = session.run(None, {"tokens": found[-1], "hidden": hidden, "cell": cell})
            found.append(logits.argmax(axis=-1)[:, None])
        return torch.from_numpy(np.concatenate(found, axis=1))

    return run


def benchmark_generation(rounds: int = 9) -> list[dict[str, Any]]:
    """Time of `generate()` on a CPU against loops written by hand and transformers' own, a row a `DECODING_SIZES`.

    Returns:
        Rows of `size`, `milliseconds` a token step of the package, greedy, and `ratio` of its time to that of each
        other candidate, sampling to sampling; below 1 the package is faster.
    """
    rows: list[dict[str, Any]] = []
    for size in DECODING_SIZES:
        count = max(8, int(2e8 / (size.batch_size**0.5 * size.hidden_size * (size.vocab_size + 8 * size.hidden_size))))
        runs = decoding_runs(size, count)
        greedy = [run() for name, run in runs.items() if "sampling" not in name]
        if not all(torch.equal(tokens, greedy[0]) for tokens in greedy):
            raise AssertionError(f"the loops do not find the same tokens at {size}")
        times = in_turn(runs, rounds)
        row: dict[str, Any] = {"size": str(size)}
        row["milliseconds"] = round(1000 * statistics.median(times["ours"]) / count, 3)
        pairs = [("ours, sampling" if "sampling" in name else "ours", name) for name in times if "ours" not in name]
        row["ratio"] = {name: round(ratio(times, ours, name), 3) for ours, name in pairs}
        rows.append(row)
    return rows


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
        row: dict[str, Any] = {"size": str(size)}
        row["tokens_per_second"] = round(tokens / statistics.median(times["ours"]))
        row["ratio"] = {name: round(ratio(times, "ours", name), 3) for name in times if name != "ours"}
        rows.append(row)
    return rows
