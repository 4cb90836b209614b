"""Time series for the tests: sums of sines with noise, and what is written of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from rnn_hf.data.calendar import Frequency
from rnn_hf.data.series_rows import Series


HOURLY = Frequency.of("h")
START = np.datetime64("2020-03-02T00:00:00", "s")  # a Monday


def wave(steps: int, number: int = 0, noise: float = 0.1) -> np.ndarray:
    """A day and a week in each other, `(steps,)`; each number is a series of another size and phase."""
    time, generator = np.arange(steps), np.random.default_rng(number)
    day, week = np.sin(2 * np.pi * (time + 3 * number) / 24), np.sin(2 * np.pi * time / 168)
    return (number + 1) * (5 + 2 * day + week + noise * generator.standard_normal(steps))


def some_series(steps: int, names=("a", "b"), missing=()) -> list[Series]:
    """Hourly series by name; `missing` are steps whose values are."""
    rows = []
    for number, name in enumerate(names):
        target = wave(steps, number)
        target[list(missing)] = np.nan
        rows.append(Series(name, START, HOURLY, target))
    return rows


def with_features(steps: int, known: int, seed: int = 0) -> list[Series]:
    """Series with two kinds of categories, a number, and two features of each of `known` steps."""
    generator = np.random.default_rng(seed)
    return [
        replace(
            each, categories=(index, 2 - index), reals=(10.0 * index,), features=generator.normal(3, 2, (known, 2))
        )
        for index, each in enumerate(some_series(steps))
    ]


def write_table(path: Path, series, begin: int = 0, end: int | None = None, time: str = "date") -> str:
    """A CSV file of series of the same times."""
    times = series[0].times()[begin:end]
    columns = [each.target[begin:end] for each in series]
    lines = [",".join([time, *(each.item_id for each in series)])]
    for step, moment in enumerate(times):
        cells = ["" if np.isnan(column[step]) else repr(float(column[step])) for column in columns]
        lines.append(",".join([str(moment).replace("T", " "), *cells]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def about(series: Series) -> dict:
    """What an entry says of a series besides its values."""
    features = None if series.features is None else series.features.T.tolist()
    return {"feat_static_cat": series.categories, "feat_static_real": series.reals, "feat_dynamic_real": features}


def write_entries(path: Path, series, end: int | None = None, **more) -> str:
    """JSON lines of entries."""
    rows = [
        {"item_id": each.item_id, "start": str(each.start).replace("T", " "), "freq": str(each.frequency),
         "target": [None if np.isnan(value) else float(value) for value in each.target[:end]], **about(each), **more}
        for each in series
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)
