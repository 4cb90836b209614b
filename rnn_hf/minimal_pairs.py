"""Minimal pairs: of two texts that differ in one point, which one a model holds for likelier."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, tee
from typing import Any

from transformers import PreTrainedModel

from rnn_hf.errors import InputError
from rnn_hf.scoring import TextScore, read_lines, score


# Names of columns in a header, and what they are here.
COLUMNS = {
    "name": "name", "good": "good", "bad": "bad", "sentence_good": "good", "sentence_bad": "bad",
    "grammatical": "good", "ungrammatical": "bad",
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two texts, of which `good` should be the likelier one."""

    name: str
    good: str
    bad: str


@dataclass(frozen=True)
class PairScore:
    """What a model makes of a pair."""

    name: str
    good: TextScore
    bad: TextScore

    @property
    def difference(self) -> float:
        """Surprisal of the bad text less that of the good one: positive where the model is right."""
        return self.bad.total - self.good.total

    @property
    def is_comparable(self) -> bool:
        """Whether the model can tell the texts apart by words that it knows.

        Unknown words are one word to a model, whose probability is that of all rare words together: where the texts
        differ in one, or are the same but for such words, the difference says nothing of what is written.
        """
        words = [Counter(zip(text.words, text.known, strict=True)) for text in (self.good, self.bad)]
        of_one = (words[0] - words[1]) + (words[1] - words[0])
        return self.good.token_ids != self.bad.token_ids and all(is_known for _, is_known in of_one)

    @property
    def likelier(self) -> str:
        """`good`, `bad`, `neither` for texts of the same probability, or `not comparable`."""
        if not self.is_comparable:
            return "not comparable"
        return "good" if self.difference > 0 else "bad" if self.difference < 0 else "neither"


@dataclass
class Accuracy:
    """Number of pairs, of those that the model can compare, and of those where it is right."""

    pairs: int = 0
    comparable: int = 0
    right: int = 0

    def count(self, scores: Iterable[PairScore]) -> Iterator[PairScore]:
        """The scores as they come, each counted."""
        for scored in scores:
            self.pairs += 1
            self.comparable += scored.is_comparable
            self.right += scored.likelier == "good"
            yield scored

    @property
    def accuracy(self) -> float | None:
        """Share of comparable pairs where the good text is likelier; `None` where there is no such pair."""
        return self.right / self.comparable if self.comparable else None


def read_pairs(file: str) -> Iterator[Pair]:
    """The pairs of a file, a pair a line: the good text and the bad one, with or without a name before them.

    Columns are parted by tabs; in a file whose name ends in .csv by commas, with quotes where a text has one. A first
    line that names the columns `good` and `bad` is a header: it may name them in any order, as `COLUMNS` has them, and
    others, which are not read. A pair without a name is called by its number.

    Args:
        file: Path, or - for standard input.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: A line has other columns, or an empty text, or is not UTF-8; the message names file and line.
    """
    is_csv = file.lower().endswith(".csv")
    options: dict[str, Any] = {} if is_csv else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader((line + "\n" for line in read_lines(file)), **options)
    rows: Iterator[tuple[int, list[str]]]
    rows = ((reader.line_num, cells) for cells in reader if any(map(str.strip, cells)))
    first = next(rows, None)
    if first is None:
        raise InputError(f"{file} has no pair")
    columns = [COLUMNS.get(cell.strip().lower(), "") for cell in first[1]]
    if not {"good", "bad"} <= set(columns):
        columns = ["name", "good", "bad"] if len(columns) == 3 else ["good", "bad"]
        rows = chain([first], rows)
    for number, (line, cells) in enumerate(rows, 1):
        pair = {column: cell.strip() for column, cell in zip(columns, cells, strict=False)}
        if len(cells) != len(columns) or not (pair["good"] and pair["bad"]):
            expected = "a name and two texts" if "name" in columns else "two texts"
            mark = "a comma" if is_csv else "a tab"
            raise InputError(f"{file}, line {line}: expected {expected} parted by {mark}, got {cells}")
        yield Pair(pair.get("name") or str(number), pair["good"], pair["bad"])


def score_pairs(model: PreTrainedModel, tokenizer: Any, pairs: Iterable[Pair], **options: Any) -> Iterator[PairScore]:
    """Score pairs as they come; arguments as of `rnn_hf.scoring.score`, of which `options` are the rest.

    Example:

    >>> from rnn_hf import RNNConfig, RNNForCausalLM
    >>> from rnn_hf.data.tokenization import build_tokenizer
    >>> tokenizer = build_tokenizer(["the author laughs"])
    >>> model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=4))
    >>> pairs = [Pair("agreement", "the author laughs", "the author laugh")]
    >>> [scored.likelier for scored in score_pairs(model, tokenizer, pairs)]  # as `laugh` is unknown
    ['not comparable']
    """
    first, second = tee(pairs)
    scores = score(model, tokenizer, (text for pair in first for text in (pair.good, pair.bad)), **options)
    for pair in second:
        yield PairScore(pair.name, next(scores), next(scores))


def pair_rows(scores: Iterable[PairScore]) -> Iterator[dict[str, Any]]:
    """A row a pair, for `rnn_hf.tables.table_lines`: both surprisals, their difference, the likelier text, and how
    many words of each are unknown."""
    for scored in scores:
        unit = scored.good.unit
        surprisals = {f"good_{unit}": scored.good.total, f"bad_{unit}": scored.bad.total}
        row = {"name": scored.name, **surprisals, "difference": scored.difference, "likelier": scored.likelier}
        yield row | {"unknown_good": scored.good.unknown, "unknown_bad": scored.bad.unknown}
