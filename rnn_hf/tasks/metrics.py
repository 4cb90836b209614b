"""Scores of classifiers, by scikit-learn, and seqeval for spans."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnn_hf.errors import MissingPackageError


@dataclass(frozen=True)
class ClassScores:
    """The scores of a classifier on a split.

    Attributes:
        values: By name of the metric, the one that decides first.
        loss: Mean over `count`: cross entropy in nats, or squared error.
        count: Number of texts or words.
        unit: `texts` or `words`.
        classes: A row a class: `precision`, `recall`, `f1`, `count`; empty for regression.
        confusion: `(classes, classes)`, true classes in rows; `None` where a text has several labels or a number.
    """

    values: dict[str, float]
    loss: float
    count: int
    unit: str
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """What evaluation.json says of a split."""
        return {**self.values, "loss": self.loss, self.unit: self.count, "classes": self.classes}


def sklearn_metrics() -> Any:
    """The module `sklearn.metrics`.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn import metrics
    except ImportError as error:
        raise MissingPackageError("classification needs scikit-learn: pip install scikit-learn") from error
    return metrics


def class_rows(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and count of each class; ids `(n,)`, or 0 and 1 `(n, classes)` for several labels.

    A class without examples or predictions has zeros.
    """
    labels = list(range(len(names)))
    scores = sklearn_metrics().precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    return {
        name: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "count": int(count)}
        for name, precision, recall, f1, count in zip(names, *scores, strict=True)
    }


def macro_f1(classes: dict[str, dict[str, float]]) -> float:
    """The mean of F1 over the classes that the data has examples of."""
    values = [row["f1"] for row in classes.values() if row["count"]]
    return float(np.mean(values)) if values else 0.0


def has_spans(names: Sequence[str]) -> bool:
    """Whether labels mark spans, as `B-PER`, `I-PER` and `O` do."""
    return any(name.startswith("B-") for name in names) and all(
        name == "O" or name[:2] in ("B-", "I-") for name in names
    )


def span_f1(truth: list[list[str]], predicted: list[list[str]]) -> float:
    """F1 of whole spans, by seqeval in its strict mode and the scheme IOB2: an `I-` that no `B-` begins is no span.

    Raises:
        MissingPackageError: seqeval is not installed.
    """
    try:
        from seqeval.metrics import f1_score
        from seqeval.scheme import IOB2
    except ImportError as error:
        raise MissingPackageError("the scores of spans need seqeval: pip install seqeval") from error
    return float(f1_score(truth, predicted, mode="strict", scheme=IOB2, zero_division=0))
