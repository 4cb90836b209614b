"""What training minimises: the loss of the model, and the penalties that a recipe adds to it."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rnn_hf.models import RNNCache, RNNConfig, RNNForCausalLM
from rnn_hf.training.arguments import TrainingArguments


class PastDecoder(nn.Module):
    """Decodes each input token from the prediction of the next one (past decode regularisation, Brahma, 2018).

    The embedding that the predicted distribution expects goes through a layer of its own and the embedding matrix
    again, to the token that the network had just read. It serves training alone and is no part of the model.
    """

    def __init__(self, config: RNNConfig):
        super().__init__()
        size: Any = config.embedding_size
        self.transform = nn.Linear(size, size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, logits: torch.Tensor, inputs: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the inputs `(B, T)` from logits `(B, T, V)` and the embedding matrix `(V, E)`."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        expected = logits.softmax(-1) @ embedding
        past = F.linear(torch.tanh(self.transform(expected)), embedding, self.bias).flatten(0, 1)
        return F.cross_entropy(past.to(logits.dtype), inputs.flatten())


class Objective(nn.Module):
    """A language model with what its training minimises.

    Args:
        model: Unwrapped.
        arguments: Of which `activation_regularization` (AR, alpha) and `temporal_activation_regularization` (TAR,
            beta) weigh the penalties of Merity et al., 2017, equations 1 and 2, on the last layer's output after
            dropout and on its change from step to step before it; `past_decode_regularization` weighs `PastDecoder`;
            `label_smoothing_factor` is the share of each target that is spread over all words.

    Attributes:
        extra: What training has besides the model, empty for most recipes.
    """

    def __init__(self, model: RNNForCausalLM, arguments: TrainingArguments):
        super().__init__()
        self.model, self.extra = model, nn.ModuleDict()
        self.activation = arguments.activation_regularization
        self.temporal = arguments.temporal_activation_regularization
        self.past_decode = arguments.past_decode_regularization
        self.label_smoothing = arguments.label_smoothing_factor
        if self.past_decode:
            self.extra["past_decoder"] = PastDecoder(model.config)

    def forward(
        self, inputs: torch.Tensor, targets: torch.Tensor, state: RNNCache | None
    ) -> tuple[torch.Tensor, torch.Tensor, RNNCache]:
        """One window.

        Args:
            inputs: Token ids `(B, T)`.
            targets: The token after each, `(B, T)`.
            state: From the window before.

        Returns:
            What to minimise; the loss of the model alone, detached; the state to go on from, detached.
        """
        outputs = self.model.model(inputs, cache=state, use_cache=True, output_hidden_states=True)
        hidden = outputs.last_hidden_state
        logits = self.model.compute_logits(hidden) if self.past_decode else None
        loss = total = self.model.compute_loss(hidden, targets, logits, label_smoothing=self.label_smoothing)
        if self.activation:
            total = total + self.activation * hidden.square().mean()
        if self.temporal and inputs.shape[1] > 1:
            total = total + self.temporal * outputs.hidden_states[-1].diff(dim=1).square().mean()
        if self.past_decode:
            embedding = self.model.model.embed_tokens.weight
            total = total + self.past_decode * self.extra["past_decoder"](logits, inputs, embedding)
        return total, loss.detach(), outputs.cache.detach()
