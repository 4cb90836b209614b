"""One-token steps on a GPU, recorded once as a CUDA graph and then run without Python.

A step is some twenty short kernels, whose launches from Python take several times as long as they run.

Shapes in comments: B batch, H width of a layer, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache as remembered
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import logging

from .cache_rnn import RNNCache
from .kernels_rnn import fastest, has_own_forward, is_bare, size_class, type_name
from .layers_rnn import WEIGHTS, RNNLayer


# More rows than this keep a GPU busy without a graph.
MOST_ROWS = 256
# Recorded steps that are kept for a model, which hold memory: one for each number of rows.
MOST_KEPT = 8
# Runs before a recording: libraries allocate and choose kernels in the first ones, which must not be recorded.
WARM_UPS = 3

# By model, and by what a step was recorded for (`purpose`): steps that no decoder uses now.
KEPT: "WeakKeyDictionary[nn.Module, dict[tuple, FixedStep]]" = WeakKeyDictionary()
# Work of another thread on the stream that records would be recorded too.
RECORDING = Lock()
# Graphs whose recording failed: torch's allocators may still ask them, so they stay. After so many no other is begun:
# one in some hundred has failed for no reason that was found, and the next one did not.
FAILED: list[Any] = []
MOST_FAILED = 3

logger = logging.get_logger(__name__)


def sigmoid_cell(
    inputs: torch.Tensor,
    hidden: torch.Tensor,
    of_input: torch.Tensor,
    of_hidden: torch.Tensor,
    input_bias: torch.Tensor,
    hidden_bias: torch.Tensor,
) -> torch.Tensor:
    return (F.linear(inputs, of_input, input_bias) + F.linear(hidden, of_hidden, hidden_bias)).sigmoid()


# torch's functions for one step of one cell: two products and, where there are gates, one kernel for all else.
ONE_STEP: dict[str, Callable[..., Any]] = {
    "lstm": torch.lstm_cell, "gru": torch.gru_cell, "tanh": torch.rnn_tanh_cell, "relu": torch.rnn_relu_cell,
    "sigmoid": sigmoid_cell,
}  # fmt: skip


class FixedStep:
    """A one-token step of a language model on buffers of its own, recorded: each run goes on from the last one.

    It reads the weights where they lie, at each run, so it follows their changes as long as they stay in place.

    Args:
        model: An [`RNNForCausalLM`] that `can_record`.
        rows: B.
        by_cells: Whether layers are computed by torch's functions of one step, and not by their modules.

    Attributes:
        tokens: `(B,)`, to be written before a run.
        state: (h, c) of each layer, `(B, H)` each, `c` of an LSTM only: written over by a run.
        before: The state before the last run.
        logits: `(B, V)` in float32, written over by a run.
        run: The step.

    Raises:
        RuntimeError: Something in the step cannot be recorded.
    """

    def __init__(self, model: Any, rows: int, by_cells: bool):
        network = model.model
        weight, layers = network.embed_tokens.weight, [one_step(layer, by_cells) for layer in network.layers]

        def step() -> torch.Tensor:
            torch._foreach_copy_(list(parts_of(self.before)), list(parts_of(self.state)))  # one kernel for all
            outputs, after = F.embedding(self.tokens, weight), []
            for layer, state in zip(layers, self.state, strict=True):
                outputs, cell = layer(outputs, *state)
                after += [outputs] if cell is None else [outputs, cell]
            logits = model.compute_logits(outputs).float()
            torch._foreach_copy_(list(parts_of(self.state)), after)
            return logits

        # What is made in inference mode may not be written to outside it, and this may be used there later.
        with torch.inference_mode(False), torch.no_grad():
            self.tokens = torch.zeros(rows, dtype=torch.long, device=weight.device)
            self.state, self.before = zeros(model, rows), zeros(model, rows)
            self.run, self.logits = record(step, weight.device)


def zeros(model: Any, rows: int) -> list[tuple]:
    """(h, c) of each layer before the first token."""
    weight = model.model.embed_tokens.weight
    return [
        tuple(None if size is None else weight.new_zeros(rows, size) for size in sizes)
        for sizes in model.model.state_sizes
    ]


def parts_of(state: list[tuple]) -> Iterator[torch.Tensor]:
    return (part for parts in state for part in parts if part is not None)


def one_step(layer: RNNLayer, by_cells: bool) -> Callable[..., tuple]:
    """`(B, input size)` and the state before to the state after, `(h, c)`, by one layer."""
    if not by_cells:
        return lambda inputs, hidden, cell: layer(inputs[:, None], hidden, cell)[1:]
    function, weights = ONE_STEP[layer.kind], [getattr(layer.rnn, name) for name in WEIGHTS]
    if layer.kind == "lstm":
        return lambda inputs, hidden, cell: function(inputs, (hidden, cell), *weights)
    return lambda inputs, hidden, cell: (function(inputs, hidden, *weights), None)


def record(
    step: Callable[[], Any], device: torch.device, warm_ups: int = WARM_UPS, pool: Any = None
) -> tuple[Callable[[], None], Any]:
    """Record a function without arguments as a CUDA graph.

    Args:
        step: To record.
        device: A GPU.
        warm_ups: Times to run it before.
        pool: Of memory, which graphs may share that leave nothing in it for each other.

    Returns:
        What runs it again on the same memory, and its output, which that writes over.

    Raises:
        RuntimeError: It does what a graph cannot hold, or too many earlier recordings failed.
    """
    if len(FAILED) >= MOST_FAILED:
        raise RuntimeError("earlier recordings failed")
    with RECORDING, torch.cuda.device(device):
        stream, given = recording_stream(device), torch.cuda.current_stream()
        stream.wait_stream(given)
        # `torch.cuda.graph` would leave its stream behind as the current one where a recording fails: hence the outer.
        with torch.cuda.stream(stream):
            for _ in range(warm_ups):
                step()
            graph, pool = torch.cuda.CUDAGraph(), pool or torch.cuda.graph_pool_handle()
            try:
                # Other threads may go on allocating meanwhile.
                with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                    output = step()
            except RuntimeError:
                FAILED.append(graph)
                leave_unfinished(pool)
                raise
        given.wait_stream(stream)
    return graph.replay, output


def leave_unfinished(pool: Any) -> None:
    """Go on after a recording that failed, which torch before 2.12 takes for unfinished.

    Its allocator would raise at `empty_cache()`, and the generator at the next random number: its state is replaced by
    one like it. Graphs that were recorded before have the old one and are dropped.
    """
    KEPT.clear()
    device = torch.cuda.current_device()
    with suppress(AttributeError, RuntimeError):
        torch._C._cuda_endAllocateToPool(device, pool)
    with suppress(AttributeError, RuntimeError):
        generator, other = torch.cuda.default_generators[device], torch.Generator(f"cuda:{device}")
        other.set_state(generator.get_state())
        generator.graphsafe_set_state(other.graphsafe_get_state())


@remembered
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device: cuBLAS keeps memory for every stream that it has worked on."""
    return torch.cuda.Stream(device)


