"""Windows of time series as batches of a model, standardised, and what undoes that."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.utils.data import Dataset

from rnn_hf.data.calendar import Frequency, time_features
from rnn_hf.data.series import SeriesData
from rnn_hf.data.series_rows import Series
from rnn_hf.errors import InputError


@dataclass(frozen=True)
class KnownSeries:
    """What a model keeps of the series that it was trained on, in `series` of its config.json.

    Attributes:
        frequency: How far apart their steps are, as pandas names it.
        item_ids: Their names; where the model has categories, the index of a series is its category.
        mean: Of each, over the training steps.
        std: Its standard deviation.
        seasonal_error: Of each, the mean absolute difference of training values a season apart, after
            standardisation: what MASE divides by.
        cardinality: Number of categories of each kind of `Series.categories`.
        reals: Of each of `Series.reals` the mean and deviation over the series.
        features: Of each of `Series.features` the mean and deviation over the training steps of all series.
    """

    frequency: str
    item_ids: list[str]
    mean: list[float]
    std: list[float]
    seasonal_error: list[float] = field(default_factory=list)
    cardinality: list[int] = field(default_factory=list)
    reals: list[list[float]] = field(default_factory=list)
    features: list[list[float]] = field(default_factory=list)

    @staticmethod
    def of(data: SeriesData, standardize: bool) -> "KnownSeries":
        """Of data with a split to train on.

        Args:
            data: Series and their splits.
            standardize: Else means are 0 and deviations 1: the values stay as they are.

        Raises:
            InputError: A series without values to train on.
        """
        means, deviations, errors = [], [], []
        season = data.frequency.season_length
        for index, series in enumerate(data.series):
            values = data.values(index, "train")
            if not np.isfinite(values).any():
                raise InputError(f"{series.item_id} has no values to train on")
            mean, deviation = float(np.nanmean(values)), float(np.nanstd(values))
            # Of a constant series there is no scale: its differences stay as they are.
            mean, deviation = (
                (mean, deviation if deviation > 1e-12 * abs(mean) else 1.0) if standardize else (0.0, 1.0)
            )
            changes = np.abs(values[season:] - values[:-season]) / deviation
            means.append(mean)
            deviations.append(deviation)
            errors.append(float(np.nanmean(changes)) if np.isfinite(changes).any() else 0.0)
        categories = np.array([each.categories for each in data.series], dtype=int)
        steps = [
            each.features[slice(*own.get("train", (0, 0)))]
            for each, own in zip(data.series, data.bounds, strict=True)
            if each.features is not None
        ]
        return KnownSeries(
            str(data.frequency), [each.item_id for each in data.series], means, deviations, errors,
            (categories.max(axis=0) + 1).tolist(), _moments(np.array([each.reals for each in data.series])),
            _moments(np.concatenate(steps)) if steps else [],
        )  # fmt: skip

    @staticmethod
    def of_config(config: Any) -> "KnownSeries":
        """As a model's configuration has it.

        Raises:
            InputError: It has none.
        """
        content = getattr(config, "series", None)
        if not isinstance(content, dict):
            raise InputError("the configuration of the model has no `series`: it was not trained by this package")
        return KnownSeries(**content)

    def to_dict(self) -> dict[str, Any]:
        """For a configuration."""
        return asdict(self)

    def place(self, item_id: str) -> int:
        """The index of a series.

        Raises:
            InputError: The model does not know it.
        """
        if item_id not in self.item_ids:
            few = ", ".join(self.item_ids[:9]) + (", ..." if len(self.item_ids) > 9 else "")
            raise InputError(f"the model knows no series {item_id!r}, only {few}: name those by `target_columns`")
        return self.item_ids.index(item_id)

    def about(self, series: Sequence[Series], config: Any) -> dict[str, np.ndarray]:
        """What a model is told of series as a whole: its static features, `(series, number)` each, where it has some.

        The first category is which series it is, if the model asks for one more kind than the series have.

        Raises:
            InputError: Other kinds of categories or numbers than in training, or a category that was not there.
        """
        about, kinds = {}, len(self.cardinality)
        for each in series:
            for key, given, count in (
                ("feat_static_cat", each.categories, kinds), ("feat_static_real", each.reals, len(self.reals)),
            ):  # fmt: skip
                if len(given) != count:
                    raise InputError(f"{each.item_id} must have {count} of `{key}` as in training, got {len(given)}")
            if any(value >= most for value, most in zip(each.categories, self.cardinality, strict=True)):
                raise InputError(
                    f"`feat_static_cat` of {each.item_id} must be below {self.cardinality}, got {each.categories}"
                )
        if config.num_static_categorical_features:
            which = config.num_static_categorical_features > kinds
            rows = [[*([self.place(each.item_id)] if which else []), *each.categories] for each in series]
            about["static_categorical_features"] = np.array(rows)
        if config.num_static_real_features:
            reals = [_standardized(np.array(each.reals), self.reals) for each in series]
            about["static_real_features"] = np.stack(reals).astype("float32")
        return about

    def step_features(self, series: Series, begin: int, end: int, needed: int | None = None) -> np.ndarray:
        """What is known of steps beforehand: their times, and features of the series.

        Args:
            series: That has them.
            begin: First step; those before 0, and features that are missing, are as in the mean.
            end: The one behind the last.
            needed: The one behind the last of which features must be known; `end` if it is not given.

        Returns:
            `(end - begin, time features + F)` float32.

        Raises:
            InputError: Other features than in training, or they end before `needed`.
        """
        times = time_features(series.times(begin, end), series.frequency.features)
        given = np.zeros((0, 0)) if series.features is None else series.features
        if given.shape[1] != len(self.features):
            raise InputError(
                f"{series.item_id} must have {len(self.features)} of `feat_dynamic_real` as in training, got "
                f"{given.shape[1]}"
            )
        if not self.features:
            return times
        needed = end if needed is None else needed
        if len(given) < needed:
            raise InputError(
                f"`feat_dynamic_real` of {series.item_id} must be known of all steps to predict, {needed} in all, got "
                f"{len(given)}"
            )
        values = np.zeros((end - begin, len(self.features)))
        first, last = max(begin, 0), min(end, len(given))
        values[first - begin : last - begin] = np.nan_to_num(_standardized(given[first:last], self.features))
        return np.concatenate([times, values.astype("float32")], axis=1)

    def check_frequency(self, frequency: Frequency) -> None:
        """Refuse series with other steps.

        Raises:
            InputError: Naming both.
        """
        if str(frequency) != self.frequency:
            raise InputError(f"the series have steps of {frequency}, and the model was trained on {self.frequency}")

    def standardized(self, series: Series) -> np.ndarray:
        """The values of a series as the model reads them, `(T,)`."""
        index = self.place(series.item_id)
        return (series.target - self.mean[index]) / self.std[index]

    def restored(self, item_id: str, values: np.ndarray) -> np.ndarray:
        """Values of any shape in the units of a series."""
        index = self.place(item_id)
        return values * self.std[index] + self.mean[index]


def _moments(values: np.ndarray) -> list[list[float]]:
    """Mean and deviation of each column, `(n, columns)`; of a constant one the deviation is 1."""
    return [
        [float(np.nanmean(column)), float(np.nanstd(column)) or 1.0] if np.isfinite(column).any() else [0.0, 1.0]
        for column in values.T
    ]


def _standardized(values: np.ndarray, moments: Sequence[Sequence[float]]) -> np.ndarray:
    return (values - [mean for mean, _ in moments]) / [deviation for _, deviation in moments]


class Windows(Dataset):
    """All windows of a split: so many steps, and those that followed.

    What followed is in the split. The steps before may be in the split before, as in the field; where a series is too
    short for them they are missing. An example is the number of a window, of which `batch` makes a batch.

    Args:
        data: Series and their splits.
        known: Of the model.
        split: Among `train`, `validation`, `test`.
        past_length: Steps before.
        prediction_length: Steps that followed.
        with_features: Whether a batch has time features.
        about: Static features of each series in `data`, as of `KnownSeries.about`.
        stride: Steps from window to window.
        with_truth: Whether windows of which nothing that followed is known are left out.

    Attributes:
        in_known: `(series,)`, the index of each series of `data` in `known`.
        places: `(N,)`, of each window the index of its series in `data`.
        origins: `(N,)`, the first step that followed.

    Raises:
        InputError: There is no window.
    """

    def __init__(
        self, data: SeriesData, known: KnownSeries, split: str, past_length: int, prediction_length: int,
        with_features: bool = False, about: Mapping[str, np.ndarray] | None = None, stride: int = 1,
        with_truth: bool = True,
    ):  # fmt: skip
        known.check_frequency(data.frequency)
        self.data, self.known, self.past_length, self.prediction_length = data, known, past_length, prediction_length
        self.in_known = np.array([known.place(each.item_id) for each in data.series])
        self.about, self.with_truth = dict(about or {}), with_truth
        parts, features, places, origins, starts, offset = [], [], [], [], [], 0
        for index, series in enumerate(data.series):
            values = known.standardized(series)
            own = self._origins(values, data.bounds[index].get(split), stride)
            places.append(np.full(len(own), index))
            origins.append(own)
            starts.append(offset + own)
            parts += [np.full(past_length, np.nan), values, np.full(prediction_length, np.nan)]
            if with_features:
                needed = int(own.max()) + prediction_length if len(own) else 0
                ends = (-past_length, len(values) + prediction_length)
                features.append(known.step_features(series, *ends, needed))
            offset += past_length + len(values) + prediction_length
        self.places, self.origins, self._starts = (np.concatenate(each) for each in (places, origins, starts))
        if not len(self.places):
            raise InputError(
                f"no series has the {prediction_length} steps for {split} that `prediction_length` wants: give longer "
                "series, other `splits`, or a smaller `prediction_length`"
            )
        length = past_length + prediction_length
        self._values = sliding_window_view(np.concatenate(parts).astype("float32"), length)
        self._features = sliding_window_view(np.concatenate(features), length, axis=0) if with_features else None

    def _origins(self, values: np.ndarray, bounds: tuple[int, int] | None, stride: int) -> np.ndarray:
        """The first steps of what followed, in a series."""
        if bounds is None:
            return np.arange(0)
        begin, last = bounds[0], bounds[1] - self.prediction_length
        if begin == 0:  # nothing is before: whole windows, or one of a series that is too short
            begin = max(1, min(self.past_length, last))
        origins = np.arange(begin, last + 1, stride)
        if not self.with_truth:
            return origins
        observed = np.concatenate([[0], np.cumsum(np.isfinite(values))])
        ends = np.minimum(origins + self.prediction_length, len(values))
        return origins[observed[ends] > observed[origins]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> int:
        return int(index)

    def begin_epoch(self, epoch: int) -> list[int]:
        """What the sampler of training asks for: how long each example is."""
        return [1] * len(self)

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """Windows as the arguments of a model's forward pass.

        Args:
            indices: B of them.

        Returns:
            `past_values` `(B, past_length)` and `future_values` `(B, prediction_length)`, 0 where
            `past_observed_mask` and `future_observed_mask` are false; time features `(B, length, features)` and static
            features `(B, number)` where there are some.
        """
        chosen = np.asarray(indices)
        values = torch.from_numpy(self._values[self._starts[chosen]])
        observed, past = values.isfinite(), self.past_length
        values = values.nan_to_num(0.0)
        batch = {
            "past_values": values[:, :past], "past_observed_mask": observed[:, :past],
            "future_values": values[:, past:], "future_observed_mask": observed[:, past:],
        }  # fmt: skip
        if self._features is not None:
            features = torch.from_numpy(self._features[self._starts[chosen]]).transpose(1, 2)
            batch |= {"past_time_features": features[:, :past], "future_time_features": features[:, past:]}
        places = self.places[chosen]
        return batch | {name: torch.from_numpy(rows[places]) for name, rows in self.about.items()}

    def counts(self) -> dict[str, int]:
        """How many windows there are, of how many series, and how many rows are that in all.

        Of series of different lengths there are as many windows as the one with the most has.
        """
        of_each = np.bincount(self.places, minlength=len(self.data.series))
        return {"windows": int(of_each.max()), "series": int((of_each > 0).sum()), "rows": len(self)}
