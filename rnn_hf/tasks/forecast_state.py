"""The state of a model that has read whole series: kept in a file, gone on from as new values come."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rnn_hf.data.series_rows import Series
from rnn_hf.errors import InputError
from rnn_hf.loading import input_device
from rnn_hf.models.series_state_rnn import RNNSeriesState
from rnn_hf.tasks.forecast_windows import KnownSeries
from rnn_hf.tasks.time_series_forecasting import SeriesForecast, later_features, told


NEXT, PLACES = "next_time", "series"  # tensors next to those of the state: seconds since 1970, indices of the series


def read_series_state(model: Any, series: Sequence[Series], state: RNNSeriesState | None = None) -> RNNSeriesState:
    """What a model knows after series, from their beginning or from a state.

    Args:
        model: An autoregressive `RNNForTimeSeriesPrediction` with `series` in its configuration.
        series: B of one length, that the model knows.
        state: After the values before these.

    Raises:
        InputError: A direct model, or series that it cannot read.
    """
    if model.config.prediction_head == "direct":
        raise InputError("a model with `prediction_head=direct` has no state: it reads whole windows")
    known = KnownSeries.of_config(model.config)
    known.check_frequency(series[0].frequency)
    if len({(each.start, len(each.target)) for each in series}) > 1:
        raise InputError("to be read into one state, all series must have the same times")
    device = input_device(model)
    values = torch.from_numpy(np.stack([known.standardized(each) for each in series]).astype("float32"))
    inputs: dict[str, Any] = {"values": values.to(device)} | _about(model, known, series)
    if model.config.num_time_features:
        features = [known.step_features(each, 0, len(each.target)) for each in series]
        inputs["time_features"] = torch.from_numpy(np.stack(features)).to(device)
    try:
        with torch.no_grad():
            return model.eval().read(**inputs, state=state)
    except ValueError as error:
        raise InputError(str(error)) from error


def _about(model: Any, known: KnownSeries, series: Sequence[Series]) -> dict[str, torch.Tensor]:
    """Which series they are, for the model."""
    about = known.about(series, model.config)
    return {name: torch.from_numpy(rows).to(input_device(model)) for name, rows in about.items()}


def save_state(model: Any, state: RNNSeriesState, series: Sequence[Series], path: Path) -> None:
    """Write a state to a safetensors file, with the names of its series and the time of the next step."""
    state.save(path, model)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    known = KnownSeries.of_config(model.config)
    upcoming = series[0].times(len(series[0].target), len(series[0].target) + 1)[0]
    more = {
        NEXT: torch.tensor([int(upcoming.astype("datetime64[s]").astype(int))]),
        PLACES: torch.tensor([known.place(each.item_id) for each in series]),
    }
    draft = path.with_name(f".{path.name}.writing")
    save_file(load_file(path) | more, draft, metadata)
    draft.replace(path)


def load_state(model: Any, path: Path, series: Sequence[Series]) -> RNNSeriesState:
    """Read a state that goes on with series.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is the state of another model or of other series, or the series begin at another time than the
            one behind its last.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no state {path}")
    try:
        state = RNNSeriesState.load(path, model)
        tensors = load_file(path)
        begin, places = int(tensors[NEXT]), tensors[PLACES].tolist()
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} is no state of this model and of series: {error}") from error
    known = KnownSeries.of_config(model.config)
    names = [known.item_ids[place] for place in places]
    if names != [each.item_id for each in series]:
        raise InputError(
            f"{path} is the state of {', '.join(names)}, and the values are of "
            f"{', '.join(each.item_id for each in series)}: give the same, in this order, by `target_columns`"
        )
    upcoming = np.datetime64(begin, "s")
    if series[0].start.astype("datetime64[s]") != upcoming:
        raise InputError(f"{path} goes on at {upcoming}, and the values begin at {series[0].start}")
    return state


def forecast_of_state(
    model: Any, state: RNNSeriesState, series: Sequence[Series], horizon: int | None = None, seed: int = 0
) -> list[SeriesForecast]:
    """Forecasts that go on from a state, whose last values are the ends of series.

    Args:
        model: Of the state.
        state: After the last values.
        series: Of which the state has read at least these values.
        horizon: Steps to predict; by default `prediction_length` of the model.
        seed: Of the samples.
    """
    known, length = KnownSeries.of_config(model.config), horizon or model.config.prediction_length
    origins = [len(each.target) for each in series]
    inputs: dict[str, Any] = {"state": state} | _about(model, known, series)
    if model.config.num_time_features:
        inputs["future_time_features"] = later_features(known, series, origins, length)
    return told(model, [replace(each) for each in series], origins, inputs, length, seed)
