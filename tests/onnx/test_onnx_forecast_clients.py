"""The manual's clients of forecasts need onnxruntime and NumPy alone, and say what PyTorch says."""

import csv
import io
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from series_models import make_forecaster
from test_onnx_client import BARE

from rnn_hf.data.calendar import time_features
from rnn_hf.models import paths_rnn
from rnn_hf.models.series_rnn import distribution_of
from rnn_hf.onnx.export import export_onnx


ROOT = Path(__file__).parents[2]
DIRECT, PATHS = ROOT / "docs" / "onnx_forecast_client.py", ROOT / "docs" / "onnx_forecast_paths_client.py"
COLUMNS, MEAN, STD = ["south", "north"], [20.0, -3.0], [5.0, 0.5]
KNOWN = {"series": {"frequency": "h", "item_ids": COLUMNS, "mean": MEAN, "std": STD, "seasonal_error": [1.0, 1.0]}}
HOURS = np.datetime64("2024-02-27T15", "h") + np.arange(40)
POINTS = {
    "mean of a distribution": {},
    "median": {"loss": "quantile"},
    "no kind": {"cardinality": None, "num_static_categorical_features": 0},
}
CASES = {
    "student_t": {},
    "normal": {"distribution_output": "normal", "scaling": "last", "cell_type": "gru"},
    "no scaling": {"scaling": None, "num_static_categorical_features": 0, "cardinality": None},
    "mean": {"scaling": "mean", "num_time_features": 0},
    "counts": {"distribution_output": "negative_binomial", "scaling": "mean"},
}


def write_series(path: Path, rows: int = 40) -> np.ndarray:
    """A table of hours with a gap and a column that nobody asked for; the values `(series, steps)`."""
    values = np.random.default_rng(0).normal(size=(2, rows)).cumsum(axis=1) * np.array(STD)[:, None]
    values += np.array(MEAN)[:, None]
    values[0, -3] = values[1, -6] = np.nan
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["date", "north", "noise", "south"])
        for hour, (south, north) in zip(HOURS, values.T, strict=False):
            cells = ["" if np.isnan(value) else repr(float(value)) for value in (north, 1.0, south)]
            writer.writerow([str(hour).replace("T", " ") + ":00:00", *cells])
    return values


@pytest.fixture
def exported(tmp_path):
    """`exported(head, **fields)`: a model that knows the series, and the folder of its export."""

    def make(head, **fields):
        known = {"cardinality": [2], "num_static_real_features": 0}
        model = make_forecaster(head, **{**known, **fields}).float()
        model.config.series = KNOWN["series"]
        model.save_pretrained(tmp_path / "model")
        export_onnx(tmp_path / "model", tmp_path / "onnx")
        return model, tmp_path / "onnx"

    return make


@pytest.fixture
def client(monkeypatch, capsys):
    """`client(program, *argv)`: header and rows of numbers that a client prints."""

    def run(program, *argv):
        monkeypatch.setattr(sys, "argv", [str(program), *map(str, argv)])
        capsys.readouterr()
        runpy.run_path(str(program), run_name="__main__")
        header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
        return header, np.array(rows, dtype=float)

    return run


def standardized(values: np.ndarray) -> torch.Tensor:
    return torch.tensor((values - np.array(MEAN)[:, None]) / np.array(STD)[:, None], dtype=torch.float32)


def restored(forecast: np.ndarray) -> np.ndarray:
    return forecast * np.array(STD)[:, None] + np.array(MEAN)[:, None]


