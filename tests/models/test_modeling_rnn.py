"""The models in use, as transformers models: outputs, refusals, losses, vocabulary, types, saving and loading."""

import copy

import pytest
import torch
from networks import DROPOUTS, assert_same_gradients, gradients_of, left_padded, recurrent_modules, some_ids
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from rnn_hf import RNNForCausalLM, RNNModel
from rnn_hf.models import inputs_rnn, loss_rnn


@pytest.fixture
def warnings_of_models(monkeypatch):
    """Texts of the warnings that the models give, each once."""
    texts = []
    monkeypatch.setattr(inputs_rnn.logger, "warning_once", lambda text: text in texts or texts.append(text))
    return texts


# Outputs


@pytest.mark.parametrize("padded", [False, True])
def test_logits_to_keep_selects_positions_in_every_form(make_model, cell, padded):
    model, ids = make_model(cell), some_ids(3, 5)
    mask = left_padded(3) if padded else None
    logits = model(ids, mask).logits

    def keep(form):
        return model(ids, mask, logits_to_keep=form).logits

    def same(got, expected):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected)

    same(keep(0), logits)
    same(keep(1), logits[:, -1:])
    same(keep(3), logits[:, -3:])
    same(keep(torch.tensor([4, 0])), logits[:, [4, 0]])
    same(keep(torch.tensor([-1])), logits[:, -1:])
    rows = torch.tensor([[0, 1], [4, 4], [2, 0]])
    same(keep(rows), torch.stack([logits[i, rows[i]] for i in range(3)]))
    chosen = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    same(keep(chosen), logits[chosen])


def test_logits_to_keep_takes_a_boolean_per_position(make_model):
    # As transformers defines it: a 1D tensor holds for every row. With as many rows as positions, rows and
    # positions would be mixed up without a word.
    model, ids = make_model({}), some_ids(5, 5)
    chosen = torch.tensor([True, False, False, True, False])
    kept = model(ids, logits_to_keep=chosen).logits
    assert kept.shape == (5, 2, 11)
    torch.testing.assert_close(kept, model(ids).logits[:, chosen])


@pytest.mark.parametrize("form", [1, torch.tensor([0])], ids=["count", "positions"])
def test_labels_with_logits_to_keep_are_refused(make_model, form):
    with pytest.raises(ValueError, match="`logits_to_keep`.*`labels`"):
        make_model({})(some_ids(), labels=some_ids(), logits_to_keep=form)


def test_without_return_dict_the_same_outputs_come_as_a_tuple(make_model, cell):
    model, ids = make_model(cell), some_ids()
    named = model(ids, labels=ids, output_hidden_states=True)
    loss, logits, state, hidden_states = model(ids, labels=ids, output_hidden_states=True, return_dict=False)
    torch.testing.assert_close((loss, logits, hidden_states), (named.loss, named.logits, named.hidden_states))
    assert state.get_seq_length() == 5
    only_logits = model(ids, use_cache=False, return_dict=False)
    assert isinstance(only_logits, tuple) and len(only_logits) == 1
    hidden, state = model.model(ids, return_dict=False)
    torch.testing.assert_close(hidden, named.hidden_states[-1])


def test_return_dict_of_the_configuration_counts(make_model):
    model, ids = make_model({}), some_ids()
    expected = model(ids).logits
    model.config.return_dict = False
    logits, _ = model(ids)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_hidden_states_are_the_embeddings_and_each_layer(make_model, cell, num_layers):
    model, ids = make_model(cell, num_hidden_layers=num_layers), some_ids()
    output = model.model(ids, output_hidden_states=True)
    widths = [3] + [model.config.projection_size or hidden for _, hidden in model.config.layer_sizes]
    assert [tuple(hidden.shape) for hidden in output.hidden_states] == [(2, 5, width) for width in widths]
    torch.testing.assert_close(output.hidden_states[0], model.get_input_embeddings()(ids))
    torch.testing.assert_close(output.hidden_states[-1], output.last_hidden_state, rtol=0, atol=0)
    for index, layer in enumerate(model.model.layers):
        expected = layer(output.hidden_states[index])[0]
        torch.testing.assert_close(output.hidden_states[index + 1], expected)
    assert model.model(ids).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(ids).hidden_states) == num_layers + 1


