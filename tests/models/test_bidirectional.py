"""Laws of bidirectional networks: halves are networks of their own, padding changes nothing, there is no state."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import DROPOUTS, assert_same_gradients, gradients_of, left_padded, recurrent_modules, some_ids
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoModelForCausalLM

from rnn_hf import RNNCache, RNNConfig, RNNForCausalLM, RNNModel


CLOSE = {"rtol": 1e-10, "atol": 1e-10}
# Left, right and interior padding, one token, and a row of padding alone.
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0] * 5, [1] * 5])


@pytest.fixture(scope="session")
def make_backbone(make_model):
    """`make_backbone(cell, **fields)`: as `make_model`, of two directions and without a head."""

    def make(cell, **fields):
        return make_model(cell, model_class=RNNModel, **{"bidirectional": True, **fields})

    return make


@st.composite
def masks(draw):
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    row = st.lists(st.booleans(), min_size=time, max_size=time)
    return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))


def halves(outputs):
    return outputs.chunk(2, dim=-1)


def one_direction(model, name):
    """The network of one direction of a one-layer model."""
    config = copy.deepcopy(model.config)
    config.bidirectional, config.tie_word_embeddings = False, False
    alone = RNNModel(config).to(model.dtype).eval()
    alone.embed_tokens.load_state_dict(model.embed_tokens.state_dict())
    alone.layers[0].rnn.load_state_dict(getattr(model.layers[0], name).state_dict())
    return alone


# Directions


def test_the_halves_are_two_networks_and_the_second_reads_from_the_end(make_backbone, cell):
    model, ids = make_backbone(cell, num_hidden_layers=1), some_ids(3, 6)
    forward, backward = halves(model(ids).last_hidden_state)
    torch.testing.assert_close(forward, one_direction(model, "rnn")(ids).last_hidden_state, **CLOSE)
    expected = one_direction(model, "reverse")(ids.flip(1)).last_hidden_state.flip(1)
    torch.testing.assert_close(backward, expected, **CLOSE)


def test_a_layer_sees_both_directions_of_the_one_before(make_backbone, cell):
    model, ids = make_backbone(cell), some_ids(2, 5)
    if cell.get("hidden_act") == "relu":  # no unit may be dead
        with torch.no_grad():
            for module in recurrent_modules(model):
                module.bias_ih_l0.add_(3)
    for where in (0, -1):
        changed = ids.clone()
        changed[:, where] = (ids[:, where] + 1) % 11
        differs = (model(changed).last_hidden_state - model(ids).last_hidden_state).abs()
        assert all((half.amax(-1) > 1e-6).all() for half in halves(differs))


@pytest.mark.parametrize("cell_type, kind", [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_it_is_the_network_that_torch_runs_over_packed_rows(make_backbone, cell_type, kind):
    model, ids = make_backbone({"cell_type": cell_type}), some_ids(4, 7)
    lengths = torch.tensor([7, 3, 1, 5])
    theirs = kind(3, 5, num_layers=2, bidirectional=True, batch_first=True).double()
    with torch.no_grad():
        for index, layer in enumerate(model.layers):
            for name, parameter in theirs.named_parameters():
                own, _, place = name.removesuffix("_reverse").rpartition("_l")
                if int(place) == index:
                    source = layer.reverse if name.endswith("_reverse") else layer.rnn
                    parameter.copy_(getattr(source, f"{own}_l0"))
    rows = pack_padded_sequence(model.embed_tokens(ids), lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(theirs(rows)[0], batch_first=True)
    mask = torch.arange(7) < lengths[:, None]
    torch.testing.assert_close(model(ids, mask).last_hidden_state[mask], expected[mask], **CLOSE)


# Padding


@given(mask=masks(), num_layers=st.integers(1, 3))
def test_padding_anywhere_equals_unpadded_rows(make_backbone, cell, mask, num_layers):
    model, ids = make_backbone(cell, num_hidden_layers=num_layers), some_ids(*mask.shape, seed=7)
    output = model(ids, mask, output_hidden_states=True)
    for row in [row for row in range(len(mask)) if mask[row].any()]:
        alone = model(ids[row, mask[row]][None], output_hidden_states=True)
        for layer, expected in zip(output.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(layer[row, mask[row]], expected[0], **CLOSE)
        real = output.last_hidden_state[row, mask[row]]
        torch.testing.assert_close(real, alone.last_hidden_state[0], **CLOSE)
    shown = torch.zeros(len(mask), output.last_hidden_state.shape[-1], dtype=torch.float64)
    for t in range(mask.shape[1]):
        shown = torch.where(mask[:, t, None], output.last_hidden_state[:, t], shown)
        torch.testing.assert_close(output.last_hidden_state[:, t], shown, rtol=0, atol=0)


@given(mask=masks())
def test_gradients_of_a_padded_batch_are_the_sum_of_those_of_its_rows(make_backbone, cell, mask):
    model, ids = make_backbone(cell), some_ids(*mask.shape)
    weights = torch.rand(*mask.shape, model.config.output_size, dtype=torch.float64)

    def gradients(loss):
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)

    padded = gradients((model(ids, mask).last_hidden_state * weights)[mask].sum())
    of_rows = [
        gradients((model(ids[row, mask[row]][None]).last_hidden_state[0] * weights[row, mask[row]]).sum())
        for row in range(len(mask))
        if mask[row].any()
    ]
    for got, *parts in zip(padded, *of_rows, strict=True):
        torch.testing.assert_close(got, sum(parts, torch.zeros_like(got)), **CLOSE)


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_what_stands_at_padding_changes_nothing(make_backbone, cell, value):
    model, embeds = make_backbone(cell), torch.randn(6, 5, 3, dtype=torch.float64)
    expected = model(inputs_embeds=embeds, attention_mask=MASK).last_hidden_state
    given_embeds = embeds.masked_fill(MASK[..., None] == 0, value)
    assert torch.equal(model(inputs_embeds=given_embeds, attention_mask=MASK).last_hidden_state, expected)


def test_a_layer_that_would_grow_without_bound_over_padding_stays_finite(make_backbone):
    model = make_backbone({"cell_type": "rnn", "hidden_act": "relu"}).float()
    with torch.no_grad():
        for module in recurrent_modules(model):
            module.weight_hh_l0.copy_(3 * torch.eye(len(module.weight_hh_l0)))
    ids, mask = torch.ones(2, 400, dtype=torch.long), torch.ones(2, 400, dtype=torch.long)
    mask[:, 5:] = 0
    outputs = model(ids, mask).last_hidden_state
    outputs.sum().backward()
    assert outputs.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


# In training


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_acts_in_training_and_not_in_eval(make_backbone, cell, name):
    model, ids = make_backbone(cell, **{name: 0.5}), some_ids()
    expected = make_backbone(cell)(ids).last_hidden_state
    torch.testing.assert_close(model(ids).last_hidden_state, expected, rtol=0, atol=0)
    torch.manual_seed(0)
    first, second = (model.train()(ids).last_hidden_state for _ in range(2))
    for some, other in ((first, expected), (first, second)):
        assert not any(torch.allclose(*pair) for pair in zip(halves(some), halves(other), strict=True))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["not reentrant", "reentrant"])
@pytest.mark.parametrize("padded", [False, True])
def test_gradient_checkpointing_gives_equal_gradients(make_backbone, cell, use_reentrant, padded):
    model, ids = make_backbone(cell, **dict.fromkeys(DROPOUTS, 0.4)).train(), some_ids(3, 5)
    calls = []
    for module in recurrent_modules(model):
        module.register_forward_pre_hook(lambda *_: calls.append(1))

    def run():
        calls.clear()
        torch.manual_seed(5)
        model(ids, left_padded(3) if padded else None).last_hidden_state.square().sum().backward()
        return gradients_of(model), len(calls)

    expected, num_calls = run()
    assert num_calls == 4  # two layers, two directions
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    got, num_calls = run()
    assert_same_gradients(got, expected)
    assert num_calls == 8


@pytest.mark.parametrize("layers", ["float32", "autocast"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_autocast_to_bfloat16_is_right_in_both_directions(make_backbone, cell, padded, layers, choose):
    choose(layers)
    model, ids = make_backbone(cell, num_hidden_layers=1, dtype=torch.float32), some_ids(3, 5)
    mask = left_padded(3) if padded else None
    plain = model(ids, mask).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model(ids, mask).last_hidden_state
    assert cast.dtype == torch.float32
    tolerance = {} if layers == "float32" else {"rtol": 0.05, "atol": 0.05}
    for got, expected in zip(halves(cast), halves(plain), strict=True):
        torch.testing.assert_close(got, expected, **tolerance)
        assert layers == "float32" or not torch.equal(got, expected)


# No state, no language model


def test_a_state_is_refused_by_its_name(make_backbone, make_model, cell):
    model, ids = make_backbone(cell), some_ids()
    state = make_model(cell)(ids).cache
    for name in ("cache", "past_key_values"):
        with pytest.raises(ValueError, match="`cache` .*`bidirectional=True`"):
            model(ids, **{name: state})
    with pytest.raises(ValueError, match="`use_cache=True` .*`bidirectional=True`"):
        model(ids, use_cache=True)
    with pytest.raises(ValueError, match="`bidirectional=True`"):
        RNNCache(model.config)
    model.config.use_cache = True  # as a file may say that somebody wrote by hand
    assert model(ids).cache is None and model(ids, use_cache=False).cache is None


def test_a_bidirectional_language_model_is_refused(make_backbone, tmp_path):
    config = RNNConfig(vocab_size=11, hidden_size=4, bidirectional=True)
    for make in (RNNForCausalLM, AutoModelForCausalLM.from_config):
        with pytest.raises(ValueError, match="`bidirectional=True`"):
            make(config)
    make_backbone({}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`bidirectional=True`"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


# Shapes and saving


@pytest.mark.parametrize(
    "fields, sizes, output",
    [
        ({}, [(3, 5), (10, 5)], 10),
        ({"num_softmaxes": 2}, [(3, 5), (10, 5)], 10),
        ({"output_projection_size": 3}, [(3, 5), (10, 5)], 10),
        ({"last_hidden_size": 4}, [(3, 5), (10, 4)], 8),
        ({"projection_size": 2}, [(3, 5), (4, 5)], 4),
        ({"num_hidden_layers": 1}, [(3, 5)], 10),
    ],
)
def test_layers_take_both_directions_and_tying_makes_none_narrow(fields, sizes, output):
    config = RNNConfig(**{"embedding_size": 3, "hidden_size": 5, "bidirectional": True, **fields})
    assert config.layer_sizes == sizes and config.output_size == output and not config.use_cache
    for layer, expected in zip(RNNModel(config).layers, sizes, strict=True):
        assert all((module.input_size, module.hidden_size) == expected for module in (layer.rnn, layer.reverse))


def test_a_language_model_of_one_layer_loads_as_the_forward_half(make_model, cell, tmp_path):
    model, ids = make_model(cell, num_hidden_layers=1, tie_word_embeddings=False), some_ids()
    model.save_pretrained(tmp_path)
    loaded, info = RNNModel.from_pretrained(tmp_path, bidirectional=True, dtype="auto", output_loading_info=True)
    assert info["missing_keys"] and all("reverse" in name for name in info["missing_keys"])
    forward, backward = halves(loaded(ids).last_hidden_state)
    torch.testing.assert_close(forward, model.model(ids).last_hidden_state, rtol=0, atol=0)
    assert backward.abs().sum() > 0


def test_saved_is_loaded(make_backbone, cell, tmp_path):
    model, ids = make_backbone(cell), some_ids(6)
    model.save_pretrained(tmp_path)
    loaded = RNNModel.from_pretrained(tmp_path, dtype="auto")
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in loaded.state_dict().items())
    torch.testing.assert_close(loaded(ids, MASK).last_hidden_state, model(ids, MASK).last_hidden_state, **CLOSE)
