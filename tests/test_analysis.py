"""Gradients fade at the rate that theory gives, and the figures are those of a direct computation."""

import json

import numpy as np
import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.analysis import (
    ACTIVATIONS,
    activations,
    gradient_norms,
    inspect,
    pieces_of,
    saturation,
    spectra,
    training_norms,
)


def make(**config):
    torch.manual_seed(0)
    config = {"hidden_size": 6, "num_hidden_layers": 1, "vocab_size": 9, "initializer_range": 1.0} | config
    config["tie_word_embeddings"] = not config.get("projection_size")
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


def test_the_norms_are_those_of_the_jacobian_of_the_whole_stretch(cell):
    model = make(**cell, num_hidden_layers=2)
    norms = gradient_norms(model, IDS, distances=5)
    network = model.model
    with torch.no_grad():
        hidden = network(IDS, output_hidden_states=True).hidden_states
    for index, layer in enumerate(network.layers):
        with torch.no_grad():
            _, *state = layer(hidden[index][:, :-3])
        widths = [part.shape[1] for part in state if part is not None]
        expected = []
        for row in range(3):
            start = torch.cat([part[row] for part in state if part is not None])

            def run(flat, row=row, layer=layer, index=index, widths=widths):
                parts = flat[None].split(widths, dim=1)
                return layer(hidden[index][row : row + 1, -3:], *parts)[1][0]

            expected.append(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(run, start), ord=2))
        assert norms[index][2] == pytest.approx(float(torch.stack(expected).mean()), rel=1e-6)


@torch.no_grad()
def test_activations_are_those_that_the_equations_of_the_cell_give(cell):
    model = make(**cell)
    layer = model.model.layers[0]
    (values,) = activations(model, IDS)
    assert tuple(values) == ACTIVATIONS[model.config.cell_type]
    outputs, _, cell_state = layer(model.model.embed_tokens(IDS))
    hidden = values["hidden"] @ layer.rnn.weight_hr_l0.T if layer.rnn.proj_size else values["hidden"]
    torch.testing.assert_close(hidden, outputs)
    if cell["cell_type"] == "lstm":
        torch.testing.assert_close(values["cell"][:, -1], cell_state)
    if cell["cell_type"] == "gru":  # h' = (1 - z) n + z h, where the new gate n takes r (U h + b)
        rnn, inputs = layer.rnn, model.model.embed_tokens(IDS)[:, -1]
        of_input = torch.nn.functional.linear(inputs, rnn.weight_ih_l0, rnn.bias_ih_l0)[:, 12:]
        of_hidden = torch.nn.functional.linear(outputs[:, -2], rnn.weight_hh_l0, rnn.bias_hh_l0)[:, 12:]
        new = (of_input + values["reset"][:, -1] * of_hidden).tanh()
        torch.testing.assert_close(new.lerp(outputs[:, -2], values["update"][:, -1]), outputs[:, -1])


def test_the_smallest_norms_are_not_lost():
    model = make(cell_type="rnn", hidden_act="relu")
    model.model.layers[0].rnn.weight_hh_l0.data.mul_(1e-9)
    model.model.layers[0].rnn.bias_ih_l0.data.fill_(9.0)
    norms = gradient_norms(model, IDS, distances=30)[0]
    assert 0 < norms[29] < 1e-200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pieces_of(IDS[0], 0, 5), "`rows` must be at least 1, got 0"),
        (lambda: pieces_of(IDS[0], 2, -1), "`steps` must be at least 1, got -1"),
        (lambda: pieces_of(IDS[0], 5, 9), "40 tokens, fewer than `rows` x `steps`, 5 x 9"),
        (lambda: gradient_norms(make(), IDS, 0), "`distances` must be at least 1, got 0"),
        (lambda: gradient_norms(make(), IDS, 50), "3 x 40: it needs a row, of at least `distances`, 50, steps"),
        (lambda: gradient_norms(make(), IDS[:0], 5), "0 x 40: it needs a row"),
    ],
)
def test_numbers_that_make_no_sense_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert pieces_of(IDS[0], 3, 13).shape == (3, 13)


def test_norms_of_training_are_those_that_the_run_wrote(tmp_path):
    assert training_norms(tmp_path) is None
    rows = [{"step": 5, "grad_norm": 0.5}, {"step": 5, "validation_loss": 1.0}, {"step": 10, "grad_norm": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = {"steps": [5, 10], "norms": [0.5, 2.0], "clipped_at": None}
    assert training_norms(tmp_path) == expected
    parts = {"model": {}, "data": {}, "training": {"max_grad_norm": 0.25}}
    (tmp_path / "run.json").write_text(json.dumps({"arguments": parts}))
    assert training_norms(tmp_path) == expected | {"clipped_at": 0.25}


def test_the_model_stays_as_it_was():
    model = make(cell_type="gru", hidden_dropout=0.3, num_hidden_layers=2).train().float()
    content = inspect(model, IDS, distances=10)
    assert model.training and model.dtype == torch.float32
    assert np.shape(content["gradient_norms"]) == (2, 10) and set(content["saturation"][1]) == {"reset", "update"}
