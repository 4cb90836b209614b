"""The card of a recognizer: its figures are those of its files, its examples run, its paths stay at home."""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from speech_models import train_recognizer
from test_cards import examples_of, numbers_in, texts_of_cards, unexplained, without_the_package

from rnn_hf.hub.cards import render_card, verify_card, write_card
from rnn_hf.hub.repository import build_repository
from rnn_hf.runs import save_scores
from rnn_hf.tasks import automatic_speech_recognition as task


NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Path(train_recognizer(tmp_path_factory.mktemp("speech"), num_train_epochs=8, noise_probability=0.25))


@pytest.fixture
def model_dir(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "tones"))


def test_figures_are_those_of_training_until_the_weights_are_evaluated(model_dir):
    record = json.loads((model_dir / "run.json").read_text())
    card = render_card(model_dir, "me/tones")
    assert (
        f"| {100 * record['result']['best_validation_wer']:.2f} |" in card and "As measured during training." in card
    )
    assert "It knows these words: `high`, `low`, `three`." in card and "| ann |" not in card
    scores = task.evaluate(str(model_dir), ["validation"], {})
    save_scores(model_dir, scores)
    card = render_card(model_dir, "me/tones", "cc-by-sa-4.0")
    assert "As measured during training." not in card
    for name, row in scores["validation"].speakers.items():
        assert f"| {name} | {100 * row['wer']:.2f} | {row['words']:,} |" in card
    data = ModelCard(card).data
    assert data.pipeline_tag == "automatic-speech-recognition" and data.license == "cc-by-sa-4.0"
    told = {result.metric_type: result.metric_value for result in data.eval_results}
    assert told == {name: round(100 * value, 2) for name, value in scores["validation"].values.items()}
    files = ("run.json", "evaluation.json", "config.json")
    numbers = [n for file in files for n in numbers_in(json.loads((model_dir / file).read_text()))]
    rows = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    numbers += [row["samples_per_second"] for row in rows if "samples_per_second" in row]
    assert list(unexplained(card, numbers, set(re.findall(NUMBER, texts_of_cards())))) == []


def test_a_card_can_be_verified(model_dir):
    save_scores(model_dir, task.evaluate(str(model_dir), ["validation"], {}))
    write_card(model_dir)
    for told, measured in verify_card(model_dir).values():
        assert told == pytest.approx(measured, abs=0.01)


@pytest.mark.slow
def test_the_examples_run_with_and_without_the_package(model_dir, tmp_path, monkeypatch):
    build_repository(model_dir, tmp_path / "repository", license="cc-by-sa-4.0")
    monkeypatch.chdir(tmp_path)
    card = tmp_path / "repository/README.md"
    shown = examples_of(card)
    assert set(shown) == {"text"}
    assert without_the_package(card, tmp_path, tmp_path / "cache").splitlines()[-1] == str(shown)


def test_paths_stay_at_home(model_dir, tmp_path):
    run = json.loads((model_dir / "run.json").read_text())
    run["arguments"]["data"]["audio_dir"] = str(tmp_path / "sounds")
    run["command"] += f" --audio_dir {tmp_path / 'sounds'}"
    (model_dir / "run.json").write_text(json.dumps(run))
    build_repository(model_dir, tmp_path / "repository", model_id="me/tones")
    told = "".join(path.read_text() for path in (tmp_path / "repository").glob("*.[jm][sd]*"))
    assert str(tmp_path) not in told and "/tmp" not in told


def test_a_recognizer_without_a_run_has_a_card_without_results(model_dir):
    for name in ("run.json", "metrics.jsonl", "curve.png"):
        (model_dir / name).unlink(missing_ok=True)
    card = render_card(model_dir, "me/tones")
    assert "## Results" not in card and "## Training" not in card and "--stream" in card
