"""Labelled text: whole texts with a class, several or a number, and sentences with a class for each word."""

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rnn_hf.data.corpora import set_aside
from rnn_hf.data.rows import TASKS, TEXTS, WORDS, Row, read_file, read_hub
from rnn_hf.errors import InputError


SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
PROBLEM_TYPES = (SINGLE, MULTI, REGRESSION)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class LabelledData:
    """Labelled text, its labels as numbers.

    Attributes:
        task: `"text-classification"` or `"token-classification"`.
        problem_type: As `problem_type` of a config; `None` where words are labelled.
        label_names: The names of the classes, in the order of their ids; `None` for regression.
        splits: Rows of those splits among `train`, `validation` and `test` that there are. A row of texts is
            `{"text": str, "labels": ...}`, with an id, a float (regression), or a list of as many floats 0 and 1 as
            there are names (several labels); a row of words is `{"words": list[str], "labels": list[int]}`.
    """

    task: str
    problem_type: str | None
    label_names: list[str] | None
    splits: dict[str, list[dict[str, Any]]]


def load_labelled(
    task: str = TEXTS,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    problem_type: str | None = None,
    label_names: Sequence[str] | None = None,
) -> LabelledData:
    """Load labelled text from files, or from a data set of the Hub.

    Texts are read from CSV or TSV with a header or from JSON lines; sentences from JSON lines with lists of words and
    labels, from CoNLL-U, or from files with a word and its label a line and a blank line between sentences.

    Args:
        task: `"text-classification"`, or `"token-classification"` to label words.
        dataset_name: Data set of the Hub or folder of one; `None` for files.
        dataset_config_name: Its configuration.
        dataset_revision: Its branch, tag or commit.
        train_file: File to train on; also `validation_file` and `test_file`.
        validation_file: See `train_file`.
        test_file: See `train_file`.
        text_column: Column of texts, by default `text`, or of lists of words, by default `tokens`. In files with a
            word a line it is a number from 1 on, by default 1, and in CoNLL-U also a name, by default `FORM`.
        label_column: Column of labels, by default `label`; for words `tags`, the last column, or `UPOS`. Several
            columns of 0 and 1, with commas between them, are several labels.
        problem_type: `"single_label_classification"`, `"multi_label_classification"` or `"regression"`; by default
            what `problem_type_of` says of the training data.
        label_names: Names of the classes, such as those of a trained model, needed where there is no data to train
            on. Where the data has whole numbers and no name is a number, the numbers are positions in this list. By
            default the names of the Hub, or the labels of the training data: numbers by value, others by alphabet.

    Returns:
        The data. Rows without text are left out with a warning.

    Raises:
        InputError: A wrong argument or row, which the message names by file and line. A label that is not among
            `label_names`, or by default not in the training data, is an error: give `label_names` to have a class
            without examples, on which the model will be wrong.
        FileNotFoundError: A file is missing.
        ConnectionError: The Hub cannot be reached.
    """
    named = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {split: file for split, file in named.items() if file is not None}
    _check_arguments(task, dataset_name, files, problem_type)
    names = None
    if dataset_name is None:
        rows = {split: read_file(file, task, text_column, label_column) for split, file in files.items()}
    else:
        rows, names = read_hub(dataset_name, dataset_config_name, dataset_revision, task, text_column, label_column)
    rows = {split: _with_text(split, split_rows, task) for split, split_rows in rows.items()}
    return _labelled(rows, task, problem_type, names if label_names is None else list(label_names))


def problem_type_of(labels: Iterable[Any]) -> str:
    """What kind of labels these are.

    Lists are several labels of one text. Numbers, of which at least one is not whole, are regression. Everything else
    is one class: names, whole numbers, true and false. So ratings from 1 to 5 are five classes unless regression is
    asked for.

    >>> problem_type_of(["1", "2.5"]), problem_type_of([1.0, 0.0]), problem_type_of([["a", "b"], []])
    ('regression', 'single_label_classification', 'multi_label_classification')
    """
    labels = list(labels)
    if any(isinstance(label, list) for label in labels):
        return MULTI
    if all(NUMBER.fullmatch(str(label)) for label in labels) and any(float(label) % 1 for label in labels):
        return REGRESSION
    return SINGLE


