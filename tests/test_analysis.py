"""Gradients fade at the rate that theory gives, and the figures are those of a direct computation."""

import numpy as np
import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.analysis import gradient_norms, inspect, plot_inspection, saturation, spectra


def make(**config):
    torch.manual_seed(0)
    config = {"hidden_size": 6, "num_hidden_layers": 1, "vocab_size": 9, "initializer_range": 1.0} | config
    return RNNForCausalLM(RNNConfig(**config)).double()


IDS = torch.randint(9, (3, 40), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_an_elman_net_decays_at_the_rate_of_its_spectral_radius():
    """ReLU away from its bend is linear, so one step more is, at length, one factor of the radius more."""
    for radius in (0.5, 0.9, 1.1):
        model = make(cell_type="rnn", hidden_act="relu")
        rnn = model.model.layers[0].rnn
        rnn.weight_ih_l0.zero_()
        rnn.weight_hh_l0.abs_()  # positive, and so are the states, where the activation is linear
        rnn.weight_hh_l0.mul_(radius / torch.linalg.eigvals(rnn.weight_hh_l0).abs().max())
        rnn.bias_ih_l0.fill_(1.0)
        assert spectra(model)[0]["hidden"] == pytest.approx(radius)
        norms = gradient_norms(model, IDS, distances=30)[0]
        assert norms[29] / norms[28] == pytest.approx(radius, rel=1e-3)


@torch.no_grad()
def test_an_lstm_with_forget_gates_at_one_does_not_decay():
    model = make(cell_type="lstm")
    rnn = model.model.layers[0].rnn
    for name, parameter in rnn.named_parameters():
        parameter.mul_(0.0 if name.startswith("weight_hh") else 0.1)
    for bias, gate in ((40.0, 1), (40.0, 3)):  # forget and output gates open
        rnn.bias_ih_l0[6 * gate : 6 * gate + 6] = bias
    norms = gradient_norms(model, IDS, distances=30)[0]
    assert norms[29] == pytest.approx(norms[0], rel=0.2)
    gates = saturation(model, IDS)[0]
    assert gates["forget"] == {"closed": 0.0, "open": 1.0}
    rnn.bias_ih_l0[6:12] = -2.0
    assert gradient_norms(model, IDS, distances=30)[0][29] < 1e-20


@pytest.mark.parametrize("cell_type", ["lstm", "gru", "rnn"])
def test_the_norms_are_those_of_the_jacobian_of_the_whole_stretch(cell_type):
    model = make(cell_type=cell_type, num_hidden_layers=2)
    found = gradient_norms(model, IDS, distances=5)
    network = model.model
    with torch.no_grad():
        hidden = network(IDS, output_hidden_states=True).hidden_states
    for index, layer in enumerate(network.layers):
        with torch.no_grad():
            _, *state = layer(hidden[index][:, :-3])
        expected = []
        for row in range(3):
            start = torch.cat([part[row] for part in state if part is not None])

            def run(flat, row=row, layer=layer, index=index):
                parts = flat.view(-1, 1, 6)
                return layer(hidden[index][row : row + 1, -3:], *parts)[1][0]

            expected.append(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(run, start), ord=2))
        assert found[index][2] == pytest.approx(float(torch.stack(expected).mean()), rel=1e-6)


def test_the_model_stays_as_it_was_and_the_plot_is_written(tmp_path):
    model = make(cell_type="gru", hidden_dropout=0.3, num_hidden_layers=2).train().float()
    found = inspect(model, IDS, distances=10)
    assert model.training and model.dtype == torch.float32
    assert np.shape(found["gradient_norms"]) == (2, 10) and set(found["saturation"][1]) == {"reset", "update"}
    plot_inspection(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="fewer than the 50"):
        gradient_norms(model, IDS)