def can_record(model: Any) -> bool:
    """Whether a step of a model is no more than kernels on its weights: on one GPU, nothing hooked onto any module."""
    device = model.device
    return (
        is_free_gpu(device)
        and all(type(weight) is nn.Parameter and weight.device == device for weight in model.parameters())
        and all(is_bare(module) and is_known(module) for module in model.modules())
    )


def is_free_gpu(device: torch.device) -> bool:
    """Whether a device is a GPU that can record: nothing else records there or compiles."""
    return device.type == "cuda" and not (torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing())


def is_known(module: nn.Module) -> bool:
    """Whether what a module computes hangs on its weights alone: it is torch's, or this package's as written."""
    return type(module).__module__.startswith("torch.nn.modules.") or has_own_forward(module)


def tf32() -> tuple[bool, bool]:
    """Whether products and recurrent modules round float32 to TF32 on a GPU: two switches of torch's."""
    backends: Any = torch.backends
    return backends.cuda.matmul.fp32_precision == "tf32", backends.cudnn.rnn.fp32_precision == "tf32"


def purpose(model: Any, rows: int) -> tuple:
    """What a recorded step depends on; where its weights lie comes first."""
    weights = [(weight.data_ptr(), weight.dtype, weight.shape, weight.stride()) for weight in model.parameters()]
    device = model.device
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return tuple(weights), tuple(layer.kind for layer in model.model.layers), rows, stream, tf32()


