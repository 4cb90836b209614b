"""Time series from tables, from entries of GluonTS and the Monash archive, and of the Hub."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnn_hf.data.calendar import Frequency, infer_frequency
from rnn_hf.data.corpora import from_hub
from rnn_hf.data.named_corpora import SPLITS
from rnn_hf.errors import InputError
from rnn_hf.files import json_objects


TABLES, ENTRIES = (".csv", ".tsv", ".txt", ".parquet"), (".json", ".jsonl")
# Of entries, and the field of a series that has each.
FEATURES = {"feat_static_cat": "categories", "feat_static_real": "reals", "feat_dynamic_real": "features"}
MOST_MISSING = 100  # steps a row: a mistyped year would fill the memory


@dataclass(frozen=True)
class Series:
    """One number a step.

    Attributes:
        item_id: Its name: a column of a table, or what an entry says.
        start: Time of the first step.
        frequency: How far apart the steps are.
        target: `(T,)` float64; NaN where a value is missing.
        categories: Ids of what it is of each kind, from 0 on.
        reals: Numbers that it has.
        features: `(T', F)` float64, what is known of each step beforehand; T' is T or, with steps to come, more.
    """

    item_id: str
    start: np.datetime64
    frequency: Frequency
    target: np.ndarray
    categories: tuple[int, ...] = ()
    reals: tuple[float, ...] = ()
    features: np.ndarray | None = None

    def times(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """The times of steps, `(end - begin,)`; `end` may be behind the last value."""
        return self.frequency.times(self.start, begin, len(self.target) if end is None else end)


@dataclass(frozen=True)
class Columns:
    """What to read of a file: the arguments of `rnn_hf.data.series.load_series` of the same names.

    Attributes:
        fallback: The frequency of entries that do not name theirs, and of a single row.
    """

    time_column: str | None = None
    target_columns: str | None = None
    frequency: str | None = None
    fallback: str | None = None


def read_series(file: str, columns: Columns) -> list[Series]:
    """The series of a file, by its suffix.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not what it should be; the message names it.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return series_of_table(_read_table(path), columns, file)
    if suffix in ENTRIES:
        return series_of_entries(json_objects(path, '{"start": "2020-01-01", "target": [1.5]}'), columns, file)
    raise InputError(f"{file} must be one of {', '.join((*TABLES, *ENTRIES))}")


def _read_table(path: Path) -> Any:
    import pandas

    try:
        if path.suffix.lower() == ".parquet":
            return pandas.read_parquet(path)
        return pandas.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no table: {' '.join(str(error).split())}") from error


