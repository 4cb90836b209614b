"""Data by the arguments of a run, models to start from, logits by batches, and ensembles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from classifiers import REVIEWS, TEXTS, WORDS, make_classifier, write_texts
from transformers import AutoModelForSequenceClassification

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.alignment import encode_rows
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.errors import InputError
from rnn_hf.loading import load_model
from rnn_hf.tasks import text_classification, token_classification
from rnn_hf.tasks.labelled import (
    build_model,
    evaluate_models,
    load_data,
    load_data_of,
    log_softmax,
    mean_of_logits,
    prepare,
    run_batches,
)
from rnn_hf.training.arguments import ClassifierArguments, LabelledDataArguments


KINDS = {"texts": text_classification, "words": token_classification}


@pytest.fixture
def models(text_model, word_model):
    return {"texts": text_model, "words": word_model}


# Data


def test_a_corpus_is_refused_for_another_task_and_a_directory_without_a_corpus():
    with pytest.raises(InputError, match="`dataset_name` ewt_pos is for token-classification, not for text-class"):
        load_data(TEXTS, dataset_name="ewt_pos", dataset_dir="x")
    with pytest.raises(InputError, match="`dataset_dir` goes with `dataset_name`, one of mr, ewt_pos; got None"):
        load_data(TEXTS, dataset_dir="x", train_file="a.csv")


def test_a_named_corpus_is_read_from_its_directory_with_the_names_of_its_classes(tmp_path):
    rows = [(text, int(label == "good")) for text, label in REVIEWS]
    write_texts(tmp_path / "train.csv", rows)
    write_texts(tmp_path / "validation.csv", rows[:3])
    data = load_data(TEXTS, dataset_name="mr", dataset_dir=str(tmp_path))
    assert data.label_names == ["negative", "positive"] and list(data.splits) == ["train", "validation"]
    assert data.splits["validation"][0] == {"text": REVIEWS[0][0], "labels": 1}


def test_rows_for_validation_are_drawn_by_the_seed_and_only_the_others_are_cut(tmp_path):
    file = write_texts(tmp_path / "train.csv", REVIEWS * 5)
    whole, cut, other = (
        load_data(TEXTS, train_file=file, seed=seed, max_train_samples=most)
        for seed, most in ((1, None), (1, 7), (2, None))
    )
    assert cut.splits == {"train": whole.splits["train"][:7], "validation": whole.splits["validation"]}
    assert other.splits["validation"] != whole.splits["validation"]


def test_the_data_of_a_run_is_read_again_and_other_data_has_the_classes_of_the_model(text_model, text_files, tmp_path):
    again = load_data_of(TEXTS, text_model, {})
    assert again == load_data(TEXTS, **text_files)
    file = write_texts(tmp_path / "other.csv", [("moving", "good")])  # one class alone, the second of the model
    other = load_data_of(TEXTS, text_model, {"test_file": file})
    assert list(other.splits) == ["test"] and other.splits["test"][0]["labels"] == 1
    with pytest.raises(InputError, match="has the label 'better', which is none of .*bad, good"):
        load_data_of(TEXTS, text_model, {"test_file": write_texts(tmp_path / "a.csv", [("moving", "better")])})


def test_a_missing_file_of_a_run_and_a_model_without_a_run_are_named(text_files, tmp_path):
    data = {"train_file": write_texts(tmp_path / "train.csv", REVIEWS), "validation_file": text_files["train_file"]}
    name = make_classifier(TEXTS, tmp_path / "model", data=data)
    Path(data["train_file"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"train.csv, as the run.json of .* calls it: name the files"):
        load_data_of(TEXTS, name, {})
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.csv$"):
        load_data_of(TEXTS, name, {"test_file": "nowhere.csv"})
    (tmp_path / "model" / "run.json").unlink()
    with pytest.raises(InputError, match="has no run.json of a training run: name data by `dataset_name` or"):
        load_data_of(TEXTS, name, {})


# Models


def prepared_reviews(text_files, **options):
    return prepare(TEXTS, LabelledDataArguments(**text_files), seed=0, **{"init_from": None, **options})


def test_the_names_of_the_classes_survive_saving(text_files, tmp_path):
    prepared = prepared_reviews(text_files)
    build_model(text_classification.AUTO_CLASS, ClassifierArguments(hidden_size=8), prepared, 0, None).save_pretrained(
        tmp_path
    )
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path).config
    assert config.id2label == {0: "bad", 1: "good"} and config.label2id == {"bad": 0, "good": 1}
    assert config.problem_type == "single_label_classification"


@pytest.fixture
def language_model(tmp_path):
    tokenizer = build_tokenizer([text for text, _ in REVIEWS])
    config = RNNConfig(vocab_size=len(tokenizer), hidden_size=8, embedding_size=8, num_hidden_layers=1)
    model = RNNForCausalLM(config)
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return str(tmp_path / "lm"), model, tokenizer


def test_a_classifier_starts_from_the_network_and_the_tokens_of_a_language_model(text_files, language_model):
    name, source, tokenizer = language_model
    prepared = prepared_reviews(text_files, init_from=name)
    assert prepared.tokenizer.get_vocab() == tokenizer.get_vocab()
    arguments = ClassifierArguments(bidirectional=True, pooling="concat", classifier_dropout=0.5)
    model = build_model(text_classification.AUTO_CLASS, arguments, prepared, 0, name)
    assert model.config.pooling == "concat" and model.dropout.p == 0.5 and model.score.in_features == 48
    weights = model.model.state_dict()
    for key, value in source.model.state_dict().items():
        torch.testing.assert_close(weights[key], value, rtol=0, atol=0)


def test_another_shape_than_that_of_the_model_to_start_from_is_refused(text_files, language_model):
    name = language_model[0]
    prepared = prepared_reviews(text_files, init_from=name)
    with pytest.raises(InputError, match="`hidden_size` is 9, and the model of `init_from` has 8: leave it out"):
        build_model(text_classification.AUTO_CLASS, ClassifierArguments(hidden_size=9), prepared, 0, name)


# Logits and ensembles


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_batches_and_the_order_of_examples_change_nothing(models, kind):
    module = KINDS[kind]
    model, tokenizer = load_model(models[kind], auto_class=module.AUTO_CLASS)
    data = load_data_of(module.NAME, models[kind], {})
    examples = encode_rows(data.splits["train"], tokenizer)
    alone = module.logits_of(model, examples, 1)
    for size in (2, 3, 100):
        for got, expected in zip(module.logits_of(model, examples, size), alone, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)
    for got, expected in zip(module.logits_of(model, examples[::-1], 3), alone[::-1], strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_dropout_is_off_while_a_model_is_scored_and_on_again_afterwards(text_model):
    model, _ = load_model(text_model, auto_class=text_classification.AUTO_CLASS)
    model.dropout.p = 0.9
    model.train()
    examples = [{"input_ids": [2, 3, 4]}, {"input_ids": [5]}, {"input_ids": []}]
    first, second = (dict(run_batches(model, examples, 2)) for _ in range(2))
    assert model.training and sorted(first) == [0, 1, 2]
    for index in first:
        np.testing.assert_array_equal(first[index], second[index])


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


LOGITS = np.random.default_rng(0).normal(size=(3, 4, 5)) * 3


def test_the_logits_of_an_ensemble_have_the_mean_of_the_probabilities():
    one_label = mean_of_logits(list(LOGITS), "single_label_classification")
    np.testing.assert_allclose(softmax(one_label), softmax(LOGITS).mean(0), atol=1e-12)
    np.testing.assert_allclose(one_label, log_softmax(one_label), atol=1e-12)
    np.testing.assert_allclose(mean_of_logits(list(LOGITS), None), one_label)  # of words
    several = mean_of_logits(list(LOGITS), "multi_label_classification")
    np.testing.assert_allclose(1 / (1 + np.exp(-several)), (1 / (1 + np.exp(-LOGITS))).mean(0), atol=1e-12)
    np.testing.assert_allclose(mean_of_logits(list(LOGITS), "regression"), LOGITS.mean(0), atol=1e-12)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_an_ensemble_of_one_is_the_model_however_large_its_logits(problem_type):
    for scale in (1, 300):
        logits = LOGITS[0] * scale
        got = mean_of_logits([logits], problem_type)
        expected = log_softmax(logits) if problem_type.startswith("single") else logits
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_several_models_are_scored_alone_and_then_together(models, kind, text_files, word_files, tmp_path):
    module, data = KINDS[kind], text_files if kind == "texts" else word_files
    other = make_classifier(module.NAME, tmp_path / "other", seed=1, data=data)
    names, splits = [models[kind], other], ["train", "validation"]
    first, second, together = evaluate_models(module.NAME, names, splits, {})
    for name, scores in zip(names, (first, second), strict=True):
        assert {split: score.to_dict() for split, score in scores.items()} == {
            split: score.to_dict() for split, score in module.evaluate(name, splits, {}).items()
        }
    assert first["validation"].loss != second["validation"].loss
    rows = load_data_of(module.NAME, other, {}).splits["validation"]
    chances = []
    for name in names:
        model, tokenizer = load_model(name, auto_class=module.AUTO_CLASS)
        chances.append([softmax(row) for row in module.logits_of(model, encode_rows(rows, tokenizer), 2)])
    losses = [
        -np.log(((one + two) / 2).reshape(-1, one.shape[-1])[range(np.size(row["labels"])), row["labels"]])
        for one, two, row in zip(*chances, rows, strict=True)
    ]
    assert together["validation"].loss == pytest.approx(np.concatenate(losses).mean(), abs=1e-5)
    twice = evaluate_models(module.NAME, [names[0]] * 2, splits, {})
    assert twice[2]["validation"].values == first["validation"].values
    assert twice[2]["validation"].loss == pytest.approx(first["validation"].loss, abs=1e-9)


def test_models_of_other_classes_or_other_rows_are_not_scored_together(text_model, tmp_path):
    file = write_texts(tmp_path / "train.csv", REVIEWS * 4)
    seeds = [make_classifier(TEXTS, tmp_path / f"{seed}", seed=seed, data={"train_file": file}) for seed in (1, 2)]
    with pytest.raises(InputError, match=r"other rows of validation.* name the rows by `validation_file`"):
        evaluate_models(TEXTS, seeds, ["validation"], {})
    assert len(evaluate_models(TEXTS, seeds, ["validation"], {"validation_file": file})) == 3
    with pytest.raises(InputError, match="the data has no split 'test', only train, validation"):
        evaluate_models(TEXTS, seeds, ["test"], {})
    rows = [(text, label.upper()) for text, label in REVIEWS]
    other = make_classifier(TEXTS, tmp_path / "a", data={"train_file": write_texts(tmp_path / "a.csv", rows * 4)})
    with pytest.raises(InputError, match="have other classes: an ensemble needs the same ones"):
        evaluate_models(TEXTS, [text_model, other], ["train"], {})


def test_a_model_of_another_task_is_refused(text_model, word_model):
    with pytest.raises(InputError, match=f"{text_model} is a model for text-classification, not for token-class"):
        evaluate_models(WORDS, [word_model, text_model], ["validation"], {})
