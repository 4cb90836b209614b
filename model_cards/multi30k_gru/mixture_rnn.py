"""The mixture of softmaxes: a head that is not limited to logits of the rank of the embedding.

Shapes in comments: B batch, T time, H width of the last layer, E embedding, K softmaxes, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import nn

from .configuration_rnn import RNNConfig
from .layers_rnn import locked_dropout


class MixtureOfSoftmaxes(nn.Module):
    """Log-probabilities of a weighted mean of K softmaxes over one output matrix (Yang et al., 2018, equation 3).

    Softmax k sees the output through a matrix and a tanh of its own; how much each counts depends on the output too.
    """

    def __init__(self, config: RNNConfig):
        super().__init__()
        self.latent = nn.Linear(config.output_size, config.num_softmaxes * config.embedding_size)
        self.prior = nn.Linear(config.output_size, config.num_softmaxes, bias=False)
        self.dropout = config.softmax_dropout

    def forward(self, hidden_states: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`(B, T, H)` or `(N, H)` to log-probabilities, V in the last place, by `head` from `(rows, E)` to V."""
        latent = torch.tanh(self.latent(hidden_states))
        if latent.ndim == 3:  # rows picked out of a batch have no time to share a mask over
            latent = locked_dropout(latent, self.dropout, self.training)
        latent = latent.unflatten(-1, (self.prior.out_features, -1))
        # Under autocast the products are of half precision, which is too coarse for log-probabilities.
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        weights = self.prior(hidden_states).log_softmax(-1, dtype=dtype)
        logits = head(latent.flatten(0, -2)).view(*latent.shape[:-1], -1)  # (B, T, K, V)
        return (logits.log_softmax(-1, dtype=dtype) + weights[..., None]).logsumexp(-2)


__all__ = ["MixtureOfSoftmaxes"]
