"""Text classification: scores counted by hand, predictions of transformers' pipeline, and the same in any batch."""

import numpy as np
import pytest
from classifiers import REVIEWS, TEXTS, make_classifier, write_texts
from transformers import pipeline

from rnn_hf.data.labelled import MULTI, REGRESSION, SINGLE, LabelledData
from rnn_hf.loading import load_model
from rnn_hf.tasks.text_classification import AUTO_CLASS, card_values, evaluate, metric_of, predict, scores_of


READ = ["a warm film", "dull , cold , and flat", "not moving", "Zebras?"]


def data_of(problem_type, labels, train=None, names=("a", "b", "c")):
    splits = {"test": [{"text": "x", "labels": label} for label in labels]}
    if train is not None:
        splits["train"] = [{"text": "x", "labels": label} for label in train]
    return LabelledData(TEXTS, problem_type, None if problem_type == REGRESSION else list(names), splits)


def score(logits, data):
    return scores_of(list(np.array(logits, dtype=float)), data.splits["test"], data, "test")


def test_the_scores_of_one_label_are_those_counted_by_hand():
    data = data_of(SINGLE, [0, 1, 1, 2], train=[1, 1, 0])
    scores = score(np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.25, 0.5, 0.25]]), data)
    assert scores.values["accuracy"] == 2 / 4 and scores.count == 4 and scores.unit == "texts"
    # F1 of a: precision 1/2, recall 1; of b: 1/2 and 1/2; of c: 0.
    assert scores.values["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores.loss == pytest.approx(-np.log([0.5, 0.8, 0.2, 0.25]).mean())
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert scores.floor == 2 / 4  # always b, which is the most frequent in training
    assert score(np.zeros((4, 3)), data_of(SINGLE, [0, 1, 1, 2])).floor is None


def test_the_scores_of_several_labels_are_those_counted_by_hand():
    data = data_of(MULTI, [[1.0, 0.0], [1.0, 1.0]], train=[[1.0, 0.0]], names=("a", "b"))
    scores = score([[2, 1], [-1, 3]], data)
    # Of three labels that are there two were given, and of three given two are right.
    assert scores.values == pytest.approx({"micro_f1": 2 / 3, "macro_f1": 2 / 3, "accuracy": 0})
    chances = 1 / (1 + np.exp(-np.array([2, -1, -1, 3])))  # of what each label is
    assert scores.loss == pytest.approx(-np.log(chances).mean()) and scores.floor is None
    assert scores.confusion is None


def test_the_scores_of_numbers_are_those_counted_by_hand():
    data = data_of(REGRESSION, [1.0, 2.0, 4.0], train=[1.0, 3.0])
    scores = score([[1.5], [2], [3]], data)
    assert scores.values["mean_squared_error"] == scores.loss == pytest.approx((0.25 + 0 + 1) / 3)
    variation = sum((number - 7 / 3) ** 2 for number in (1, 2, 4))
    assert scores.values["r2"] == pytest.approx(1 - 1.25 / variation)
    assert scores.floor == pytest.approx((1 + 0 + 4) / 3)  # always 2
    assert "r2" not in score([[1.5]], data_of(REGRESSION, [1.0])).values  # of one number there is none


def test_the_metric_that_decides_goes_by_the_labels():
    kinds = (SINGLE, MULTI, REGRESSION)
    assert [metric_of(data_of(kind, [0])) for kind in kinds] == ["accuracy", "micro_f1", "mean_squared_error"]


@pytest.fixture(scope="module")
def other_kinds(tmp_path_factory):
    """Models of several labels and of numbers."""
    folder = tmp_path_factory.mktemp("kinds")
    file = folder / "train.jsonl"
    file.write_text("".join(f'{{"text": "{text}", "label": ["{label}", "all"]}}\n' for text, label in REVIEWS * 2))
    several = make_classifier(TEXTS, folder / "several", data={"train_file": str(file)}, initializer_range=0.5)
    numbers = write_texts(folder / "numbers.csv", [(text, len(text) / 7) for text, _ in REVIEWS * 2])
    return {MULTI: several, REGRESSION: make_classifier(TEXTS, folder / "numbers", data={"train_file": numbers})}


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI, REGRESSION])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_predictions_are_those_of_the_pipeline_in_any_batch(text_model, other_kinds, problem_type, batch_size):
    name = other_kinds.get(problem_type, text_model)
    model, tokenizer = load_model(name, auto_class=AUTO_CLASS)
    assert model.config.problem_type == problem_type
    expected = pipeline("text-classification", name, top_k=None)(READ)
    answers = list(predict(model, tokenizer, READ, batch_size))
    assert [answer["text"] for answer in answers] == READ
    for answer, scores in zip(answers, expected, strict=True):
        chances = {each["label"]: each["score"] for each in scores}
        if problem_type == REGRESSION:
            assert answer["label"] == pytest.approx(chances["value"], abs=1e-5)
            continue
        assert answer["scores"] == pytest.approx(chances, abs=1e-5)
        if problem_type == MULTI:
            assert answer["label"] == ",".join(label for label in answer["scores"] if chances[label] > 0.5)
        else:
            assert answer["label"] == scores[0]["label"]
            assert answer["score"] == pytest.approx(scores[0]["score"], abs=1e-5)
    if problem_type == MULTI:  # some are near the border
        assert any(0.5 < chance < 0.7 for answer in answers for chance in answer["scores"].values())
        assert any(0.3 < chance < 0.5 for answer in answers for chance in answer["scores"].values())


