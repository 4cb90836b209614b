"""With an output projection the head is the product of two linear layers, in every way to use the model."""

import copy

import peft
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.models.generation_rnn import head_of


IDS = torch.randint(1, 11, (3, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def projected(make_model, cell):
    """Tied, with an embedding narrower than the last layer; an LSTM with a projection of its own has 4 outputs."""
    fields = {"projection_size": 4} if "projection_size" in cell else {}
    return make_model(cell | fields, output_projection_size=3)


def seen_by(module):
    """A list that each input and output of a module is added to."""
    seen = []
    module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    return seen


# Widths


@pytest.mark.parametrize(
    "fields, sizes, output",
    [
        ({"num_hidden_layers": 1}, [(3, 5)], 5),
        ({"num_hidden_layers": 3}, [(3, 5), (5, 5), (5, 5)], 5),
        ({"num_hidden_layers": 2, "last_hidden_size": 7}, [(3, 5), (5, 7)], 7),
        ({"num_hidden_layers": 2, "projection_size": 4}, [(3, 5), (4, 5)], 4),
    ],
)
def test_the_last_layer_is_as_wide_as_the_others_and_the_head_as_the_embedding(make_model, fields, sizes, output):
    model = make_model({"cell_type": "lstm"}, embedding_size=3, output_projection_size=3, **fields)
    assert model.config.layer_sizes == sizes and model.config.output_size == output
    assert (model.output_projection.in_features, model.output_projection.out_features) == (output, 3)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model(IDS).logits.shape == (3, 6, 11)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"output_projection_size": 0}, "`output_projection_size` must be at least 1"),
        ({"output_projection_size": 4}, "set `output_projection_size` (4) equal to `embedding_size` (3)"),
        ({"num_softmaxes": 2}, "`output_projection_size` (3) does not go with `num_softmaxes` (2)"),
        ({"output_projection_size": 2.0}, "output_projection_size"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises(StrictDataclassError) as error:
        RNNConfig(**({"embedding_size": 3, "hidden_size": 5, "output_projection_size": 3} | fields))
    assert words in f"{error.value} {error.value.__cause__}"


def test_without_one_there_is_no_module_and_no_parameter(make_model, cell):
    model = make_model(cell)
    assert model.output_projection is None and not any("output_projection" in name for name in model.state_dict())


@pytest.mark.parametrize("cell_type", ["lstm", "gru", "rnn"])
def test_it_starts_as_glorot_and_bengio_have_it_and_the_head_as_ever(cell_type):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "embedding_size": 20, "hidden_size": 60, "output_projection_size": 20}
    model = RNNForCausalLM(RNNConfig(cell_type=cell_type, **sizes))
    projection, bound = model.output_projection, (6 / 80) ** 0.5
    assert 0.95 * bound < projection.weight.abs().max() <= bound and not projection.bias.any()
    assert 0.09 < model.lm_head.weight.abs().max() <= 0.1


# What it computes


def test_logits_are_those_of_both_layers_and_the_hidden_state_keeps_its_width(projected):
    last = projected.model(IDS).last_hidden_state
    assert last.shape == (3, 6, projected.config.output_size)
    weight, bias = projected.output_projection.weight, projected.output_projection.bias
    expected = (last @ weight.T + bias) @ projected.lm_head.weight.T + projected.lm_head.bias
    torch.testing.assert_close(projected(IDS).logits, expected)
    torch.testing.assert_close(projected(IDS, logits_to_keep=2).logits, expected[:, -2:])
    torch.testing.assert_close(projected(IDS, logits_to_keep=IDS > 5).logits, expected[IDS > 5])
    steps, state = [], None
    for ids in IDS.split(1, dim=1):
        outputs = projected(ids, cache=state)
        steps, state = [*steps, outputs.logits], outputs.cache
    torch.testing.assert_close(torch.cat(steps, dim=1), expected)


def test_the_projection_sees_the_output_after_its_dropout(projected):
    projected.config.output_dropout = 0.5
    seen = seen_by(projected.output_projection)
    last = projected.train().model(IDS).last_hidden_state
    projected.compute_logits(last)
    assert torch.equal(seen[0][0], last) and (last == 0).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_in_parts_has_the_value_and_gradients_of_that_from_logits(projected, smoothing):
    targets, last = IDS.roll(-1, 1), projected.model(IDS).last_hidden_state

    def run(**arguments):
        loss = projected.compute_loss(last, targets, label_smoothing=smoothing, **arguments)
        return loss, torch.autograd.grad(loss, list(projected.parameters()), retain_graph=True)

    torch.testing.assert_close(run(), run(logits=projected.compute_logits(last)))