def split_off_validation(data: LabelledData, percentage: int, seed: int) -> LabelledData:
    """The same data with some rows of `train` as `validation`; arguments and errors as of `set_aside`."""
    train, validation = set_aside(data.splits["train"], percentage, seed)
    return replace(data, splits={**data.splits, "train": train, "validation": validation})


def label_counts(data: LabelledData, split: str) -> dict[str, int]:
    """How many texts or words of a split have each label, in the order of `label_names`.

    Raises:
        InputError: The data is for regression.
    """
    if data.label_names is None:
        raise InputError("regression has no classes to count")
    counts: Counter[int] = Counter()
    for row in data.splits[split]:
        labels = row["labels"]
        if data.problem_type == MULTI:
            labels = [index for index, mark in enumerate(labels) if mark]
        counts.update(labels if isinstance(labels, list) else [labels])
    return {name: counts[index] for index, name in enumerate(data.label_names)}


def majority_floor(data: LabelledData, split: str) -> float | None:
    """What a model reaches on a split that always gives the most frequent class of the training data.

    Returns:
        The share of texts or words that are right, 0 to 1; for regression the mean squared error of always giving the
        mean of the training data; `None` for several labels.
    """
    if data.problem_type == MULTI:
        return None
    if data.problem_type == REGRESSION:
        numbers = [row["labels"] for row in data.splits["train"]]
        mean = math.fsum(numbers) / len(numbers)
        return math.fsum((row["labels"] - mean) ** 2 for row in data.splits[split]) / len(data.splits[split])
    train, counts = label_counts(data, "train"), label_counts(data, split)
    return counts[max(train, key=train.__getitem__)] / sum(counts.values())


def summary(data: LabelledData) -> list[str]:
    """Lines to print before training: the size of each split, its classes, and what the most frequent one reaches."""
    lines = []
    for split, rows in data.splits.items():
        size = f"{split}: {len(rows):,} " + ("texts" if data.task == TEXTS else "sentences")
        if data.task == WORDS:
            size += f", {sum(len(row['words']) for row in rows):,} words"
        lines.append(size)
        if data.label_names is not None:
            counts = label_counts(data, split)
            total = len(rows) if data.task == TEXTS else sum(counts.values())
            lines.append("  " + ", ".join(f"{name} {count / total:.1%}" for name, count in counts.items()))
        floor = majority_floor(data, split) if "train" in data.splits else None
        if floor is not None:
            is_regression = data.problem_type == REGRESSION
            lines.append(
                f"  always the mean of train: mean squared error {floor:.4g}"
                if is_regression
                else f"  always the most frequent class of train: accuracy {floor:.1%}"
            )
    return lines


def _check_arguments(task: str, dataset_name: str | None, files: Mapping[str, str], problem_type: str | None) -> None:
    if task not in TASKS:
        raise InputError(f"`task` must be one of {', '.join(TASKS)}, got {task!r}")
    if bool(files) == bool(dataset_name):
        raise InputError("give either `train_file` and its like or `dataset_name`")
    if problem_type is not None and (task == WORDS or problem_type not in PROBLEM_TYPES):
        raise InputError(
            f"`problem_type` is one of {', '.join(PROBLEM_TYPES)}, for {TEXTS} alone; got {problem_type!r}"
        )


def _labelled(
    rows: dict[str, list[Row]], task: str, problem_type: str | None, names: list[str] | None
) -> LabelledData:
    """The data of rows as read; the training rows decide what is not given."""
    training = rows.get("train", [])
    every = [row for split_rows in rows.values() for row in split_rows]
    if task == TEXTS and problem_type is None:
        problem_type = problem_type_of(row.label for row in training or every)
    is_list = task == WORDS or problem_type == MULTI
    for row in every:
        _check_label(row, is_list)
    if problem_type == REGRESSION:
        names = None
    elif names is None:
        names = _names_of([row.label for row in training], is_list, problem_type)
    ids = _ids_of(names)
    splits = {split: [_encoded(row, task, is_list, ids) for row in rows[split]] for split in rows}
    return LabelledData(task, problem_type, names, splits)


