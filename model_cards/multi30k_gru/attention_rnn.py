"""Attention: what a decoder finds in the outputs of an encoder, for one step or for all steps at once.

Shapes in comments: B batch, S source, T target, H hidden size, A width of the space of comparison, N heads, C width of
what is found.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .configuration_rnn_seq2seq import RNNSeq2SeqConfig


# Numbers of the tanh layer of additive attention, (B, T, S, A), that are held at a time.
COMPARED = 4_000_000


@dataclass
class Memory:
    """What a decoder sees of a source.

    Attributes:
        states: Outputs of the encoder, `(B, S, H)`, zeros at padding.
        keys: What the decoder compares with, `(B, S, A)`; `None` without attention.
        values: What is summed by weight, `(B, S, C)`; `None` without attention.
        padding: `(B, S)`, true at padding; `None` where there is none.
    """

    states: Tensor
    keys: Tensor | None
    values: Tensor | None
    padding: Tensor | None

    @property
    def compared(self) -> tuple[Tensor, Tensor]:
        """Keys and values, of a network with attention."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values


class CrossAttention(nn.Module):
    """The attention of a decoder to the outputs of an encoder, by `config.attention`."""

    def __init__(self, config: RNNSeq2SeqConfig):
        super().__init__()
        self.kind, self.num_heads, hidden = config.attention, config.attention_heads, config.hidden_size
        size = config.attention_size or hidden
        self.q_proj = self.k_proj = self.v_proj = self.score = None
        if self.kind != "dot":
            self.k_proj = nn.Linear(hidden, size, bias=False)
        if self.kind == "additive":
            self.q_proj, self.score = nn.Linear(hidden, size), nn.Linear(size, 1, bias=False)
        elif self.kind == "multihead":
            self.q_proj, self.v_proj = nn.Linear(hidden, size), nn.Linear(hidden, size, bias=False)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the encoder `(B, S, H)` to keys `(B, S, A)` and values `(B, S, C)`: once a source."""
        keys = states if self.k_proj is None else self.k_proj(states)
        return keys, states if self.v_proj is None else self.v_proj(states)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """What the decoder's outputs `(B, T, H)` find in a memory: sums `(B, T, C)` and weights `(B, N, T, S)`.

        A source of padding alone gives zeros.
        """
        keys, values = memory.compared
        if self.kind == "additive":
            scores = self._compare(self.q_proj(queries), keys)
        elif self.kind == "multihead":
            scale = (keys.shape[-1] // self.num_heads) ** -0.5
            scores = (self._heads(self.q_proj(queries)) * scale) @ self._heads(keys).transpose(2, 3)
            scores = scores.flatten(0, 1)  # (B * N, T, S)
        else:
            scores = torch.bmm(queries, keys.transpose(1, 2))
        if memory.padding is not None:
            padding = memory.padding[:, None].repeat_interleave(self.num_heads, dim=0)
            # A finite number: a row of padding alone has weights all the same.
            scores = scores.masked_fill(padding, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1)
        if self.kind == "multihead":
            found = torch.bmm(weights, self._heads(values).flatten(0, 1)).unflatten(0, (-1, self.num_heads))
            found = found.transpose(1, 2).flatten(2)
        else:
            found = torch.bmm(weights, values)
        return found, weights.unflatten(0, (-1, self.num_heads))

    def _heads(self, states: Tensor) -> Tensor:
        """`(B, T, A)` to `(B, N, T, A / N)`."""
        return states.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _compare(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scores `(B, T, S)`, some steps of the target at a time: each is a layer of tanh over `(B, S, A)`."""
        steps = max(1, COMPARED // keys.numel())
        parts = [(part[:, :, None] + keys[:, None]).tanh() for part in queries.split(steps, dim=1)]
        return torch.cat([self.score(part).squeeze(-1) for part in parts], dim=1)


__all__ = ["CrossAttention", "Memory"]
