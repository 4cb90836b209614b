"""The models in training: dropouts, gradient checkpointing, initialisation, and a batch that is learned by heart."""

import copy
import math

import pytest
import torch
from networks import DROPOUTS, assert_same_gradients, gradients_of, left_padded, recurrent_modules, some_ids
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.models import modeling_rnn


# The names that the older of the supported transformers versions know as well.
old_names = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


# Dropouts


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_acts_in_training_and_not_in_eval(make_model, cell, name):
    model, ids = make_model(cell, **{name: 0.5}), some_ids()
    expected = make_model(cell)(ids).logits
    torch.manual_seed(0)
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0)
    first, second = model.train()(ids).logits, model(ids).logits
    assert not torch.allclose(first, expected)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(model.eval()(ids).logits, expected, rtol=0, atol=0)


def test_embedding_dropout_drops_word_types_everywhere_in_the_batch(make_model):
    model = make_model({}, vocab_size=40, embedding_dropout=0.25).train()
    ids = torch.randint(40, (6, 30), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    seen = model.model(ids, output_hidden_states=True).hidden_states[0]
    factors = seen / model.get_input_embeddings()(ids)
    kept = []
    for word in range(40):
        of_word = factors[ids == word]
        assert of_word.unique().numel() == 1 or torch.allclose(of_word, of_word[0, 0].expand_as(of_word))
        kept.append(of_word[0, 0].item())
    assert all(math.isclose(factor, 4 / 3) or factor == 0 for factor in kept)
    assert 0 < kept.count(0) < 20


@pytest.mark.parametrize("name", ["input_dropout", "hidden_dropout", "output_dropout"])
@pytest.mark.parametrize("padded", [False, True])
def test_locked_dropout_has_one_mask_for_all_steps_and_one_a_row(make_model, cell, name, padded):
    fields = {"embedding_size": 6, "hidden_size": 8, "num_hidden_layers": 3}
    if cell.get("projection_size"):
        fields["projection_size"] = 6
    model = make_model({**cell, **fields}, **{name: 0.25}).train()
    entering = []  # what locked dropout returned: the inputs of the layers, and the output
    original = modeling_rnn.locked_dropout

    def recorded(inputs, *args):
        output = original(inputs, *args)
        entering.append((inputs, output))
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_rnn, "locked_dropout", recorded)
        torch.manual_seed(0)
        last = model.model(some_ids(8, 5), left_padded(8) if padded else None).last_hidden_state
    assert len(entering) == 4 and entering[-1][1] is last
    acting = {"input_dropout": [0], "hidden_dropout": [1, 2], "output_dropout": [3]}[name]
    for place, (before, after) in enumerate(entering):
        if place not in acting:
            assert before is after
            continue
        rows = []
        for b in range(8):
            factors = [(after[b, t] / before[b, t])[before[b, t] != 0] for t in range(5)]
            zeros = [(after[b, t] == 0) & (before[b, t] != 0) for t in range(5)]
            alive = (before[b] != 0).all(0)
            assert all(torch.isclose(f, torch.tensor(4 / 3, dtype=f.dtype)) or f == 0 for f in torch.cat(factors))
            assert all(torch.equal(zeros[0][alive], z[alive]) for z in zeros)
            rows.append(tuple((after[b] == 0).all(0).tolist()))
        assert len(set(rows)) > 1


def test_recurrent_dropout_is_one_mask_on_the_recurrent_weights(make_model, cell):
    """The network that ran is the one with the masked weights, and the raw weights receive the gradient."""
    model = make_model(cell, num_hidden_layers=1, recurrent_dropout=0.25)
    ids = some_ids(4, 6)
    with torch.no_grad():
        # No unit of a ReLU may be dead, so that a weight without gradient is a dropped one.
        if cell.get("hidden_act") == "relu":
            recurrent_modules(model)[0].bias_ih_l0.fill_(6.0)
            recurrent_modules(model)[0].weight_hh_l0.abs_()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    torch.manual_seed(3)
    trained = model.train()(ids).logits
    (trained * torch.rand_like(trained)).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.is_leaf and isinstance(parameter, nn.Parameter)
    weight = model.model.layers[0].rnn.weight_hh_l0
    dropped = weight.grad == 0
    assert dropped.any() and not dropped.all()
    masked = copy.deepcopy(model).eval()
    with torch.no_grad():
        masked.model.layers[0].rnn.weight_hh_l0.copy_(torch.where(dropped, 0, weight / 0.75))
    torch.testing.assert_close(masked(ids).logits, trained)


