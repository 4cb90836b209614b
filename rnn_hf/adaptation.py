"""Test-time adaptation: dynamic evaluation, neural cache and temperature, which learn from the text that they score.

Figures with them are no figures of the network alone and stand apart from these everywhere.
"""

import copy
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from rnn_hf.data.streams import TokenStream
from rnn_hf.errors import InputError
from rnn_hf.evaluation import Score, check_token_ids, evaluating
from rnn_hf.loading import input_device
from rnn_hf.models.configuration_rnn import DROPOUTS


STATIC_WINDOW = 256


@dataclass(frozen=True)
class Adaptation:
    """How a model adapts to the text that it scores; as it stands, not at all.

    Attributes:
        temperature: The logits are divided by it.
        learning_rate: Of dynamic evaluation (Krause et al., 2018, equation 7, RMS with global statistics); 0 for none.
        decay: Of dynamic evaluation, the rate at which weights return to the trained ones, lambda there.
        epsilon: Of dynamic evaluation, added to the root mean square gradient.
        window: Tokens scored between two updates of dynamic evaluation.
        cache_size: Tokens that the neural cache looks back on (Grave et al., 2017, equations 3 to 5); 0 for none.
        cache_weight: Share of the cache in the mixture, lambda there.
        cache_flatness: Factor on the products of hidden states, theta there.
    """

    temperature: float = 1.0
    learning_rate: float = 0.0
    decay: float = 0.02
    epsilon: float = 1e-5
    window: int = 5
    cache_size: int = 0
    cache_weight: float = 0.1
    cache_flatness: float = 0.3

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"`temperature` must be positive, got {self.temperature}")
        for name in ("learning_rate", "epsilon", "cache_size", "cache_flatness"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name}` must not be negative, got {getattr(self, name)}")
        for name in ("decay", "cache_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"`{name}` must be in [0, 1), got {getattr(self, name)}")
        if self.window < 1:
            raise InputError(f"`window` must be at least 1, got {self.window}")


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in training mode in which nothing is dropped: cuDNN has gradients in that mode alone."""
    adapted = copy.deepcopy(model).train()
    for name in DROPOUTS:
        setattr(adapted.config, name, 0.0)
    for layer in adapted.model.layers:
        layer.recurrent_dropout = 0.0
    if adapted.mixture is not None:
        adapted.mixture.dropout = 0.0
    adapted.flatten_parameters()  # which a copy are no more
    return adapted.requires_grad_(True)


def gradient_statistics(
    model: PreTrainedModel, tokens: np.ndarray, start: int, columns: int = 10, window: int = 5, windows: int = 1000
) -> list[torch.Tensor]:
    """Root mean square of each parameter's gradient over so many windows of the training text.

    Args:
        model: A causal language model of this package; it is not changed.
        tokens: Ids of the training text, `(tokens,)`.
        start: Id of the token before the first one.
        columns, window: Shape of each window.
        windows: How many windows, from the beginning of the columns.

    Raises:
        InputError: An id outside the vocabulary, or as `TokenStream`.
    """
    check_token_ids(model, [start], tokens)
    copied = without_dropout(model)
    parameters = list(copied.parameters())
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    stream = TokenStream(tokens, start, columns, window)
    state = None
    device = input_device(model)
    count = min(windows, len(stream))
    for index in range(count):
        inputs, targets = (part.to(device) for part in stream[index])
        outputs = copied(inputs, cache=state, shift_labels=targets, use_cache=True, skip_logits=True)
        state = outputs.cache.detach()
        for square, gradient in zip(squares, torch.autograd.grad(outputs.loss, parameters), strict=True):
            square.addcmul_(gradient, gradient, value=1 / count)
    return [square.sqrt_() for square in squares]


@dataclass
class Predictions:
    """What a model says of a window: hidden states `(T, H)`, the tokens that came `(T,)`, their log-probabilities."""

    hidden: torch.Tensor
    targets: torch.Tensor
    log_probabilities: torch.Tensor


def predict(
    model: PreTrainedModel,
    tokens: np.ndarray,
    start: int,
    adaptation: Adaptation,
    statistics: Sequence[torch.Tensor] | None,
) -> Iterator[Predictions]:
    """Predictions for a whole stream, window by window, with the state carried; with a learning rate, the weights of
    a copy of the model follow the text, always after it was scored."""
    statistics = statistics if adaptation.learning_rate else None
    is_dynamic = statistics is not None
    stream = TokenStream(tokens, start, 1, adaptation.window if is_dynamic else STATIC_WINDOW)
    state = None
    device = input_device(model)
    if statistics is not None:
        model = without_dropout(model)
        parameters = list(model.parameters())
        trained = [parameter.detach().clone() for parameter in parameters]
        rates = [adaptation.learning_rate / (rms + adaptation.epsilon) for rms in statistics]
        mean = sum(rms.sum() for rms in statistics) / sum(rms.numel() for rms in statistics)
        decays = [(adaptation.decay * rms / mean).clamp_(max=1.0) for rms in statistics]
    compute_logits: Any = model.compute_logits
    for inputs, targets in stream:
        inputs, targets = inputs.to(device), targets.to(device)
        with torch.set_grad_enabled(is_dynamic):
            outputs = model.model(inputs, cache=state, use_cache=True)
            logits = compute_logits(outputs.last_hidden_state)[0]
            losses = [torch.nn.functional.cross_entropy(logits, targets[0])] if is_dynamic else []
        log_probabilities = (logits.detach() / adaptation.temperature).log_softmax(-1)
        state = outputs.cache.detach()
        of_targets = log_probabilities.gather(1, targets[0, :, None])[:, 0]
        yield Predictions(outputs.last_hidden_state[0].detach(), targets[0], of_targets)
        if is_dynamic:
            gradients = torch.autograd.grad(losses, parameters)
            with torch.no_grad():
                parts = zip(parameters, gradients, rates, trained, decays, strict=True)
                for parameter, gradient, rate, original, decay in parts:
                    parameter.addcmul_(gradient, rate, value=-1).lerp_(original, decay)


@torch.no_grad()
def with_cache(predictions: Iterator[Predictions], adaptation: Adaptation) -> Iterator[torch.Tensor]:
    """Log-probabilities `(T,)` of each window's tokens in the mixture of the model and the cache of the last
    `cache_size` tokens: those whose hidden state was like the present one are likely to come again."""
    hidden = targets = None
    for window in predictions:
        count = len(window.targets)
        hidden = window.hidden if hidden is None else torch.cat([hidden, window.hidden])
        targets = window.targets if targets is None else torch.cat([targets, window.targets])
        total = len(targets)
        now, before = (torch.arange(first, total, device=targets.device) for first in (total - count, 0))
        now = now[:, None]
        reach = (before < now) & (before >= now - adaptation.cache_size)
        scores = (adaptation.cache_flatness * window.hidden @ hidden.T).masked_fill(~reach, -math.inf)
        is_same = window.targets[:, None] == targets
        cached = torch.where(is_same, scores, -math.inf).logsumexp(1) - scores.logsumexp(1)
        mixed = torch.logaddexp(
            window.log_probabilities + math.log1p(-adaptation.cache_weight), cached + math.log(adaptation.cache_weight)
        )
        yield torch.where(reach.any(1), mixed, window.log_probabilities)  # the first token of all has no cache
        hidden, targets = hidden[-adaptation.cache_size :], targets[-adaptation.cache_size :]


def evaluate_adapted(
    model: PreTrainedModel,
    tokens: np.ndarray,
    start: int,
    adaptation: Adaptation,
    statistics: Sequence[torch.Tensor] | None = None,
    progress: bool = False,
) -> Score:
    """Score every token of a stream once, each given all tokens before it, to which the model adapts.

    Args:
        model: A causal language model of this package; its weights are left as they are.
        tokens: Ids, `(tokens,)`.
        start: Id of the token before the first one, usually the end token.
        adaptation: How it adapts.
        statistics: From `gradient_statistics`; dynamic evaluation needs them.
        progress: Whether to show a progress bar.

    Raises:
        InputError: Dynamic evaluation without statistics, or an id outside the vocabulary.

    Example:

    >>> from rnn_hf import RNNConfig, RNNForCausalLM
    >>> _ = torch.manual_seed(0)
    >>> model, text = RNNForCausalLM(RNNConfig(vocab_size=5, hidden_size=4)), np.array([1, 2, 3] * 20)
    >>> static = evaluate_adapted(model, text, 0, Adaptation())
    >>> cached = evaluate_adapted(model, text, 0, Adaptation(cache_size=10, cache_weight=0.5))
    >>> bool(cached.loss < static.loss), static.num_tokens
    (True, 60)
    """
    if adaptation.learning_rate and statistics is None:
        raise InputError(
            "dynamic evaluation needs `statistics`: gradient_statistics(model, tokens of the training text)"
        )
    check_token_ids(model, [start], tokens)
    predictions = predict(model, tokens, start, adaptation, statistics)
    has_cache = adaptation.cache_size and adaptation.cache_weight
    parts = with_cache(predictions, adaptation) if has_cache else (window.log_probabilities for window in predictions)
    interval = 1 if sys.stderr.isatty() else 30
    bar = tqdm(total=len(tokens), desc="evaluating", leave=False, mininterval=interval, disable=not progress)
    total = 0.0
    with bar, evaluating(model):
        for part in parts:
            total -= math.fsum(part.tolist())
            bar.update(len(part))
    return Score(total / len(tokens), len(tokens))


def tune(
    model: PreTrainedModel,
    tokens: np.ndarray,
    start: int,
    adaptation: Adaptation,
    choices: Mapping[str, Sequence[float]],
    statistics: Sequence[torch.Tensor] | None = None,
) -> tuple[Adaptation, Score]:
    """The best adaptation on validation text, by one setting after the other, in the order of `choices`.

    Args:
        choices: Values to try for each setting, besides the one in `adaptation`; others as in `evaluate_adapted`.

    Returns:
        The best settings, and their score on `tokens`.
    """
    best = evaluate_adapted(model, tokens, start, adaptation, statistics)
    for name, values in choices.items():
        for value in values:
            candidate = replace(adaptation, **{name: value})  # type: ignore[arg-type]
            if candidate == adaptation:
                continue
            score = evaluate_adapted(model, tokens, start, candidate, statistics)
            tqdm.write(f"{name} {value:g}: perplexity {score.perplexity:.3f}")
            if score.loss < best.loss:
                adaptation, best = candidate, score
    return adaptation, best
