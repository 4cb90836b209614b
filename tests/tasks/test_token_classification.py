"""Classification of words: scores counted by hand, predictions of transformers' pipeline, the same in any batch."""

import re

import numpy as np
import pytest
import torch
from classifiers import SENTENCES, WORDS
from transformers import pipeline

from rnn_hf.data.alignment import encode_rows
from rnn_hf.data.labelled import LabelledData
from rnn_hf.loading import load_model
from rnn_hf.tasks.labelled import load_data_of
from rnn_hf.tasks.spans import likeliest_labels
from rnn_hf.tasks.token_classification import (
    AUTO_CLASS,
    evaluate,
    logits_of,
    metric_of,
    predict,
    score,
    scores_of,
    split_words,
)


READ = [["the", "unforgettable", "dog", "runs", "."], ["Zebras", "do", "n't", "!"], ["a"]]


def data_of(rows, train=(), names=("D", "N", "V")):
    splits = {"test": [{"words": words.split(), "labels": labels} for words, labels in rows]}
    if train:
        splits["train"] = [{"words": words.split(), "labels": labels} for words, labels in train]
    return LabelledData(WORDS, None, list(names), splits)


def test_the_scores_are_those_counted_by_hand_also_of_known_and_unknown_words():
    data = data_of([("the dog The", [0, 1, 0]), ("cats", [1])], train=[("the cats the", [0, 1, 0])])
    examples = [{"input_ids": [1, 2, 3, 4], "labels": [0, 1, -100, 0]}, {"input_ids": [5], "labels": [1]}]
    chances = [[[0.6, 0.2, 0.2], [0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], [[0.1, 0.6, 0.3]]]
    scores = scores_of([np.log(rows) for rows in chances], examples, data, "test")
    assert scores.count == 4 and scores.unit == "words"
    assert scores.values["accuracy"] == 3 / 4
    # the and cats are known and right; dog is unknown and wrong, The is unknown, as case counts, and right.
    assert scores.values["accuracy_known"] == 1 and scores.values["accuracy_unknown"] == 1 / 2
    assert scores.loss == pytest.approx(-np.log([0.6, 0.25, 0.8, 0.6]).mean())
    assert scores.values["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores.floor == 2 / 4 and scores.confusion.tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    alone = scores_of([np.log(rows) for rows in chances], examples, data_of([("the dog The", [0, 1, 0])]), "test")
    assert "accuracy_known" not in alone.values and alone.floor is None


def test_spans_are_scored_as_a_whole():
    names = ["O", "B-X", "I-X"]
    data = data_of([("a b c", [1, 2, 0]), ("d", [1])], names=names)
    examples = [{"labels": [1, 2, 0]}, {"labels": [1]}]
    outputs = [np.eye(3)[[1, 0, 0]], np.eye(3)[[1]]]
    scores = scores_of(outputs, examples, data, "test")
    assert metric_of(data) == "span_f1" == next(iter(scores.values))
    assert scores.values == {"span_f1": 1 / 2, "accuracy": 3 / 4}


def test_spans_are_decoded_alike_in_scores_and_predictions(word_model):
    model, tokenizer = load_model(word_model, auto_class=AUTO_CLASS)
    names = ["O", "I-X", "B-X", *(f"I-{number}" for number in range(3, model.config.num_labels))]
    model.config.id2label = dict(enumerate(names))
    with torch.no_grad():
        model.score.weight.mul_(20)  # so that labels differ, and none of them fits its neighbours
    rows = list(predict(model, tokenizer, READ))
    examples = encode_rows([{"words": words, "labels": [1] * len(words)} for words in READ], tokenizer)
    expected = [
        [names[label] for label in likeliest_labels(logits, names)] for logits in logits_of(model, examples, 8)
    ]
    assert [[row["label"] for row in sentence] for sentence in rows] == expected
    as_they_are = [[max(row["scores"], key=row["scores"].get) for row in sentence] for sentence in rows]
    assert as_they_are != expected
    assert all(row["score"] == row["scores"][row["label"]] for sentence in rows for row in sentence)


def test_the_loss_is_that_of_the_model(word_model):
    model, tokenizer = load_model(word_model, auto_class=AUTO_CLASS)
    data = load_data_of(WORDS, word_model, {})
    examples = encode_rows(data.splits["validation"], tokenizer)
    total = 0.0
    for example in examples:
        ids, labels = (torch.tensor([example[key]]) for key in ("input_ids", "labels"))
        with torch.no_grad():
            total += float(model(ids, labels=labels, num_items_in_batch=1).loss)
    scores = score(model, data, "validation", examples)
    assert scores.loss == pytest.approx(total / scores.count, rel=1e-5)
    assert scores.count == sum(len(row["words"]) for row in data.splits["validation"])
    assert len(logits_of(model, examples, 2)[0]) == 4  # the words of the first sentence


def test_an_evaluation_counts_the_words_that_training_has_not(word_model):
    model, tokenizer = load_model(word_model, auto_class=AUTO_CLASS)
    rows = load_data_of(WORDS, word_model, {}).splits
    known = {word for row in rows["train"] for word in row["words"]}
    names, right = model.config.id2label, {True: [], False: []}
    answers = predict(model, tokenizer, [row["words"] for row in rows["validation"]])
    for row, words in zip(rows["validation"], answers, strict=True):
        for word, label in zip(words, row["labels"], strict=True):
            right[word["word"] in known].append(word["label"] == names[label])
    scores = evaluate(word_model, ["train", "validation"], {}, batch_size=2)
    assert right[False]  # dogs and run
    for kind, hits in (("known", right[True]), ("unknown", right[False])):
        assert scores["validation"].values[f"accuracy_{kind}"] == pytest.approx(np.mean(hits))
    assert "accuracy_unknown" not in scores["train"].values


@pytest.mark.parametrize("batch_size", [1, 3])
def test_predictions_are_what_the_pipeline_gives_at_the_first_piece_of_a_word(word_model, batch_size):
    model, tokenizer = load_model(word_model, auto_class=AUTO_CLASS)
    tag = pipeline("token-classification", word_model)
    labels = set()
    for words, rows in zip(READ, predict(model, tokenizer, READ, batch_size), strict=True):
        pieces = {piece["start"]: piece for piece in tag([words], is_split_into_words=True)[0]}
        starts = [match.start() for match in re.finditer(r"\S+", " ".join(words))]
        assert [row["word"] for row in rows] == words
        assert [row["label"] for row in rows] == [pieces[start]["entity"] for start in starts]
        assert [row["score"] for row in rows] == pytest.approx([pieces[start]["score"] for start in starts], abs=1e-5)
        for row in rows:
            assert sum(row["scores"].values()) == pytest.approx(1) and max(row["scores"].values()) == row["score"]
        labels |= {row["label"] for row in rows}
    assert len(labels) > 1


def test_nothing_is_predicted_of_nothing(word_model):
    assert list(predict(*load_model(word_model, auto_class=AUTO_CLASS), [])) == []


def test_a_word_of_which_the_tokenizer_leaves_nothing_has_no_label(word_model):
    model, tokenizer = load_model(word_model, auto_class=AUTO_CLASS)
    (rows,) = predict(model, tokenizer, [["the", " ", "dog"]])
    assert [row["label"] is None for row in rows] == [False, True, False]
    (without,) = predict(model, tokenizer, [["the", "dog"]])
    assert rows[2]["score"] == pytest.approx(without[1]["score"])


@pytest.mark.parametrize(
    "text, words",
    [
        ("Don't stop.", ["Don't", "stop", "."]),
        ("a well-known, 3.50 film!", ["a", "well-known", ",", "3.50", "film", "!"]),
        ("  ", []),
        ("▁ a", ["▁", "a"]),
    ],
)
def test_plain_text_is_split_at_spaces_and_punctuation(text, words):
    assert split_words(text) == words


def test_no_character_is_lost_in_splitting():
    text = " ".join(words for words, _ in SENTENCES) + " naïve x@y.z ▁▁a 漢字 '' 1,000.5%"
    assert "".join(split_words(text)) == "".join(text.split())
