"""What training minimises: the loss of the model, over all words or some, and the penalties that a recipe adds."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from rnn_hf.errors import InputError
from rnn_hf.models import RNNCache, RNNConfig, RNNForCausalLM
from rnn_hf.models.loss_rnn import linear_cross_entropy
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


class SampledWords(nn.Module):
    """Draws the words that the softmax of a window is over, in place of all (Bengio and Senecal, 2003).

    A word is drawn with a probability that grows with its count to the power of 3/4, up to 1, and the words of all
    targets are there in any case. Where the logarithm of its chance to be there without the target at hand is taken
    from each logit, the logits that are best for the words of a sample are best for all words (Jean et al., 2015).
    Rare words are in few samples, with more weight; the most frequent ones, which have most of the probability, are
    in all, so that little is left to chance.

    Args:
        counts: How often each word is a target, `(V,)`.
        size: How many words are drawn in the mean, below V.

    Attributes:
        chances: Of each word to be drawn, `(V,)`.
        shares: Of each word of all targets, `(V,)`.
    """

    def __init__(self, counts: torch.Tensor, size: int):
        super().__init__()
        counts = counts.double().clamp(min=1)
        powers = counts.pow(0.75)
        chances = powers * (size / powers.sum())
        while (chances > 1).any():  # what is cut off goes to the others
            is_sure = chances >= 1
            rest = powers.masked_fill(is_sure, 0)
            chances = torch.where(is_sure, 1.0, rest * ((size - is_sure.sum()) / rest.sum()))
        self.register_buffer("chances", chances.float(), persistent=False)
        self.register_buffer("shares", (counts / counts.sum()).float(), persistent=False)
        self.chances: torch.Tensor
        self.shares: torch.Tensor

    def forward(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw.

        Args:
            targets: `(N,)`, ids of words.

        Returns:
            The ids of the words that are there, `(C,)`, ascending; the logarithms of their chances to be, `(C,)`; and
            where the targets are among them, `(N,)`.
        """
        is_there = torch.rand_like(self.chances) < self.chances
        is_there[targets] = True
        words = is_there.nonzero()[:, 0]
        is_missing = (1 - self.chances[words]) * (1 - self.shares[words]) ** (len(targets) - 1)
        return words, (-is_missing).log1p(), is_there.cumsum(0)[targets] - 1


class Objective(nn.Module):
    """A language model with what its training minimises.

    Args:
        model: Unwrapped.
        arguments: Of which `activation_regularization` (AR, alpha) and `temporal_activation_regularization` (TAR,
            beta) weigh the penalties of Merity et al., 2017, equations 1 and 2, on the last layer's output after
            dropout and on its change from step to step before it; `past_decode_regularization` weighs `PastDecoder`;
            `label_smoothing_factor` is the share of each target that is spread over all words; `sampled_softmax` is
            how many words the softmax is over.
        counts: How often each word is in the training text, `(V,)`, for `sampled_softmax`.

    Attributes:
        extra: What training has besides the model, empty for most recipes.

    Raises:
        InputError: `sampled_softmax` that does not fit the model.
    """

    def __init__(self, model: RNNForCausalLM, arguments: TrainingArguments, counts: torch.Tensor | None = None):
        super().__init__()
        self.model, self.extra = model, nn.ModuleDict()
        self.activation = arguments.activation_regularization
        self.temporal = arguments.temporal_activation_regularization
        self.past_decode = arguments.past_decode_regularization
        self.label_smoothing = arguments.label_smoothing_factor
        if self.past_decode:
            self.extra["past_decoder"] = PastDecoder(model.config)
        if size := arguments.sampled_softmax:
            if model.mixture is not None:
                raise InputError("`sampled_softmax` does not go with `num_softmaxes`: leave one of them out")
            if size >= model.config.vocab_size:
                raise InputError(
                    f"`sampled_softmax` must be below the {model.config.vocab_size} words of the vocabulary, or 0 for "
                    f"all of them, got {size}"
                )
            assert counts is not None
            self.extra["words"] = SampledWords(counts, size)

    def forward(
        self, inputs: torch.Tensor, targets: torch.Tensor, state: RNNCache | None
    ) -> tuple[torch.Tensor, torch.Tensor, RNNCache]:
        """One window.

        Args:
            inputs: Token ids `(B, T)`.
            targets: The token after each, `(B, T)`.
            state: From the window before.

        Returns:
            What to minimise; the loss of the model alone, detached, over the sampled words if there are such; the
            state to go on from, detached.
        """
        outputs = self.model.model(inputs, cache=state, use_cache=True, output_hidden_states=True)
        hidden = outputs.last_hidden_state
        logits = self.model.compute_logits(hidden) if self.past_decode else None
        if "words" in self.extra:
            loss = self._sampled_loss(hidden, targets.flatten())
        else:
            loss = self.model.compute_loss(hidden, targets, logits, label_smoothing=self.label_smoothing)
        total = loss
        if self.activation:
            total = total + self.activation * hidden.square().mean()
        if self.temporal and inputs.shape[1] > 1:
            total = total + self.temporal * outputs.hidden_states[-1].diff(dim=1).square().mean()
        if self.past_decode:
            embedding = self.model.model.embed_tokens.weight
            total = total + self.past_decode * self.extra["past_decoder"](logits, inputs, embedding)
        return total, loss.detach(), outputs.cache.detach()

    def _sampled_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cross entropy over words that are drawn, with their rows of the output matrix alone."""
        words, log_chances, places = self.extra["words"](targets)
        head = self.model.lm_head
        bias = head.bias[words] - log_chances.to(head.bias.dtype)
        inputs = self.model.project(hidden).flatten(0, 1)
        return linear_cross_entropy(inputs, head.weight[words], bias, places) / len(targets)
