"""A layer over padded rows, on weights that are not its module's own, and with whatever is hooked onto its module."""

import copy
from contextlib import contextmanager

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.models import RNNLayer


IDS = torch.randint(1, 11, (4, 6), generator=torch.Generator().manual_seed(0))
# Left, right and interior padding, and a row of padding alone.
MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1], [0] * 6])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_padding_leaves_the_cell_state_as_it_was_bit_for_bit(dtype):
    torch.manual_seed(0)
    layer = RNNLayer(RNNConfig(hidden_size=16, num_hidden_layers=1), 0).to(dtype).eval()
    inputs, hidden, cell = (torch.randn(*shape, dtype=dtype) for shape in ((3, 9, 16), (3, 16), (3, 16)))
    padding = torch.ones(3, 9, dtype=torch.bool)
    _, _, after = layer(inputs, hidden, cell, padding)
    assert torch.equal(after, cell)


def test_what_stands_at_padding_changes_nothing_be_it_no_number(make_model, cell):
    model, embeds = make_model(cell), torch.randn(4, 6, 3, dtype=torch.float64)
    given = [embeds.masked_fill(MASK[..., None] == 0, value).requires_grad_() for value in (0.0, torch.nan, torch.inf)]
    outputs = [model(inputs_embeds=each, attention_mask=MASK) for each in given]
    gradients = [
        torch.autograd.grad(output.logits.sum(), each)[0] for output, each in zip(outputs, given, strict=True)
    ]
    for output, gradient in zip(outputs[1:], gradients[1:], strict=True):
        assert torch.equal(output.logits, outputs[0].logits) and torch.equal(gradient, gradients[0])
        for mine, first in zip(output.cache.layers, outputs[0].cache.layers, strict=True):
            assert torch.equal(mine.keys, first.keys)
            assert first.values is None or torch.equal(mine.values, first.values)


def test_a_layer_that_would_grow_without_bound_over_padding_stays_finite(make_model):
    model = make_model({"cell_type": "rnn", "hidden_act": "relu"}).float()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.rnn.weight_hh_l0.copy_(3 * torch.eye(len(layer.rnn.weight_hh_l0)))
    ids, mask = torch.ones(2, 400, dtype=torch.long), torch.ones(2, 400, dtype=torch.long)
    mask[0, 5:] = 0
    ids[1], mask[1, 7:] = 2, 0
    output = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    output.loss.backward()
    assert output.logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


# Modules that are not as they were made. What is done to them must be seen, as in the plain run of the module.


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrized(rnn):
    parametrize.register_parametrization(rnn, "weight_hh_l0", Halved())


def weight_normed(rnn):
    parametrizations.weight_norm(rnn, "weight_hh_l0")
    with torch.no_grad():
        rnn.parametrizations.weight_hh_l0.original0.mul_(0.5)


def weight_normed_the_old_way(rnn):
    nn.utils.weight_norm(rnn, "weight_hh_l0")
    with torch.no_grad():
        rnn.weight_hh_l0_g.mul_(0.5)


def pruned(rnn):
    prune.random_unstructured(rnn, "weight_hh_l0", amount=0.5)


def hooked(rnn):
    rnn.register_forward_hook(lambda module, inputs, outputs: (outputs[0] / 2, outputs[1]))


WAYS = {way.__name__: way for way in (parametrized, weight_normed, weight_normed_the_old_way, pruned)}


