"""The recurrent state as a transformers cache: constant size, batch first, never written in place."""

from collections.abc import Callable

import torch
from transformers.cache_utils import STATIC_LAYER_TYPE_MAPPING, Cache, CacheLayerMixin

from .configuration_rnn import RNNConfig


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

    def __init__(self, **kwargs):
        super().__init__()
        self.cumulative_length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor | None) -> None:
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(self, key_states, value_states, num_tokens: int = 1, *args, **kwargs):
        """Replace the state by the one after `num_tokens` more positions and return it."""
        self.lazy_initialization(key_states, value_states)
        self.cumulative_length += num_tokens
        return self.keys, self.values

    def apply(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace each tensor of the state by `function` of it."""
        if self.is_initialized:
            self.keys = function(self.keys)
            self.values = function(self.values) if self.values is not None else None

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

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError(
            "A recurrent state holds no past positions to go back to: keep a copy (copy.deepcopy) "
            "of the state before the tokens that may be taken back."
        )

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

    def __deepcopy__(self, memo) -> "RecurrentStateLayer":
        copy = type(self)()
        copy.__dict__.update(self.__dict__)
        copy.apply(lambda tensor: tensor.detach().clone())  # torch cannot deep-copy a tensor inside a graph
        memo[id(self)] = copy
        return copy


# The state has the same size at every length, so a "static" cache is the same thing.
STATIC_LAYER_TYPE_MAPPING[RecurrentStateLayer._layer_type] = RecurrentStateLayer


class RNNCache(Cache):
    """The state of a whole network: one [`RecurrentStateLayer`] a layer, empty at first.

    It is what the models take and return as `past_key_values`. Beside the methods of every transformers cache
    (`reorder_cache`, `batch_repeat_interleave`, `batch_select_indices`, `reset`, `get_seq_length`) it has
    `detach` and `to`.

    Args:
        config: Configuration of the model that the state belongs to.

    Example:

    >>> import torch
    >>> from rnn_hf import RNNCache, RNNConfig, RNNForCausalLM
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=12, hidden_size=8)).eval()
    >>> state = RNNCache(model.config)
    >>> _ = model(torch.tensor([[1, 2, 3]]), past_key_values=state)
    >>> state.get_seq_length(), state.layers[0].keys.shape
    (3, torch.Size([1, 8]))
    """

    layers: list[RecurrentStateLayer]

    def __init__(self, config: RNNConfig):
        super().__init__(layers=[RecurrentStateLayer() for _ in range(config.num_hidden_layers)])

    def detach(self) -> "RNNCache":
        """Cut the autograd graph behind the state, in place; returns the cache."""
        for layer in self.layers:
            layer.apply(torch.Tensor.detach)
        return self

    def to(self, *args, **kwargs) -> "RNNCache":
        """Move or cast the state as `torch.Tensor.to` does, in place; returns the cache."""
        for layer in self.layers:
            layer.apply(lambda tensor: tensor.to(*args, **kwargs))
        return self


__all__ = ["RNNCache", "RecurrentStateLayer"]
