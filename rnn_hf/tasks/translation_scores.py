"""Scores of translations by sacrebleu: BLEU and chrF with their signatures, and BLEU by the length of the source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rnn_hf.errors import InputError, MissingPackageError
from rnn_hf.tables import aligned
from rnn_hf.tasks import METRICS


TOKENIZERS = ("none", "13a", "intl", "char")  # of sacrebleu's that need nothing more and fetch nothing
EDGES = (8, 12, 16, 24)  # words: the longest source of each row of a table but the last


@dataclass(frozen=True)
class TranslationScores:
    """The scores of a translator on a split.

    Attributes:
        values: `bleu` and `chrf`, from 0 to 100.
        loss: Cross entropy of the references in nats a piece, with the end of each, and without smoothing; `None` of
            several models together.
        count: Number of pieces of the references.
        sentences: Number of them.
        num_beams: Hypotheses of the search; 1 is greedy.
        lengths: A row a range of numbers of words of the source: `bleu` and `sentences`.
        signatures: What sacrebleu says of how it counted, by metric.
        floor: BLEU of the source as its own translation.
    """

    values: dict[str, float]
    loss: float | None
    count: int
    sentences: int
    num_beams: int = 1
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    floor: float | None = None
    unit = "pieces"

    def to_dict(self) -> dict[str, Any]:
        """What evaluation.json says of a split."""
        floor = {} if self.floor is None else {"floor": self.floor}
        loss = {} if self.loss is None else {"loss": self.loss}
        counts = {"pieces": self.count, "sentences": self.sentences, "num_beams": self.num_beams}
        return {
            **self.values, **floor, **loss, **counts, "lengths": self.lengths, "signatures": self.signatures,
        }  # fmt: skip


def sacrebleu() -> Any:
    """The package `sacrebleu`.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import sacrebleu
    except ImportError as error:
        raise MissingPackageError(
            "scores of translations need sacrebleu: pip install 'rnn_hf[translation]'"
        ) from error
    return sacrebleu


def bleu_of(answers: Sequence[str], references: Sequence[str], tokenize: str) -> float:
    """BLEU (Papineni et al., 2002) of a whole set, from 0 to 100.

    Args:
        answers: Translations.
        references: One each.
        tokenize: One of `TOKENIZERS`.

    Example:

    >>> round(bleu_of(["a dog in the snow"], ["a dog in the deep snow"], "none"), 2)
    57.89
    """
    return float(_bleu(tokenize).corpus_score(answers, [references]).score)


def _bleu(tokenize: str) -> Any:
    if tokenize not in TOKENIZERS:
        raise InputError(f"`bleu_tokenize` must be one of {', '.join(TOKENIZERS)}, got {tokenize!r}")
    return sacrebleu().metrics.BLEU(tokenize=tokenize, force=True)


def translation_values(
    answers: Sequence[str], references: Sequence[str], tokenize: str
) -> tuple[dict[str, float], dict[str, str]]:
    """BLEU and chrF (Popović, 2015) of translations, and their signatures; arguments as of `bleu_of`."""
    values, signatures = {}, {}
    for name, metric in {"bleu": _bleu(tokenize), "chrf": sacrebleu().metrics.CHRF()}.items():
        values[name] = float(metric.corpus_score(answers, [references]).score)
        signatures[name] = str(metric.get_signature())
    return values, signatures


def by_length(
    sources: Sequence[str], answers: Sequence[str], references: Sequence[str], tokenize: str
) -> dict[str, dict[str, float]]:
    """BLEU by the number of words of the source, in ranges between `EDGES`; those without a sentence are left out."""
    rows: dict[str, dict[str, float]] = {}
    for first, last in zip((0, *EDGES), (*EDGES, None), strict=True):
        chosen = [
            index for index, text in enumerate(sources)
            if first < max(1, len(text.split())) and (last is None or len(text.split()) <= last)
        ]  # fmt: skip
        if chosen:
            name = f"over {first}" if last is None else f"{first + 1} to {last}"
            own, truth = ([texts[index] for index in chosen] for texts in (answers, references))
            rows[name] = {"bleu": bleu_of(own, truth, tokenize), "sentences": len(chosen)}
    return rows


def describe(score: TranslationScores) -> str:
    """Scores as lines for people: the metrics, how they were counted, and a table by length.

    >>> lengths = {"1 to 8": {"bleu": 40.0, "sentences": 2}}
    >>> print(describe(TranslationScores({"bleu": 40.0}, 1.5, 20, 2, 5, lengths, {"bleu": "tok:none"})))
    BLEU 40.00, 5 beams, loss 1.5000, over 2 sentences of 20 pieces
      words of the source   BLEU  sentences
                   1 to 8  40.00          2
      BLEU: tok:none
    """
    parts = [METRICS[name].label(value) for name, value in score.values.items()]
    parts.append("greedy" if score.num_beams == 1 else f"{score.num_beams} beams")
    if score.loss is not None:
        parts.append(f"loss {score.loss:.4f}")
    line = f"{', '.join(parts)}, over {score.sentences:,} sentences of {score.count:,} pieces"
    if score.floor is not None:
        line += f" (the source as its own translation: {METRICS['bleu'].label(score.floor)})"
    signatures = [f"{METRICS[name].title}: {text}" for name, text in score.signatures.items()]
    return "\n".join([line, *(f"  {row}" for row in [*aligned(length_table(score.lengths)), *signatures])])


def length_table(lengths: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """The scores by length as cells of text."""
    bleu = METRICS["bleu"]
    return [
        {"words of the source": name, bleu.column: bleu.text(row["bleu"]), "sentences": f"{row['sentences']:,}"}
        for name, row in lengths.items()
    ]