def new_step(model: Any, rows: int, decoder: Callable[[RNNCache], Any]) -> FixedStep | None:
    """The faster of the steps that can be recorded; `None` where that of the modules, unrecorded, is as fast.

    Args:
        decoder: Makes such steps from a state.
    """
    first, weight = model.model.layers[0], model.lm_head.weight
    made: dict[str, Any] = {}

    @torch.no_grad()
    def modules() -> None:
        if "modules" not in made:
            made["modules"] = decoder(RNNCache(zeros(model, rows)))
        made["modules"](torch.zeros(rows, dtype=torch.long, device=weight.device))[0, 0].item()  # waits for the GPU

    def recorded(name: str) -> FixedStep:
        made[name] = made.get(name) or FixedStep(model, rows, by_cells=name == "cells")
        return made[name]

    def replayed(name: str) -> None:
        recorded(name).run()
        recorded(name).logits[0, 0].item()

    ways: dict[str, Callable[[], None]] = {"modules": modules, "graph": lambda: replayed("graph")}
    if rounds_alike(weight.dtype) and not first.rnn.proj_size:
        ways["cells"] = lambda: replayed("cells")
    sizes = size_class(rows, *weight.shape, *first.rnn.weight_hh_l0.shape)
    what = (
        f"decoding {device_name(weight)} {type_name(weight)} {tf32()} {len(model.model.layers)} {first.kind} {sizes}"
    )
    name = fastest(what, ways)
    return None if name == "modules" else recorded(name)


def rounds_alike(dtype: torch.dtype) -> bool:
    """Whether products round as recurrent modules do on a GPU, so that either way gives the same tokens."""
    of_products, of_modules = tf32()
    return dtype == torch.float64 or (dtype == torch.float32 and of_products == of_modules)


def device_name(tensor: torch.Tensor) -> str:
    return torch.cuda.get_device_name(tensor.device) if tensor.is_cuda else tensor.device.type


class GraphDecoder:
    """One-token steps by a graph: tokens `(B,)` to logits `(B, V)`, which the next step writes over.

    The state is in `cache` once it is closed; until then `cache` is as it was.
    """

    def __init__(self, model: Any, cache: RNNCache, key: tuple, step: FixedStep):
        self.model, self.cache, self.key, self.step = model, cache, key, step
        self.num_tokens, self.is_begun = 0, False
        given = [(layer.keys, layer.values) for layer in cache.layers]
        with torch.no_grad():
            for buffer, part in zip(parts_of(step.state), parts_of(given), strict=True):
                buffer.copy_(part)

    @classmethod
    def make(cls, model: Any, cache: RNNCache, rows: int, decoder: Callable[[RNNCache], Any]) -> "GraphDecoder | None":
        """On from the state in `cache`; `None` where a step cannot be recorded, or that of `decoder` is as fast."""
        if rows > MOST_ROWS or not can_record(model):
            return None
        key = purpose(model, rows)
        try:
            # Taken out, so that no other thread writes to the same buffers.
            step = KEPT.setdefault(model, {}).pop(key, None) or new_step(model, rows, decoder)
        except RuntimeError as error:
            logger.warning_once(f"`generate()` is slower: its step could not be recorded as a CUDA graph: {error}")
            return None
        return None if step is None else cls(model, cache, key, step)

    def read(self, tokens: torch.Tensor) -> list[int]:
        """Tokens `(B,)` as numbers; the step that they go into is begun meanwhile, wanted or not."""
        numbers = tokens.to("cpu", non_blocking=True)
        arrived = torch.cuda.current_stream(tokens.device).record_event() if tokens.is_cuda else None
        self._begin(tokens)
        if arrived is not None:
            arrived.synchronize()
        return numbers.tolist()

    def _begin(self, tokens: torch.Tensor) -> None:
        self.step.tokens.copy_(tokens)
        self.step.run()
        self.is_begun = True

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        if not self.is_begun:
            self._begin(tokens)
        self.is_begun = False
        self.num_tokens += 1
        return self.step.logits

    def close(self) -> None:
        """Leave the state after the last step in `cache`, and the graph to the next call of `generate()`."""
        if self.num_tokens:
            after = self.step.before if self.is_begun else self.step.state
            for (hidden, cell), layer in zip(after, self.cache.layers, strict=True):
                layer.update(hidden.clone(), None if cell is None else cell.clone(), self.num_tokens)
        kept = KEPT.setdefault(self.model, {})
        for old in [key for key in list(kept) if key[0] != self.key[0]] + list(kept)[: -MOST_KEPT + 1]:
            kept.pop(old, None)  # of weights that have moved, or unused for the longest time
        kept[self.key] = self.step


__all__ = ["GraphDecoder"]
