"""Windows of series: every one there is once, with the right steps before, behind and around it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from series_files import some_series, wave, with_features, write_entries

from rnn_hf.data.calendar import time_features
from rnn_hf.data.series import SeriesData, load_series, split_series
from rnn_hf.data.series_rows import Series
from rnn_hf.errors import InputError
from rnn_hf.tasks.forecast_runs import configuration_of, windows_for
from rnn_hf.tasks.forecast_windows import KnownSeries, Windows
from rnn_hf.tasks.time_series_forecasting import later_features


def windows_of(data, split="validation", past=24, horizon=6, known=None, **options):
    return Windows(data, known or KnownSeries.of(data, True), split, past, horizon, **options)


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("horizon, count", [(96, 2785), (720, 2161)])
def test_a_split_of_the_field_has_as_many_windows_as_the_field_says(split, horizon, count):
    data = split_series(some_series(14_400), "8640,2880,2880")
    windows = windows_of(data, split, 720, horizon)
    assert windows.counts() == {"windows": count, "series": 2, "rows": 2 * count}
    assert len(set(zip(windows.places.tolist(), windows.origins.tolist(), strict=True))) == 2 * count
    begin, end = data.bounds[0][split]
    assert windows.origins.min() == begin and windows.origins.max() == end - horizon
    train = windows_of(data, "train", 720, horizon)
    assert train.counts()["windows"] == 8640 - 720 - horizon + 1 and train.origins.min() == 720


def test_a_day_apart_there_are_as_many_windows_as_days_begin_one():
    data = split_series(some_series(14_400), "8640,2880,2880")
    windows = windows_of(data, "test", 720, 96, stride=24)
    assert windows.counts()["windows"] == 117 and set(np.diff(windows.origins[windows.places == 0])) == {24}


def test_a_batch_is_the_steps_around_its_origins_standardised_by_the_training_steps():
    series = some_series(200, missing=(5, 130, 131, 150))
    data = split_series(series, "120,40,40")
    about = {"static_categorical_features": np.array([[1], [0]])}
    windows = windows_of(data, with_features=True, about=about)
    batch = windows.batch(range(len(windows)))
    for row in range(0, len(windows), 7):
        place, origin = windows.places[row], windows.origins[row]
        target, train = series[place].target, series[place].target[:120]
        expected = (target[origin - 24 : origin + 6] - np.nanmean(train)) / np.nanstd(train)
        values = torch.cat([batch["past_values"][row], batch["future_values"][row]]).numpy()
        observed = torch.cat([batch["past_observed_mask"][row], batch["future_observed_mask"][row]]).numpy()
        np.testing.assert_array_equal(observed, np.isfinite(expected))
        np.testing.assert_allclose(values, np.nan_to_num(expected), rtol=1e-6, atol=1e-6)
        assert batch["static_categorical_features"][row].tolist() == [1 - place]
        features = torch.cat([batch["past_time_features"][row], batch["future_time_features"][row]]).numpy()
        times = series[place].times(origin - 24, origin + 6)
        np.testing.assert_array_equal(features, time_features(times, ("hour", "weekday")))


def test_any_order_and_any_batch_give_the_same_rows():
    windows = windows_of(split_series(some_series(200), "120,40,40"), with_features=True)
    whole, chosen = windows.batch(range(len(windows))), [5, 0, 33, 5]
    for name, part in windows.batch(chosen).items():
        assert torch.equal(part, whole[name][chosen])
    assert [windows[index] for index in chosen] == chosen and len(windows.begin_epoch(3)) == len(windows)


def test_what_is_before_a_series_is_missing_and_one_that_is_too_short_has_one_window():
    short = Series("a", *(getattr(some_series(30)[0], name) for name in ("start", "frequency", "target")))
    data = SeriesData([short], [{"train": (0, 20), "validation": (20, 30)}])
    train, validation = windows_of(data, "train"), windows_of(data)
    assert train.origins.tolist() == [14] and validation.origins.tolist() == [20, 21, 22, 23, 24]
    batch = train.batch([0])
    assert batch["past_observed_mask"][0].tolist() == [False] * 10 + [True] * 14
    assert batch["future_observed_mask"].all() and not batch["past_values"][0, :10].any()


def test_a_window_of_which_nothing_follows_is_left_out_unless_it_is_to_be_forecast():
    series = some_series(60, missing=range(46, 54))
    data = split_series(series, "30,30,0")
    gone = set(range(30, 55)) - set(windows_of(data, horizon=6).origins.tolist())
    assert gone == {46, 47, 48}
    ahead = SeriesData(series, [{"forecast": (60, 66)}] * 2)
    known = KnownSeries.of(data, True)
    assert windows_of(ahead, "forecast", known=known, with_truth=False).origins.tolist() == [60, 60]
    with pytest.raises(ValueError, match="no series has the 6 steps for forecast"):
        windows_of(ahead, "forecast", known=known)


def test_series_of_several_lengths_have_their_own_windows(tmp_path):
    long, short = some_series(100)[0], some_series(80)[1]
    data = load_series(train_file=write_entries(tmp_path / "a.jsonl", [long, short]), splits="0.5,0.2,0.3")
    windows = windows_of(data, "test")
    assert windows.counts() == {"windows": 25, "series": 2, "rows": 25 + 19}


def test_standardising_is_undone_and_training_steps_have_mean_0_and_deviation_1():
    series = some_series(200, missing=(3,))
    data = split_series(series, "120,40,40")
    known = KnownSeries.of(data, True)
    for each in series:
        values = known.standardized(each)
        assert np.nanmean(values[:120]) == pytest.approx(0, abs=1e-12) and np.nanstd(values[:120]) == pytest.approx(1)
        np.testing.assert_allclose(known.restored(each.item_id, values), each.target, rtol=1e-12)
    assert KnownSeries(**known.to_dict()) == known
    as_is = KnownSeries.of(data, False)
    np.testing.assert_array_equal(as_is.standardized(series[0]), series[0].target)


def test_the_seasonal_error_is_the_mean_change_over_a_season_of_the_training_steps():
    data = split_series(some_series(200), "120,40,40")
    known = KnownSeries.of(data, True)
    train = known.standardized(data.series[1])[:120]
    assert known.seasonal_error[1] == pytest.approx(np.abs(train[24:] - train[:-24]).mean())


def test_a_constant_series_stays_finite():
    series = some_series(100)
    series[0].target[:] = 7.0
    known = KnownSeries.of(split_series(series, "60,20,20"), True)
    assert known.std[0] == 1 and not known.standardized(series[0]).any() and known.seasonal_error[0] == 0


def test_other_series_and_other_steps_are_refused(tmp_path):
    data = split_series(some_series(100), "60,20,20")
    known = KnownSeries.of(data, True)
    with pytest.raises(ValueError, match="the model knows no series 'c', only a, b"):
        windows_of(split_series(some_series(100, ("a", "c")), "60,20,20"), known=known)
    file = write_entries(tmp_path / "a.jsonl", some_series(100), freq="D")
    with pytest.raises(ValueError, match="the series have steps of D, and the model was trained on h"):
        windows_of(load_series(train_file=file), known=known)
    with pytest.raises(ValueError, match="no series has the 30 steps for validation that `prediction_length` wants"):
        windows_of(data, horizon=30)
    assert wave(3).shape == (3,)


def test_features_of_entries_reach_the_model_standardised_and_at_their_steps():
    series = with_features(200, 230)
    series[0].features[7, 1] = np.nan
    data = split_series(series, "120,40,40")
    known = KnownSeries.of(data, True)
    config = configuration_of(2, 4, 0.1, known.cardinality, 1, context_length=24)
    assert config.cardinality == [2, 2, 3] and config.num_time_features == 4 and config.num_static_real_features == 1
    train = windows_for(data, known, "train", config, prediction_length=6)
    batch, before = train.batch(range(len(train))), train.past_length
    steps = np.concatenate([each.features[:120] for each in series])
    expected = [(each.features - np.nanmean(steps, axis=0)) / np.nanstd(steps, axis=0) for each in series]
    for row, (place, origin) in enumerate(zip(train.places, train.origins, strict=True)):
        told = torch.cat([batch["past_time_features"][row], batch["future_time_features"][row]])[:, 2:].numpy()
        own = np.nan_to_num(expected[place][origin - before : origin + 6])
        np.testing.assert_allclose(told, own, rtol=1e-5, atol=1e-6)
        assert batch["static_categorical_features"][row].tolist() == [place, *series[place].categories]
        assert batch["static_real_features"][row].tolist() == [2 * place - 1]
    later = later_features(known, series, [200, 200], 30)
    np.testing.assert_allclose(later[1, :, 2:], expected[1][200:], rtol=1e-5, atol=1e-6)
    assert not known.step_features(series[0], -5, 0)[:, 2:].any()  # before the first step: as in the mean
    # Without the series itself, and for a direct head, which reads neither numbers nor steps.
    plain = configuration_of(2, 4, 0.1, known.cardinality, 1, embedding_dimension=0)
    assert known.about(series, plain)["static_categorical_features"].tolist() == [[0, 2], [1, 1]]
    direct = configuration_of(2, 4, 0.1, known.cardinality, 1, prediction_head="direct", embedding_size=8)
    assert list(known.about(series, direct)) == ["static_categorical_features"] and not direct.num_time_features
    assert KnownSeries(**json.loads(json.dumps(known.to_dict()))) == known


@pytest.mark.parametrize(
    "change, message",
    [
        ({"categories": (1,)}, "a must have 2 of `feat_static_cat` as in training, got 1"),
        ({"categories": (2, 0)}, r"`feat_static_cat` of a must be below \[2, 3\], got \(2, 0\)"),
        ({"reals": ()}, "a must have 1 of `feat_static_real` as in training, got 0"),
        ({"features": None}, "a must have 2 of `feat_dynamic_real` as in training, got 0"),
        (
            {"features": np.ones((205, 2))},
            "`feat_dynamic_real` of a must be known of all steps to predict, 206 in all",
        ),
    ],
)
def test_features_that_the_model_does_not_know_are_refused(change, message):
    known = KnownSeries.of(split_series(with_features(200, 230), "120,40,40"), True)
    config = configuration_of(2, 4, 0.1, known.cardinality, 1, prediction_length=6)
    series = [replace(with_features(200, 230)[0], **change)]
    data = SeriesData(series, [{"forecast": (200, 206)}])
    with pytest.raises(InputError, match=message):
        windows_for(data, known, "forecast", config, with_truth=False)