def _with_text(split: str, rows: list[Row], task: str) -> list[Row]:
    """The rows of a split that have text."""
    kept = []
    for row in rows:
        if task == WORDS:
            if not (row.text is None or isinstance(row.text, list)):
                raise InputError(f"{row.place}: `text_column` must hold a list of words, got {row.text!r:.60}")
            if row.text:
                _check_words(row)
                kept.append(row)
        elif row.text is not None and _check_string(row.text, row.place).strip():
            kept.append(row)
    if not kept:
        raise InputError(f"the {split} split has no text")
    if len(kept) < len(rows):
        warnings.warn(f"{len(rows) - len(kept):,} rows of {split} have no text and are left out", stacklevel=3)
    return kept


def _check_words(row: Row) -> None:
    for word in row.text:
        if not _check_string(word, row.place).strip():
            raise InputError(f"{row.place} has an empty word")
    if not isinstance(row.label, list) or len(row.label) != len(row.text):
        labels = f"{len(row.label)} labels" if isinstance(row.label, list) else f"the label {row.label!r:.60}"
        raise InputError(f"{row.place} has {len(row.text)} words and {labels}: each word must have one")


def _check_string(text: Any, place: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"{place}: `text_column` must hold text, got {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{place} has half of a surrogate pair, which is no character: {text!r:.60}") from error
    return text


def _check_label(row: Row, is_list: bool) -> None:
    if is_list and not isinstance(row.label, list):
        raise InputError(f"{row.place}: the label must be a list, as texts have several, got {row.label!r:.60}")
    for label in row.label if is_list else [row.label]:
        if label is None or label == "" or label != label:  # a number that is none
            raise InputError(f"{row.place} has no label")
        if not isinstance(label, str | int | float):
            raise InputError(f"{row.place}: a label must be text or a number, got {label!r:.60}")


def _names_of(labels: list[Any], is_list: bool, problem_type: str | None) -> list[str]:
    if not labels:
        raise InputError("without data to train on, `label_names` must say which classes there are")
    flat = [label for row in labels for label in row] if is_list else labels
    if problem_type == MULTI and not any(isinstance(label, str) for label in flat):
        return [str(position) for position in range(len(labels[0]))]
    names = {str(label) for label in flat}
    if len(names) < 2 and problem_type != MULTI:
        raise InputError(f"the training data has one label only, {names.pop()!r}: there is nothing to learn")
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def _ids_of(names: list[str] | None) -> dict[str, int]:
    """The id of each label as written: its name or, where no name is a number, also its position."""
    if names is None:
        return {}
    positions = {} if any(map(NUMBER.fullmatch, names)) else {str(index): index for index in range(len(names))}
    return positions | {name: index for index, name in enumerate(names)}


def _encoded(row: Row, task: str, is_list: bool, ids: Mapping[str, int]) -> dict[str, Any]:
    """A row with its labels as numbers."""
    if task == WORDS:
        return {"words": row.text, "labels": [_id_of(label, ids, row.place) for label in row.label]}
    if not ids:
        return {"text": row.text, "labels": _number(row)}
    return {"text": row.text, "labels": _multi_hot(row, ids) if is_list else _id_of(row.label, ids, row.place)}


def _id_of(label: Any, ids: Mapping[str, int], place: str) -> int:
    if str(label) not in ids:
        raise InputError(f"{place} has the label {str(label)!r}, which is none of {', '.join(ids):.300}")
    return ids[str(label)]


def _number(row: Row) -> float:
    if not NUMBER.fullmatch(str(row.label)):
        raise InputError(f"{row.place}: the label must be a number, got {row.label!r:.60}")
    return float(row.label)


def _multi_hot(row: Row, ids: Mapping[str, int]) -> list[float]:
    """Several labels as floats 0 and 1: a list of numbers is that already, names are looked up."""
    num_labels = len(set(ids.values()))
    if any(isinstance(label, str) for label in row.label) or not row.label:
        marked = {_id_of(label, ids, row.place) for label in row.label}
        return [float(index in marked) for index in range(num_labels)]
    if len(row.label) != num_labels or any(label not in (0, 1) for label in row.label):
        raise InputError(f"{row.place}: a list of numbers must be {num_labels} times 0 or 1, got {row.label!r:.60}")
    return [float(label) for label in row.label]