def series_of_table(table: Any, columns: Columns, place: str) -> list[Series]:
    """The columns of a table with a column of times, a series each.

    Rows may be in any order, and steps may be missing, whose values are then too.

    Args:
        table: A pandas.DataFrame.
        columns: What to read.
        place: Of the table, for messages.

    Raises:
        InputError: No such column, times that are none, there twice, or off the steps of the frequency.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    names = [str(name) for name in table.columns]
    table.columns = names
    numeric = [name for name in names if is_numeric_dtype(table[name]) and not is_bool_dtype(table[name])]
    time = columns.time_column or next((name for name in names if name not in numeric), None)
    if time not in names:
        what = f"no column {time!r}" if time else "no column of times"
        raise InputError(f"{place} has {what}: set `time_column` to one of {', '.join(names)}")
    wanted = [name.strip() for name in (columns.target_columns or "").split(",") if name.strip()]
    wanted = wanted or [name for name in numeric if name != time]
    if not wanted:
        raise InputError(f"{place} has no column of numbers besides {time}")
    for name in wanted:
        if name not in names or name not in numeric:
            what = f"holds no numbers ({table[name].iloc[0]!r})" if name in names and len(table) else "is not there"
            raise InputError(f"{place}: `target_columns` {name} {what}; columns of numbers are {', '.join(numeric)}")
    times = _times_of(table[time], time, place)
    order = np.argsort(times, kind="stable")
    times = times[order]
    twice = np.flatnonzero(times[1:] == times[:-1])
    if len(twice):
        raise InputError(f"{place} has the time {times[twice[0]]} twice")
    said = columns.frequency or (columns.fallback if len(times) == 1 else None)
    frequency = Frequency.of(said) if said else infer_frequency(times)
    steps = frequency.steps(times[0], times)
    off = np.flatnonzero(steps < 0)
    if len(off):
        raise InputError(
            f"{place}: {times[off[0]]} is no whole number of steps of {frequency} after {times[0]}: set `frequency`, "
            "or put the values on even steps"
        )
    if steps[-1] >= MOST_MISSING * len(steps):
        raise InputError(f"{place}: nearly all steps of {frequency} from {times[0]} to {times[-1]} are missing")
    rows = []
    for name in wanted:
        target = np.full(int(steps[-1]) + 1, np.nan)
        target[steps] = table[name].to_numpy(dtype="float64", na_value=np.nan)[order]
        rows.append(_checked(Series(name, times[0], frequency, target), place))
    return rows


def _times_of(column: Any, name: str, place: str) -> np.ndarray:
    import pandas
    from pandas.api.types import is_numeric_dtype

    if is_numeric_dtype(column):  # years, or days without marks between; pandas would take nanoseconds
        column = column.astype(str)
    try:
        try:
            with warnings.catch_warnings():  # of a format that is none of the common ones
                warnings.simplefilter("ignore")
                parsed = pandas.to_datetime(column)
        except ValueError:  # a date alone is midnight, with the hour next to it elsewhere
            parsed = pandas.to_datetime(column, format="ISO8601")
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{place}: `time_column` {name} holds no times: {str(error).splitlines()[0]}") from error
    if not len(parsed):
        raise InputError(f"{place} has no rows")
    if parsed.isna().any():
        raise InputError(f"{place}: `time_column` {name} has an empty field")
    if parsed.dt.tz is not None:
        parsed = parsed.dt.tz_localize(None)  # hours are those of the place
    return parsed.to_numpy().astype("datetime64[s]")


def series_of_entries(entries: Iterable[tuple[str, Mapping[str, Any]]], columns: Columns, place: str) -> list[Series]:
    """The series of entries with `start`, `target`, and if they are there `item_id` and `freq`.

    A target of several rows is a series a row, `NAME_0`, `NAME_1` and so on. Where they are there, `feat_static_cat`
    has ids of categories, `feat_static_real` numbers of the series, and `feat_dynamic_real` rows of what is known of
    each step, also of steps behind the last value. Other keys are not read.

    Args:
        entries: Each with its place, for messages.
        columns: `frequency` is that of entries that do not name theirs.
        place: Of them all, for messages.

    Raises:
        InputError: A key is missing, or holds something else.
    """
    rows: list[Series] = []
    for number, (where, entry) in enumerate(entries):
        for key in ("start", "target"):
            if entry.get(key) is None:
                raise InputError(f"{where} has no `{key}`")
        name = entry.get("freq") or columns.frequency or columns.fallback
        if not name:
            raise InputError(f"{where} does not say its `freq`: give `frequency`")
        frequency, item = Frequency.of(str(name)), str(entry.get("item_id") or f"T{number + 1}")
        try:
            start = np.datetime64(str(entry["start"]).replace(" ", "T").partition("+")[0], "s")
            target = np.array(
                [[np.nan if value in (None, "NaN") else value for value in row] for row in _rows_of(entry["target"])],
                dtype="float64",
            )
        except (ValueError, TypeError) as error:
            raise InputError(f"{where}: `start` is no time or `target` no list of numbers: {error}") from error
        about = _about(entry, target.shape[1], where)
        for index, row in enumerate(target):
            name = f"{item}_{index}" if len(target) > 1 else item
            rows.append(_checked(Series(name, start, frequency, row, **about), where))
    if not rows:
        raise InputError(f"{place} has no entries")
    if len({row.frequency for row in rows}) > 1:
        raise InputError(f"{place} has series of several frequencies: {', '.join({str(r.frequency) for r in rows})}")
    for key, name in FEATURES.items():
        counts = {_count(getattr(row, name)) for row in rows}
        if len(counts) > 1:
            raise InputError(f"{place}: `{key}` must be of one length in all entries, got {sorted(counts)}")
    twice = len(rows) - len({row.item_id for row in rows})
    if twice:
        raise InputError(f"{place}: an `item_id` must be that of one series, and {twice:,} are there again")
    return rows


def _about(entry: Mapping[str, Any], steps: int, where: str) -> dict[str, Any]:
    """What an entry says of its series besides the values: fields of `Series`."""
    given = {name: entry[key] for key, name in FEATURES.items() if entry.get(key) is not None}
    about: dict[str, Any] = {}
    try:
        if "categories" in given:
            about["categories"] = tuple(int(value) for value in given["categories"])
            if about["categories"] != tuple(given["categories"]) or min(about["categories"], default=0) < 0:
                raise ValueError(f"got {given['categories']}")
        if "reals" in given:
            about["reals"] = tuple(float(value) for value in given["reals"])
        if "features" in given and len(given["features"]):
            about["features"] = np.array([list(row) for row in given["features"]], dtype="float64").T
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}: `feat_static_cat` must be whole numbers from 0 on, `feat_static_real` numbers, and "
            f"`feat_dynamic_real` rows of numbers of one length: {error}"
        ) from error
    features = about.get("features")
    if features is not None and len(features) < steps:
        raise InputError(f"{where}: `feat_dynamic_real` has {len(features)} steps, and `target` has {steps}")
    return about


def _count(values: Any) -> int:
    """How many categories, numbers or features there are."""
    return values.shape[1] if isinstance(values, np.ndarray) else len(values or ())


def _rows_of(target: Any) -> Sequence[Any]:
    return target if len(target) and isinstance(target[0], list | tuple | np.ndarray) else [target]


def _checked(series: Series, place: str) -> Series:
    if np.isinf(series.target).any():
        raise InputError(f"{place}: {series.item_id} has an infinite value")
    if not np.isfinite(series.target).any():
        raise InputError(f"{place}: {series.item_id} has no values")
    return series


def series_of_hub(name: str, config: str | None, revision: str | None, columns: Columns) -> dict[str, list[Series]]:
    """The series of those splits of a data set of the Hub that there are: entries, or a table with a column of times.

    Raises:
        ConnectionError: The Hub cannot be reached.
        InputError: As `series_of_entries` and `series_of_table`.
    """
    from datasets import load_dataset

    what = f"the data set {name}"
    loaded = from_hub(what, lambda: load_dataset(name, name=config, revision=revision))
    splits = {}
    for split in (split for split in SPLITS if split in loaded):
        rows, place = loaded[split], f"{split} of {name}"
        if {"start", "target"} <= set(rows.column_names):
            entries = ((f"{place}, entry {number}", row) for number, row in enumerate(rows, 1))
            splits[split] = series_of_entries(entries, columns, place)
        else:
            splits[split] = series_of_table(rows.to_pandas(), columns, place)
    if not splits:
        raise InputError(f"{what} has none of the splits {', '.join(SPLITS)}")
    return splits
