"""Paths of the future, and series that are read as they come."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from series_models import CLOSE, make_forecaster, rows_of, some_windows, without_future

from rnn_hf import RNNSeriesState
from rnn_hf.models.layers_rnn import RNNLayer


NAN = float("nan")
FEATURES = ("static_categorical_features", "static_real_features")


@pytest.fixture(scope="session")
def forecaster():
    """`forecaster(cell, **fields)`: an autoregressive network."""
    return lambda cell=None, **fields: make_forecaster("autoregressive", cell, **fields)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def long_series(config, length: int = 30) -> dict:
    """Series, features of each time, and what is known of each series."""
    windows = some_windows(config, length=length)
    values = torch.cat([windows["past_values"], windows["future_values"]], dim=1)
    features = torch.cat([windows["past_time_features"], windows["future_time_features"]], dim=1)
    values[1, 5], values[2, 20:23] = NAN, NAN
    return {"values": values, "time_features": features, **{name: windows[name] for name in FEATURES}}


def pieces_of(series: dict, cuts: list[int]) -> list[dict]:
    """The same, cut in time."""
    parts = [series[name].tensor_split(cuts, dim=1) for name in ("values", "time_features")]
    static = {name: series[name] for name in FEATURES}
    pairs = zip(*parts, strict=True)
    return [{"values": values, "time_features": features, **static} for values, features in pairs if values.shape[1]]


def read_all(model, pieces: list[dict], **first) -> RNNSeriesState:
    state = model.read(**pieces[0], **first)
    for piece in pieces[1:]:
        state = model.read(**piece, state=state)
    return state


def numbers_of(state: RNNSeriesState) -> list[torch.Tensor]:
    of_network = [part for layer in state.cache for part in layer if part is not None]
    return [state.values, state.observed, state.loc, state.scale, *of_network]


# Paths


def test_paths_have_the_shape_that_was_asked_for(forecaster):
    model = forecaster(num_parallel_samples=6)
    windows = without_future(some_windows(model.config))
    paths = model.generate(**windows, generator=seeded()).sequences
    assert paths.shape == (4, 6, 5) and paths.isfinite().all()
    torch.testing.assert_close(paths, model.generate(**windows, generator=seeded()).sequences, rtol=0, atol=0)
    assert not torch.equal(paths, model.generate(**windows, generator=seeded(1)).sequences)
    assert model.generate(**windows, num_parallel_samples=2).sequences.shape == (4, 2, 5)
    longer = without_future(some_windows(model.config, length=9))
    assert model.generate(**longer, num_parallel_samples=2, prediction_length=9).sequences.shape == (4, 2, 9)


@pytest.mark.parametrize("kind", ["student_t", "normal", "negative_binomial"])
def test_steps_from_the_equations_draw_the_paths_of_the_modules(forecaster, cell, kind, monkeypatch):
    model = forecaster(cell, distribution_output=kind, scaling="mean")
    windows = without_future(some_windows(model.config, length=9))
    windows["past_values"][0, -1] = windows["past_values"][1, -4] = NAN
    arguments = {"num_parallel_samples": 3, "prediction_length": 9}
    found = model.generate(**windows, **arguments, generator=seeded()).sequences
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    by_modules = model.generate(**windows, **arguments, generator=seeded()).sequences
    assert len(calls) == 10
    torch.testing.assert_close(found, by_modules, rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(RNNLayer, "steps_directly", False)
    torch.testing.assert_close(
        model.generate(**windows, **arguments, generator=seeded()).sequences, by_modules, rtol=1e-9, atol=1e-9
    )


def test_each_value_is_drawn_from_what_an_unroll_over_the_path_says(forecaster, cell):
    model = forecaster(cell, distribution_output="normal")
    windows = without_future(some_windows(model.config))
    windows["past_values"][3, -2] = NAN
    paths = model.generate(**windows, num_parallel_samples=1, generator=seeded(3)).sequences[:, 0]
    generator = seeded(3)
    output = model(**windows, future_values=paths)
    for at in range(5):
        center, width = (part[:, 7 + at] for part in output.params)
        noise = torch.randn(4, dtype=torch.float64, generator=generator)
        expected = (center + width * noise) * output.scale[:, 0] + output.loc[:, 0]
        torch.testing.assert_close(paths[:, at], expected, rtol=1e-6, atol=1e-6)


def test_first_values_of_many_paths_are_of_the_predicted_distribution(forecaster):
    model = forecaster()
    windows = without_future(some_windows(model.config))
    first = model.generate(**windows, num_parallel_samples=20_000, prediction_length=5, generator=seeded()).sequences
    later = some_windows(model.config)
    output = model(**later)
    center = output.params[1][:, 7] * output.scale[:, 0] + output.loc[:, 0]
    width = output.params[2][:, 7] * output.scale[:, 0]
    # Half of the values lie below the center, to five deviations of the share, and more than half within a width.
    share_below = (first[:, :, 0] < center[:, None]).double().mean(dim=1)
    assert ((share_below - 0.5).abs() < 5 * 0.5 / 20_000**0.5).all()
    assert ((first[:, :, 0] - center[:, None]).abs() < width[:, None]).double().mean(dim=1).min() > 0.55


@pytest.mark.parametrize(
    "fields", [{}, {"distribution_output": "normal", "scaling": "std"}, {"loss": "quantile"}], ids=str
)
def test_samples_of_a_direct_head_have_the_quantiles_that_it_predicts(fields):
    model = make_forecaster("direct", **fields)
    windows = without_future(some_windows(model.config))
    samples = model.generate(**windows, num_parallel_samples=20_000, generator=seeded()).sequences
    assert samples.shape == (4, 20_000, 6)
    output = model(**windows)
    share = (samples < output.prediction_outputs[:, None]).double().mean(dim=1)
    assert ((share - 0.5).abs() < 5 * 0.5 / 20_000**0.5).all()  # all three are symmetric, or the median
    for index, level in enumerate(model.config.quantiles or ()):
        share = (samples < output.quantile_outputs[:, None, :, index]).double().mean(dim=1)
        assert ((share - level).abs() < 5 * 0.5 / 20_000**0.5).all()


def test_what_cannot_be_drawn_is_refused_by_name(forecaster):
    model, direct = forecaster(), make_forecaster("direct", loss="mae")
    windows, segments = without_future(some_windows(model.config)), without_future(some_windows(direct.config))
    state = model.read(**long_series(model.config))
    for network, arguments, named in (
        (direct, segments, "predicts points"),
        (direct, {**segments, "prediction_length": 3}, "`prediction_length` is always 6"),
        (direct, {"state": state}, "no `state`"),
        (model, {}, "exactly one of `past_values` and `state`"),
        (model, {**windows, "state": state}, "exactly one of `past_values` and `state`"),
        (model, {**windows, "num_parallel_samples": 0}, "`num_parallel_samples`"),
        (model, {**windows, "prediction_length": 0}, "`prediction_length`"),
        (model, {**windows, "prediction_length": 6}, "`future_time_features` must have shape"),
        (model, {"state": state}, "`static_categorical_features`"),
    ):
        with pytest.raises(ValueError, match=named):
            network.generate(**arguments)


# Series that are read as they come


@given(cuts=st.lists(st.integers(7, 41), max_size=4).map(sorted))
def test_a_series_in_pieces_is_read_as_the_whole(forecaster, cell, cuts):
    model = forecaster(cell)
    series = long_series(model.config)
    whole, state = model.read(**series), read_all(model, pieces_of(series, cuts))
    torch.testing.assert_close(numbers_of(state), numbers_of(whole), **CLOSE)


def test_a_given_scale_lets_a_series_begin_with_any_piece(forecaster):
    model = forecaster()
    series = long_series(model.config)
    loc, scale = torch.full((4, 1), 2.0), torch.full((4, 1), 3.0)
    whole = model.read(**series, loc=loc, scale=scale)
    state = read_all(model, pieces_of(series, [1, 2, 4]), loc=loc, scale=scale)
    torch.testing.assert_close(numbers_of(state), numbers_of(whole), **CLOSE)
    assert (state.loc == 2).all() and (state.scale == 3).all()
    without = forecaster(scaling=None)
    torch.testing.assert_close(
        numbers_of(read_all(without, pieces_of(series, [1, 3]))), numbers_of(without.read(**series)), **CLOSE
    )


def test_a_window_is_forecast_as_when_it_is_read_after_what_its_lags_reach_back_to(forecaster, cell):
    model = forecaster(cell)
    windows = without_future(some_windows(model.config))
    expected = model.generate(**windows, num_parallel_samples=3, generator=seeded()).sequences
    output = model(**windows, use_cache=True)
    static = {name: windows[name] for name in FEATURES}
    state = RNNSeriesState(
        output.cache, windows["past_values"][:, -4:], torch.ones(4, 4, dtype=torch.bool), output.loc, output.scale
    )
    found = model.generate(
        state=state, future_time_features=windows["future_time_features"], **static,
        num_parallel_samples=3, generator=seeded(),
    ).sequences  # fmt: skip
    torch.testing.assert_close(found, expected, **CLOSE)


def test_forecasts_from_a_saved_state_are_those_of_reading_all_again(forecaster, cell, tmp_path):
    model = forecaster(cell)
    series = long_series(model.config)
    old, new = pieces_of(series, [33])
    model.read(**old).save(tmp_path / "state.safetensors", model)
    state = model.read(**new, state=RNNSeriesState.load(tmp_path / "state.safetensors", model))
    future = {"future_time_features": torch.ones(4, 5, 2), **{name: series[name] for name in FEATURES}}
    found, expected = (
        model.generate(state=each, **future, num_parallel_samples=3, generator=seeded()).sequences
        for each in (state, model.read(**series))
    )
    torch.testing.assert_close(found, expected, **CLOSE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.safetensors"]


def test_reading_and_forecasting_leave_a_state_as_it_was(forecaster):
    model = forecaster()
    series = long_series(model.config)
    state = model.read(**series)
    before = [part.clone() for part in numbers_of(state)]
    model.read(**series, state=state)
    future = {"future_time_features": torch.ones(4, 5, 2), **{name: series[name] for name in FEATURES}}
    model.generate(state=state, **future, num_parallel_samples=3)
    torch.testing.assert_close(numbers_of(state), before, rtol=0, atol=0)


def test_rows_of_a_state_go_on_as_alone(forecaster):
    model = forecaster()
    series = long_series(model.config)
    old, new = pieces_of(series, [30])
    state = model.read(**old)
    whole = model.read(**new, state=state)
    for rows in ([2], [3, 0], torch.tensor([True, False, True, False])):
        part = model.read(**rows_of(new, rows), state=state.rows(rows))
        torch.testing.assert_close(numbers_of(part), numbers_of(whole.rows(rows)), **CLOSE)
        alone = read_all(model, [rows_of(old, rows), rows_of(new, rows)])
        torch.testing.assert_close(numbers_of(alone), numbers_of(part), **CLOSE)


def test_gradients_flow_through_pieces_until_they_are_cut(forecaster):
    model = forecaster()
    old, new = pieces_of(long_series(model.config), [30])
    state = model.read(**old)
    (last, _), *_ = reversed(list(model.read(**new, state=state).cache))
    (first, _), *_ = list(state.cache)
    assert torch.autograd.grad(last.sum(), first, retain_graph=True)[0].abs().sum() > 0
    cut = state.detach()
    assert not any(part.requires_grad for part in numbers_of(cut)) and first.requires_grad
    torch.testing.assert_close(numbers_of(cut), numbers_of(state), rtol=0, atol=0)


def test_a_state_of_something_else_is_refused_by_name(forecaster, tmp_path):
    model, series = forecaster(), long_series(forecaster().config)
    state, static = model.read(**series), {name: series[name] for name in FEATURES}
    with pytest.raises(ValueError, match="`read` is for `prediction_head='autoregressive'`"):
        make_forecaster("direct").read(series["values"])
    for changed, named in (
        ({"state": state.rows([0, 1])}, "`state` holds 2 series, and 4 are given"),
        ({"state": state, "scale": state.scale, "loc": state.loc}, "cannot be given with it"),
        ({"state": forecaster({"hidden_size": 6}).read(**series)}, "state of another network"),
        ({"state": forecaster(lags_sequence=[1, 2, 5]).read(**series)}, "`lags_sequence` is 4"),
        ({"loc": state.loc}, "`loc` and `scale` go together"),
        ({"loc": state.loc[:2], "scale": state.scale}, "`loc` must have shape"),
        ({"values": series["values"][:, :6], "time_features": series["time_features"][:, :6]}, "`context_length` .7."),
        ({"time_features": None}, "`time_features` must have shape"),
        ({"observed_mask": torch.ones(4, 1)}, "`observed_mask` must have the shape of `values`"),
        ({name: None for name in static}, "`static_categorical_features`"),
    ):
        with pytest.raises(ValueError, match=named):
            model.read(**{**series, **changed})
    state.save(tmp_path / "state", model)
    for other in (forecaster(seed=1), forecaster(lags_sequence=[1, 3, 4])):
        with pytest.raises(ValueError, match="other weights or other lags"):
            RNNSeriesState.load(tmp_path / "state", other)
    (tmp_path / "broken").write_bytes(b"no state")
    with pytest.raises(ValueError, match="not a whole file"):
        RNNSeriesState.load(tmp_path / "broken", model)
