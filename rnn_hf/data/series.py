"""Time series and how they are split: by dates, by shares, by rows, or by several files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rnn_hf.data.calendar import Frequency
from rnn_hf.data.corpora import check_sources
from rnn_hf.data.named_corpora import SPLITS, NamedCorpus
from rnn_hf.data.series_rows import Columns, Series, read_series, series_of_hub
from rnn_hf.errors import InputError


TASK = "time-series-forecasting"
DEFAULT_SPLITS = "0.7,0.1,0.2"
Bounds = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class SeriesData:
    """Series and their splits.

    Attributes:
        series: Of one frequency.
        bounds: Of each series, by split: its first step, and the first one behind it.
    """

    series: list[Series]
    bounds: list[Bounds]

    @property
    def frequency(self) -> Frequency:
        """How far apart the steps are."""
        return self.series[0].frequency

    @property
    def splits(self) -> list[str]:
        """Those that there are."""
        return [split for split in SPLITS if any(split in bounds for bounds in self.bounds)]

    def values(self, index: int, split: str) -> np.ndarray:
        """The values of a series in a split, `(n,)`; none where it has no such split."""
        begin, end = self.bounds[index].get(split, (0, 0))
        return self.series[index].target[begin:end]


def load_series(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    dataset_dir: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    time_column: str | None = None,
    target_columns: str | None = None,
    frequency: str | None = None,
    splits: str | None = None,
    validation_split_percentage: int = 10,
) -> SeriesData:
    """Load time series and split them.

    Of several files, or splits of a data set, each goes on where the one before ended, or has its steps as well: what
    is behind them is the next split, as in the Monash archive.

    Args:
        dataset_name: `"etth1"`, or a data set of the Hub; `None` for files.
        dataset_config_name: Configuration of a data set of the Hub; `dataset_revision` is its branch, tag or commit.
        dataset_revision: See `dataset_config_name`.
        dataset_dir: Of a corpus with a name: the folder of its file.
        train_file: A table (`.csv`, `.tsv`, `.parquet`) with a column of times, or entries (`.jsonl`) with `start`,
            `target` and `item_id`; also `validation_file` and `test_file`.
        validation_file: See `train_file`.
        test_file: See `train_file`.
        time_column: Of a table; by default the first column that holds no numbers.
        target_columns: Of a table, comma-separated; by default all columns of numbers.
        frequency: As pandas names it, of what does not say it or has steps missing; a table's is by default its
            smallest step.
        splits: Of a single file: shares of the steps for train, validation and test (`0.7,0.1,0.2`), their numbers of
            steps (`8640,2880,2880`), or the times at which validation and test begin (`2017-07-01,2017-11-01`) and, if
            there is a third, test ends.
        validation_split_percentage: Share of a hundred of `train`, its end, that is for validation where there is a
            split for test and none for validation.

    Raises:
        InputError: The arguments do not name data, or the data is not what it should be; the message names the file.
        FileNotFoundError: A file is missing.
        ConnectionError: The Hub cannot be reached.
    """
    files = {split: file for split, file in zip(SPLITS, (train_file, validation_file, test_file), strict=True) if file}
    columns = Columns(time_column, target_columns, frequency)
    corpus = check_sources(TASK, dataset_name, dataset_dir, files)
    if corpus is not None:
        parts = {"train": read_series(_file_of(corpus, dataset_name, dataset_dir), columns)}
        splits = splits or corpus.series_splits
    elif dataset_name is not None:
        parts = series_of_hub(dataset_name, dataset_config_name, dataset_revision, columns)
    else:
        parts = {split: read_series(file, columns) for split, file in files.items()}
    if splits is not None and len(parts) > 1:
        raise InputError("`splits` is for a single file, and there are several splits")
    if list(parts) == ["train"]:
        return split_series(parts["train"], splits or DEFAULT_SPLITS)
    return _with_validation(joined_series(parts), validation_split_percentage)


def _file_of(corpus: NamedCorpus, name: str | None, directory: str | None) -> str:
    """The file of a corpus with a name."""
    if directory is None:
        raise InputError(f"`dataset_name` {name} needs `dataset_dir`, the folder of {corpus.files['train']}")
    return str(Path(directory) / corpus.files["train"])


def split_series(series: Sequence[Series], splits: str) -> SeriesData:
    """Series and their splits, as `load_series` takes them.

    Raises:
        InputError: `splits` is none of its forms, or leaves a series without steps to train on.
    """
    words = [word.strip() for word in splits.split(",") if word.strip()]
    numbers = [_number(word) for word in words]
    message = (
        "`splits` must be three shares (0.7,0.1,0.2), three numbers of steps (8640,2880,2880), or the times at which "
        f"validation and test begin (2017-07-01,2017-11-01), got {splits!r}"
    )
    if len(words) == 3 and all(number is not None for number in numbers):
        first, second, third = (float(number or 0) for number in numbers)
        is_share = max(first, second, third) <= 1
        if min(first, second, third) < 0 or (is_share and first + second + third > 1 + 1e-9) or first == 0:
            raise InputError(message)
        edges = [_edges(len(each.target), (first, second, third), is_share) for each in series]
    elif len(words) in (2, 3) and all(number is None for number in numbers):
        try:
            times = [np.datetime64(word.replace(" ", "T"), "s") for word in words]
        except ValueError as error:
            raise InputError(message) from error
        if sorted(times) != times:
            raise InputError(message)
        edges = []
        for each in series:
            behind = len(each.target) if len(times) == 2 else int(np.searchsorted(each.times(), times[2]))
            validation, test = (int(np.searchsorted(each.times(), time)) for time in times[:2])
            edges.append((validation, test, behind))
    else:
        raise InputError(message)
    bounds = []
    for each, (validation, test, end) in zip(series, edges, strict=True):
        if validation <= 0 or not np.isfinite(each.target[:validation]).any():
            raise InputError(f"`splits` {splits} leaves no values of {each.item_id} to train on")
        parts = {"train": (0, validation), "validation": (validation, test), "test": (test, end)}
        bounds.append({split: (begin, stop) for split, (begin, stop) in parts.items() if begin < stop})
    return SeriesData(list(series), bounds)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _edges(length: int, parts: tuple[float, float, float], is_share: bool) -> tuple[int, int, int]:
    """Where validation and test begin and test ends, in a series of so many steps."""
    if is_share:
        train, test = int(length * parts[0] + 1e-9), int(length * parts[2] + 1e-9)
        # Of shares that are all of a series, validation has what rounding leaves, as in the field.
        end = length if sum(parts) > 1 - 1e-9 else train + int(length * parts[1] + 1e-9) + test
        return train, end - test, end
    train, validation, test = (int(part) for part in parts)
    return min(train, length), min(train + validation, length), min(train + validation + test, length)


def joined_series(parts: Mapping[str, Sequence[Series]]) -> SeriesData:
    """The series of several splits as one each: what is behind the end of the split before is the next one.

    Raises:
        InputError: A series begins before it did in the split before, or has other steps.
    """
    joined: dict[str, Series] = {}
    bounds: dict[str, Bounds] = {}
    for split in (split for split in SPLITS if split in parts):
        for each in parts[split]:
            known = joined.get(each.item_id)
            if known is None:
                joined[each.item_id], bounds[each.item_id] = each, {split: (0, len(each.target))}
                continue
            first = int(known.frequency.steps(known.start, each.start.reshape(1))[0])
            if first < 0 or each.frequency != known.frequency:
                raise InputError(
                    f"{each.item_id} of {split} must have the steps of the splits before, {known.frequency} after "
                    f"{known.start}, and begins at {each.start} in steps of {each.frequency}"
                )
            length, end = len(known.target), first + len(each.target)
            if end > length:
                target, features = _behind(known.target, each.target, first), known.features
                if features is not None and each.features is not None:
                    features = _behind(features, each.features, first)
                joined[each.item_id] = replace(known, target=target, features=features)
                bounds[each.item_id][split] = (length, end)
    return SeriesData(list(joined.values()), list(bounds.values()))


def _behind(known: np.ndarray, later: np.ndarray, first: int) -> np.ndarray:
    """What is known of steps, and behind it what is of those from `first` on; NaN between."""
    length, end = len(known), max(len(known), first + len(later))
    joined = np.full((end, *known.shape[1:]), np.nan)
    joined[:length] = known
    joined[max(first, length) :] = later[max(0, length - first) :]
    return joined


def _with_validation(data: SeriesData, percentage: int) -> SeriesData:
    """The end of each series to train on for validation, where there is no such split."""
    if "train" not in data.splits or "validation" in data.splits:
        return data
    bounds = []
    for own in data.bounds:
        if "train" in own:
            begin, end = own["train"]
            cut = end - max(1, (end - begin) * percentage // 100)
            own = own | {"train": (begin, cut), "validation": (cut, end)}
        bounds.append(own)
    return SeriesData(data.series, bounds)
