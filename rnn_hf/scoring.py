"""Surprisal of each token of a text, the state carried: the same in any batch, and over texts of any length."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from rnn_hf.data.tokenization import start_id
from rnn_hf.evaluation import Score, check_token_ids, evaluating
from rnn_hf.loading import input_device
from rnn_hf.models import RNNCache


PER_NAT = {"nats": 1.0, "bits": 1 / math.log(2)}


@dataclass(frozen=True)
class TextScore:
    """Surprisal, -log p(token | all tokens before it), of each token of a text, in `unit`."""

    tokens: list[str]
    token_ids: list[int]
    surprisals: list[float]
    unit: str

    @property
    def total(self) -> float:
        """Surprisal of the whole text: minus the logarithm of its probability."""
        return math.fsum(self.surprisals)

    @property
    def perplexity(self) -> float:
        """exp of the mean surprisal in nats; infinite where that overflows, not a number for a text without tokens."""
        if not self.surprisals:
            return math.nan
        return Score(self.total / PER_NAT[self.unit] / len(self.surprisals), len(self.surprisals)).perplexity


def score(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: str | Iterable[str],
    unit: Literal["bits", "nats"] = "bits",
    batch_size: int = 16,
    window: int = 256,
    carry_state: bool = False,
    state: RNNCache | None = None,
) -> Iterable[TextScore]:
    """Score texts one after the other as they come, a batch at a time; memory does not grow with their length.

    The first token is predicted from the one that stands before a text, as in training (see `start_id`). What a text
    scores does not depend on the batch that it is in, nor on the window.

    Args:
        model: A causal language model of this package; its mode is restored after each batch.
        tokenizer: Its tokenizer.
        texts: A text, or any iterable of texts, which is read as it is needed.
        unit: Of surprisal.
        batch_size: Texts scored together.
        window: Tokens of each text in a forward pass.
        carry_state: Score each text as the continuation of the one before it, one at a time.
        state: State to go on from, of one row; it is updated, and with it the first text continues what it has seen.

    Yields:
        The score of each text, in order.

    Raises:
        ValueError: An unknown unit, a number below 1, a state without `carry_state`, or an id outside the vocabulary.

    Example:

    >>> from rnn_hf import RNNConfig, RNNForCausalLM
    >>> from rnn_hf.data.tokenization import build_tokenizer
    >>> tokenizer = build_tokenizer(["the cat sat"])
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=4))
    >>> [len(found.surprisals) for found in score(model, tokenizer, ["the cat", "the cat sat"])]
    [2, 3]
    """
    if unit not in PER_NAT:
        raise ValueError(f"`unit` must be one of {', '.join(PER_NAT)}, got {unit!r}")
    for name, number in (("batch_size", batch_size), ("window", window)):
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}")
    if state is not None and not carry_state:
        raise ValueError("`state` goes with `carry_state=True`: other texts start from an empty one")
    return _score(model, tokenizer, [texts] if isinstance(texts, str) else texts, unit, batch_size, window,
                  carry_state, state)  # fmt: skip


def _score(model, tokenizer, texts, unit, batch_size, window, carry_state, state):
    start = start_id(tokenizer)
    state = RNNCache(model.config) if carry_state and state is None else state
    texts = iter(texts)
    while batch := list(islice(texts, 1 if carry_state else batch_size)):
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in batch]
        check_token_ids(model, [start], *ids)
        with evaluating(model):
            nats = _surprisals(model, ids, start, window, state)
        for row, found in zip(ids, nats, strict=True):
            if carry_state and row:
                start = row[-1]
            surprisals = [value * PER_NAT[unit] for value in found]
            yield TextScore(tokenizer.convert_ids_to_tokens(row), row, surprisals, unit)


@torch.no_grad()
def _surprisals(
    model: PreTrainedModel, ids: Sequence[list[int]], start: int, window: int, state: RNNCache | None
) -> list[list[float]]:
    """Surprisals in nats of each row, each token given `start` and those before it; goes on with `state`."""
    found: list[list[float]] = [[] for _ in ids]
    longest = max(map(len, ids))
    device = input_device(model)
    state = RNNCache(model.config) if state is None else state
    for first in range(0, longest, window):
        targets = [row[first : first + window] for row in ids]
        inputs = [[start, *row][first : first + len(part)] for row, part in zip(ids, targets, strict=True)]
        width = max(map(len, targets))
        mask = torch.tensor([[1] * len(part) + [0] * (width - len(part)) for part in targets], device=device)
        tokens, wanted = (
            torch.tensor([part + [start] * (width - len(part)) for part in rows], device=device)
            for rows in (inputs, targets)
        )
        logits = model(tokens, attention_mask=mask, cache=state, use_cache=True).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        for row, part, values in zip(found, targets, nats.view(len(ids), width).tolist(), strict=True):
            row.extend(values[: len(part)])
    return found
