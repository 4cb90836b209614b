"""Labelled text: which problem it is, ids of labels, what is refused, and the floor that a model must beat."""

import json
import random

import datasets
import pytest

from rnn_hf.data.labelled import (
    LabelledData,
    label_counts,
    load_labelled,
    majority_floor,
    problem_type_of,
    split_off_validation,
    summary,
)
from rnn_hf.errors import InputError


TEXTS, WORDS = "text-classification", "token-classification"
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


@pytest.fixture
def write(tmp_path):
    """`write(split, rows)`: the rows as JSON lines; the path of the file."""

    def write_rows(split, rows, columns=("text", "label")):
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
        return str(path)

    return write_rows


@pytest.fixture
def write_words(write):
    return lambda split, rows: write(split, rows, ("tokens", "tags"))


def labels_of(data, split="train"):
    return [row["labels"] for row in data.splits[split]]


@pytest.mark.parametrize(
    "labels, problem_type, names, expected",
    [
        (["b", "a", "b"], SINGLE, ["a", "b"], [1, 0, 1]),
        ([10, 9, 9], SINGLE, ["9", "10"], [1, 0, 0]),
        (["10", "9"], SINGLE, ["9", "10"], [1, 0]),
        ([1.0, 0.0], SINGLE, ["0.0", "1.0"], [1, 0]),
        ([True, False], SINGLE, ["False", "True"], [1, 0]),
        (["nan", "inf"], SINGLE, ["inf", "nan"], [1, 0]),
        ([1, 2.5, -3], REGRESSION, None, [1.0, 2.5, -3.0]),
        (["1", "2.5", "-1e3"], REGRESSION, None, [1.0, 2.5, -1000.0]),
        ([["b"], [], ["a", "b"]], MULTI, ["a", "b"], [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]),
        ([[0, 1, 1], [0, 0, 0]], MULTI, ["0", "1", "2"], [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
    ],
)
def test_the_training_data_says_which_problem_it_is(write, labels, problem_type, names, expected):
    data = load_labelled(train_file=write("train", [(f"text {label}", label) for label in labels]))
    assert (data.problem_type, data.label_names, labels_of(data)) == (problem_type, names, expected)
    assert [row["text"] for row in data.splits["train"]] == [f"text {label}" for label in labels]
    assert problem_type_of(labels) == problem_type


def test_whole_numbers_are_regression_when_asked_for(write):
    file = write("train", [("a", 1), ("b", 2)])
    data = load_labelled(train_file=file, problem_type=REGRESSION)
    assert data.label_names is None and labels_of(data) == [1.0, 2.0]


def test_the_order_of_rows_changes_no_id(write):
    rows = [(str(number), label) for number, label in enumerate("cabbage")]
    one = load_labelled(train_file=write("train", rows))
    random.Random(0).shuffle(rows)
    other = load_labelled(train_file=write("train", rows))
    assert one.label_names == other.label_names == ["a", "b", "c", "e", "g"]
    ids = [{row["text"]: row["labels"] for row in data.splits["train"]} for data in (one, other)]
    assert ids[0] == ids[1]


def test_words_have_ids_of_labels_and_splits_share_them(write_words):
    train = write_words("train", [(["a", "b"], ["X", "O"]), (["c"], ["B"])])
    data = load_labelled(WORDS, train_file=train, validation_file=write_words("test", [(["c"], ["O"])]))
    assert data.problem_type is None and data.label_names == ["B", "O", "X"]
    assert data.splits["train"][0] == {"words": ["a", "b"], "labels": [2, 1]}
    assert labels_of(data, "validation") == [[1]]


@pytest.mark.parametrize("task, text, label", [(TEXTS, "a", "new"), (WORDS, ["a", "b"], ["A", "new"])])
def test_a_label_that_training_lacks_is_an_error_unless_its_class_is_given(write, task, text, label):
    columns = ("text", "label") if task == TEXTS else ("tokens", "tags")
    known = ["A", "B"] if task == TEXTS else [["A", "B"], ["B", "A"]]
    files = {
        "train_file": write("train", [(text, some) for some in known], columns),
        "test_file": write("test", [(text, known[0]), (text, label)], columns),
    }
    with pytest.raises(InputError, match=r"test.jsonl, line 2 has the label 'new', which is none of "):
        load_labelled(task, **files)
    data = load_labelled(task, **files, label_names=["A", "B", "new"])
    assert labels_of(data, "test")[-1] == (2 if task == TEXTS else [0, 2])


def test_without_training_data_the_names_of_a_model_give_the_ids(write):
    file = write("test", [("a", "yes"), ("b", "no")])
    assert labels_of(load_labelled(test_file=file, label_names=["yes", "no"]), "test") == [0, 1]
    with pytest.raises(InputError, match="`label_names` must say which classes"):
        load_labelled(test_file=file)
    numbers = write("test", [("a", 1), ("b", "0")])
    assert labels_of(load_labelled(test_file=numbers, label_names=["no", "yes"]), "test") == [1, 0]
    with pytest.raises(InputError, match="line 2 has the label '0', which is none of 1, 2$"):
        load_labelled(test_file=numbers, label_names=["1", "2"])
    scores = write("test", [("a", 1.5)])
    assert labels_of(load_labelled(test_file=scores, problem_type=REGRESSION), "test") == [1.5]


def test_rows_without_text_are_left_out_and_counted(write, write_words):
    with pytest.warns(UserWarning, match="3 rows of train have no text"):
        data = load_labelled(train_file=write("train", [("", 0), ("a", 1), (None, 0), (" \n", 1), ("b", 0)]))
    assert [row["text"] for row in data.splits["train"]] == ["a", "b"]
    with pytest.warns(UserWarning, match="1 rows of train have no text"):
        data = load_labelled(WORDS, train_file=write_words("train", [([], []), (["a", "b"], ["A", "B"])]))
    assert len(data.splits["train"]) == 1


@pytest.mark.parametrize(
    "rows, problem_type, message",
    [
        ([("a", 0), ("b", None)], None, "line 2 has no label"),
        ([("a", "x"), ("b", "")], None, "line 2 has no label"),
        ([("a", 0.5), ("b", float("nan"))], None, "line 2 has no label"),
        ([("a", 0.5), ("b", "x")], REGRESSION, "line 2: the label must be a number, got 'x'"),
        ([("a", 0.5), ("b", float("inf"))], REGRESSION, "line 2: the label must be a number, got inf"),
        ([("a", ["x"]), ("b", "x")], None, "line 2: the label must be a list, as texts have several, got 'x'"),
        ([("a", [0, 1]), ("b", [1])], None, "line 2: a list of numbers must be 2 times 0 or 1"),
        ([("a", [0, 1]), ("b", [1, 2])], None, "line 2: a list of numbers must be 2 times 0 or 1"),
        ([("a", ["x"]), ("b", ["x"])], SINGLE, "line 1: a label must be text or a number, got .'x'"),
        ([("a", "x"), ("b", {"x": 1})], None, "line 2: a label must be text or a number"),
        ([("a", "x"), ("b", "x")], None, "the training data has one label only, 'x'"),
        ([("a", "x"), (["b"], "y")], None, "line 2: `text_column` must hold text"),
        ([("a", "x"), ("b\ud83d", "y")], None, "line 2 has half of a surrogate pair"),
        ([("", "x")], None, "the train split has no text"),
        ([], None, "the train split has no text"),
    ],
)
def test_a_wrong_row_of_texts_is_named(write, rows, problem_type, message):
    with pytest.raises(InputError, match=message):
        load_labelled(train_file=write("train", rows), problem_type=problem_type)


@pytest.mark.parametrize(
    "row, message",
    [
        ((["a", "b"], ["X"]), "line 2 has 2 words and 1 labels: each word must have one"),
        ((["a", "b"], "XY"), "line 2 has 2 words and the label 'XY'"),
        (("a b", ["X", "Y"]), "line 2: `text_column` must hold a list of words, got 'a b'"),
        ((["a", " "], ["X", "Y"]), "line 2 has an empty word"),
        ((["a", 1], ["X", "Y"]), "line 2: `text_column` must hold text, got 1"),
        ((["a", "b"], ["X", None]), "line 2 has no label"),
        ((["a", "b"], ["X", ["Y"]]), "line 2: a label must be text or a number"),
    ],
)
def test_a_wrong_row_of_words_is_named(write_words, row, message):
    with pytest.raises(InputError, match=message):
        load_labelled(WORDS, train_file=write_words("train", [(["a", "b"], ["X", "Y"]), row]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"task": "ner"}, "`task` must be one of text-classification, token-classification, got 'ner'"),
        ({}, "give either `train_file` and its like or `dataset_name`"),
        ({"train_file": "a.csv", "dataset_name": "b"}, "give either `train_file` and its like or `dataset_name`"),
        ({"train_file": "a.csv", "problem_type": "multi"}, "`problem_type` is one of single_label_classification, "),
        ({"task": WORDS, "train_file": "a.tsv", "problem_type": SINGLE}, "for text-classification alone"),
    ],
)
def test_a_wrong_argument_is_named_before_a_file_is_read(arguments, message):
    with pytest.raises(InputError, match=message):
        load_labelled(**arguments)


