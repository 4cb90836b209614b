"""Speed on a GPU, row by row: steps of training, decoding, stacked layers, the loss, and single layers.

All times are by the clock, of many runs between two waits for the device: what a user waits for, be it the device or
Python. Each row names its `rounds`, of which it has the medians, and its `runs` a round.
"""

import dataclasses
import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from rnn_hf.benchmarking.by_hand import BareLanguageModel
from rnn_hf.benchmarking.generation import DecodingSize, bare_copy, decode_by_hand, random_model, stock_generation
from rnn_hf.benchmarking.loops import our_run, write_text
from rnn_hf.benchmarking.training import TrainingSize, random_window, synchronize_of, update
from rnn_hf.models import RNNConfig, RNNLayer
from rnn_hf.models.layers_rnn import CELLS
from rnn_hf.models.loss_rnn import linear_cross_entropy
from rnn_hf.timing import in_turn, ratio


# Type of the numbers, and whether a GPU rounds the factors of float32 products to TF32.
TYPES = {
    "float32": (torch.float32, False), "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, True), "fp16": (torch.float16, True),
}  # fmt: skip
FLAGS: dict[str, dict[str, Any]] = {
    "float32": {"tf32": False}, "tf32": {"tf32": True},
    "bf16": {"tf32": True, "bf16": True}, "fp16": {"tf32": True, "fp16": True},
}  # fmt: skip
Row = tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]  # table, subject, measurement


@dataclass(frozen=True)
class StepSize(TrainingSize):
    """A size of `step`: not tied; or with a linear layer to the width of the embedding, and tied."""

    output_projection_size: int | None = None

    def __str__(self) -> str:
        return super().__str__() + (f", to {self.output_projection_size} and tied" if self.is_tied else "")

    @property
    def is_tied(self) -> bool:
        return self.output_projection_size is not None

    @property
    def head(self) -> dict[str, Any]:
        """The fields of the configuration that only some sizes have."""
        size = self.output_projection_size
        return {} if size is None else {"embedding_size": size, "output_projection_size": size}

    def operations(self) -> float:
        """Floating-point operations of the matrix products of a step: forward, and twice as many backward."""
        width, size = self.hidden_size, self.output_projection_size
        gates = {"lstm": 4, "gru": 3, "rnn": 1}[self.cell_type]
        inputs = [size or width] + [width] * (self.num_hidden_layers - 1)
        weights = sum(gates * width * (before + width) for before in inputs)
        weights += (size or width) * self.vocab_size + (width * size if size else 0)
        return 3.0 * 2 * weights * self.batch_size * self.window


@dataclass(frozen=True)
class Plan:
    """What is measured, how often, and for how long.

    Attributes:
        first_steps, more_steps: Sizes of training steps.
        decoding: Sizes of decoding, with width and number of layers of a GPT-2 of as many parameters.
        tokens: To decode.
        stacks: `(cell type, layers, width, batch)`.
        losses: `(tokens, words, width)`.
        layers: `(cell type, width, batch)`.
        window: Of stacks and layers.
        rounds: In each a candidate runs twice, the second is timed.
        seconds: Of a row, about.
        most_runs: A round.
    """

    first_steps: list[StepSize]
    more_steps: list[StepSize]
    decoding: list[tuple[DecodingSize, int, int]]
    tokens: int
    stacks: list[tuple[str, int, int, int]]
    losses: list[tuple[int, int, int]]
    layers: list[tuple[str, int, int]]
    window: int = 35
    rounds: int = 3
    seconds: float = 1.3
    most_runs: int = 50