def test_under_autocast_it_runs_in_its_type_in_the_loss_in_parts_too(make_model):
    model = make_model({"cell_type": "gru"}, hidden_size=16, output_projection_size=3, dtype=torch.float32)
    seen, exact = seen_by(model.output_projection), model(IDS, labels=IDS).loss
    for skips in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(IDS, labels=IDS, skip_logits=skips).loss
        assert seen[-1][1].dtype == torch.bfloat16 and loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
        loss.backward()
        assert model.output_projection.weight.grad.dtype == torch.float32


# Decoding


def greedily(model, rows=3):
    ways = []
    for directly in (True, False):
        model.decodes_directly = directly
        ways.append(model.generate(IDS[:rows], max_new_tokens=20, do_sample=False, pad_token_id=0))
    return ways


@pytest.mark.parametrize("way", ["linear", "parts", "vector", "packed"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_light_loop_gives_the_tokens_of_transformers_own(projected, way, rows, choose):
    choose(way)
    projected.float()
    with torch.no_grad():
        projected.lm_head.weight.mul_(3)
        projected.lm_head.bias.zero_()
    last = projected.model(IDS[:rows]).last_hidden_state[:, -1]
    torch.testing.assert_close(head_of(projected, rows, packs=True)(last), projected.compute_logits(last))
    ours, stock = greedily(projected, rows)
    assert torch.equal(ours, stock)


def hooked(projection):
    projection.register_forward_hook(lambda module, inputs, output: output.flip(-1))
    return projection


def without_bias(projection):
    other = nn.Linear(projection.in_features, projection.out_features, bias=False, dtype=projection.weight.dtype)
    other.weight.data.copy_(projection.weight)
    return other


@pytest.mark.parametrize("change", [hooked, without_bias, lambda old: nn.Sequential(old, nn.Tanh())])
def test_what_stands_in_its_place_counts_in_the_loss_and_in_every_loop(make_model, change):
    model = make_model({"cell_type": "lstm"}, output_projection_size=3)
    before = model(IDS, labels=IDS).loss
    model.output_projection = change(model.output_projection)
    seen = seen_by(model.output_projection)
    ours, stock = greedily(model)
    assert torch.equal(ours, stock) and len(seen) == 40
    losses = [model(IDS, labels=IDS, skip_logits=skips).loss for skips in (True, False)]
    torch.testing.assert_close(*losses)
    assert not torch.isclose(losses[0], before)


# Of peft, which reads a name that transformers will drop.
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_an_adapter_on_it_gives_the_numbers_of_the_model_that_it_is_merged_into(make_model):
    model = make_model({"cell_type": "gru"}, output_projection_size=3)
    before = model(IDS, labels=IDS).loss
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["output_projection"])
    adapter = peft.get_peft_model(model, config).eval()
    (ours, stock), loss = greedily(adapter.base_model.model), adapter(input_ids=IDS, labels=IDS, skip_logits=True).loss
    merged = adapter.merge_and_unload()
    torch.testing.assert_close(merged(IDS, labels=IDS).loss, loss)
    assert torch.equal(ours, stock) and torch.equal(ours, greedily(merged)[0]) and not torch.isclose(loss, before)


# Saved, resized


def test_saved_is_loaded_copied_and_resized_and_every_parameter_is_trained(projected, tmp_path):
    projected.save_pretrained(tmp_path)
    again = RNNForCausalLM.from_pretrained(tmp_path, dtype="auto")
    for other in (again, copy.deepcopy(projected)):
        assert torch.equal(other(IDS).logits, projected(IDS).logits)
    again.resize_token_embeddings(15)
    assert again(IDS).logits.shape == (3, 6, 15) and again.lm_head.weight is again.get_input_embeddings().weight
    torch.testing.assert_close(again(IDS).logits[..., :11], projected(IDS).logits)
    again.train()(IDS, labels=IDS, skip_logits=True).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in again.parameters())
