"""Time series forecasting: tables and entries of numbers to points and distributions of the next steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch

from rnn_hf.data.series import SeriesData, load_series
from rnn_hf.data.series_rows import Columns, Series, read_series
from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluating
from rnn_hf.loading import input_device, load_model
from rnn_hf.runs import data_arguments
from rnn_hf.tasks import METRICS, best_validation
from rnn_hf.tasks.forecast_baselines import score_baselines
from rnn_hf.tasks.forecast_runs import POINTS, ForecastWork, windows_for
from rnn_hf.tasks.forecast_scores import (
    Forecast,
    Forecaster,
    ForecastScores,
    describe,
    members_of_quantiles,
    score_windows,
)
from rnn_hf.tasks.forecast_windows import KnownSeries


NAME, AUTO_CLASS = "time-series-forecasting", "AutoModelForTimeSeriesPrediction"
describe_score, WORK = describe, ForecastWork
OF_TRUTH = ("future_values", "future_observed_mask")
ROWS, PATHS = 512, 6400  # rows a batch, and paths that are drawn at a time
LEVELS = tuple(level / 20 for level in range(1, 20))  # of the quantiles that are told


def load_data(**arguments: Any) -> SeriesData:
    """Series by the arguments of a run.

    Args:
        arguments: Those of `rnn_hf.training.arguments.ForecastDataArguments` that say what to load.

    Raises:
        InputError: As `load_series`.
    """
    names = signature(load_series).parameters.keys()
    return load_series(**{name: value for name, value in arguments.items() if name in names and value is not None})


def arguments_of_data(name: str, given: Mapping[str, Any], revision: str | None = None) -> dict[str, Any]:
    """As `rnn_hf.runs.data_arguments`, for `load_data`: `splits` are those of the run's own series."""
    return data_arguments(name, given, revision, of_source="splits")


def load_forecaster(name: str, revision: str | None = None, device: str = "cpu") -> Any:
    """A model that forecasts, by directory or name on the Hub; errors as `load_model`."""
    return load_model(name, revision, device, AUTO_CLASS)[0]


def forecaster_of(model: Any, samples: int | None = None, with_members: bool = True, seed: int = 0) -> Forecaster:
    """What makes forecasts of batches by a model.

    Args:
        model: An `RNNForTimeSeriesPrediction` in evaluation mode.
        samples: To draw of each row; by default `num_parallel_samples` of the model.
        with_members: Whether a distribution is wanted, where not all of the mean and the median needs it.
        seed: Of the samples.
    """
    config, device = model.config, input_device(model)
    generator = torch.Generator(device).manual_seed(seed)
    is_drawn = config.prediction_head == "autoregressive" or (config.loss == "nll" and with_members)
    levels = config.quantiles if config.loss == "quantile" else None
    if levels:  # the mean is linear in the quantiles
        weights = members_of_quantiles(torch.eye(len(levels))[None], levels).mean(1)[0]

    @torch.no_grad()
    def forecast(batch: dict[str, torch.Tensor]) -> Forecast:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        output = model(**batch)
        loss = None if output.loss is None else float(output.loss)
        if is_drawn:
            inputs = {name: part for name, part in batch.items() if name not in OF_TRUTH}
            drawn = model.generate(**inputs, num_parallel_samples=samples, generator=generator).sequences.cpu()
            return Forecast(drawn.mean(1), drawn.quantile(0.5, dim=1), drawn, loss=loss)
        points = output.prediction_outputs.cpu()
        if levels is None:
            return Forecast(points, points, loss=loss)
        quantiles = output.quantile_outputs.cpu()
        members = members_of_quantiles(quantiles, levels) if with_members else None
        return Forecast(quantiles @ weights.to(quantiles.dtype), points, members, are_drawn=False, loss=loss)

    return forecast


