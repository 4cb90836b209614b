"""The ONNX graphs of networks that forecast: PyTorch's numbers, whatever is missing, and steps with the state."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from series_models import make_forecaster, some_windows

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.errors import InputError
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx.forecast_graph import build_forecast_graph, run_forecaster


DIRECT = {
    "student_t": {},
    "normal": {"distribution_output": "normal", "scaling": "std"},
    "counts": {"distribution_output": "negative_binomial", "scaling": "mean"},
    "mae": {"loss": "mae", "scaling": None},
    "two kinds": {"loss": "mse", "cardinality": [4, 2], "num_static_categorical_features": 2},
    "no kind": {"loss": "mse", "cardinality": None, "num_static_categorical_features": 0},
    "quantile": {"loss": "quantile", "quantiles": [0.1, 0.4, 0.9]},
    "quantiles above": {"loss": "quantile", "quantiles": [0.6, 0.7, 0.9]},
    "quantiles below": {"loss": "quantile", "quantiles": [0.1, 0.2]},
}
STEPS = {
    "student_t": {},
    "normal": {"distribution_output": "normal", "num_time_features": 0},
    "counts": {"distribution_output": "negative_binomial", "scaling": "mean", "num_static_real_features": 0},
    "no kind": {"cardinality": None, "num_static_categorical_features": 0},
}


def session_of(proto):
    onnx.checker.check_model(proto, full_check=True)
    assert {weight.name for weight in proto.graph.initializer} <= used(proto.graph.node)  # else the runtime warns
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def used(nodes) -> set[str]:
    """What nodes read, those of graphs within them too."""
    read = {name for node in nodes for name in node.input}
    within = [attribute.g for node in nodes for attribute in node.attribute if attribute.name == "body"]
    return read.union(*(used(graph.node) | {value.name for value in graph.output} for graph in within))


def by_onnx(session, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: each.numpy() for name, each in inputs.items()}), strict=True))


def assert_near(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for name, part in expected.items():
        assert actual[name].shape == tuple(part.shape), name
        np.testing.assert_allclose(actual[name], part.numpy(), atol=2e-5, rtol=2e-5, err_msg=name)


def some_windows_with_gaps(model, batch: int) -> dict[str, torch.Tensor]:
    windows = some_windows(model.config, batch=batch)
    values, generator = windows["past_values"].float(), torch.Generator().manual_seed(1)
    mask = torch.rand(values.shape, generator=generator) < 0.8
    mask[0] = batch < 3  # nothing at all is observed
    values = values.masked_fill(~mask, 7e8).masked_fill(torch.rand(values.shape, generator=generator) < 0.1, torch.nan)
    inputs = {"past_values": values, "past_observed_mask": mask.long()}
    if "static_categorical_features" in windows:
        inputs["static_categorical_features"] = windows["static_categorical_features"]
    return inputs


@pytest.mark.parametrize("fields", DIRECT.values(), ids=DIRECT)
def test_a_direct_head_has_pytorchs_numbers_whatever_is_missing(fields):
    model = make_forecaster("direct", {"cell_type": "gru"}, **fields).float()
    session = session_of(build_forecast_graph(model))
    for batch in (1, 2, 5):
        inputs = some_windows_with_gaps(model, batch)
        assert_near(by_onnx(session, inputs), run_forecaster(model, inputs))


def test_every_cell_reads_the_past_and_the_future_with_the_same_weights(cell):
    model = make_forecaster("direct", cell, num_hidden_layers=3).float()
    proto = build_forecast_graph(model)
    inputs = some_windows_with_gaps(model, 3)
    assert_near(by_onnx(session_of(proto), inputs), run_forecaster(model, inputs))
    size = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(int(np.prod(weight.dims)) for weight in proto.graph.initializer)
    assert stored < size + 120  # once; the rest are shapes and single numbers


def some_steps(model, batch: int, time: int) -> dict[str, torch.Tensor]:
    config, generator = model.config, torch.Generator().manual_seed(time)
    random = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    lags = random(batch, time, len(config.lags_sequence))
    inputs = {"lags": lags, "lags_observed": (random(*lags.shape) < 1).long()}
    if config.num_time_features:
        inputs["time_features"] = random(batch, time, config.num_time_features)
    if config.num_static_categorical_features:
        inputs["static_categorical_features"] = torch.arange(batch)[:, None] % torch.tensor(config.cardinality)
    if config.num_static_real_features:
        inputs["static_real_features"] = random(batch, config.num_static_real_features)
    inputs |= {"loc": random(batch, 1), "scale": random(batch, 1).exp()}
    for index, (hidden, cell) in enumerate(config.state_sizes):
        inputs[f"past.{index}.hidden"] = random(batch, hidden)
        if cell is not None:
            inputs[f"past.{index}.cell"] = random(batch, cell)
    return inputs


@pytest.mark.parametrize("fields", STEPS.values(), ids=STEPS)
def test_steps_have_pytorchs_parameters_and_state(fields, cell):
    model = make_forecaster("autoregressive", cell, **fields).float()
    session = session_of(build_forecast_graph(model))
    for batch, time in ((1, 1), (2, 5), (5, 3)):
        inputs = some_steps(model, batch, time)
        assert_near(by_onnx(session, inputs), run_forecaster(model, inputs))


def test_steps_over_a_window_have_the_parameters_of_the_models_unroll():
    model = make_forecaster("autoregressive").float()
    windows, lags = some_windows(model.config, batch=3), model.config.lags_sequence
    windows["past_values"][1, -3] = windows["past_values"][2, 1] = torch.nan
    with torch.no_grad():
        output = model(**windows)
    values = torch.cat([windows["past_values"], windows["future_values"]], dim=1).float()
    features = torch.cat([windows["past_time_features"], windows["future_time_features"]], dim=1).float()
    at = torch.arange(4, 16)[:, None] - torch.tensor(lags)
    inputs = {
        "lags": values[:, at], "lags_observed": (~values[:, at].isnan()).long(), "time_features": features[:, 4:],
        "static_categorical_features": windows["static_categorical_features"],
        "static_real_features": windows["static_real_features"].float(), "loc": output.loc, "scale": output.scale,
    }  # fmt: skip
    for index, (hidden, cell) in enumerate(model.config.state_sizes):
        inputs |= {f"past.{index}.hidden": torch.zeros(3, hidden), f"past.{index}.cell": torch.zeros(3, cell)}
    found = by_onnx(session_of(build_forecast_graph(model)), inputs)
    for name, part in zip(("df", "loc", "scale"), output.params, strict=True):
        np.testing.assert_allclose(found[f"params.{name}"], part.numpy(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("head", ["direct", "autoregressive"])
def test_a_file_says_what_it_is(head):
    model = make_forecaster(head)
    metadata = {prop.key: prop.value for prop in build_forecast_graph(model).metadata_props}
    assert metadata["task"] == "time-series-forecasting" and metadata["prediction_head"] == head
    assert metadata["identity"] == identity_of(model)
    names = [value["name"] for value in json.loads(metadata["interface"])["inputs"]]
    assert names[0] == ("past_values" if head == "direct" else "lags")


def test_another_model_is_refused_by_name():
    with pytest.raises(InputError, match="`model` must be a network of this package that forecasts"):
        build_forecast_graph(RNNForCausalLM(RNNConfig(vocab_size=5, hidden_size=4)))
