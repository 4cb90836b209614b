"""Forecasts of series: what is not to be known is not, units are undone, a state goes on as reading all again does."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from forecasters import HEADS, SIZES, make_forecaster, split_for_tests
from series_files import HOURLY, START, some_series, with_features, write_entries, write_table

from rnn_hf import RNNForTimeSeriesPrediction
from rnn_hf.errors import InputError
from rnn_hf.tasks import forecast_baselines
from rnn_hf.tasks import time_series_forecasting as task
from rnn_hf.tasks.forecast_baselines import score_baselines
from rnn_hf.tasks.forecast_runs import configuration_of, numbers_of
from rnn_hf.tasks.forecast_scores import members_of_quantiles
from rnn_hf.tasks.forecast_state import forecast_of_state, load_state, read_series_state, save_state
from rnn_hf.tasks.forecast_tables import forecast_rows, plot_forecasts


SERIES = some_series(300, ("a", "b", "c"))
DATA = split_for_tests(SERIES)


@pytest.fixture(scope="module", params=HEADS)
def model(request):
    return make_forecaster(request.param, DATA)


@pytest.fixture(scope="module")
def autoregressive():
    return make_forecaster("autoregressive", DATA)


def cut(series, begin, end):
    return [
        replace(each, start=each.times(begin, begin + 1)[0], target=each.target[begin:end],
                features=None if each.features is None else each.features[begin:])
        for each in series
    ]  # fmt: skip


def assert_same(one, other, **tolerance):
    for first, second in zip(one, other, strict=True):
        assert first.series.item_id == second.series.item_id
        np.testing.assert_allclose(first.mean, second.mean, **tolerance)
        assert first.quantiles.keys() == second.quantiles.keys()
        for level, values in first.quantiles.items():
            np.testing.assert_allclose(values, second.quantiles[level], **tolerance)


def test_what_is_behind_the_start_of_a_forecast_is_not_known(model):
    start = "2020-03-12 08:00"  # step 248
    expected = task.predict(model, cut(SERIES, 0, 248))
    other = [replace(each, target=np.where(np.arange(300) < 248, each.target, 1e6)) for each in SERIES]
    for series in (SERIES, other):
        forecasts = task.predict(model, series, start=start)
        assert_same(forecasts, expected, rtol=1e-12)
        assert all(each.origin == 248 and len(each.mean) == SIZES["prediction_length"] for each in forecasts)


def test_forecasts_are_in_the_units_of_each_series(model):
    """Series of other units are other series to the model; of the same standardised values it says the same."""
    forecasts = task.predict(model, SERIES)
    content = dict(model.config.series)
    content["mean"] = [10 * each + 3 for each in content["mean"]]
    content["std"] = [10 * each for each in content["std"]]
    scaled = [replace(each, target=10 * each.target + 3) for each in SERIES]
    before, model.config.series = model.config.series, content
    try:
        for one, other in zip(forecasts, task.predict(model, scaled), strict=True):
            np.testing.assert_allclose(10 * one.mean + 3, other.mean, rtol=1e-5)
    finally:
        model.config.series = before


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one():
    for head in ("point", "quantile"):
        model = make_forecaster(head, DATA)
        short, long = task.predict(model, SERIES, 5), task.predict(model, SERIES)
        np.testing.assert_array_equal(short[1].mean, long[1].mean[:5])


def test_quantiles_ascend_and_the_same_seed_draws_the_same(model):
    forecasts = task.predict(model, SERIES, seed=3)
    assert_same(forecasts, task.predict(model, SERIES, seed=3), rtol=0)
    for each in forecasts:
        assert list(each.quantiles) == ([] if model.config.loss == "mae" else list(task.LEVELS))
        values = np.array(list(each.quantiles.values()))
        assert (np.diff(values, axis=0) >= 0).all()


def test_the_order_of_series_changes_nothing():
    model = make_forecaster("quantile", DATA)
    there, back = task.predict(model, SERIES), task.predict(model, SERIES[::-1])
    assert_same(there, back[::-1], rtol=1e-5)
    assert_same(there[1:2], task.predict(model, SERIES[1:2]), rtol=1e-5)


@pytest.mark.parametrize(
    "head, options, message",
    [
        ("point", {"horizon": 13}, "`horizon` must be from 1 to 12 for this model, got 13"),
        ("autoregressive", {"horizon": -1}, "`horizon` must be at least 1 for this model"),
        ("point", {"start": "x"}, "`forecast_start` must be a time like"),
        ("point", {"start": "2020-03-02"}, "`forecast_start` must be a step of the series behind 2020-03-02"),
        ("point", {"start": "2020-03-03 00:30"}, "`forecast_start` must be a step of the series"),
        ("point", {"start": "2021-03-03"}, "up to the one behind its last value \\(2020-03-14T12:00:00\\)"),
    ],
)
def test_what_cannot_be_forecast_is_refused(head, options, message):
    with pytest.raises(ValueError, match=message):
        task.predict(make_forecaster(head, DATA), SERIES, **options)


def test_a_file_is_read_for_the_series_that_the_model_knows(tmp_path):
    model = make_forecaster("point", DATA)
    file = write_table(tmp_path / "a.csv", some_series(50, ("x", "c", "a")))
    assert [each.item_id for each in task.read_known(model, file)] == ["c", "a"]
    assert [each.item_id for each in task.read_known(model, file, target_columns="a")] == ["a"]
    with pytest.raises(ValueError, match="the model knows no series 'x', only a, b, c"):
        task.read_known(model, file, target_columns="x")
    with pytest.raises(ValueError, match="the model knows no series 'y'"):
        task.read_known(model, write_table(tmp_path / "b.csv", some_series(50, ("y",))))
    (tmp_path / "one.csv").write_text("date,a\n2020-03-02 05:00:00,1\n")
    (one,) = task.read_known(model, str(tmp_path / "one.csv"))
    assert one.frequency == HOURLY and one.target.tolist() == [1]
    entries = write_entries(tmp_path / "a.jsonl", some_series(50, ("b",)), freq=None)
    assert task.read_known(model, entries)[0].frequency == HOURLY
    with pytest.raises(ValueError, match="`series`: it was not trained by this package"):
        task.read_known(RNNForTimeSeriesPrediction(configuration_of(**SIZES)), file)


@pytest.mark.parametrize("pieces", [(200,), (60, 61, 150), (24, 100, 199)])
def test_a_state_that_goes_on_is_reading_all_again(autoregressive, tmp_path, pieces):
    path, edges = tmp_path / "s.safetensors", (0, *pieces, 230)
    for begin, end in zip(edges, edges[1:], strict=False):
        own = cut(SERIES, begin, end)
        before = load_state(autoregressive, path, own) if begin else None
        save_state(autoregressive, read_series_state(autoregressive, own, before), own, path)
    last = cut(SERIES, pieces[-1], 230)
    state = load_state(autoregressive, path, cut(SERIES, 230, 240))
    whole = read_series_state(autoregressive, cut(SERIES, 0, 230))
    gone_on = forecast_of_state(autoregressive, state, last, 15)
    again = forecast_of_state(autoregressive, whole, cut(SERIES, 0, 230), 15)
    assert_same(gone_on, again, rtol=1e-4)
    rows = [[row["time"] for row in forecast_rows(each)] for each in (gone_on, again)]
    assert rows[0] == rows[1] and rows[0][0] == str(START + 230 * 3600).replace("T", " ")
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("length", [1, 30])
def test_features_of_steps_and_series_are_read_by_pieces_as_they_are_at_once(tmp_path, length):
    """And they matter: other features give other forecasts."""
    series, path = with_features(230, 260), tmp_path / "s.safetensors"
    model = make_forecaster("autoregressive", split_for_tests(series))
    state = read_series_state(model, cut(series, 0, 100))
    save_state(model, state, cut(series, 0, 100), path)
    last = cut(series, 100, 230)
    state = read_series_state(model, last, load_state(model, path, last))
    again = forecast_of_state(model, read_series_state(model, series), series, length)
    assert_same(forecast_of_state(model, state, last, length), again, rtol=1e-4)
    changed = np.concatenate([series[0].features[:230], series[0].features[230:] + 1])
    for change in ({"categories": (1, 2)}, {"reals": (5.0,)}, {"features": changed[100:]}):
        other = forecast_of_state(model, state, [replace(last[0], **change), last[1]], length)
        assert np.abs(other[0].mean - again[0].mean).max() > 1e-4
        np.testing.assert_allclose(other[1].mean, again[1].mean, rtol=1e-3)
    with pytest.raises(InputError, match="must be known of all steps to predict, 161 in all, got 160"):
        forecast_of_state(model, state, last, 31)
    with pytest.raises(InputError, match="must be known of all steps to predict, 261 in all, got 260"):
        task.predict(model, series, 31)


def test_a_state_of_other_series_times_or_models_is_refused(autoregressive, tmp_path):
    path, own = tmp_path / "s.safetensors", cut(SERIES, 0, 100)
    save_state(autoregressive, read_series_state(autoregressive, own), own, path)
    with pytest.raises(ValueError, match="goes on at 2020-03-06T04:00:00, and the values begin at 2020-03-06T05"):
        load_state(autoregressive, path, cut(SERIES, 101, 110))
    with pytest.raises(ValueError, match="is the state of a, b, c, and the values are of a, b: give the same"):
        load_state(autoregressive, path, cut(SERIES, 100, 110)[:2])
    with pytest.raises(ValueError, match="is no state of this model"):
        load_state(make_forecaster("autoregressive", DATA, hidden_size=9), path, cut(SERIES, 100, 110))
    with pytest.raises(FileNotFoundError, match="there is no state"):
        load_state(autoregressive, tmp_path / "t.safetensors", own)
    with pytest.raises(ValueError, match="all series must have the same times"):
        read_series_state(autoregressive, [*own[:2], *cut(SERIES[2:], 0, 99)])
    with pytest.raises(ValueError, match="has no state: it reads whole windows"):
        read_series_state(make_forecaster("point", DATA), own)


def test_a_table_of_a_forecast_has_a_row_a_step_and_the_picture_is_drawn(model, tmp_path):
    forecasts = task.predict(model, SERIES, start="2020-03-13")
    rows = list(forecast_rows(forecasts))
    assert len(rows) == 3 * 12 and [row["series"] for row in rows[::12]] == ["a", "b", "c"]
    assert rows[0]["time"] == "2020-03-13 00:00:00" and rows[13]["time"] == "2020-03-13 01:00:00"
    if model.config.loss == "mae":
        assert list(rows[0]) == ["time", "series", "forecast"]
        assert rows[12]["forecast"] == forecasts[1].mean[0]
    else:
        assert list(rows[0])[:5] == ["time", "series", "mean", "0.05", "0.1"] and len(rows[0]) == 3 + 19
        assert rows[5]["0.5"] == forecasts[0].quantiles[0.5][5]
    pytest.importorskip("matplotlib")
    plot_forecasts(forecasts, tmp_path / "a.png", "a title")
    plot_forecasts(task.predict(model, SERIES)[:1], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"


def test_the_scores_of_quantiles_are_those_of_the_model_by_hand(monkeypatch):
    monkeypatch.setattr(forecast_baselines, "STEPS", 5)
    model = make_forecaster("quantile", DATA)
    score = task.score(model, DATA, "validation", batch_size=50)
    errors, squares, shares = [], [], []
    known = task.KnownSeries.of_config(model.config)
    for place, series in enumerate(SERIES):
        values = torch.from_numpy(known.standardized(series)).float()
        for origin in range(180, 240 - 12 + 1):
            with torch.no_grad():
                output = model(values[None, origin - 24 : origin], static_categorical_features=torch.tensor([[place]]))
            truth, members = values[origin : origin + 12], members_of_quantiles(output.quantile_outputs, HEADS_LEVELS)
            errors.append((output.prediction_outputs[0] - truth).abs())
            squares.append((members[0].mean(0) - truth).square())
            if (origin - 180) % 24 == 0:
                edges = members[0].quantile(torch.tensor([0.05, 0.95]), dim=0)
                shares.append(((edges[0] <= truth) & (truth <= edges[1])).double())
    assert score.values["mae"] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)
    assert score.values["mse"] == pytest.approx(float(torch.stack(squares).mean()), rel=1e-5)
    assert score.values["coverage"] == pytest.approx(float(torch.stack(shares).mean()))
    assert (score.windows, score.series, score.rows, score.season_windows) == (49, 3, 147, 3)
    assert score.baselines == score_baselines(DATA, known, "validation", 12, 1)
    assert not score.values.keys() - {"mse", "mae", "mase", "crps", "coverage"}


HEADS_LEVELS = [float(level) for level in HEADS["quantile"]["quantiles"].split(",")]


def test_scores_do_not_depend_on_the_batch_and_of_points_there_is_no_distribution():
    model = make_forecaster("point", DATA)
    one, other = (task.score(model, DATA, "test", size, with_baselines=False) for size in (7, 500))
    assert one.values == pytest.approx(other.values, rel=1e-5) and one.loss == pytest.approx(other.loss, rel=1e-5)
    assert list(one.values) == ["mse", "mae", "mase"] and one.season_windows == 0
    assert one.loss == pytest.approx(one.values["mae"], rel=1e-5)


def test_an_autoregressive_model_is_scored_by_its_paths_of_a_window_a_season(autoregressive):
    score = task.score(autoregressive, DATA, "validation", with_baselines=False)
    assert score.windows == score.season_windows == 3 and score.to_dict()["rows"] == 9
    again = task.score(autoregressive, DATA, "validation", with_baselines=False)
    assert score == again and list(score.values) == ["mse", "mae", "mase", "crps", "coverage"]


def test_a_model_of_counts_draws_counts(tmp_path):
    counts = [replace(each, target=np.round(np.abs(each.target))) for each in some_series(200, ("a",))]
    data = split_for_tests(counts)
    known = task.KnownSeries.of(data, standardize=False)
    config = configuration_of(1, 2, 0.1, **SIZES, context_length=24, distribution_output="negative_binomial")
    config.series = known.to_dict()
    model = RNNForTimeSeriesPrediction(config).eval()
    (forecast,) = task.predict(model, counts)
    assert (forecast.quantiles[0.5] >= 0).all() and config.num_static_categorical_features == 0


@pytest.mark.parametrize("text", ["", "a", "1,,2", "3-x"])
def test_what_is_no_list_of_numbers_is_refused(text):
    with pytest.raises(ValueError, match="`lags_sequence` must be numbers with commas between"):
        numbers_of("lags_sequence", text)


def test_the_written_table_is_read_by_other_programs(tmp_path):
    from rnn_hf.tables import table_lines

    forecasts = task.predict(make_forecaster("quantile", DATA), SERIES)
    (tmp_path / "f.csv").write_text("\n".join(table_lines(forecast_rows(forecasts), "csv")))
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[7]["0.95"]) == pytest.approx(forecasts[0].quantiles[0.95][7], abs=1e-4)
