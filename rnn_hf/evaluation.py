"""Loss and perplexity of a language model over a whole stream, with the state carried."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rnn_hf.data.streams import TokenStream


@dataclass(frozen=True)
class Score:
    """Result of an evaluation: mean negative log-likelihood in nats a token, and the number of tokens."""

    loss: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def load_model(name: str) -> tuple[PreTrainedModel, Any]:
    """A causal language model and its tokenizer, by directory or name on the Hub.

    Raises:
        ValueError: There is neither.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"no model {name}: not a directory with a checkpoint, and the Hub says: {reason}") from error


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    tokens: np.ndarray,
    start: int,
    columns: int = 1,
    window: int = 128,
    progress: bool = False,
) -> Score:
    """Score every token of a stream once, each given all tokens before it.

    With one column the result does not depend on `window`: the state is carried over the whole stream. With more,
    the stream is cut into parallel pieces that each start from an empty state: faster, and higher by a little.

    Args:
        model: A causal language model of this package; its training mode is restored afterwards.
        tokens: Ids, `(tokens,)`; of these `tokens mod columns` at the end are not scored.
        start: Id of the token before the first one, usually the end token.
        columns: Number of pieces scored in parallel.
        window: Steps a forward pass; a matter of memory and speed only.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: An id outside the vocabulary, or as `TokenStream`.

    Example:

    >>> from rnn_hf import RNNConfig, RNNForCausalLM
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=5, hidden_size=4))
    >>> score = evaluate(model, np.array([1, 2, 3, 4, 1, 2]), start=0)
    >>> score.num_tokens
    6
    """
    if len(tokens) and int(tokens.max()) >= model.config.vocab_size:
        raise ValueError(
            f"token id {int(tokens.max())} is outside the model's vocabulary of {model.config.vocab_size}: "
            "the text was encoded with another tokenizer"
        )
    stream = TokenStream(tokens, start, columns, window)
    was_training = model.training
    model.eval()
    total, state = 0.0, None
    windows: Iterable = tqdm(stream, desc="evaluating", leave=False, mininterval=1, disable=not progress)
    for inputs, targets in windows:
        inputs, targets = inputs.to(model.device), targets.to(model.device)
        outputs = model(inputs, past_key_values=state, shift_labels=targets, use_cache=True, skip_logits=True)
        state = outputs.past_key_values
        total += outputs.loss.double().item() * targets.numel()
    model.train(was_training)
    return Score(total / stream.num_tokens, stream.num_tokens)


def unigram_loss(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> float:
    """Loss in nats a token of the unigram model of `train` with one count added to each type (Laplace).

    The yardstick below which a model has learned nothing from context.
    """
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return float(-np.log(counts / counts.sum())[tokens].mean())
