"""`rnn-hf evaluate` of classifiers: what it prints, saves and draws, several models together, what it refuses."""

import json
from pathlib import Path

import pytest
from classifiers import REVIEWS, TEXTS, make_classifier, write_texts

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.runs import describe_weights
from rnn_hf.tasks import text_classification, token_classification


MODULES = {"texts": text_classification, "words": token_classification}


@pytest.fixture
def models(text_model, word_model):
    return {"texts": text_model, "words": word_model}


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_model")
    tokenizer = build_tokenizer(["a b"])
    RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=6)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", MODULES)
def test_what_is_printed_and_saved_are_the_scores(models, kind, run_script):
    name, module = models[kind], MODULES[kind]
    expected = module.evaluate(name, ["train", "validation"], {})
    flags = ["--split", "train", "validation"]
    status, printed, errors = run_script("evaluate.py", name, *flags, "--save")
    assert status == 0, errors
    assert printed == "".join(f"{split}: {module.describe_score(score)}\n" for split, score in expected.items())
    saved = json.loads((Path(name) / "evaluation.json").read_text())
    assert saved["weights"] == describe_weights(Path(name))
    assert saved["scores"] == {split: score.to_dict() for split, score in expected.items()}
    _, printed, _ = run_script("evaluate.py", name, *flags, "--json", "--batch_size", 3)
    for line, (split, score) in zip(printed.splitlines(), expected.items(), strict=True):
        row = json.loads(line)
        assert (row.pop("model"), row.pop("split")) == (name, split)
        assert row.pop("loss") == pytest.approx(score.loss, abs=1e-5)  # another batch rounds another way
        assert row == {key: value for key, value in score.to_dict().items() if key != "loss"}


def test_several_models_have_lines_of_their_own_and_one_together(text_model, tmp_path, run_script):
    data = json.loads((Path(text_model) / "run.json").read_text())["arguments"]["data"]
    files = {name: data[name] for name in ("train_file", "validation_file")}
    names = [text_model, make_classifier(TEXTS, tmp_path / "other", seed=1, data=files)]
    status, printed, errors = run_script("evaluate.py", *names, "--json")
    assert status == 0, errors
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["model"] for row in rows] == [*names, names]
    # The mean of probabilities is never worse by more than the mean of the losses (Jensen).
    assert rows[2]["loss"] <= (rows[0]["loss"] + rows[1]["loss"]) / 2
    _, printed, _ = run_script("evaluate.py", *names, "--confusion_matrix", tmp_path / "c.png")
    firsts = [line.partition(": ")[0] for line in printed.splitlines() if line[0] != " "]
    assert firsts == [*(f"{name}, validation" for name in names), "ensemble of 2, validation"]
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


def test_other_data_is_scored_by_the_classes_of_the_model(text_model, tmp_path, run_script):
    file = tmp_path / "other.csv"
    rows = "".join(f'{number},"{text}",{label}\n' for number, (text, label) in enumerate(REVIEWS[:3]))
    file.write_text("number,review,opinion\n" + rows)
    flags = ["--split", "test", "--test_file", file, "--text_column", "review", "--label_column", "opinion", "--json"]
    status, printed, errors = run_script("evaluate.py", text_model, *flags)
    assert status == 0, errors
    scores = json.loads(printed)
    assert scores["texts"] == 3 and "floor" not in scores  # without data to train on there is no most frequent class
    assert scores["classes"]["bad"]["count"] == 1


def test_what_does_not_fit_a_model_or_each_other_is_named(models, language_model, tmp_path, run_script):
    texts, words = models["texts"], models["words"]
    cases = [
        ((texts, "--window", 3), f"--window does not go with {texts}, which is a classifier"),
        ((texts, "--ptb_dir", "x"), "--ptb_dir does not go with"),
        ((language_model, "--dataset_dir", "x"), f"--dataset_dir does not go with {language_model}, which is a lang"),
        ((language_model, "--label_column", "x"), "--label_column does not go with"),
        ((language_model, "--confusion_matrix", "x.png"), "--confusion_matrix does not go with"),
        ((language_model, texts), "several models are scored together if they are classifiers"),
        ((texts, language_model), f"{language_model} is a model for language-modeling, not for text-classification"),
        ((texts, words), f"{words} is a model for token-classification, not for text-classification"),
        ((texts, texts, "--save"), "--save is for one model"),
        ((texts, "--save", "--validation_file", "a.csv"), "--save is for the run's own corpus"),
        ((texts, "--batch_size", 0), "--batch_size must be at least 1, got 0"),
        ((texts, "--split", "test"), "the data has no split 'test', only train, validation"),
        ((texts, "--confusion_matrix", "c.jpg"), "--confusion_matrix must name a file that ends in .png, got c.jpg"),
        ((texts, "--confusion_matrix", "nowhere/c.png"), "--confusion_matrix: no directory nowhere"),
    ]
    for flags, message in cases:
        status, printed, errors = run_script("evaluate.py", *flags)
        assert status == 2 and not printed and message in errors.splitlines()[-1], message


def test_there_is_no_picture_of_numbers(tmp_path, run_script):
    file = write_texts(tmp_path / "a.csv", [(text, len(text) / 7) for text, _ in REVIEWS * 2])
    name = make_classifier(TEXTS, tmp_path / "model", data={"train_file": file})
    status, printed, _ = run_script("evaluate.py", name)
    assert status == 0 and printed.startswith("validation: mean squared error ")
    status, _, errors = run_script("evaluate.py", name, "--confusion_matrix", tmp_path / "c.png")
    assert status == 2 and "--confusion_matrix needs one class a text" in errors
