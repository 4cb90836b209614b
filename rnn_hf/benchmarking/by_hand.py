"""The network that one writes by hand, to compare with."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from rnn_hf.models import RNNConfig
from rnn_hf.models.layers_rnn import CELLS
from rnn_hf.models.loss_rnn import linear_cross_entropy


class BareLanguageModel(nn.Module):
    """What one writes by hand: `nn.Embedding`, a multi-layer `nn.LSTM` and `nn.Linear`, nothing else but the linear
    layer of `output_projection_size`.

    The yardstick of the training benchmark. `loss` is `"fused"` for the loss that the package uses, or `"plain"` for
    logits and `cross_entropy`.
    """

    def __init__(self, config: RNNConfig):
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.rnn = CELLS[config.cell_type](
            width, config.hidden_size, num_layers=config.num_hidden_layers, batch_first=True
        )
        size = config.output_projection_size
        self.projection = nn.Linear(config.hidden_size, size) if size else nn.Identity()
        self.output = nn.Linear(size or config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.output.weight = self.embedding.weight

    def forward(self, inputs, targets, state, loss):
        hidden, state = self.rnn(self.embedding(inputs), state)
        hidden, targets = self.projection(hidden).flatten(0, 1), targets.flatten()
        if loss == "plain":
            return F.cross_entropy(self.output(hidden), targets), state
        return linear_cross_entropy(hidden, self.output.weight, self.output.bias, targets) / len(targets), state


def adam_step(module: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A step of Adam with a clipped gradient, of which each call returns the loss before it."""
    optimizer = torch.optim.Adam(module.train().parameters(), lr=1e-3, fused=True)

    def run() -> torch.Tensor:
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return value.detach()

    return run
