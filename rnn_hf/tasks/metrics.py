"""Scores of classifiers, by scikit-learn, and seqeval for spans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnn_hf.errors import MissingPackageError
from rnn_hf.tables import aligned
from rnn_hf.tasks import METRICS
from rnn_hf.tasks.spans import seqeval


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
        floor: What a model has that always gives the most frequent class of the training data, or its mean, as
            `rnn_hf.data.labelled.majority_floor` says; `None` where there is no training data or no such thing.
    """

    values: dict[str, float]
    loss: float
    count: int
    unit: str
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: np.ndarray | None = None
    floor: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """What evaluation.json says of a split."""
        floor = {} if self.floor is None else {"floor": self.floor}
        return {**self.values, **floor, "loss": self.loss, self.unit: self.count, "classes": self.classes}


def describe(score: ClassScores) -> str:
    """Scores as lines for people: the metrics, what needs no model at all, and a table of the classes.

    >>> classes = {"no": {"precision": 1.0, "recall": 0.5, "f1": 0.667, "count": 2}}
    >>> print(describe(ClassScores({"accuracy": 0.5}, 0.7, 2, "texts", classes, floor=0.25)))
    accuracy 50.00 %, loss 0.7000, over 2 texts (always the most frequent class: accuracy 25.00 %)
      class  precision, %  recall, %  F1, %  count
      no           100.00      50.00  66.70      2
    """
    parts = [METRICS[name].label(value) for name, value in score.values.items()]
    line = f"{', '.join(parts)}, loss {score.loss:.4f}, over {score.count:,} {score.unit}"
    if score.floor is not None:
        is_share = "mean_squared_error" not in score.values
        metric, always = ("accuracy", "most frequent class") if is_share else ("mean_squared_error", "mean")
        line += f" (always the {always}: {METRICS[metric].label(score.floor)})"
    return "\n".join([line, *(f"  {row}" for row in aligned(class_table(score.classes)))])


def class_table(classes: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """The scores of each class as cells of text, shares in percent."""
    titles = {"precision": "precision, %", "recall": "recall, %", "f1": "F1, %"}
    return [
        {"class": name}
        | {title: f"{100 * row[key]:.2f}" for key, title in titles.items()}
        | {"count": f"{row['count']:,}"}
        for name, row in classes.items()
    ]


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


def check_scorers(metric: str) -> None:
    """Miss what the scores of a classifier need before long work and not behind it.

    Args:
        metric: Name of the one that decides.

    Raises:
        MissingPackageError: scikit-learn is not installed, or seqeval, which counts spans.
    """
    sklearn_metrics()
    if metric == "span_f1":
        seqeval()


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