def score(
    model: Any, data: SeriesData, split: str, batch_size: int = ROWS, samples: int | None = None,
    with_baselines: bool = True, progress: bool = False,
) -> ForecastScores:  # fmt: skip
    """The scores of a model on a split, and of what needs no network.

    Errors of points are those of all windows. Distributions are scored of one window a season, and so is all of an
    autoregressive model, whose paths take longer.

    Args:
        model: An `RNNForTimeSeriesPrediction` whose configuration has `series`; its mode is restored afterwards.
        data: Series and their splits.
        split: Among `data.splits`.
        batch_size: Rows a batch; a matter of memory and speed, and of what is drawn.
        samples: As of `forecaster_of`.
        with_baselines: Whether to score these too; DLinear is trained where there is training data.
        progress: Whether to show a progress bar.
    """
    config, known, season = model.config, KnownSeries.of_config(model.config), data.frequency.season_length
    is_drawn, is_point = config.prediction_head == "autoregressive", config.loss in POINTS
    windows = windows_for(data, known, split, config, season if is_drawn else 1)
    seasons = windows_for(data, known, split, config, season)
    if is_drawn:
        batch_size = max(1, min(batch_size, PATHS // (samples or config.num_parallel_samples)))
    with evaluating(model):
        values = score_windows(forecaster_of(model, samples, is_drawn), windows, batch_size, progress)
        if not is_drawn and not is_point:
            own = score_windows(forecaster_of(model, samples), seasons, batch_size, progress)
            values |= {name: own[name] for name in ("crps", "coverage")}
    loss = values.pop("loss")
    baselines = {}
    if with_baselines:
        baselines = score_baselines(data, known, split, config.prediction_length, season if is_drawn else 1)
    values = {name: values[name] for name in METRICS if name in values}
    return ForecastScores(
        values, loss, **windows.counts(), season_windows=0 if is_point else seasons.counts()["windows"],
        baselines=baselines, season_length=season,
    )  # fmt: skip


def evaluate(
    name: str, splits: Sequence[str], given: Mapping[str, Any], revision: str | None = None, progress: bool = False,
    device: str = "cpu", batch_size: int | None = None,
) -> dict[str, ForecastScores]:  # fmt: skip
    """The scores of a model on splits of its run's data, or of other data.

    Args:
        name: Directory of the model, or its name on the Hub.
        splits: Among `train`, `validation`, `test`.
        given: As of `arguments_of_data`.
        revision: Branch, tag or commit on the Hub.
        progress: Whether to show a progress bar.
        device: One of `rnn_hf.loading.DEVICES`.
        batch_size: Rows a batch.

    Raises:
        InputError: As `load_data` and `load_forecaster`; there is no such split; or the series are other ones.
    """
    model = load_forecaster(name, revision, device)
    data = load_data(**arguments_of_data(name, given, revision))
    for split in splits:
        if split not in data.splits:
            raise InputError(f"the data has no split {split!r}, only {', '.join(data.splits)}")
    return {split: score(model, data, split, batch_size or ROWS, progress=progress) for split in splits}


@dataclass(frozen=True)
class SeriesForecast:
    """What is predicted of a series, in its own units.

    Attributes:
        series: With its past and, if it is known, what followed.
        origin: Index of the first step that is predicted.
        mean: `(H,)`.
        quantiles: `(H,)` by their levels; empty of a model of points.
    """

    series: Series
    origin: int
    mean: np.ndarray
    quantiles: dict[float, np.ndarray]


def predict(
    model: Any, series: Sequence[Series], horizon: int | None = None, start: str | None = None, seed: int = 0
) -> list[SeriesForecast]:
    """Forecasts of series, each of its last steps.

    Args:
        model: As of `score`.
        series: Of the frequency of the training data, and among its series.
        horizon: H, steps to predict; by default `prediction_length` of the model, and for a direct one at most that.
        start: Time of the first step to predict; by default the one behind the last value. What is behind it is not
            read.
        seed: Of the samples.

    Raises:
        InputError: Other series than the model knows, a horizon that is too long, or a `start` that is no step of a
            series, or its first.
    """
    config, known = model.config, KnownSeries.of_config(model.config)
    length = horizon or config.prediction_length
    origins = [_origin_of(each, start) for each in series]
    known.check_frequency(series[0].frequency)
    is_direct = config.prediction_head == "direct"
    if length < 1 or (is_direct and length > config.prediction_length):
        most = f"from 1 to {config.prediction_length}" if is_direct else "at least 1"
        raise InputError(f"`horizon` must be {most} for this model, got {length}")
    steps = config.prediction_length if is_direct else length
    data = SeriesData(list(series), [{"forecast": (origin, origin + steps)} for origin in origins])
    windows = windows_for(data, known, "forecast", config, prediction_length=steps, with_truth=False)
    batch = {name: part for name, part in windows.batch(range(len(windows))).items() if name not in OF_TRUTH}
    return told(model, series, origins, batch, length, seed)


def read_known(
    model: Any, file: str, time_column: str | None = None, target_columns: str | None = None,
    frequency: str | None = None,
) -> list[Series]:  # fmt: skip
    """The series of a file that a model knows; other arguments as of `rnn_hf.data.series.load_series`.

    Raises:
        InputError: There is none, or it does not know one of `target_columns`.
    """
    known = KnownSeries.of_config(model.config)
    series = read_series(file, Columns(time_column, target_columns, frequency, known.frequency))
    if target_columns is None:
        chosen = [each for each in series if each.item_id in known.item_ids]
        series = chosen or series
    for each in series:
        known.place(each.item_id)
    return series


def _origin_of(series: Series, start: str | None) -> int:
    if start is None:
        return len(series.target)
    try:
        time = np.datetime64(start.strip().replace(" ", "T"), "s")
    except ValueError as error:
        raise InputError(
            f"`forecast_start` must be a time like 2017-10-20 or 2017-10-20T06:00, got {start!r}"
        ) from error
    step = int(series.frequency.steps(series.start, time.reshape(1))[0])
    if not 0 < step <= len(series.target):
        raise InputError(
            f"`forecast_start` must be a step of the series behind {series.start}, up to the one behind its last "
            f"value ({series.times(len(series.target), len(series.target) + 1)[0]}), got {start}"
        )
    return step


def told(
    model: Any, series: Sequence[Series], origins: Sequence[int], inputs: Mapping[str, Any], length: int, seed: int = 0
) -> list[SeriesForecast]:
    """The forecasts of series by what a model is given of them.

    Args:
        model: As of `score`.
        series: B of them.
        origins: Of each the index of the first step to predict.
        inputs: Arguments of the model for them, in a batch, or a `state` with what goes with it.
        length: H, steps to tell.
        seed: Of the samples.
    """
    known, device = KnownSeries.of_config(model.config), input_device(model)
    inputs = {name: part.to(device) if torch.is_tensor(part) else part for name, part in inputs.items()}
    quantiles: dict[float, torch.Tensor] = {}
    with evaluating(model), torch.no_grad():
        if model.config.loss == "nll":
            more = {} if model.config.prediction_head == "direct" else {"prediction_length": length}
            generator = torch.Generator(device).manual_seed(seed)
            members = model.generate(**inputs, **more, generator=generator).sequences.cpu()
        else:
            forecast = forecaster_of(model)(dict(inputs))
            mean, members = forecast.mean, forecast.members
    if members is not None:
        mean = members.mean(1)
        quantiles = dict(zip(LEVELS, members.quantile(members.new_tensor(LEVELS), dim=1), strict=True))
    return [
        SeriesForecast(
            each, origin, known.restored(each.item_id, mean[row, :length].numpy().astype("float64")),
            {
                level: known.restored(each.item_id, values[row, :length].numpy().astype("float64"))
                for level, values in quantiles.items()
            },
        )
        for row, (each, origin) in enumerate(zip(series, origins, strict=True))
    ]  # fmt: skip


def later_features(known: KnownSeries, series: Sequence[Series], origins: Sequence[int], length: int) -> torch.Tensor:
    """What is known of steps from `origins` on, `(B, length, features)`; errors as of `known.step_features`."""
    parts = [known.step_features(each, origin, origin + length) for each, origin in zip(series, origins, strict=True)]
    return torch.from_numpy(np.stack(parts))


def card_values(run: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    """What `time_series_forecasting.md` needs besides the values of every card.

    Args:
        run: Content of run.json, which may be empty.
        scores: Of evaluation.json, by split.

    Returns:
        `validation`, the scores of training's own validation, for a model that was not evaluated; `columns`, the
        metrics that were measured; `tables`, by split a row a method, the model first.
    """
    data, validation = run.get("data") or {}, best_validation(run)
    if validation is not None:
        validation |= {"windows": data["windows"]["validation"]}
    rows = scores or ({"validation": validation} if validation else {})
    tables = {split: {"this model": values, **values.get("baselines", {})} for split, values in rows.items()}
    measured = {name for table in tables.values() for values in table.values() for name in values}
    return {
        "validation": validation,
        "columns": [metric for name, metric in METRICS.items() if name in measured],
        "tables": tables,
        "speed_unit": "windows",
    }