def test_recurrent_dropout_works_again_after_eval(make_model, cell):
    model, ids = make_model(cell, recurrent_dropout=0.5), some_ids()
    names = [name for name, _ in model.named_parameters()]
    outputs = []
    for _ in range(3):
        torch.manual_seed(0)
        outputs.append((model.train()(ids).logits, model.eval()(ids).logits))
    for trained, evaluated in outputs[1:]:
        assert torch.equal(trained, outputs[0][0]) and torch.equal(evaluated, outputs[0][1])
    assert not torch.allclose(*outputs[0])
    assert [name for name, _ in model.named_parameters()] == names
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.train()(ids).logits.sum().backward()
    assert all(module.weight_hh_l0.grad.abs().sum() > 0 for module in recurrent_modules(model))


def test_output_dropout_lives_in_the_backbone(make_model, cell):
    model = make_model(cell, output_dropout=0.5).train()
    output = model.model(some_ids(4), output_hidden_states=True)
    raw, dropped = output.hidden_states[-1], output.last_hidden_state
    assert torch.where(dropped == 0, raw * 0, raw * 2).allclose(dropped)
    assert (dropped == 0).any() and (dropped != 0).any()


@pytest.mark.parametrize("name", ["input_dropout", "output_dropout"])
def test_locked_dropout_preserves_the_expectation(make_model, name):
    # Each of the 4000 rows draws its own mask, and where a ReLU is positive the layer is linear in its input.
    model = make_model({"cell_type": "rnn", "hidden_act": "relu"}, num_hidden_layers=1, **{name: 0.25}).train()
    with torch.no_grad():
        recurrent_modules(model)[0].bias_ih_l0.fill_(6.0)
        recurrent_modules(model)[0].weight_hh_l0.abs_()
    ids = some_ids(1, 3).expand(4000, 3)
    torch.manual_seed(0)
    draws = model.model(ids).last_hidden_state
    expected = model.eval().model(ids[:1]).last_hidden_state[0]
    assert ((draws.mean(0) - expected).abs() < 5 * draws.std(0) / 4000**0.5).all()
    assert (draws.std(0) > 0.05).all()


def test_embedding_dropout_preserves_the_expectation(make_model):
    model = make_model({}, vocab_size=4000, embedding_dropout=0.25).train()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(1.0)
    torch.manual_seed(0)
    seen = model.model(torch.arange(4000)[None], output_hidden_states=True).hidden_states[0]
    assert abs(seen.mean().item() - 1) < 5 * (1 / 3) ** 0.5 / 4000**0.5


def test_recurrent_dropout_preserves_the_expectation(make_model):
    # With its factor held by the test above, what is left is how many weights are dropped: 60 x 60 draws.
    cell = {"cell_type": "rnn", "hidden_act": "tanh", "hidden_size": 60, "embedding_size": 60}
    model = make_model(cell, num_hidden_layers=1, recurrent_dropout=0.25).train()
    torch.manual_seed(0)
    model(some_ids()).logits.sum().backward()
    kept = (recurrent_modules(model)[0].weight_hh_l0.grad != 0).double().mean().item()
    assert abs(kept - 0.75) < 5 * (0.75 * 0.25) ** 0.5 / 60


# Gradient checkpointing


@old_names
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["not reentrant", "reentrant"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradient_checkpointing_gives_equal_gradients(make_model, cell, use_reentrant, padded, dropout):
    model, ids = make_model(cell, **dict.fromkeys(DROPOUTS, dropout)).train(), some_ids(3, 5)
    calls = []
    for module in recurrent_modules(model):
        module.register_forward_pre_hook(lambda *_: calls.append(1))  # not after: a replay may stop early

    def loss_and_gradients():
        calls.clear()
        torch.manual_seed(5)
        loss = model(ids, left_padded(3) if padded else None, labels=ids).loss
        loss.backward()
        return loss, gradients_of(model), len(calls)

    loss, expected, num_calls = loss_and_gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    checkpointed, got, num_calls_checkpointed = loss_and_gradients()
    torch.testing.assert_close(checkpointed, loss)
    assert_same_gradients(got, expected)
    assert num_calls_checkpointed == 2 * num_calls  # or nothing was checkpointed
    model.gradient_checkpointing_disable()
    assert loss_and_gradients()[2] == num_calls


@old_names
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["not reentrant", "reentrant"])
def test_gradient_checkpointing_keeps_the_gradient_through_a_carried_state(make_model, cell, use_reentrant):
    model, ids = make_model(cell).train(), some_ids(2, 6)

    def gradients():
        state = model(ids[:, :3]).cache
        model(ids[:, 3:], cache=state).logits.sum().backward()
        return gradients_of(model)

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    assert_same_gradients(gradients(), expected)