def effective(model):
    """A model of plain modules with the weights that the modules of this one run with."""
    plain = RNNForCausalLM(model.config).double().eval()
    with torch.no_grad():
        model(IDS)  # hooks make the weights on the way
        state = {name: value for name, value in model.state_dict().items() if name in plain.state_dict()}
        for index, layer in enumerate(model.model.layers):
            for name in (name for name, _ in plain.model.layers[index].rnn.named_parameters()):
                state[f"model.layers.{index}.rnn.{name}"] = getattr(layer.rnn, name).detach()
    plain.load_state_dict(state)
    return plain


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_reparametrised_weights_are_seen_by_every_cell(make_model, cell, way, padded):
    torch.manual_seed(0)
    model, mask = make_model(cell), MASK if padded else None
    before = model(IDS, mask).logits
    for layer in model.model.layers:
        way(layer.rnn)
    logits = model(IDS, mask).logits
    torch.testing.assert_close(logits, effective(model)(IDS, mask).logits)
    assert not torch.allclose(logits, before)
    logits.sum().backward()
    last = model.model.layers[-1].rnn
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in last.named_parameters() if "weight_hh" in n)
    for tokens in (model.generate(IDS[:1], max_new_tokens=20, do_sample=False),):
        assert torch.equal(tokens, effective(model).generate(IDS[:1], max_new_tokens=20, do_sample=False))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_recurrent_dropout_drops_reparametrised_weights_too(make_model, cell, way):
    model = make_model(cell, recurrent_dropout=0.5)
    for layer in model.model.layers:
        way(layer.rnn)
    model.train()
    draws = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        draws.append(model(IDS).logits)
    assert torch.equal(draws[0], draws[2]) and not torch.allclose(draws[0], draws[1])


@pytest.mark.parametrize("padded", [False, True])
def test_a_hook_on_the_module_is_run(make_model, cell, padded):
    model, mask = make_model(cell), MASK if padded else None
    before, calls = model(IDS, mask).logits, []
    for layer in model.model.layers:
        layer.rnn.register_forward_hook(lambda module, inputs, outputs: calls.append(1))
    torch.testing.assert_close(model(IDS, mask).logits, before)
    assert len(calls) == 2
    hooked(model.model.layers[0].rnn)
    assert not torch.allclose(model(IDS, mask).logits, before)


@pytest.mark.parametrize("training", [False, True])
def test_a_module_with_a_forward_of_its_own_is_run_by_it(make_model, training):
    class Own(nn.LSTM):
        def forward(self, inputs, state=None):
            outputs, state = super().forward(inputs, state)
            return outputs, state

    for cell in ({"cell_type": "lstm"}, {"cell_type": "lstm", "projection_size": 3}):
        model = make_model(cell)
        expected = model(IDS, MASK)
        for layer in model.model.layers:
            own = Own(layer.rnn.input_size, layer.rnn.hidden_size, batch_first=True, proj_size=layer.rnn.proj_size)
            own.load_state_dict(layer.rnn.state_dict())
            layer.rnn = own.double()
        output = model.train(training)(IDS, MASK)
        torch.testing.assert_close(output.logits, expected.logits)
        for mine, other in zip(output.cache.layers, expected.cache.layers, strict=True):
            torch.testing.assert_close(mine.keys, other.keys)
            torch.testing.assert_close(mine.values, other.values)


@contextmanager
def global_hook():
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *rest: calls.append(type(module)))
    yield calls
    handle.remove()


def test_global_hooks_see_every_module(make_model, cell, choose):
    choose("step")  # which passes by the recurrent module where it may
    model, layers = make_model(cell), 2
    kind = type(model.model.layers[0].rnn)
    expected = model.generate(IDS[:1], max_new_tokens=3, do_sample=False)
    with global_hook() as calls:
        assert torch.equal(model.generate(IDS[:1], max_new_tokens=3, do_sample=False), expected)
        assert calls.count(nn.Linear) == 3 and calls.count(kind) == 3 * layers
        calls.clear()
        model(IDS, labels=IDS, skip_logits=True)
        assert calls.count(nn.Linear) == 1


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_weights_that_lie_elsewhere_are_fetched(make_model, cell, where, tmp_path):
    model = make_model(cell)
    away = copy.deepcopy(model)
    away = cpu_offload(away, "cpu") if where == "cpu" else disk_offload(away, tmp_path, "cpu")
    for mask in (None, MASK):
        torch.testing.assert_close(away(IDS, mask).logits, model(IDS, mask).logits)
        loss = away(IDS, mask, labels=IDS, skip_logits=True).loss
        torch.testing.assert_close(loss, model(IDS, mask, labels=IDS).loss)
    expected = model.generate(IDS[:1], max_new_tokens=5, do_sample=False)
    assert torch.equal(away.generate(IDS[:1], max_new_tokens=5, do_sample=False), expected)
