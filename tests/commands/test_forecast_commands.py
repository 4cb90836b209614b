"""`rnn-hf evaluate` and `predict` of models that forecast: what they print, save, draw, keep and refuse."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from forecasters import make_forecaster
from series_files import some_series, write_table

from rnn_hf.data.series import split_series
from rnn_hf.files import write_json
from rnn_hf.runs import describe_weights
from rnn_hf.tasks import forecast_baselines
from rnn_hf.tasks import time_series_forecasting as task


SERIES = some_series(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of each head in a directory as a run leaves it, and series that go on."""
    folder = tmp_path_factory.mktemp("forecasts")
    file = write_table(folder / "a.csv", SERIES)
    for head in ("point", "quantile", "autoregressive"):
        model = make_forecaster(head, split_series(SERIES, "0.6,0.2,0.2"))
        model.save_pretrained(folder / head)
        data = {"train_file": file, "splits": "0.6,0.2,0.2", "standardize": True}
        arguments = {"model": {}, "data": data, "training": {"seed": 1}}
        write_json(folder / head / "run.json", {"task": task.NAME, "arguments": arguments})
    write_table(folder / "begin.csv", SERIES, 0, 280)
    write_table(folder / "one.csv", SERIES, 280, 281)
    write_table(folder / "rest.csv", SERIES, 281)
    return folder


@pytest.fixture(autouse=True)
def _quick_baselines(monkeypatch):
    monkeypatch.setattr(forecast_baselines, "STEPS", 2)


def test_what_is_printed_and_saved_are_the_scores(folder, run_script):
    path = str(folder / "quantile")
    expected = task.evaluate(path, ["validation", "test"], {})
    status, printed, errors = run_script("evaluate.py", path, "--split", "validation", "test", "--save")
    assert status == 0, errors
    assert printed == "".join(f"{split}: {task.describe_score(score)}\n" for split, score in expected.items())
    saved = json.loads((folder / "quantile" / "evaluation.json").read_text())
    assert saved["weights"] == describe_weights(folder / "quantile")
    assert saved["scores"] == {split: score.to_dict() for split, score in expected.items()}
    _, printed, _ = run_script("evaluate.py", path, "--split", "test", "--json")
    assert json.loads(printed) == {"model": path, "split": "test", **expected["test"].to_dict()}


def test_other_series_are_scored_without_what_needs_training(folder, run_script):
    status, printed, errors = run_script(
        "evaluate.py", folder / "point", "--split", "test", "--test_file", folder / "begin.csv", "--json"
    )
    assert status == 0, errors
    row = json.loads(printed)
    assert row["windows"] == 280 - 24 - 12 + 1 and "DLinear" not in row["baselines"]


def test_a_forecast_is_printed_written_and_drawn_as_the_library_makes_it(folder, tmp_path, run_script):
    path = folder / "quantile"
    expected = task.predict(task.load_forecaster(str(path)), SERIES, 7, "2020-03-13")
    flags = [path, folder / "a.csv", "--horizon", 7, "--forecast_start", "2020-03-13"]
    status, printed, errors = run_script("predict.py", *flags, "--format", "csv")
    assert status == 0, errors
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["series"] for row in rows] == ["a"] * 7 + ["b"] * 7
    for row, value in zip(rows, np.concatenate([each.quantiles[0.05] for each in expected]), strict=True):
        assert float(row["0.05"]) == pytest.approx(value, abs=1e-4)
    files = ["--output", tmp_path / "f.csv", "--picture", tmp_path / "f.png"]
    status, nothing, _ = run_script("predict.py", *flags, *files)
    assert status == 0 and nothing == "" and (tmp_path / "f.csv").read_text() == printed
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"


def test_a_state_goes_on_to_what_reading_all_gives(folder, tmp_path, run_script):
    path, flags = folder / "autoregressive", ["--horizon", 5, "--format", "json"]
    state = ["--state", tmp_path / "s.safetensors"]
    assert run_script("predict.py", path, folder / "begin.csv", *state)[0] == 0
    assert run_script("predict.py", path, "--append", folder / "one.csv", *state)[0] == 0
    status, gone_on, errors = run_script("predict.py", path, "--append", folder / "rest.csv", *state, *flags)
    assert status == 0, errors
    _, again, _ = run_script("predict.py", path, folder / "a.csv", "--state", tmp_path / "t.safetensors", *flags)
    one, other = ([json.loads(line) for line in text.splitlines()] for text in (gone_on, again))
    assert len(one) == 10 and one[0]["time"] == "2020-03-14 12:00:00"
    for first, second in zip(one, other, strict=True):
        assert first == {name: pytest.approx(value, rel=1e-3) if isinstance(value, float) else value
                         for name, value in second.items()}  # fmt: skip
    status, _, errors = run_script("predict.py", path, "--append", folder / "one.csv", *state)
    assert status == 2 and "goes on at 2020-03-14T12:00:00, and the values begin at" in errors


@pytest.mark.parametrize(
    "head, flags, message",
    [
        ("point", [], "forecasts time series: name one file of them"),
        ("point", ["a.csv", "b.csv"], "forecasts time series: name one file of them"),
        ("point", ["b.csv"], "there is no file"),
        ("point", ["a.csv", "--horizon", "0"], "--horizon must be at least 1, got 0"),
        ("point", ["a.csv", "--horizon", "13"], "--horizon must be from 1 to 12 for this model, got 13"),
        ("point", ["a.csv", "--forecast_start", "x"], "--forecast_start must be a time like"),
        ("point", ["a.csv", "--timestamps"], "--timestamps is not for a model that forecasts"),
        ("point", ["a.csv", "--picture", "f.jpg"], "--picture must name a file that ends in .png"),
        ("point", ["a.csv", "--output", "no/f.csv"], "--output: no directory no"),
        ("point", ["a.csv", "--state", "s.safetensors"], "has no state: it reads whole windows"),
        ("point", ["--append", "a.csv"], "--append goes on from --state, which is not given"),
        ("point", ["a.csv", "--state", "s", "--forecast_start", "2020-03-13"], "drop one of them"),
        ("autoregressive", ["--append", "a.csv", "--state", "s"], "there is no state s"),
        ("point", ["a.csv", "--target_columns", "c"], "--target_columns c is not there"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(folder, head, flags, message, run_script, monkeypatch):
    monkeypatch.chdir(folder)
    status, printed, errors = run_script("predict.py", folder / head, *flags)
    assert status == 2 and printed == "" and message in errors and errors.count("\n") == 1
    assert not (Path(folder) / "s").exists()


def test_flags_of_forecasts_are_for_models_that_forecast(text_model, folder, run_script):
    status, _, errors = run_script("predict.py", text_model, "a text", "--horizon", "3")
    assert status == 2 and "--horizon is for a model that forecasts" in errors
    status, _, errors = run_script("evaluate.py", folder / "point", "--window", "3")
    assert status == 2 and "--window does not go with" in errors and "which is a model that forecasts" in errors
    status, _, errors = run_script("evaluate.py", folder / "point", folder / "point")
    assert status == 2 and "several models are scored together if they are classifiers" in errors