@pytest.mark.parametrize("fields", POINTS.values(), ids=POINTS)
def test_all_values_at_once_are_those_of_pytorch(exported, client, tmp_path, fields):
    model, folder = exported("direct", **fields)
    values = write_series(tmp_path / "series.csv")
    header, rows = client(DIRECT, folder, tmp_path / "series.csv")
    given = {"past_values": standardized(values)}
    if model.config.num_static_categorical_features:
        given["static_categorical_features"] = torch.arange(2)[:, None]
    with torch.no_grad():
        expected = restored(model(**given).prediction_outputs.numpy())
    assert header == ["step", *COLUMNS] and rows[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(rows[:, 1:].T, expected, rtol=1e-4)


class NoNoise:
    """In the place of NumPy's generator: the middle of what is drawn, or the mean."""

    def standard_t(self, freedom):
        return 0 * freedom

    def standard_normal(self, size):
        return np.zeros(size)

    def gamma(self, shape):
        return shape

    def poisson(self, rate):
        return np.floor(rate)


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_paths_without_noise_are_those_of_pytorch(exported, client, tmp_path, monkeypatch, fields):
    model, folder = exported("autoregressive", **fields)
    values = write_series(tmp_path / "series.csv")
    monkeypatch.setattr(np.random, "default_rng", lambda: NoNoise())
    header, rows = client(PATHS, folder, tmp_path / "series.csv", "--paths", 2, "--levels", 0.1, 0.9)

    def draw(kind, parameters, loc, scale, generator):
        middle = distribution_of(kind, parameters, loc, scale).mean
        return middle.floor() if kind == "negative_binomial" else middle

    monkeypatch.setattr(paths_rnn, "draw", draw)
    features = torch.tensor(time_features(HOURS[0] + np.arange(45), ["hour", "weekday"]))
    given = {"past_values": standardized(values)}
    if model.config.num_time_features:
        given |= {"past_time_features": features[None, :40].expand(2, -1, -1),
                  "future_time_features": features[None, 40:].expand(2, -1, -1)}  # fmt: skip
    if model.config.num_static_categorical_features:
        given["static_categorical_features"] = torch.arange(2)[:, None]
    paths = model.generate(**given, num_parallel_samples=1).sequences[:, 0].numpy()
    assert header == ["step", "south 0.1", "south 0.9", "north 0.1", "north 0.9"]
    np.testing.assert_allclose(rows[:, 1::2].T, restored(paths), rtol=1e-3)
    np.testing.assert_allclose(rows[:, 2::2], rows[:, 1::2])


@pytest.mark.parametrize("kind", ["student_t", "normal"])
def test_paths_have_the_quantiles_of_those_of_pytorch(exported, client, tmp_path, kind):
    model, folder = exported("autoregressive", num_time_features=0, distribution_output=kind)
    values = write_series(tmp_path / "series.csv")
    levels = (0.1, 0.5, 0.9)
    _, rows = client(PATHS, folder, tmp_path / "series.csv", "--paths", 4000, "--levels", *levels)
    paths = model.generate(
        standardized(values), static_categorical_features=torch.arange(2)[:, None], num_parallel_samples=4000,
        generator=torch.Generator().manual_seed(0),
    ).sequences.numpy()  # fmt: skip
    paths = paths * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]
    for series in range(2):
        for step in range(5):
            for index, level in enumerate(levels):
                share = (paths[series, :, step] < rows[step, 1 + 3 * series + index]).mean()
                assert abs(share - level) < 6 * (level * (1 - level) * 2 / 4000) ** 0.5


@pytest.mark.parametrize("program, head", [(DIRECT, "direct"), (PATHS, "autoregressive")], ids=["direct", "paths"])
def test_a_process_without_torch_forecasts_and_refuses_a_file_that_is_too_short(exported, tmp_path, program, head):
    _, folder = exported(head)
    for rows in (40, 5):
        write_series(tmp_path / f"{rows}.csv", max(rows, 6))
        lines = (tmp_path / f"{rows}.csv").read_text().splitlines()[: rows + 1]
        (tmp_path / f"{rows}.csv").write_text("\n".join(lines) + "\n")

    def run(rows):
        command = [sys.executable, "-c", BARE, program, folder, tmp_path / f"{rows}.csv"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    forecast, refused = run(40), run(5)
    assert len(forecast.stdout.splitlines()) == 1 + {"direct": 6, "autoregressive": 5}[head] and not forecast.stderr
    assert refused.returncode == 2 and "rows, and the file has 5" in refused.stderr
