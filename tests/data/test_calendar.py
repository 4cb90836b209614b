"""Steps of time series: times and steps undo each other, frequencies are found, features are what pandas says."""

import numpy as np
import pandas
import pytest

from rnn_hf.data.calendar import FEATURES, Frequency, infer_frequency, time_features


ALIASES = {"s": "s", "15min": "15min", "h": "h", "3h": "3h", "D": "D", "W": "7D", "M": "MS", "3M": "QS", "12M": "YS"}


@pytest.mark.parametrize("name", ALIASES)
def test_times_are_those_of_pandas_and_steps_undo_them(name):
    start = np.datetime64("2019-01-01T00:00:00", "s")
    frequency = Frequency.of(name)
    times = frequency.times(start, 0, 40)
    assert (times == pandas.date_range("2019-01-01", periods=40, freq=ALIASES[name]).to_numpy()).all()
    assert (frequency.steps(start, times) == np.arange(40)).all()
    assert (frequency.times(start, 7, 20) == times[7:20]).all()
    assert (frequency.times(start, -3, 1)[3] == times[0]) and str(frequency) == name


@pytest.mark.parametrize("name", ALIASES)
def test_the_frequency_is_found_where_steps_are_missing(name):
    frequency = Frequency.of(name)
    times = frequency.times(np.datetime64("2019-01-01T00:00:00"), 0, 40)
    assert infer_frequency(times) == frequency
    assert infer_frequency(times[[0, 1, 5, 6, 30]]) == frequency


@pytest.mark.parametrize("day", [28, 30, 31])
def test_months_end_where_they_end(day):
    months = [f"2020-{month:02}-01" for month in range(1, 13)]
    ends = pandas.to_datetime(months) + pandas.offsets.MonthEnd(0)
    days = [min(day, end.day) for end in ends]
    times = np.array([f"2020-{end.month:02}-{of:02}" for end, of in zip(ends, days, strict=True)], "datetime64[s]")
    assert infer_frequency(times) == Frequency.of("M")
    assert (Frequency.of("M").times(times[0], 0, 12) == times).all()


@pytest.mark.parametrize(
    "name, same", [("1H", "h"), ("15T", "15min"), ("MS", "M"), ("W-SUN", "W"), ("QE-DEC", "3M"), ("A-DEC", "12M"),
                   ("D", "D"), ("S", "s"), ("B", "D")],
)  # fmt: skip
def test_old_and_new_names_are_known(name, same):
    assert str(Frequency.of(name)) == same


@pytest.mark.parametrize("name", ["", "x", "0h", "-1h", "1.5h"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="`frequency` must be a name like h"):
        Frequency.of(name)


def test_what_is_off_the_steps_has_none():
    start = np.datetime64("2020-01-31T00:00:00")
    times = np.array(["2020-02-28", "2020-02-29", "2020-03-30", "2019-12-31"], "datetime64[s]")
    assert Frequency.of("M").steps(start, times).tolist() == [-1, 1, -1, -1]
    assert Frequency.of("2h").steps(start, start + np.array([0, 3600, 7200, -7200])).tolist() == [0, -1, 1, -1]


def test_features_are_what_pandas_says_scaled_to_half():
    times = pandas.date_range("2019-12-28 22:17:05", periods=500, freq="37h13min1s")
    parts = {
        "second": times.second / 59, "minute": times.minute / 59, "hour": times.hour / 23,
        "weekday": times.day_of_week / 6, "day": (times.day - 1) / 30, "week": (times.day_of_year - 1) // 7 / 52,
        "month": (times.month - 1) / 11,
    }  # fmt: skip
    values = time_features(times.to_numpy(), tuple(parts))
    assert values.dtype == np.float32 and set(parts) == {name for names in FEATURES.values() for name in names}
    for column, (name, expected) in enumerate(parts.items()):
        np.testing.assert_allclose(values[:, column], expected - 0.5, atol=1e-6, err_msg=name)
    assert values.min() >= -0.5 and values.max() <= 0.5
