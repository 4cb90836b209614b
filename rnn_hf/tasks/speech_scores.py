"""Scores of speech recognition by jiwer: errors over all words, in parts of strings, and by speaker."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rnn_hf.errors import MissingPackageError
from rnn_hf.tables import aligned
from rnn_hf.tasks import METRICS


@dataclass(frozen=True)
class Heard:
    """What was said in a row, and what a model made of it.

    Attributes:
        text: What was said.
        answer: What the model says.
        speaker: Who spoke; `None` where that is not known.
        recordings: How many were joined.
    """

    text: str
    answer: str
    speaker: str | None = None
    recordings: int = 1


@dataclass(frozen=True)
class SpeechScores:
    """The scores of a recognizer on a split.

    Attributes:
        values: By name of the metric, the one that decides first.
        loss: Of CTC, in nats a label.
        count: Number of words that were said.
        rows: Number of recordings and strings.
        speakers: A row a speaker: `wer`, and `words`, the number of those said.
        floor: Word error rate of always answering the most frequent word of the training data, as often as there are
            words; `None` where there is no training data.
        too_short: Rows with fewer steps than their labels need, which the loss leaves out.
    """

    values: dict[str, float]
    loss: float
    count: int
    rows: int
    speakers: dict[str, dict[str, float]] = field(default_factory=dict)
    floor: float | None = None
    too_short: int = 0
    unit = "words"

    def to_dict(self) -> dict[str, Any]:
        """What evaluation.json says of a split."""
        floor = {} if self.floor is None else {"floor": self.floor}
        short = {"too_short": self.too_short} if self.too_short else {}
        counts = {"words": self.count, "rows": self.rows, **short}
        return {**self.values, **floor, "loss": self.loss, **counts, "speakers": self.speakers}


def jiwer() -> Any:
    """The package `jiwer`.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MissingPackageError("scores of speech need jiwer: pip install 'rnn_hf[speech]'") from error
    return jiwer


def speech_values(rows: Sequence[Heard]) -> dict[str, float]:
    """The metrics of rows, by name.

    Word and character error rates are errors over all that was said: substitutions, deletions and insertions. In
    strings of several recordings, a word is an error if it was not recognized as itself; words that were not said are
    no part of `first_word_error` and `later_word_error`. What there is no row for is left out.

    Args:
        rows: At least one.

    Example:

    >>> rows = [Heard("two", "two"), Heard("one two two", "two two", recordings=3)]
    >>> {name: round(value, 2) for name, value in speech_values(rows).items()}  # doctest: +NORMALIZE_WHITESPACE
    {'wer': 0.25, 'cer': 0.29, 'string_accuracy': 0.0, 'isolated_accuracy': 1.0, 'string_wer': 0.33,
     'first_word_error': 1.0, 'later_word_error': 0.0}
    """
    texts, answers = [row.text for row in rows], [row.answer for row in rows]
    values = {"wer": float(jiwer().wer(texts, answers)), "cer": float(jiwer().cer(texts, answers))}
    strings = [row for row in rows if row.recordings > 1]
    single = [row for row in rows if row.recordings == 1]
    values["string_accuracy"] = _share_right(strings or rows)
    if strings:
        if single:
            values["isolated_accuracy"] = _share_right(single)
        values["string_wer"] = float(jiwer().wer([row.text for row in strings], [row.answer for row in strings]))
        wrong = words_missed(strings)
        first, later = [row[0] for row in wrong if row], [miss for row in wrong for miss in row[1:]]
        for name, misses in (("first_word_error", first), ("later_word_error", later)):
            if misses:
                values[name] = sum(misses) / len(misses)
    return values


def _share_right(rows: Sequence[Heard]) -> float:
    return sum(row.text == row.answer for row in rows) / len(rows)


def words_missed(rows: Sequence[Heard]) -> list[list[bool]]:
    """Of each word of each text, whether it was not recognized, by an alignment with the fewest errors."""
    output = jiwer().process_words([row.text for row in rows], [row.answer for row in rows])
    missed = []
    for words, chunks in zip(output.references, output.alignments, strict=True):
        is_missed = [False] * len(words)
        for chunk in chunks:
            if chunk.type in ("substitute", "delete"):
                is_missed[chunk.ref_start_idx : chunk.ref_end_idx] = [True] * (chunk.ref_end_idx - chunk.ref_start_idx)
        missed.append(is_missed)
    return missed


def by_speaker(rows: Sequence[Heard]) -> dict[str, dict[str, float]]:
    """Word error rate and number of words of each speaker who said any, by name; nothing where none is known."""
    groups: defaultdict[str, list[Heard]] = defaultdict(list)
    for row in rows:
        if row.speaker is not None:
            groups[row.speaker].append(row)
    scores = {}
    for speaker, own in sorted(groups.items()):
        words = sum(len(row.text.split()) for row in own)
        if words:
            wer = float(jiwer().wer([row.text for row in own], [row.answer for row in own]))
            scores[speaker] = {"wer": wer, "words": words}
    return scores


def most_frequent_word(texts: Sequence[str]) -> str | None:
    """The word that occurs most often, the first by alphabet of several; `None` where there is no word."""
    counts = Counter(word for text in texts for word in text.split())
    return min(counts, key=lambda word: (-counts[word], word)) if counts else None


def floor_of(texts: Sequence[str], word: str | None) -> float | None:
    """The word error rate of always answering a word, as often as there are words."""
    words = [each for text in texts for each in text.split()]
    return None if word is None or not words else 1 - words.count(word) / len(words)


def describe(score: SpeechScores) -> str:
    """Scores as lines for people: the metrics, what needs no model at all, and a table of the speakers.

    >>> speakers = {"ann": {"wer": 0.125, "words": 8}}
    >>> print(describe(SpeechScores({"wer": 0.125}, 0.5, 8, 8, speakers)))
    word error rate 12.50 %, loss 0.5000, over 8 words in 8 rows
      speaker  word error rate, %  words
      ann                   12.50      8
    """
    parts = [METRICS[name].label(value) for name, value in score.values.items()]
    line = f"{', '.join(parts)}, loss {score.loss:.4f}, over {score.count:,} words in {score.rows:,} rows"
    if score.floor is not None:
        line += f" (always the most frequent word: {METRICS['wer'].label(score.floor)})"
    if score.too_short:
        line += f"; {score.too_short:,} rows are too short for their labels and no part of the loss"
    return "\n".join([line, *(f"  {row}" for row in aligned(speaker_table(score.speakers)))])


def speaker_table(speakers: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """The scores of each speaker as cells of text."""
    wer = METRICS["wer"]
    return [
        {"speaker": name, wer.column: wer.text(row["wer"]), "words": f"{row['words']:,}"}
        for name, row in speakers.items()
    ]
