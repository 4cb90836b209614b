"""Surprisal of each token of a text, the state carried: the same in any batch, and over texts of any length."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from rnn_hf.data.tokenization import SPACE, start_id, unknown_id
from rnn_hf.errors import InputError
from rnn_hf.evaluation import Score, check_token_ids, evaluating
from rnn_hf.loading import check_reads_forward, input_device
from rnn_hf.models import RNNCache


PER_NAT = {"nats": 1.0, "bits": 1 / math.log(2)}
EXAMPLES = 10  # of unknown words, at most


@dataclass(frozen=True)
class TextScore:
    """Surprisal, -log p(token | all tokens before it), of each token of a text, in `unit`.

    Attributes:
        text: The text as it was given.
        tokens, token_ids: What the model sees of it.
        spans: Where each token stands in `text`: first character and the one after the last.
        known: Whether the model has the token. Where it has not, it sees the token for unknown words, and all unknown
            words are alike to it.
        surprisals: Of each token.
        unit: Of surprisal, a key of `PER_NAT`.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    spans: list[tuple[int, int]]
    known: list[bool]
    surprisals: list[float]
    unit: str

    @property
    def words(self) -> list[str]:
        """Each token as it is written in the text, without spaces around it; the end token, which is not, by name."""
        written = [self.text[start:end] for start, end in self.spans]
        return [word.strip() or word or token for word, token in zip(written, self.tokens, strict=True)]

    @property
    def unknown(self) -> int:
        """Number of tokens that the model does not know."""
        return self.known.count(False)

    @property
    def total(self) -> float:
        """Surprisal of the whole text: minus the logarithm of its probability."""
        return math.fsum(self.surprisals)

    @property
    def perplexity(self) -> float:
        """exp of the mean surprisal in nats; infinite where that overflows, not a number for a text without tokens."""
        return _perplexity(self.total, len(self.surprisals), self.unit)


@dataclass
class Totals:
    """Sums over texts.

    Attributes:
        texts, empty, tokens, unknown: Numbers of texts, of those without a token, of tokens, of unknown tokens.
        surprisal: Of all tokens, in `unit`.
        examples: Some of the unknown words.
    """

    unit: str = "bits"
    texts: int = 0
    empty: int = 0
    tokens: int = 0
    unknown: int = 0
    surprisal: float = 0.0
    examples: list[str] = field(default_factory=list)

    def count(self, scores: Iterable[TextScore]) -> Iterator[TextScore]:
        """The scores as they come, each added to the sums."""
        for scored in scores:
            self.unit = scored.unit
            self.texts += 1
            self.empty += not scored.tokens
            self.tokens += len(scored.tokens)
            self.unknown += scored.unknown
            self.surprisal += scored.total
            if scored.unknown and len(self.examples) < EXAMPLES:
                words = [word for word, is_known in zip(scored.words, scored.known, strict=True) if not is_known]
                self.examples = list(dict.fromkeys(self.examples + words))[:EXAMPLES]
            yield scored

    @property
    def perplexity(self) -> float:
        """As of `TextScore`."""
        return _perplexity(self.surprisal, self.tokens, self.unit)


def _perplexity(surprisal: float, tokens: int, unit: str) -> float:
    return Score(surprisal / PER_NAT[unit] / tokens, tokens).perplexity if tokens else math.nan