FULL = Plan(
    first_steps=[
        StepSize("lstm", 650, 2, 20, 35), StepSize("lstm", 1024, 1, 64, 35, output_projection_size=256),
        StepSize("lstm", 256, 2, 20, 35),
    ],
    more_steps=[StepSize("lstm", 1024, 2, 64, 35), StepSize("lstm", 1150, 3, 80, 70)],
    decoding=[
        (DecodingSize("lstm", width, 2, batch), *gpt2)
        for batch in (1, 32, 256) for width, gpt2 in ((650, (384, 9)), (200, (192, 6)))
    ],
    tokens=128,
    stacks=[
        ("lstm", 2, 650, 20), ("lstm", 2, 1024, 64), ("lstm", 3, 1150, 80), ("lstm", 2, 256, 20),
        ("lstm", 3, 1024, 128), ("lstm", 3, 256, 64), ("gru", 2, 650, 20), ("rnn", 2, 650, 20),
    ],
    losses=[(n, words, width) for n in (700, 2240, 22_400) for words in (10_000, 33_000) for width in (256, 1024)],
    layers=[
        (cell, width, batch)
        for cell in ("lstm", "gru", "rnn") for width in (1024, 650, 1150, 256) for batch in (64, 20, 128, 320)
    ],
)  # fmt: skip
DRY = Plan(
    first_steps=[StepSize("lstm", 8, 1, 2, 5, 50, output_projection_size=4)],
    more_steps=[StepSize("gru", 8, 2, 2, 5, 50)],
    decoding=[(DecodingSize("lstm", 8, 2, batch, 50), 4, 1) for batch in (1, 2)],
    tokens=4, stacks=[("lstm", 2, 8, 2)], losses=[(7, 50, 8)], layers=[("lstm", 8, 2), ("rnn", 8, 2)],
    window=5, rounds=1, seconds=0, most_runs=1,
)  # fmt: skip


def rows_of_speed(device: torch.device, plan: Plan, rates: Mapping[str, float]) -> Iterator[Row]:
    """What to measure, in order: the ratios of steps and of decoding come first.

    Args:
        device: To measure on.
        plan: Of sizes.
        rates: TFLOP/s of matrix products by type, for the share of it that a step reaches.
    """

    def steps(sizes: list[StepSize]) -> Iterator[Row]:
        for size in sizes:
            for name in TYPES:
                about = {"size": str(size), "type": name}
                yield "step", about, partial(step_row, device, plan, size, name, rates.get(name))

    yield from steps(plan.first_steps)
    for size, *gpt2 in plan.decoding:
        yield "decode", {"size": str(size)}, partial(decode_row, device, plan, size, gpt2)
    for cell_type, layers, width, batch in plan.stacks:
        about = {"size": f"{cell_type} {layers}x{width}, batch {batch}, window {plan.window}"}
        yield "stack", about, partial(stack_row, device, plan, cell_type, layers, width, batch)
    yield from steps(plan.more_steps)
    for tokens, words, width in plan.losses:
        about = {"size": f"{tokens} tokens, {words} words, width {width}"}
        yield "loss", about, partial(loss_row, device, plan, tokens, words, width)
    for cell_type, width, batch in plan.layers:
        about = {"size": f"{cell_type} {width}, batch {batch}, window {plan.window}"}
        yield "layer", about, partial(layer_row, device, plan, cell_type, width, batch)


def set_tf32(is_on: bool) -> None:
    """Whether a GPU rounds the factors of float32 products, recurrent layers' too."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_on


def timed(candidates: Mapping[str, Callable[[], object]], device: torch.device, plan: Plan) -> dict[str, Any]:
    """Seconds of a run of each candidate in each round, how many runs were timed together, and errors by candidate:
    one that raises is left out, and the others go on."""
    wait, able, errors = synchronize_of(device), {}, {}
    for name, run in candidates.items():
        try:
            run()
            run()
            wait()
            able[name] = run
        except Exception as error:
            traceback.print_exc()
            errors[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    if not able:
        raise RuntimeError(f"no candidate runs: {errors}")
    start = time.perf_counter()
    for run in able.values():
        run()
        wait()
    once = time.perf_counter() - start
    runs = max(1, min(plan.most_runs, int(plan.seconds / (2 * plan.rounds * once))))

    def many(run: Callable[[], object]) -> None:
        for _ in range(runs):
            run()

    times = in_turn({name: partial(many, run) for name, run in able.items()}, plan.rounds, wait)
    seconds = {name: [value / runs for value in values] for name, values in times.items()}
    return {"seconds": seconds, "runs": runs, "errors": errors}


def row_of(timing: dict[str, Any], plan: Plan, first: str | None = None) -> dict[str, Any]:
    """Medians in milliseconds, and the ratio of the time of the `first` candidate to that of each other one."""
    times = timing["seconds"]
    row: dict[str, Any] = {
        "milliseconds": {name: round(1000 * statistics.median(values), 4) for name, values in times.items()}
    }
    if first in times:
        row["ratio"] = {name: round(ratio(times, str(first), name), 3) for name in times if name != first}
    row |= {"rounds": plan.rounds, "runs": timing["runs"]}
    return row | ({"errors": timing["errors"]} if timing["errors"] else {})


def free(device: torch.device) -> None:
    """Give back what the row before held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


