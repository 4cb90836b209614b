"""The card of a translator: its figures are those of its files, its examples run, its paths stay at home."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from parallel_files import some_pairs, write_pairs
from test_cards import examples_of, numbers_in, texts_of_cards, unexplained, without_the_package

from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.hub.cards import render_card, verify_card, write_card
from rnn_hf.hub.repository import build_repository
from rnn_hf.runs import save_scores
from rnn_hf.tasks import translation as task
from rnn_hf.training.labelled_run import train
from rnn_hf.training.parsing import parse_arguments


NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a folder with the files of multi30k, which are the toy language here."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "train", some_pairs(300), "en", "de")
    write_pairs(folder / "validation", some_pairs(20, seed=1, longest=14), "en", "de")
    write_pairs(folder / "test_2016", some_pairs(9, seed=2), "en", "de")
    values = {
        "dataset_name": "multi30k", "dataset_dir": folder, "output_dir": folder / "model", "hidden_size": 32,
        "embedding_size": 24, "num_encoder_layers": 2, "num_train_epochs": 8, "per_device_train_batch_size": 16,
        "learning_rate": 0.01, "tokenizer_vocab_size": 80, "input_dropout": 0.125, "word_dropout": 0.0625,
        "label_smoothing_factor": 0.1, "average_decay": 0.75, "eval_steps": 76, "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    argv = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    train(parse_arguments(["--task", task.NAME, *argv]))
    return folder / "model"


@pytest.fixture
def model_dir(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "toy"))


@pytest.mark.slow
def test_figures_are_those_of_training_until_the_weights_are_evaluated(model_dir):
    record = json.loads((model_dir / "run.json").read_text())
    card = render_card(model_dir, "me/toy")
    assert f"| validation | {record['result']['best_validation_bleu']:.2f} |" in card
    assert "As measured during training, by greedy decoding." in card and "| 1 to 8 |" not in card
    scores = task.evaluate(str(model_dir), ["validation", "test_2016"], {})
    save_scores(model_dir, scores)
    card = render_card(model_dir, "me/toy", "cc-by-sa-4.0")
    assert "As measured during training" not in card and "`tokenize=none`: words are" in card
    for split, score in scores.items():
        assert f"| {split} | {score.values['bleu']:.2f} | {score.values['chrf']:.2f} | 5 | {score.loss:.3f} |" in card
    assert score.signatures["bleu"] in card and "tok:none" in score.signatures["bleu"]
    data = ModelCard(card).data
    assert data.pipeline_tag == "translation" and data.license == "cc-by-sa-4.0" and data.language == ["en", "de"]
    told = {(result.dataset_split, result.metric_type): result.metric_value for result in data.eval_results}
    assert told == {
        (split, name): round(value, 2) for split, score in scores.items() for name, value in score.values.items()
    }
    files = ("run.json", "evaluation.json", "config.json")
    numbers = [n for file in files for n in numbers_in(json.loads((model_dir / file).read_text()))]
    rows = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    numbers += [row["samples_per_second"] for row in rows if "samples_per_second" in row]
    assert list(unexplained(card, numbers, set(re.findall(NUMBER, texts_of_cards())))) == []


def test_a_card_can_be_verified(model_dir):
    save_scores(model_dir, task.evaluate(str(model_dir), ["validation", "test_2016"], {}))
    write_card(model_dir)
    told = verify_card(model_dir)
    assert {split for split, _ in told} == {"validation", "test_2016"}
    for value, measured in told.values():
        assert value == pytest.approx(measured, abs=0.01)


@pytest.mark.slow
def test_the_examples_run_with_and_without_the_package(model_dir, tmp_path, monkeypatch):
    own = replace(CORPORA["multi30k"], prompt="two small dog sees red snow")
    monkeypatch.setitem(CORPORA, "multi30k", own)
    build_repository(model_dir, tmp_path / "repository", license="cc-by-sa-4.0", dtype="float16")
    monkeypatch.chdir(tmp_path)
    card = tmp_path / "repository/README.md"
    shown = examples_of(card)
    assert shown and isinstance(shown, str)
    assert without_the_package(card, tmp_path, tmp_path / "cache").splitlines()[-1] == shown


def test_paths_stay_at_home(model_dir, tmp_path):
    run = json.loads((model_dir / "run.json").read_text())
    run["arguments"]["data"]["tokenizer_name"] = str(tmp_path / "other")
    (model_dir / "run.json").write_text(json.dumps(run))
    build_repository(model_dir, tmp_path / "repository", model_id="me/toy")
    told = "".join(path.read_text() for path in (tmp_path / "repository").glob("*.[jm][sd]*"))
    assert str(tmp_path) not in told and "/tmp" not in told


def test_a_translator_without_a_run_has_a_card_without_results(model_dir):
    for name in ("run.json", "metrics.jsonl", "curve.png"):
        (model_dir / name).unlink(missing_ok=True)
    card = render_card(model_dir, "me/toy")
    assert "## Results" not in card and "## Training" not in card and "from one language to another" in card
