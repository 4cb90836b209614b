"""Networks that forecast on a GPU: the numbers and gradients of a CPU."""

import copy

import pytest
import torch
from networks import assert_same_gradients, gradients_of
from series_models import make_forecaster, some_windows, without_future


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
NETWORKS = {
    "paths": {"head": "autoregressive"},
    "paths of counts": {
        "head": "autoregressive", "distribution_output": "negative_binomial", "scaling": "mean",
    },
    "distribution": {"head": "direct"},
    "quantiles": {"head": "direct", "loss": "quantile", "quantiles": [0.1, 0.5, 0.9]},
    "points": {"head": "direct", "loss": "mae", "scaling": "std"},
}  # fmt: skip


def there(inputs):
    return {name: part.to(DEVICE) for name, part in inputs.items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_series_are_learned_as_on_a_cpu(cell, network):
    model = make_forecaster(cell=cell, **NETWORKS[network]).train()
    elsewhere, windows = copy.deepcopy(model).to(DEVICE), some_windows(model.config)
    observed = torch.ones_like(windows["past_values"])
    observed[0, :3], observed[2] = 0, 0  # values that are missing, and a row of which all are
    for masked in (False, True):
        inputs = windows | ({"past_observed_mask": observed} if masked else {})
        expected, output = model(**inputs), elsewhere(**there(inputs))
        torch.testing.assert_close(output.loss.cpu(), expected.loss, **CLOSE)
        model.zero_grad()
        elsewhere.zero_grad()
        expected.loss.backward()
        output.loss.backward()
        got = {name: gradient.cpu() for name, gradient in gradients_of(elsewhere).items()}
        assert_same_gradients(got, gradients_of(model), **CLOSE)


@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "points"])
def test_paths_are_drawn_on_the_device_and_the_same_by_a_seed(cell, network):
    model = make_forecaster(cell=cell, **NETWORKS[network]).to(DEVICE)
    inputs = there(without_future(some_windows(model.config)))
    drawn = [
        model.generate(**inputs, num_parallel_samples=4, generator=torch.Generator(DEVICE).manual_seed(0)).sequences
        for _ in range(2)
    ]
    assert drawn[0].device.type == DEVICE and drawn[0].shape == (4, 4, model.config.prediction_length)
    assert torch.isfinite(drawn[0]).all() and torch.equal(*drawn)
