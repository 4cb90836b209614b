"""The recurrent state as a transformers cache: constant size, batch first, never written in place."""

import copy
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from .configuration_rnn import RNNConfig
from .versions_rnn import register_static_layer


# Steps that a recording state can go back: more than a draft of transformers' assisted generation is long.
RECORDED_STEPS = 128


class RecurrentStateLayer(CacheLayerMixin):
    """State of one recurrent layer.

    Attributes:
        keys: Hidden state h, shape `(batch, output width of the layer)`; `None` before the first token.
        values: Cell state c of an LSTM, shape `(batch, hidden_size)`; `None` for the other cells.
        cumulative_length: Number of positions seen, padding included, as transformers counts them.

    The tensors are replaced and never written to, so a state may be kept, shared and differentiated through.
    They keep their autograd graph: call `detach()` where truncated backpropagation through time cuts it.
    """

    _layer_type = "recurrent_state"

    def __init__(self, **kwargs: Any):
        super().__init__()
        self.cumulative_length = 0
        self.record_past = False
        self.past: list[tuple] = []  # (cumulative_length, keys, values) before each of the last steps

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor | None) -> None:
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(
        self,
        key_states: torch.Tensor | None,
        value_states: torch.Tensor | None,
        num_tokens: int = 1,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Replace the state by the one after `num_tokens` more positions and return it."""
        if self.record_past and num_tokens == 1:
            self.past.append((self.cumulative_length, self.keys, self.values))
            del self.past[:-RECORDED_STEPS]
        elif self.record_past:
            self.past.clear()  # what was recorded lies further back than can be gone
        self.lazy_initialization(key_states, value_states)
        self.cumulative_length += num_tokens
        return self.keys, self.values

    @property
    def is_croppable(self) -> bool:
        """Whether the states before the last steps are kept, so that `crop` can go back to them."""
        return self.record_past

    def activate_past_recording(self) -> None:
        """Keep the states before the last steps from now on, so that `crop` can go back to them."""
        self.record_past = True

    def apply(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace each tensor of the state, and of those recorded, by `function` of it."""

        def of(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else function(tensor)

        self.keys, self.values = of(self.keys), of(self.values)
        self.past = [(length, of(keys), of(values)) for length, keys, values in self.past]

    @property
    def batch_size(self) -> int:
        if self.keys is None:
            raise AttributeError("an empty state has no batch size")
        return self.keys.shape[0]

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        """Forget all: the next token is the first one again."""
        self.keys = self.values = None
        self.is_initialized, self.cumulative_length = False, 0
        self.past.clear()

    def crop(self, tokens_to_remove: int) -> None:
        """Go back by so many steps, given as a negative number as transformers does; forget what was recorded.

        Raises:
            ValueError: These steps were not recorded.
        """
        steps = abs(tokens_to_remove)
        if steps > len(self.past):
            raise ValueError(
                f"cannot go back {steps} steps: {len(self.past)} are recorded. Call `activate_past_recording()` "
                f"before them (the last {RECORDED_STEPS} are kept), or keep a copy (copy.deepcopy) of the state"
            )
        if steps:
            self.cumulative_length, self.keys, self.values = self.past[-steps]
            self.is_initialized = self.keys is not None
        self.past.clear()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.apply(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        # Indexing, not index_select, so that a boolean mask or a list selects rows too.
        self.apply(lambda tensor: tensor[torch.as_tensor(indices, device=tensor.device)].contiguous())

    def offload(self) -> None:
        self.device = self.keys.device if self.keys is not None else None
        self.apply(lambda tensor: tensor.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        self.apply(lambda tensor: tensor.to(self.device, non_blocking=True))

    def __deepcopy__(self, memo: dict[int, Any]) -> "RecurrentStateLayer":
        other = type(self)()
        other.__dict__.update(self.__dict__)
        other.past = list(self.past)
        other.apply(lambda tensor: tensor.detach().clone())  # torch cannot deep-copy a tensor inside a graph
        memo[id(self)] = other
        return other


# The state has the same size at every length, so a "static" cache is the same thing.
register_static_layer(RecurrentStateLayer)


class RNNCache(Cache):
    """The state of a whole network: one [`RecurrentStateLayer`] a layer, empty at first.

    It is what the models take and return as `cache`. Beside the methods of every transformers cache
    (`reorder_cache`, `batch_repeat_interleave`, `batch_select_indices`, `reset`, `get_seq_length`) it can be detached,
    moved, copied, forked, cut by row, joined with others, saved and loaded.

    Args:
        config: Configuration of the model that the state belongs to.

    Raises:
        ValueError: The model has no state to carry on.

    Example:

    >>> import torch
    >>> from rnn_hf import RNNCache, RNNConfig, RNNForCausalLM
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=12, hidden_size=8)).eval()
    >>> state = RNNCache(model.config)
    >>> _ = model(torch.tensor([[1, 2, 3]]), cache=state)
    >>> state.get_seq_length(), state.layers[0].keys.shape
    (3, torch.Size([1, 8]))
    """

    layers: list[RecurrentStateLayer]

    def __init__(self, config: RNNConfig | Iterable[tuple[torch.Tensor, torch.Tensor | None]]):
        # Several GPUs in one process: torch's `gather` builds the state of the whole batch from what `__iter__` gives.
        if isinstance(config, PreTrainedConfig):
            config.check_has_state("RNNCache")
            super().__init__(layers=[RecurrentStateLayer() for _ in config.state_sizes])
            return
        parts = list(config)
        super().__init__(layers=[RecurrentStateLayer() for _ in parts])
        for layer, (hidden, cell) in zip(self.layers, parts, strict=True):
            layer.lazy_initialization(hidden, cell)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """`(h, c)` of each layer."""
        return ((layer.keys, layer.values) for layer in self.layers)

    def __copy__(self) -> "RNNCache":
        return self.copy()  # with layers of its own, which the model replaces the content of

    def detach(self) -> "RNNCache":
        """Cut the autograd graph behind the state, in place; returns the cache."""
        for layer in self.layers:
            layer.apply(torch.Tensor.detach)
        return self

    def to(self, *args: Any, **kwargs: Any) -> "RNNCache":
        """Move or cast the state as `torch.Tensor.to` does, in place; returns the cache."""
        for layer in self.layers:
            layer.apply(lambda tensor: tensor.to(*args, **kwargs))
        return self

    def copy(self) -> "RNNCache":
        """A state of its own with the same content, to go on from twice."""
        return copy.deepcopy(self)

    def fork(self, times: int) -> "RNNCache":
        """A copy in which each row stands `times` times, one after the other: as many continuations of each."""
        forked = self.copy()
        forked.batch_repeat_interleave(times)
        return forked

    def rows(self, indices: torch.Tensor | Sequence[int] | Sequence[bool]) -> "RNNCache":
        """A copy of some rows, by a list or tensor of indices or a boolean mask."""
        chosen = self.copy()
        chosen.batch_select_indices(torch.as_tensor(indices))
        return chosen

    def restart(self) -> "RNNCache":
        """Count tokens from 0, in place, so that `generate()` takes all that it is given as new; returns the cache.

        Without this it is given the text from the beginning, and leaves out what the state has seen.
        """
        for layer in self.layers:
            layer.cumulative_length = 0
            layer.past.clear()
        return self

    @classmethod
    def cat(cls, states: "Sequence[RNNCache]") -> "RNNCache":
        """The rows of several states in one batch, tokens counted from 0 (see `restart`).

        Raises:
            ValueError: No state, one without content, or states of different networks.
        """
        if not states or not all(layer.is_initialized for state in states for layer in state.layers):
            raise ValueError("`states` must be at least one state, each after at least one token")
        if len({tuple(map(widths_of, state.layers)) for state in states}) > 1:
            raise ValueError("`states` are of different networks: they differ in layers or widths")
        joined = states[0].copy().restart()
        for layer, *parts in zip(joined.layers, *(state.layers for state in states), strict=True):
            layer.keys = torch.cat([part.keys.detach() for part in parts])
            if layer.values is not None:
                layer.values = torch.cat([part.values.detach() for part in parts])
        return joined

    def save(self, path: str | os.PathLike, model: nn.Module) -> None:
        """Write the state to a safetensors file, with the identity of its model: a draft, then moved in place.

        Raises:
            ValueError: The state is empty.
        """
        if not all(layer.is_initialized for layer in self.layers):
            raise ValueError("the state is empty: run at least one token before it is saved")
        tensors = {f"layers.{index}.hidden": layer.keys for index, layer in enumerate(self.layers)}
        cells = {f"layers.{index}.cell": layer.values for index, layer in enumerate(self.layers)}
        tensors |= {name: cell for name, cell in cells.items() if cell is not None}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        draft = f"{os.fspath(path)}.writing"
        save_file(tensors, draft, {"model": identity_of(model), "tokens": str(self.get_seq_length())})
        os.replace(draft, path)

    @classmethod
    def load(cls, path: str | os.PathLike, model: nn.Module) -> "RNNCache":
        """Read a state of `model` from a file, onto its device, tokens counted from 0 (see `restart`).

        Raises:
            ValueError: It is the state of another model, whose weights or configuration differ, or no state at all.
        """
        try:
            opened = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{os.fspath(path)} is not a whole file of a state: {error}") from error
        with opened as file:
            if (file.metadata() or {}).get("model") != identity_of(model):
                raise ValueError(f"{os.fspath(path)} is the state of another model: other weights, or another type")
            # In the type of the model: what runs it without its modules may have another.
            tensors = {name: file.get_tensor(name).to(model.device, model.dtype) for name in file.keys()}  # noqa: SIM118
        state = cls(model.config)
        for index, layer in enumerate(state.layers):
            layer.lazy_initialization(tensors[f"layers.{index}.hidden"], tensors.get(f"layers.{index}.cell"))
        return state


def check_state(cache: Any, widths: Sequence[tuple[int, int | None]], rows: int) -> None:
    """Refuse what is not a state of so many rows for layers of these `widths` of (h, c); an empty state fits all.

    Raises:
        ValueError: Naming what is wrong.
    """
    layers = getattr(cache, "layers", ())
    # By name and not by class: code that came from the Hub has a class of its own for the same thing.
    kinds = {getattr(layer, "_layer_type", None) for layer in layers}
    if len(layers) != len(widths) or kinds != {RecurrentStateLayer._layer_type}:
        raise ValueError(
            "`cache` is not a state of this network: pass what the model returned, or an empty "
            f"RNNCache(model.config); got {type(cache).__name__} with {len(layers)} layers of state"
        )
    for layer, expected in zip(layers, widths, strict=True):
        if not layer.is_initialized:
            continue
        if len(layer.keys) != rows:
            raise ValueError(f"`cache` holds {len(layer.keys)} rows, the input has {rows}")
        if widths_of(layer) != expected:
            raise ValueError(
                "`cache` is the state of another network: "
                f"widths of (h, c) should be {expected}, are {widths_of(layer)}"
            )


def widths_of(layer: RecurrentStateLayer) -> tuple[int, int | None]:
    """Widths of (h, c) in the state of a layer."""
    return layer.keys.shape[1], None if layer.values is None else layer.values.shape[1]


def identity_of(model: nn.Module) -> str:
    """A checksum of a model's weights, by name, type and content, wherever they are.

    What runs a model without its modules has that of the model as its attribute `identity`.
    """
    if identity := getattr(model, "identity", None):
        return identity
    digest = hashlib.sha256(model.config.model_type.encode())
    for name, tensor in sorted(model.state_dict().items()):
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(content)
    return digest.hexdigest()


__all__ = ["RECORDED_STEPS", "RNNCache", "RecurrentStateLayer", "check_state"]