def score(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: str | Iterable[str],
    unit: Literal["bits", "nats"] = "bits",
    batch_size: int = 16,
    window: int = 256,
    carry_state: bool = False,
    state: RNNCache | None = None,
    with_end: bool = False,
) -> Iterator[TextScore]:
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
        with_end: Score the end token after each text as well: how well the text ends there.

    Yields:
        The score of each text, in order.

    Raises:
        InputError: An unknown unit, a number below 1, a state without `carry_state`, an id outside the vocabulary, or
            a model that reads backward.

    Example:

    >>> from rnn_hf import RNNConfig, RNNForCausalLM
    >>> from rnn_hf.data.tokenization import build_tokenizer
    >>> tokenizer = build_tokenizer(["the cat sat"])
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=4))
    >>> [scored.words for scored in score(model, tokenizer, ["the cat", "the dog sat"], with_end=True)]
    [['the', 'cat', '<eos>'], ['the', 'dog', 'sat', '<eos>']]
    """
    check_reads_forward(model, "scoring a text")
    if unit not in PER_NAT:
        raise InputError(f"`unit` must be one of {', '.join(PER_NAT)}, got {unit!r}")
    for name, number in (("batch_size", batch_size), ("window", window)):
        if number < 1:
            raise InputError(f"`{name}` must be at least 1, got {number}")
    if state is not None and not carry_state:
        raise InputError("`state` goes with `carry_state=True`: other texts start from an empty one")
    return _score(model, tokenizer, [texts] if isinstance(texts, str) else texts, unit, batch_size, window,
                  carry_state, state, with_end)  # fmt: skip


def _score(model, tokenizer, texts, unit, batch_size, window, carry_state, state, with_end):
    start = start_id(tokenizer)
    state = RNNCache(model.config) if carry_state and state is None else state
    unknown = unknown_id(tokenizer)  # which is slow to ask for
    texts = iter(texts)
    while batch := list(islice(texts, 1 if carry_state else batch_size)):
        encoded = [_encode(tokenizer, text, unknown, with_end) for text in batch]
        ids = [text["token_ids"] for text in encoded]
        check_token_ids(model, [start], *ids)
        with evaluating(model):
            nats = _surprisals(model, ids, start, window, state)
        for text, row, values in zip(encoded, ids, nats, strict=True):
            if carry_state and row:
                start = row[-1]
            yield TextScore(**text, surprisals=[value * PER_NAT[unit] for value in values], unit=unit)


def _encode(tokenizer: Any, text: str, unknown: int | None, with_end: bool) -> dict[str, Any]:
    """What `TextScore` says of a text before it is scored."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    ids = encoded["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if tokenizer.is_fast:
        spans = [tuple(span) for span in encoded["offset_mapping"]]
    else:  # such a tokenizer does not say where its tokens are: they stand for the text
        text, ends = " ".join(tokens), list(accumulate(len(token) + 1 for token in tokens))
        spans = [(end - len(token) - 1, end - 1) for token, end in zip(tokens, ends, strict=True)]
    known = [
        # Whoever writes the token for unknown words means that word, as the lines of Penn Treebank do.
        number != unknown or text[start:end].strip() == token
        for number, token, (start, end) in zip(ids, tokens, spans, strict=True)
    ]
    if with_end:
        ids, tokens = [*ids, tokenizer.eos_token_id], [*tokens, tokenizer.eos_token]
        spans, known = [*spans, (len(text), len(text))], [*known, True]
    return {"text": text, "tokens": tokens, "token_ids": ids, "spans": spans, "known": known}


@torch.no_grad()
def _surprisals(
    model: PreTrainedModel, ids: Sequence[list[int]], start: int, window: int, state: RNNCache | None
) -> list[list[float]]:
    """Surprisals in nats of each row, each token given `start` and those before it; goes on with `state`."""
    surprisals: list[list[float]] = [[] for _ in ids]
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
        for row, part, values in zip(surprisals, targets, nats.view(len(ids), width).tolist(), strict=True):
            row.extend(values[: len(part)])
    return surprisals


def token_rows(scores: Iterable[TextScore]) -> Iterator[dict[str, Any]]:
    """A row a token: the number of its text from 1, the token, its surprisal, the word as written, whether unknown."""
    for number, scored in enumerate(scores, 1):
        columns = (scored.tokens, scored.surprisals, scored.words, scored.known)
        for token, surprisal, word, is_known in zip(*columns, strict=True):
            row = {"text": number, "token": token.removeprefix(SPACE), f"surprisal_{scored.unit}": surprisal}
            yield row | {"word": word, "unknown": not is_known}


def text_rows(scores: Iterable[TextScore]) -> Iterator[dict[str, Any]]:
    """A row a text: its number from 1, surprisal in all, perplexity, numbers of tokens and of unknown ones, itself."""
    for number, scored in enumerate(scores, 1):
        row = {"text": number, f"surprisal_{scored.unit}": scored.total, "perplexity": scored.perplexity}
        yield row | {"tokens": len(scored.tokens), "unknown": scored.unknown, "written": scored.text}


def ways_to_be_known(tokenizer: Any, words: Iterable[str]) -> list[str]:
    """How unknown words could be written so that a tokenizer knows some of them.

    >>> from rnn_hf.data.tokenization import build_tokenizer
    >>> ways_to_be_known(build_tokenizer(["the table ."]), ["The", "table."])
    ['in lower case', 'with spaces around punctuation']
    """
    unknown = unknown_id(tokenizer)

    def is_known(word: str) -> bool:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        return bool(ids) and unknown not in ids

    ways: set[str] = set()
    for word in words:
        # Of a word with marks in it, the words without: whether the marks are known as well is another matter.
        parts = re.findall(r"\w+", word)
        splits = parts != [word] and any(is_known(part) for part in (*parts, *map(str.lower, parts)))
        lowers = word != word.lower() and any(is_known(part.lower()) and not is_known(part) for part in parts)
        ways |= ({"in lower case"} if lowers else set()) | ({"with spaces around punctuation"} if splits else set())
    return sorted(ways)


def read_lines(file: str) -> Iterator[str]:
    """The lines of a text file, - for standard input, without their ends.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: A line is not UTF-8; the message names file and line.
    """
    if file != "-" and (not Path(file).exists() or Path(file).is_dir()):  # a pipe is a file too
        raise FileNotFoundError(f"no file {file}")
    with open(0 if file == "-" else file, "rb", closefd=file != "-") as opened:
        for number, line in enumerate(opened, 1):
            try:
                # A file from some Windows editors begins with a mark, which is no part of its first word.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{file}, line {number}, is not UTF-8: save the file in that encoding") from error
            yield text.removesuffix("\n").removesuffix("\r")