def test_the_head_on_the_last_hidden_state_gives_the_logits(make_model, cell):
    # Trainers that compute the loss themselves take these two and skip the model's forward, dropout included.
    model, ids = make_model(cell, output_dropout=0.5).train(), some_ids()
    head = model.get_output_embeddings()
    torch.manual_seed(0)
    hidden = model.base_model(ids).last_hidden_state
    torch.manual_seed(0)
    torch.testing.assert_close(hidden @ head.weight.T + head.bias, model(ids).logits)


# Inputs that are refused


def test_exactly_one_kind_of_input_is_required(make_model, cell):
    model, ids = make_model(cell), some_ids()
    for arguments in ({}, {"input_ids": ids, "inputs_embeds": model.get_input_embeddings()(ids)}):
        with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
            model(**arguments)


@pytest.mark.parametrize("shape", [(5,), (2, 5, 1), (2, 0)], ids=str)
def test_ids_of_a_wrong_shape_are_refused(make_model, shape):
    with pytest.raises(ValueError, match="`input_ids`"):
        make_model({})(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 0, 3)], ids=str)
def test_embeddings_of_a_wrong_shape_are_refused(make_model, shape):
    with pytest.raises(ValueError, match="`inputs_embeds`"):
        make_model({})(inputs_embeds=torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (1, 5), (5,), (2, 1, 5), (2, 1, 5, 5)], ids=str)
def test_masks_of_a_wrong_shape_are_refused(make_model, shape):
    with pytest.raises(ValueError, match=r"`attention_mask`.*2, 5"):
        make_model({})(some_ids(), torch.ones(shape, dtype=torch.long))


def test_head_masks_are_refused(make_model, cell):
    with pytest.raises(ValueError, match="`head_mask`"):
        make_model(cell)(some_ids(), head_mask=torch.ones(2, 1))


def test_skip_logits_without_labels_is_refused(make_model):
    with pytest.raises(ValueError, match="`skip_logits=True`.*`labels`"):
        make_model({})(some_ids(), skip_logits=True)


def test_arguments_that_other_tools_pass_are_accepted_without_a_word(make_model, cell, warnings_of_models):
    model, ids, mask = make_model(cell), some_ids(), left_padded()
    positions = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)  # as transformers counts padding on the left
    given = {"output_attentions": False, "head_mask": None, "position_ids": positions, "return_dict": True}
    torch.testing.assert_close(model(ids, mask, **given).logits, model(ids, mask).logits)
    model.generate(ids, attention_mask=mask, max_new_tokens=2, num_beams=2, output_hidden_states=True)
    assert not warnings_of_models


