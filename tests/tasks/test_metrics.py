"""Scores of classes and of spans equal what is counted by hand; what is not installed is named."""

import sys

import numpy as np
import pytest

from rnn_hf.errors import MissingPackageError
from rnn_hf.tasks.metrics import ClassScores, class_rows, class_table, describe, macro_f1
from rnn_hf.tasks.spans import has_spans, span_f1


def test_precision_recall_and_f1_of_a_class_are_those_counted_by_hand():
    rows = class_rows(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 0]), ["a", "b", "c"])
    assert rows["a"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "count": 3})
    assert rows["b"] == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "count": 2})
    assert rows["c"] == {"precision": 0, "recall": 0, "f1": 0, "count": 0}
    assert macro_f1(rows) == pytest.approx(2 / 5)  # without the class that has no example


def test_several_labels_a_text_are_counted_label_by_label():
    rows = class_rows(np.array([[1, 0], [1, 1]]), np.array([[1, 1], [0, 1]]), ["a", "b"])
    assert rows["a"] == pytest.approx({"precision": 1, "recall": 1 / 2, "f1": 2 / 3, "count": 2})
    assert rows["b"] == pytest.approx({"precision": 1 / 2, "recall": 1, "f1": 2 / 3, "count": 1})


@pytest.mark.parametrize(
    "names, expected",
    [
        (["B-PER", "I-PER", "O"], True),
        (["O", "B-X"], True),
        (["O"], False),
        (["NOUN", "B-X"], False),
        (["I-X"], False),
    ],
)
def test_spans_are_told_by_their_labels(names, expected):
    assert has_spans(names) is expected


def test_a_span_counts_if_it_is_whole_has_its_label_and_begins_with_b():
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    assert span_f1(truth, truth) == 1
    # Two of three spans were found, and three given: the cut one is wrong on both sides.
    assert span_f1(truth, [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "O"]]) == pytest.approx(2 / 3)
    # Without a B- there is no span: two were given, both right.
    assert span_f1(truth, [["I-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]) == pytest.approx(4 / 5)
    assert span_f1([["O"]], [["O"]]) == 0


def test_scores_are_described_with_the_floor_and_a_row_a_class():
    classes = {"yes": {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "count": 1200}}
    first, *rows = describe(
        ClassScores({"accuracy": 0.5, "macro_f1": 1 / 3}, 0.5, 1200, "texts", classes)
    ).splitlines()
    assert first == "accuracy 50.00 %, macro F1 33.33 %, loss 0.5000, over 1,200 texts"
    assert rows[0].split()[::2] == ["class", "%", "%", "%"] and rows[0].endswith("count")
    assert [row.split() for row in rows[1:]] == [["yes", "50.00", "25.00", "33.33", "1,200"]]
    assert class_table(classes)[0]["F1, %"] == "33.33"
    regression = ClassScores({"mean_squared_error": 0.5}, 0.5, 3, "texts", floor=2.0)
    assert describe(regression).endswith("over 3 texts (always the mean: mean squared error 2.00)")


def test_the_floor_is_stored_where_there_is_one():
    scores = ClassScores({"accuracy": 0.5}, 0.5, 4, "words", floor=0.25)
    assert scores.to_dict() == {"accuracy": 0.5, "floor": 0.25, "loss": 0.5, "words": 4, "classes": {}}
    assert "floor" not in ClassScores({"accuracy": 0.5}, 0.5, 4, "words").to_dict()


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError, match="needs scikit-learn: pip install scikit-learn"):
        class_rows(np.array([0]), np.array([0]), ["a"])
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    with pytest.raises(MissingPackageError, match="need seqeval: pip install seqeval"):
        span_f1([["O"]], [["O"]])