# Training steps


def steps_by_hand(size: StepSize, device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """One optimizer step of a loop by hand with each loss, under autocast where `dtype` is not float32."""
    config = RNNConfig(
        vocab_size=size.vocab_size, hidden_size=size.hidden_size, num_hidden_layers=size.num_hidden_layers,
        cell_type=size.cell_type, tie_word_embeddings=size.is_tied, **size.head,
    )  # fmt: skip
    bare = BareLanguageModel(config).train().to(device)
    nn.init.uniform_(bare.embedding.weight, -0.1, 0.1)
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
    inputs, targets = random_window(size, device)
    states: dict[str, Any] = {}

    def step(kind: str) -> None:
        with nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype):
            loss, state = bare(inputs, targets, states.get(kind), kind)
        states[kind] = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        update(bare, optimizer, loss)

    return {"by hand, same loss": partial(step, "fused"), "by hand, cross_entropy": partial(step, "plain")}


def step_row(device: torch.device, plan: Plan, size: StepSize, name: str, rate: float | None) -> dict[str, Any]:
    """The package's own training loop against one by hand: data, clipping and its log are in it, and the loss scale
    of float16, which the loop by hand goes without."""
    free(device)
    AcceleratorState._reset_state(reset_partial_state=True)  # else it refuses another precision
    with TemporaryDirectory() as directory:
        write_text(size, max(16, 60_000 // (size.batch_size * size.window)), Path(directory))
        flags = FLAGS[name] | size.head | {"use_cpu": device.type == "cpu"}
        run, bar = our_run(size, Path(directory), size.is_tied, **flags), tqdm(disable=True)
        candidates = {"ours": lambda: run._step(bar), **steps_by_hand(size, device, TYPES[name][0])}
        timing = timed(candidates, device, plan)
    row = row_of(timing, plan, "ours")
    if "ours" not in timing["seconds"]:
        return row
    seconds = statistics.median(timing["seconds"]["ours"])
    row["tokens_per_second"] = round(size.batch_size * size.window / seconds)
    row["tflop_per_s"] = round(size.operations() / seconds / 1e12, 3)
    return row | ({"share_of_matrix_rate": round(row["tflop_per_s"] / rate, 4)} if rate else {})


# Decoding


def gpt2(vocab_size: int, width: int, layers: int) -> Any:
    """A GPT-2 with random weights."""
    sizes: dict[str, Any] = {"n_embd": width, "n_layer": layers, "n_head": max(1, width // 64), "n_positions": 1024}
    config = GPT2Config(vocab_size=vocab_size, bos_token_id=None, eos_token_id=None, **sizes)
    return GPT2LMHeadModel(config).eval()


def decode_row(device: torch.device, plan: Plan, size: DecodingSize, others: list[int]) -> dict[str, Any]:
    """A greedy token in float32 by `generate()`, by hand, by transformers' own loop, and of a GPT-2 for one row."""
    free(device)
    set_tf32(False)
    model = random_model(size).to(device)
    bare = bare_copy(model)
    prompt = torch.randint(1, size.vocab_size, (size.batch_size, 1), device=device)

    def generated(network: Any) -> torch.Tensor:
        return network.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=plan.tokens, pad_token_id=0
        )

    def stock() -> torch.Tensor:
        with stock_generation(model):
            return generated(model)

    runs: dict[str, Callable[[], torch.Tensor]] = {
        "ours": partial(generated, model), "by hand": lambda: decode_by_hand(bare, prompt, plan.tokens),
        "stock generate()": stock,
    }  # fmt: skip
    parameters = {"ours": model.num_parameters()}
    if size.batch_size == 1:
        other = gpt2(size.vocab_size, *others).to(device)
        parameters["GPT-2"] = other.num_parameters()
        runs["GPT-2"] = partial(generated, other)
    greedy = [runs[name]() for name in ("ours", "by hand", "stock generate()")]
    timing = timed(runs, device, plan)
    timing["seconds"] = {name: [s / plan.tokens for s in values] for name, values in timing["seconds"].items()}
    row = row_of(timing, plan, "ours")
    is_same = all(torch.equal(tokens, greedy[0]) for tokens in greedy)
    return row | {"tokens": plan.tokens, "parameters": parameters, "finds_same_tokens": is_same}


# Layers and losses: forward and backward


def pass_of(modules: list[nn.Module], inputs: torch.Tensor, upstream: torch.Tensor, name: str) -> Callable[[], object]:
    """Forward and backward through layers one after the other, in one of `TYPES`."""
    dtype, is_tf32 = TYPES[name]
    modules = [module.to(inputs.device, dtype).train() for module in modules]
    inputs, upstream = inputs.to(dtype).requires_grad_(), upstream.to(dtype)

    def run() -> None:
        set_tf32(is_tf32)
        outputs = inputs
        for module in modules:
            module.zero_grad()
            outputs = module(outputs)[0]
        inputs.grad = None
        outputs.backward(upstream)

    return run


def stack_row(device: torch.device, plan: Plan, cell_type: str, layers: int, width: int, batch: int) -> dict[str, Any]:
    """Layers of the package one after the other against one call of torch's module of as many layers, by type."""
    free(device)
    inputs, upstream = (torch.randn(batch, plan.window, width, device=device) for _ in range(2))
    fields: dict[str, Any] = {"cell_type": cell_type, "hidden_size": width, "num_hidden_layers": layers}
    config = RNNConfig(vocab_size=10, tie_word_embeddings=False, **fields)
    row: dict[str, Any] = {"milliseconds": {}, "ratio": {}, "errors": {}}
    for name in TYPES:
        stacked: list[nn.Module] = [RNNLayer(config, index) for index in range(layers)]
        one: list[nn.Module] = [CELLS[cell_type](width, width, num_layers=layers, batch_first=True)]
        candidates = {kind: pass_of(m, inputs, upstream, name) for kind, m in (("stacked", stacked), ("one", one))}
        timing = timed(candidates, device, dataclasses.replace(plan, seconds=plan.seconds / 4))
        part = row_of(timing, plan, "stacked")
        row["milliseconds"] |= {f"{name}, {kind}": value for kind, value in part["milliseconds"].items()}
        row["errors"] |= {f"{name}, {kind}": text for kind, text in timing["errors"].items()}
        row |= {"rounds": plan.rounds, "runs": timing["runs"]}
        if not timing["errors"]:
            row["ratio"][name] = part["ratio"]["one"]
    return row


def layer_row(device: torch.device, plan: Plan, cell_type: str, width: int, batch: int) -> dict[str, Any]:
    """One layer of torch in each type."""
    free(device)
    inputs, upstream = (torch.randn(batch, plan.window, width, device=device) for _ in range(2))
    candidates = {
        name: pass_of([CELLS[cell_type](width, width, batch_first=True)], inputs, upstream, name) for name in TYPES
    }
    return row_of(timed(candidates, device, dataclasses.replace(plan, seconds=plan.seconds / 2)), plan)


def loss_row(device: torch.device, plan: Plan, tokens: int, words: int, width: int) -> dict[str, Any]:
    """The loss in parts against `F.linear` and `cross_entropy`, in each type under its autocast; `ratio` by type."""
    free(device)
    hidden = torch.randn(tokens, width, device=device, requires_grad=True)
    weight = (torch.randn(words, width, device=device) / width**0.5).requires_grad_()
    bias = torch.zeros(words, device=device, requires_grad=True)
    targets = torch.randint(words, (tokens,), device=device)

    def run(name: str, is_in_parts: bool) -> None:
        dtype, is_tf32 = TYPES[name]
        set_tf32(is_tf32)
        hidden.grad = weight.grad = bias.grad = None
        with nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype):
            if is_in_parts:
                loss = linear_cross_entropy(hidden, weight, bias, targets)
            else:
                loss = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")
        loss.backward()

    kinds = {"in parts": True, "all logits": False}
    candidates = {f"{name}, {kind}": partial(run, name, flag) for name in TYPES for kind, flag in kinds.items()}
    timing = timed(candidates, device, plan)
    row, times = row_of(timing, plan), timing["seconds"]
    pairs = {name: [f"{name}, {kind}" for kind in kinds] for name in TYPES}
    return row | {"ratio": {n: round(ratio(times, *pair), 3) for n, pair in pairs.items() if times.keys() >= {*pair}}}