def test_nothing_is_predicted_of_nothing(text_model):
    assert list(predict(*load_model(text_model, auto_class=AUTO_CLASS), [])) == []


def test_the_accuracy_of_an_evaluation_is_that_of_the_predictions(text_model):
    model, tokenizer = load_model(text_model, auto_class=AUTO_CLASS)
    labels = [answer["label"] for answer in predict(model, tokenizer, [text for text, _ in REVIEWS])]
    right = np.mean([label == truth for label, (_, truth) in zip(labels, REVIEWS, strict=True)])
    assert 0 < right < 1  # or a constant answer would do
    for batch_size in (None, 3):
        scores = evaluate(text_model, ["train"], {}, batch_size=batch_size)["train"]
        assert scores.values["accuracy"] == pytest.approx(right)
        assert scores.floor == 5 / 8


@pytest.mark.parametrize("problem_type", [MULTI, REGRESSION])
def test_models_of_several_labels_and_of_numbers_are_evaluated(other_kinds, problem_type):
    scores = evaluate(other_kinds[problem_type], ["validation"], {})["validation"]
    assert next(iter(scores.values)) == {MULTI: "micro_f1", REGRESSION: "mean_squared_error"}[problem_type]
    assert np.isfinite(scores.loss)


def test_a_card_has_the_validation_of_training_where_the_model_was_not_evaluated():
    result = {"best_step": 3, "best_validation_accuracy": 0.75, "best_validation_loss": 0.5}
    run = {"result": result, "data": {"floor": 0.5, "rows": {"train": 9, "validation": 4}}}
    values = card_values(run, {})
    assert values["validation"] == {"accuracy": 0.75, "floor": 0.5, "texts": 4}
    assert [metric.name for metric in values["columns"]] == ["accuracy"]
    assert values["floors"] == "accuracy 50.00 % on validation"
    assert card_values({}, {})["validation"] is None


def test_a_card_has_a_table_of_at_most_twenty_classes():
    row = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "count": 1}
    for number, length in ((20, 20), (21, 0)):
        scores = {"test": {"accuracy": 0.5, "texts": 4, "classes": {str(index): row for index in range(number)}}}
        assert len(card_values({}, scores)["class_rows"]) == length
