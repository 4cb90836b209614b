"""Loss and perplexity of a language model over a whole stream, with the state carried."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from rnn_hf.data.corpora import Texts, lines_of
from rnn_hf.data.streams import TokenStream, reversed_stream
from rnn_hf.data.tokenization import encode_stream, start_id
from rnn_hf.errors import InputError
from rnn_hf.loading import input_device, load_model


WINDOWS_TO_READ = 100  # whose losses stay on the device of a model before they are read


@dataclass(frozen=True)
class Score:
    """Result of an evaluation: mean negative log-likelihood in nats a token, and the number of tokens."""

    loss: float
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def to_dict(self) -> dict[str, float]:
        """What evaluation.json says of a split."""
        loss = {"loss_nats": self.loss, "bits_per_token": self.loss / math.log(2)}
        return {"perplexity": self.perplexity, **loss, "tokens": self.num_tokens}


def finite_perplexity(loss: float) -> float:
    """exp of a loss in nats a token, or of 700 where that would overflow, so that it can stand in JSON."""
    return math.exp(min(loss, 700))


def evaluate_splits(
    name: str, splits: Iterable[str], corpus: Texts, revision: str | None = None, progress: bool = False,
    columns: int = 1, window: int = 256, device: str = "cpu",
) -> dict[str, Score]:  # fmt: skip
    """The scores of a checkpoint on splits of a corpus; arguments as in `load_model` and `evaluate`.

    Raises:
        InputError: The corpus lacks a split, before the model is loaded; or as `load_model` and `evaluate`.
    """
    for split in splits:
        if split not in corpus:
            raise InputError(f"the corpus has no split {split!r}, only {', '.join(corpus)}")
    model, tokenizer = load_model(name, revision, device)
    scores = {}
    for split in splits:
        tokens = stream_for(model, lines_of(corpus[split]), tokenizer)
        scores[split] = evaluate(model, tokens, start_id(tokenizer), columns, window, progress)
    return scores


def stream_for(model: Any, lines: Iterable[str], tokenizer: Any) -> np.ndarray:
    """Lines as one stream of ids, `(tokens,)`, in the order in which a language model reads them."""
    tokens = encode_stream(lines, tokenizer)
    reads_backward = getattr(model.config, "reads_backward", False)  # which those of other packages lack
    return reversed_stream(tokens, tokenizer.eos_token_id) if reads_backward else tokens


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model is in evaluation mode; afterwards it has its own mode again, also after an error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def check_token_ids(model: Any, *parts: np.ndarray | Sequence[int]) -> None:
    """Refuse ids that a model has no row for.

    Args:
        model: A causal language model of this package.
        parts: Ids, `(tokens,)` each.

    Raises:
        InputError: An id outside the vocabulary.
    """
    size = model.config.vocab_size
    for token in (int(limit(part)) for part in parts if len(part) for limit in (np.min, np.max)):
        if not 0 <= token < size:
            raise InputError(
                f"token id {token} is outside the model's vocabulary of {size}: "
                "the text was encoded with another tokenizer"
            )


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
        tokens: Ids, `(tokens,)`, in the order in which the model reads them, see `stream_for`; of these
            `tokens mod columns` at the end are not scored.
        start: Id of the token before the first one, usually the end token.
        columns: Number of pieces scored in parallel.
        window: Steps a forward pass; a matter of memory and speed only.
        progress: Whether to show a progress bar.

    Raises:
        InputError: An id outside the vocabulary, or as `TokenStream`.

    Example:

    >>> from rnn_hf import RNNConfig, RNNForCausalLM
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=5, hidden_size=4))
    >>> score = evaluate(model, np.array([1, 2, 3, 4, 1, 2]), start=0)
    >>> score.num_tokens
    6
    """
    check_token_ids(model, [start], tokens)
    stream = TokenStream(tokens, start, columns, window).to(input_device(model))
    windows: Iterable = tqdm(stream, desc="evaluating", leave=False, mininterval=1, disable=not progress)
    total, state, losses = 0.0, None, []
    with evaluating(model):
        for index, (inputs, targets) in enumerate(windows, 1):
            outputs = model(inputs, cache=state, shift_labels=targets, use_cache=True, skip_logits=True)
            state = outputs.cache
            losses.append((outputs.loss, targets.numel()))
            if index % WINDOWS_TO_READ == 0 or index == len(stream):
                means = torch.stack([loss for loss, _ in losses]).tolist()  # where a GPU is waited for
                total += sum(mean * count for mean, (_, count) in zip(means, losses, strict=True))
                losses.clear()
    return Score(total / stream.num_tokens, stream.num_tokens)


def unigram_loss(train: np.ndarray, tokens: np.ndarray, vocab_size: int) -> float:
    """Loss in nats a token of the unigram model of `train` with one count added to each type (Laplace).

    The yardstick below which a model has learned nothing from context.
    """
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return float(-np.log(counts / counts.sum())[tokens].mean())