def test_features_of_the_hub_give_names_in_their_order(tmp_path):
    kind = datasets.ClassLabel(names=["pos", "neg", "none"])
    features = datasets.Features({"sentence": datasets.Value("string"), "stars": kind})
    for split, stars in (("train", [1, 0, 1]), ("validation", [0]), ("test", [-1])):
        rows = {"sentence": [f"text {star}" for star in stars], "stars": stars}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    data = load_labelled(dataset_name=str(tmp_path), text_column="sentence", label_column="stars")
    assert data.label_names == ["pos", "neg", "none"] and labels_of(data) == [1, 0, 1]
    assert list(data.splits) == ["train", "validation"]  # a test split without labels is none
    with pytest.raises(InputError, match=r"row 1 of train has no column 'text': set `text_column` to one of sentence"):
        load_labelled(dataset_name=str(tmp_path))
    with pytest.raises(ConnectionError, match="cannot load `dataset_name="):
        load_labelled(dataset_name=str(tmp_path / "missing"))


@pytest.mark.parametrize("task", [TEXTS, WORDS])
def test_lists_of_classes_of_the_hub_give_names(tmp_path, task):
    kind = datasets.List(datasets.ClassLabel(names=["X", "Y", "O"]))
    text = datasets.Value("string")
    features = datasets.Features({"tokens": datasets.List(text) if task == WORDS else text, "tags": kind})
    rows = {"tokens": [["a", "b"], ["c", "d"]] if task == WORDS else ["a", "b"], "tags": [[2, 0], [1, 2]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    data = load_labelled(task, dataset_name=str(tmp_path), text_column="tokens", label_column="tags")
    assert data.label_names == ["X", "Y", "O"]
    assert labels_of(data) == ([[2, 0], [1, 2]] if task == WORDS else [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])


def make_data(labels, problem_type=SINGLE, names=("a", "b", "c"), **more):
    splits = {"train": [{"text": str(index), "labels": label} for index, label in enumerate(labels)]}
    more = {split: [{"text": "", "labels": label} for label in some] for split, some in more.items()}
    return LabelledData(TEXTS, problem_type, names and list(names), {**splits, **more})


def test_validation_is_a_share_of_training_that_depends_on_the_seed_alone():
    data = make_data([0] * 50 + [1] * 50)
    parts = [split_off_validation(data, 10, seed).splits for seed in (0, 0, 1)]
    for part in parts:
        assert [len(part[split]) for split in ("train", "validation")] == [90, 10]
        texts = [int(row["text"]) for split in ("train", "validation") for row in part[split]]
        assert sorted(texts) == list(range(100))
        assert texts[:90] == sorted(texts[:90]) and texts[90:] == sorted(texts[90:])
    assert parts[0] == parts[1] != parts[2]
    assert len({row["labels"] for row in parts[0]["validation"]}) == 2  # not the end of a sorted file
    assert "validation" not in data.splits
    for percentage in (0, 100):
        with pytest.raises(InputError, match="give `validation_file`"):
            split_off_validation(data, percentage, seed=0)


def test_counts_and_floors_are_those_of_a_constant_answer():
    data = make_data([0, 1, 1, 1], validation=[0, 0, 1, 2, 2])
    assert label_counts(data, "validation") == {"a": 2, "b": 1, "c": 2}
    assert (majority_floor(data, "train"), majority_floor(data, "validation")) == (0.75, 0.2)
    words = LabelledData(WORDS, None, ["X", "Y"], {"train": [{"words": ["a"] * 3, "labels": [1, 1, 0]}]})
    assert label_counts(words, "train") == {"X": 1, "Y": 2} and majority_floor(words, "train") == 2 / 3
    several = make_data([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], MULTI)
    assert label_counts(several, "train") == {"a": 1, "b": 0, "c": 2} and majority_floor(several, "train") is None
    scores = make_data([1.0, 3.0], REGRESSION, None, validation=[2.0, 4.0])
    assert (majority_floor(scores, "train"), majority_floor(scores, "validation")) == (1.0, 2.0)
    with pytest.raises(InputError, match="no classes"):
        label_counts(scores, "train")
    for some, lines in (
        (
            data,
            "validation: 5 texts|  a 40.0%, b 20.0%, c 40.0%|"
            "  always the most frequent class of train: accuracy 20.0%",
        ),
        (
            words,
            "train: 1 sentences, 3 words|  X 33.3%, Y 66.7%|  always the most frequent class of train: accuracy 66.7%",
        ),
        (several, "train: 2 texts|  a 50.0%, b 0.0%, c 100.0%"),
        (scores, "validation: 2 texts|  always the mean of train: mean squared error 2"),
    ):
        assert "|".join(summary(some)).endswith(lines)
    only_test = LabelledData(TEXTS, SINGLE, ["a"], {"test": [{"text": "", "labels": 0}]})
    assert summary(only_test) == ["test: 1 texts", "  a 100.0%"]
