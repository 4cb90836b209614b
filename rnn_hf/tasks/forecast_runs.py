"""What a training run of forecasting works on: windows of series, drawn in an order of their own each epoch."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from rnn_hf.data.series import SeriesData
from rnn_hf.errors import InputError
from rnn_hf.loading import config_of
from rnn_hf.models import RNNForTimeSeriesPrediction, RNNTimeSeriesConfig
from rnn_hf.tasks import CRPS, MSE, TASKS
from rnn_hf.tasks.forecast_baselines import SEASONS, last_season
from rnn_hf.tasks.forecast_scores import ForecastScores, score_windows
from rnn_hf.tasks.forecast_windows import KnownSeries, Windows


FLOOR_SHARE = 0.1  # of a middle training deviation: no window is scaled up by more than ten
POINTS = ("mae", "mse")  # losses of points


def numbers_of(name: str, text: str, kind: type = int) -> list[Any]:
    """The numbers in the text of an argument.

    Args:
        name: Of the argument.
        text: Separated by commas; whole numbers also as `1-7`.
        kind: int or float.

    Raises:
        InputError: Something else is there.

    Example:

    >>> numbers_of("lags_sequence", "1-3, 24")
    [1, 2, 3, 24]
    """
    numbers: list[Any] = []
    for word in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", word) if kind is int else None
        try:
            numbers += range(int(ends[1]), int(ends[2]) + 1) if ends else [kind(word)]
        except ValueError as error:
            raise InputError(f"`{name}` must be numbers with commas between, got {text!r}") from error
    return numbers


def configuration_of(
    series: int = 2, features: int = 0, scale_floor: float = 1e-3, cardinality: Sequence[int] = (), reals: int = 0,
    **fields: Any,
) -> Any:  # fmt: skip
    """The configuration of the model by the arguments of a run.

    Args:
        series: Number of series of the data.
        features: Numbers that are known of each step, such as its hour; a direct head reads none.
        scale_floor: Of the data.
        cardinality: Number of categories of each kind that series have.
        reals: Numbers that each series has; a direct head reads none.
        fields: Model arguments, `rnn_hf.training.arguments.ForecastArguments`.

    Raises:
        InputError: Numbers that are none; others as `RNNTimeSeriesConfig`.
    """
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, kind in (("lags_sequence", int), ("quantiles", float)):
        if name in fields:
            fields[name] = numbers_of(name, fields[name], kind)
    width = fields.pop("embedding_dimension", None)
    sizes = [*([series] if series > 1 and width != 0 else []), *cardinality]
    if sizes:
        fields |= {"num_static_categorical_features": len(sizes), "cardinality": sizes}
        fields |= {"embedding_dimension": [width] * len(sizes)} if width else {}
    if fields.get("scaling") == "none":
        fields["scaling"] = None
    is_direct = fields.get("prediction_head") == "direct"
    if not is_direct:
        fields |= {"num_time_features": features, "num_static_real_features": reals}
    return RNNTimeSeriesConfig(scale_floor=scale_floor, **fields)


@dataclass
class PreparedSeries:
    """Series ready to train on.

    Attributes:
        data: As loaded.
        known: Means and deviations of the training steps, or of the model to start from.
        examples: Windows, by split.
        tokenizer: None: numbers need none.
    """

    data: SeriesData
    known: KnownSeries
    examples: dict[str, Any]
    tokenizer: None = None


class ForecastWork:
    """The data of a run and all that is made of it; the same for texts is `rnn_hf.tasks.text_runs.TextWork`.

    Args:
        arguments: A `rnn_hf.training.arguments.Arguments`.

    Attributes:
        prepared: Series and windows.
        metric: That decides which weights are best: the squared error of points, the CRPS of distributions.

    Raises:
        InputError: There is nothing to train or validate on, or a file cannot be read.
    """

    config_class = staticmethod(configuration_of)

    def __init__(self, arguments: Any):
        self.arguments, self.module = arguments, TASKS[arguments.task].module
        data = self.module.load_data(**asdict(arguments.data))
        for split in ("train", "validation"):
            if split not in data.splits:
                raise InputError(f"there are no series for {split}: give `{split}_file`, or other `splits`")
        source = arguments.training.init_from
        self.known = KnownSeries.of(data, arguments.data.standardize)
        if source is not None:
            self.known = KnownSeries.of_config(config_of(source))
        self.config = configuration_of(
            len(self.known.item_ids), len(data.frequency.features) + len(self.known.features), self._scale_floor(data),
            self.known.cardinality, len(self.known.reals), **asdict(arguments.model),
        )  # fmt: skip
        if self.config.distribution_output == "negative_binomial" and arguments.data.standardize:
            raise InputError("`distribution_output='negative_binomial'` is of counts: give `standardize=False`")
        self.config.series = self.known.to_dict()
        self.metric = MSE if self.config.loss in POINTS else CRPS
        examples = {
            split: windows_for(data, self.known, split, self.config) for split in ("train", "validation")
        }  # fmt: skip
        if self.config.prediction_head == "autoregressive":  # whose paths are too long to draw at each step
            season = data.frequency.season_length
            examples["validation"] = windows_for(data, self.known, "validation", self.config, season)
        self.prepared = PreparedSeries(data, self.known, examples)
        self.floor = self._floor()

    def _scale_floor(self, data: SeriesData) -> float:
        deviations = [
            float(np.nanstd(data.values(index, "train") / self.known.std[self.known.place(each.item_id)]))
            for index, each in enumerate(data.series)
        ]
        middle = float(np.median(deviations))
        return FLOOR_SHARE * middle if middle > 0 else FLOOR_SHARE

    def _floor(self) -> float:
        """What the last season gives, without a model."""
        data, windows = self.prepared.data, self.prepared.examples["validation"]
        season = data.frequency.season_length
        stride = season if self.config.prediction_head == "autoregressive" or self.metric is CRPS else 1
        own = Windows(
            data, self.known, "validation", SEASONS * season, windows.prediction_length, stride=stride
        )  # fmt: skip
        return score_windows(last_season(season), own, 1024)[self.metric.name]

    def build_model(self) -> RNNForTimeSeriesPrediction:
        """A fresh model, or one on the weights of `init_from`.

        Raises:
            InputError: The weights do not load, or the arguments ask for another shape than they have.
        """
        source = self.arguments.training.init_from
        set_seed(self.arguments.training.seed)
        if source is None:
            return RNNForTimeSeriesPrediction(self.config)
        before, dropouts = config_of(source), {}
        for name in asdict(self.arguments.model):
            value, other = getattr(self.config, name), getattr(before, name, None)
            if "dropout" in name:
                dropouts[name] = value
            elif value != other:
                raise InputError(f"`{name}` is {value}, and the model of `init_from` has {other}: give the same")
        return RNNForTimeSeriesPrediction.from_pretrained(source, **dropouts)

    def training_examples(self) -> Windows:
        """What Trainer takes batches of."""
        return self.prepared.examples["train"]

    def collator(self) -> Any:
        """Makes a batch of the numbers of windows."""
        return self.training_examples().batch

    def score(self, model: Any) -> ForecastScores:
        """The scores of a model on the validation split."""
        options = self.arguments.training
        return self.module.score(
            model, self.prepared.data, "validation", options.per_device_eval_batch_size,
            samples=options.validation_samples, with_baselines=False,
        )  # fmt: skip

    def save_processors(self, directory: Path) -> None:
        """Nothing: what a model needs besides its weights is in its configuration."""

    def summary(self) -> list[str]:
        """The data in lines, for people."""
        data, lines = self.prepared.data, []
        for split, windows in self.prepared.examples.items():
            steps = sum(len(data.values(index, split)) for index in range(len(data.series)))
            counts = windows.counts()
            lines.append(
                f"{split}: {counts['rows']:,} windows of {counts['series']:,} series, which have {steps:,} steps of "
                f"{data.frequency}"
            )
        if self.config.prediction_head == "direct" and (self.known.reals or self.known.features):
            lines.append("`feat_static_real` and `feat_dynamic_real` are not read: `prediction_head` is direct")
        lines.append(f"the values of a season before, {self.metric.label(self.floor)}")
        return lines

    def counts(self) -> dict[str, Any]:
        """What run.json says of the data: windows, the floor of the last season, a checksum."""
        data = self.prepared.data
        checksum = sha1(repr((self.known, data.bounds)).encode())
        for index, series in enumerate(data.series):
            about = repr((series.item_id, series.start, series.categories, series.reals)).encode()
            features = b"" if series.features is None else np.ascontiguousarray(series.features).tobytes()
            checksum.update(about + data.values(index, "train").tobytes() + features)
        return {
            "rows": {split: len(windows) for split, windows in self.prepared.examples.items()},
            "windows": {split: windows.counts()["windows"] for split, windows in self.prepared.examples.items()},
            "series": len(data.series),
            "item_ids": self.known.item_ids[:20],
            "frequency": str(data.frequency),
            "season_length": data.frequency.season_length,
            "steps": {
                split: max(len(data.values(index, split)) for index in range(len(data.series)))
                for split in self.prepared.examples
            },
            "floor": self.floor,
            "train_sha1": checksum.hexdigest(),
        }


def windows_for(
    data: SeriesData, known: KnownSeries, split: str, config: Any, stride: int = 1,
    prediction_length: int | None = None, with_truth: bool = True,
) -> Windows:  # fmt: skip
    """The windows of a split as a model reads them; other arguments as of `Windows`.

    Raises:
        InputError: There is none.
    """
    return Windows(
        data, known, split, config.past_length, prediction_length or config.prediction_length,
        config.num_time_features > 0, known.about(data.series, config), stride, with_truth,
    )  # fmt: skip
