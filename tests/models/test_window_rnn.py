"""Layers that train on a CPU by equations of their own are torch's, outputs, states and gradients."""

import pytest
import torch
from torch import nn

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.models import RNNLayer, kernels_rnn, layers_rnn
from rnn_hf.models.window_rnn import run_window


KINDS = {
    "gru": lambda *sizes: nn.GRU(*sizes, batch_first=True),
    "tanh": lambda *sizes: nn.RNN(*sizes, batch_first=True),
    "relu": lambda *sizes: nn.RNN(*sizes, batch_first=True, nonlinearity="relu"),
}
CELLS = [
    {"cell_type": "gru"},
    *({"cell_type": "rnn", "hidden_act": act} for act in ("tanh", "relu", "sigmoid")),
    {"cell_type": "gru", "bidirectional": True},
]
IDS = torch.randint(1, 11, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1], [0] * 6])
IS_ELMAN = pytest.mark.parametrize("unit", CELLS[:4], ids=lambda unit: unit.get("hidden_act", "gru"))


def layer_of(unit: dict, **fields) -> RNNLayer:
    torch.manual_seed(0)
    return RNNLayer(RNNConfig(**unit, embedding_size=3, hidden_size=5, num_hidden_layers=1, **fields), 0).double()


@pytest.mark.parametrize("sizes", [(3, 2, 4, 5), (1, 7, 6, 4), (5, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_state_and_gradients_are_those_of_torch(kind, has_state, sizes):
    torch.manual_seed(0)
    rows, steps, width, size = sizes
    module = KINDS[kind](width, size).double()
    inputs = torch.randn(rows, steps, width, dtype=torch.float64, requires_grad=True)
    hidden = torch.randn(1, rows, size, dtype=torch.float64, requires_grad=True) if has_state else None
    leaves = [inputs, *module.parameters(), *([hidden] if has_state else [])]
    found, expected = run_window(kind, inputs, hidden, list(module.parameters())), module(inputs, hidden)
    for own, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=0, atol=1e-13)
        assert own.stride() == wanted.stride()
    weights = [torch.randn_like(output) for output in expected]
    gradients = [
        torch.autograd.grad(sum((w * each).sum() for w, each in zip(weights, outputs, strict=True)), leaves)
        for outputs in (found, expected)
    ]
    for own, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(own, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_no_gradient_has_none(kind):
    module = KINDS[kind](4, 3)
    inputs = torch.randn(2, 5, 4)
    module.weight_ih_l0.requires_grad_(False)
    run_window(kind, inputs, None, list(module.parameters()))[0].sum().backward()
    assert inputs.grad is None and module.weight_ih_l0.grad is None and module.weight_hh_l0.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_add_up_where_parameters_are_behind_views(kind):
    weights = [parameter.detach()[None].requires_grad_() for parameter in KINDS[kind](4, 3).double().parameters()]
    inputs, sums = torch.randn(2, 5, 4, dtype=torch.float64), []
    for _ in range(2):
        run_window(kind, inputs, None, [weight.squeeze(0) for weight in weights])[0].sum().backward()
        sums.append([weight.grad.clone() for weight in weights])
    for once, twice in zip(*sums, strict=True):
        torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize("fields", [{}, {"recurrent_dropout": 0.3}], ids=["plain", "dropout"])
@pytest.mark.parametrize("is_padded", [False, True])
@IS_ELMAN
def test_a_model_trains_as_by_the_modules(unit, is_padded, fields, choose):
    torch.manual_seed(0)
    config = RNNConfig(vocab_size=11, embedding_size=3, hidden_size=5, tie_word_embeddings=False, **unit, **fields)
    model = RNNForCausalLM(config).double().train()
    given = {"attention_mask": MASK} if is_padded else {}
    results = []
    for way in ("own", "module"):
        choose(way)
        torch.manual_seed(1)
        loss = model(IDS, labels=IDS, **given).loss
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for own, expected in zip(*results, strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unit", CELLS, ids=str)
def test_it_runs_in_training_alone_and_where_it_was_measured_to_be_faster(unit, choose, monkeypatch):
    layer, inputs, ran = layer_of(unit), torch.randn(2, 4, 3, dtype=torch.float64), []

    def run(*given):
        ran.append(given[0])
        return run_window(*given)

    monkeypatch.setattr(layers_rnn, "run_window", run)
    choose("own")
    layer.eval()(inputs)
    layer.train()
    with torch.no_grad():
        layer(inputs)
    if not unit.get("bidirectional"):
        layer(inputs[:, :1])
    assert not ran
    layer(inputs)
    assert len(ran) == 1 + bool(unit.get("bidirectional"))
    choose("module")
    layer(inputs)
    assert len(ran) == 1 + bool(unit.get("bidirectional"))


@IS_ELMAN
def test_hooks_of_the_module_see_and_change_its_outputs(unit, choose):
    choose("own")
    layer, inputs = layer_of(unit).train(), torch.randn(2, 4, 3, dtype=torch.float64)
    plain, *_ = layer(inputs)
    layer.rnn.register_forward_hook(lambda module, given, outputs: (outputs[0] + 1, outputs[1]))
    changed, *_ = layer(inputs)
    torch.testing.assert_close(changed, plain + (0.5 if unit.get("hidden_act") == "sigmoid" else 1))


def test_a_second_derivative_is_refused_in_training_and_there_in_evaluation(choose):
    choose("own")
    layer, inputs = layer_of(CELLS[0]), torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    outputs, *_ = layer.train()(inputs)
    (first,) = torch.autograd.grad(outputs.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
    outputs, *_ = layer.eval()(inputs)
    (first,) = torch.autograd.grad(outputs.square().sum(), inputs, create_graph=True)
    assert torch.autograd.grad(first.sum(), inputs)[0].isfinite().all()


def test_the_way_is_chosen_at_the_first_window_whatever_the_rows_of_later_ones(monkeypatch):
    choices, layer = kernels_rnn.Choices(), layer_of(CELLS[0]).train()
    monkeypatch.setattr(kernels_rnn, "CHOICES", choices)
    layer(torch.randn(2, 4, 3, dtype=torch.float64))
    first = dict(choices)
    assert [what for what in first if what.startswith("window gru float64 ")] and len(first) == 1
    for rows, steps in ((7, 20), (300, 2)):
        layer(torch.randn(rows, steps, 3, dtype=torch.float64))
    assert choices == first