# Initialisation


def assert_recurrent_module_is_initialised(module: nn.RNNBase):
    size = module.hidden_size
    for gate in module.weight_hh_l0.detach().split(size):
        small = gate.T @ gate  # square, or tall under a projection: orthonormal columns either way
        torch.testing.assert_close(small, torch.eye(len(small), dtype=small.dtype), rtol=1e-5, atol=1e-5)
    for gate in module.weight_ih_l0.detach().split(size):
        bound = 5 / 3 * (6 / sum(gate.shape)) ** 0.5 if isinstance(module, nn.GRU) else size**-0.5
        assert gate.abs().max() <= bound and gate.std() > 0.3 * bound
    bias = module.bias_ih_l0 + module.bias_hh_l0
    expected = torch.zeros_like(bias)
    if isinstance(module, nn.LSTM):
        expected[size : 2 * size] = 1
    torch.testing.assert_close(bias, expected, rtol=0, atol=0)


def test_initialisation_is_as_documented(cell):
    config = RNNConfig(vocab_size=50, embedding_size=3, hidden_size=6, initializer_range=0.05, **cell)
    torch.manual_seed(0)
    model = RNNForCausalLM(config)
    for module in recurrent_modules(model):
        assert_recurrent_module_is_initialised(module)
    weight = model.get_input_embeddings().weight
    assert 0.04 < weight.abs().max() <= 0.05
    assert not model.lm_head.bias.any()


def test_initialisation_is_determined_by_the_seed(cell):
    config = RNNConfig(vocab_size=11, embedding_size=3, hidden_size=5, tie_word_embeddings=False, **cell)

    def draw(seed):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).state_dict()

    first, second, other = draw(0), draw(0), draw(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert changed == {name for name in first if "bias" not in name}


@pytest.mark.parametrize("missing", ["rnn", "weight_hh", "bias_ih", "layers.0", "lm_head", "embed_tokens"])
def test_missing_keys_are_initialised_and_the_others_left_alone(make_model, cell, tmp_path, missing):
    model = make_model(cell, tie_word_embeddings=False)
    with torch.no_grad():
        for module in recurrent_modules(model):
            module.bias_hh_l0.zero_()  # so that the sum of the biases is that of the initialised one
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    saved = load_file(path)
    kept = {name: tensor for name, tensor in saved.items() if missing not in name}
    assert len(kept) < len(saved)
    save_file(kept, path, metadata={"format": "pt"})
    torch.manual_seed(0)
    loaded, info = RNNForCausalLM.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert set(info["missing_keys"]) == saved.keys() - kept.keys()
    for name, parameter in loaded.named_parameters():
        assert parameter.isfinite().all(), name
        assert not parameter.is_meta
        if name in kept:
            assert torch.equal(parameter, kept[name]), name
        else:
            assert not torch.equal(parameter, saved[name]) or not saved[name].any(), name
            if "lm_head.weight" in name or "embed_tokens" in name:
                assert 0.05 < parameter.abs().max() <= loaded.config.initializer_range
    for index, module in enumerate(recurrent_modules(loaded)):
        whole = missing == "rnn" or (missing == "layers.0" and index == 0)
        if whole:
            assert_recurrent_module_is_initialised(module)
        elif missing == "weight_hh":
            for gate in module.weight_hh_l0.detach().split(module.hidden_size):
                torch.testing.assert_close(gate.T @ gate, torch.eye(gate.shape[1], dtype=gate.dtype))
        elif missing == "bias_ih":
            expected = torch.zeros_like(module.bias_ih_l0)
            if isinstance(module, nn.LSTM):
                expected[module.hidden_size : 2 * module.hidden_size] = 1
            assert torch.equal(module.bias_ih_l0, expected)


# Training


def test_a_tiny_batch_is_learned_by_heart(cell):
    fields = {**cell, "projection_size": 32} if cell.get("projection_size") else cell
    embedding_size = fields.get("projection_size", 48)
    config = RNNConfig(vocab_size=11, embedding_size=embedding_size, hidden_size=48, num_hidden_layers=1, **fields)
    torch.manual_seed(0)
    model, ids = RNNForCausalLM(config).train(), some_ids(4, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(60):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