def test_an_unknown_argument_gives_one_warning_with_its_name(make_model, warnings_of_models):
    model, ids = make_model({}), some_ids()
    for _ in range(2):
        model(ids, atention_mask=torch.ones_like(ids))
        model(ids, output_attentions=True)
    assert [text.split("`")[1] for text in warnings_of_models] == ["atention_mask", "output_attentions"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("position_ids", torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])),
        ("position_ids", torch.tensor([0, 1, 0, 1, 2])),
        ("seq_idx", torch.tensor([[0, 0, 1, 1, 1]])),
        ("cu_seq_lens_q", torch.tensor([0, 2, 5])),
    ],
)
def test_several_texts_in_a_row_are_refused_by_the_name_that_says_so(make_model, cell, name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*a row of its own"):
        make_model(cell)(some_ids(), **{name: value})


# Loss


def test_loss_is_the_mean_over_the_labels_that_count(make_model, cell):
    model, ids = make_model(cell), some_ids(3, 6)
    labels = ids.clone()
    labels[0, :3] = labels[2, 4] = -100
    output = model(ids, labels=labels)
    log_probabilities = output.logits.log_softmax(-1)
    counted = [(b, t) for b in range(3) for t in range(1, 6) if labels[b, t] != -100]
    expected = -sum(log_probabilities[b, t - 1, labels[b, t]] for b, t in counted) / len(counted)
    torch.testing.assert_close(output.loss, expected)
    for skips in (False, True):  # as NumPy and some collators give them
        torch.testing.assert_close(model(ids, labels=labels.int(), skip_logits=skips).loss, expected)


def test_shift_labels_say_the_token_after_each_position(make_model, cell):
    model, ids = make_model(cell), some_ids(2, 6)
    inside = model(ids[:, :5], shift_labels=ids[:, 1:]).loss
    torch.testing.assert_close(inside, model(ids, labels=ids).loss)
    assert not torch.allclose(inside, model(ids[:, :5], labels=ids[:, :5]).loss)


@pytest.mark.parametrize("skip_logits", [False, True])
@pytest.mark.parametrize("count", [7, torch.tensor(7)], ids=["int", "tensor"])
def test_num_items_in_batch_divides_the_sum(make_model, cell, count, skip_logits):
    # Seven are fewer than there are labels: with accumulated batches the count is that of all of them.
    model, ids = make_model(cell), some_ids(3, 5)
    loss = model(ids, labels=ids, num_items_in_batch=count, skip_logits=skip_logits).loss
    torch.testing.assert_close(loss, model(ids, labels=ids).loss * 12 / 7)


@pytest.mark.parametrize("held", [30, 1 << 22])
@pytest.mark.parametrize("reduction", ["mean", "num_items_in_batch"])
def test_skip_logits_gives_the_plain_loss_and_gradients(make_model, cell, monkeypatch, held, reduction):
    monkeypatch.setattr(loss_rnn, "LOGITS_ON_CPU", held)
    for dtype, digits in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model, ids = make_model(cell, dtype=dtype), some_ids(5, 6)
        labels = torch.where(some_ids(5, 6, seed=1) < 3, -100, ids)
        arguments = {"labels": labels} | ({"num_items_in_batch": 9} if reduction != "mean" else {})
        plain = model(ids, left_padded(5, 6), **arguments)
        plain.loss.backward()
        expected = gradients_of(model)
        skipped = model(ids, left_padded(5, 6), skip_logits=True, **arguments)
        skipped.loss.backward()
        assert skipped.logits is None and plain.logits is not None
        torch.testing.assert_close(skipped.loss, plain.loss, rtol=digits, atol=digits)
        assert_same_gradients(gradients_of(model), expected, rtol=digits, atol=digits)


def test_skip_logits_gives_the_plain_loss_without_gradients(make_model, cell):
    model, ids = make_model(cell), some_ids()
    with torch.no_grad():
        loss = model(ids, labels=ids, skip_logits=True).loss
    torch.testing.assert_close(loss, model(ids, labels=ids).loss)


# Vocabulary and tying


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("size", [14, 8])
@pytest.mark.filterwarnings("ignore:.*mean_resizing.*")
def test_resizing_the_vocabulary_keeps_what_the_words_were(make_model, cell, tmp_path, tied, size):
    model = make_model(cell, tie_word_embeddings=tied)
    ids = some_ids() % 8
    with torch.no_grad():
        before = model(ids).logits
    model.resize_token_embeddings(size, mean_resizing=False)
    assert model.config.vocab_size == size
    assert model.get_input_embeddings().weight.shape[0] == size
    logits = model(ids).logits
    assert logits.shape[-1] == size
    both = min(size, 11)
    torch.testing.assert_close(logits[..., :both], before[..., :both])
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    model(ids, labels=ids, skip_logits=True).loss.backward()
    model.save_pretrained(tmp_path)
    loaded = RNNForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(loaded(ids).logits, logits)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_tying_survives_saving(make_model, cell, tmp_path, tied):
    model = make_model(cell, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (not tied)
    loaded = RNNForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    copied = copy.deepcopy(loaded)
    assert (copied.lm_head.weight is copied.get_input_embeddings().weight) == tied


# Types


@pytest.mark.parametrize("dtype, digits", [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_modules_of_each_type_are_right(make_model, cell, dtype, digits, padded):
    model, ids = make_model(cell, dtype=dtype), some_ids(3, 5)
    mask = left_padded(3) if padded else None
    exact = copy.deepcopy(model).double()
    exact(ids, mask, labels=ids).loss.backward()
    expected = gradients_of(exact)
    for skip_logits in (False, True):
        output = model(ids, mask, labels=ids, skip_logits=skip_logits)
        output.loss.backward()
        assert all(part.dtype == dtype for layer in output.cache.layers for part in [layer.keys])
        torch.testing.assert_close(output.loss.double(), exact(ids, mask, labels=ids).loss, rtol=digits, atol=digits)
        gradients = gradients_of(model)
        assert {gradient.dtype for gradient in gradients.values()} == {dtype}
        got = {name: gradient.double() for name, gradient in gradients.items()}
        assert_same_gradients(got, expected, rtol=digits, atol=digits)
    assert model(ids, mask).logits.dtype == dtype


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layers", ["float32", "autocast"])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_autocast_to_bfloat16_is_right_and_reaches_the_layers_where_it_pays(
    make_model, cell, weights, training, padded, layers, choose
):
    choose(layers)
    fields = dict.fromkeys(DROPOUTS, 0.2) if training else {}
    model, ids = make_model(cell, dtype=weights, **fields).train(training), some_ids(3, 5)
    mask = left_padded(3) if padded else None

    def run(context, **arguments):
        torch.manual_seed(2)
        with context:
            output = model(ids, mask, labels=ids, output_hidden_states=True, **arguments)
        output.loss.backward()
        return output, gradients_of(model)

    plain, expected = run(torch.autocast("cpu", enabled=False))
    for arguments in ({}, {"skip_logits": True}):
        cast, gradients = run(torch.autocast("cpu", dtype=torch.bfloat16), **arguments)
        assert {hidden.dtype for hidden in cast.hidden_states} == {weights}
        assert {layer.keys.dtype for layer in cast.cache.layers} == {weights}
        is_exact = layers == "float32" or weights != torch.float32
        tolerance = {} if is_exact else {"rtol": 0.05, "atol": 0.05}
        torch.testing.assert_close(cast.hidden_states, plain.hidden_states, **tolerance)
        assert is_exact or not torch.equal(cast.hidden_states[-1], plain.hidden_states[-1])
        torch.testing.assert_close(cast.loss, plain.loss, rtol=0.03, atol=0.03)
        assert_same_gradients(gradients, expected, rtol=0.1, atol=0.03)
        if not arguments:
            assert cast.logits.dtype == torch.bfloat16
            torch.testing.assert_close(cast.logits.float(), plain.logits.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("way", ["step", "module"])
def test_autocast_leaves_a_step_of_one_token_in_the_type_of_the_weights(make_model, cell, way, choose):
    model, ids = make_model(cell, dtype=torch.float32).eval(), some_ids(3, 5)
    whole = model.model(ids).last_hidden_state
    choose(way)
    cache = model(ids[:, :-1]).cache
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.model(ids[:, -1:], cache=cache)
    assert output.cache.layers[0].keys.dtype == torch.float32
    torch.testing.assert_close(output.last_hidden_state, whole[:, -1:])


# Saving and loading


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_saved_and_loaded_parameters_are_equal_to_the_bit(make_model, cell, tmp_path, dtype):
    model = make_model(cell, dtype=dtype)
    model.save_pretrained(tmp_path)
    for loaded in (
        RNNForCausalLM.from_pretrained(tmp_path, dtype="auto"),
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto", device_map="cpu"),
    ):
        assert type(loaded) is RNNForCausalLM and not loaded.training
        got, expected = dict(loaded.named_parameters()), dict(model.named_parameters())
        assert got.keys() == expected.keys()
        for name in got:
            assert got[name].dtype == dtype and torch.equal(got[name], expected[name]), name
        ids = some_ids()
        torch.testing.assert_close(loaded(ids, left_padded()).logits, model(ids, left_padded()).logits)


def test_backbone_of_a_saved_language_model_loads(make_model, cell, tmp_path):
    model, ids = make_model(cell), some_ids()
    model.save_pretrained(tmp_path)
    backbone = AutoModel.from_pretrained(tmp_path, dtype="auto")
    assert type(backbone) is RNNModel
    torch.testing.assert_close(backbone(ids).last_hidden_state, model.model(ids).last_hidden_state)


def test_weights_are_laid_out_for_cudnn_after_loading(make_model, cell, tmp_path, monkeypatch):
    make_model(cell, seed=4, num_hidden_layers=3).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    flattened = []  # modules, and what they held: construction calls this too, on weights that are still to come

    def record(module):
        weight = module._parameters.get("weight_hh_l0")
        flattened.append((module, None if weight is None or weight.is_meta else weight.detach().clone()))

    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", record)
    for kwargs in ({}, {"device_map": "cpu"}, {"output_loading_info": True}):
        flattened.clear()
        loaded = RNNForCausalLM.from_pretrained(tmp_path, dtype="auto", **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        assert len(recurrent_modules(model)) == 3
        for index, module in enumerate(recurrent_modules(model)):
            held = [weight for other, weight in flattened if other is module and weight is not None]
            assert held and torch.equal(held[-1], saved[f"model.layers.{index}.rnn.weight_hh_l0"])
