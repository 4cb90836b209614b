"""Networks that write a text from another one: against equations in NumPy, padding, steps, the loss, checkpoints."""

import json

import pytest
import torch
from networks import assert_same_gradients, gradients_of
from safetensors.torch import load_file
from seq2seq_equations import Equations
from seq2seq_models import CLOSE, KINDS, SOME_UNITS, make_translator, rows_of, some_pairs, units
from strangers import told_by_a_stranger
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM

from rnn_hf import RNNCache, RNNForConditionalGeneration, RNNSeq2SeqConfig


every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
every_unit = units("lstm", "gru")
some_units = units("lstm", names=SOME_UNITS)


# Against the equations


@every_unit
@every_kind
def test_it_is_its_equations(unit, fields):
    model = make_translator(**unit, **fields)
    source, target = [3, 4, 5, 6, 2], [1, 4, 8, 5, 2]
    outputs = model(torch.tensor([source]), decoder_input_ids=torch.tensor([target]), output_attentions=True)
    logits, weights = Equations(model).logits(source, target)
    torch.testing.assert_close(outputs.logits[0], torch.from_numpy(logits), **CLOSE)
    if weights is not None:
        torch.testing.assert_close(outputs.cross_attentions[0][0], torch.from_numpy(weights), **CLOSE)


def test_an_additive_attention_is_the_same_in_any_parts(monkeypatch):
    from rnn_hf.models import attention_rnn

    model, pairs = make_translator(**KINDS["additive"]), some_pairs()
    expected = model(**pairs).logits
    monkeypatch.setattr(attention_rnn, "COMPARED", 4 * 5 * 5)  # one step of the target at a time
    torch.testing.assert_close(model(**pairs).logits, expected, **CLOSE)


# Padding, masks, the state


@some_units
@every_kind
def test_a_row_in_a_padded_batch_is_the_row_alone(unit, fields):
    model, pairs = make_translator(**unit, **fields), some_pairs()
    together = model(**pairs, output_attentions=True)
    for index, row in enumerate(rows_of(pairs)):
        alone, length = model(**row, output_attentions=True), row["labels"].shape[1]
        torch.testing.assert_close(together.logits[index, :length], alone.logits[0], **CLOSE)
        if alone.cross_attentions is None:
            continue
        weights = together.cross_attentions[0][index, :, :length][..., pairs["attention_mask"][index].bool()]
        torch.testing.assert_close(weights, alone.cross_attentions[0][0], **CLOSE)


@every_kind
def test_gradients_of_a_padded_batch_are_those_of_its_rows(fields):
    model, pairs = make_translator(cell_type="lstm", **fields), some_pairs()
    model(**pairs, num_items_in_batch=9).loss.backward()
    expected = gradients_of(model)
    for row in rows_of(pairs):
        model(**row, num_items_in_batch=9).loss.backward()
    assert_same_gradients(gradients_of(model), expected, rtol=1e-9, atol=1e-10)


@every_kind
def test_a_mask_is_made_where_sources_are_padded_and_none_is_given(fields):
    model, pairs = make_translator(**fields), some_pairs()
    expected = model(**pairs).logits
    del pairs["attention_mask"]
    torch.testing.assert_close(model(**pairs).logits, expected, rtol=0, atol=0)
    read = model.get_encoder()(pairs["input_ids"])
    if model.config.bridge != "identity":
        assert not read.last_hidden_state[0, :0].any() and not read.last_hidden_state[1, 3:].any()
    for given in (read, model.encode(pairs["input_ids"])):  # with the mask
        torch.testing.assert_close(model(encoder_outputs=given, labels=pairs["labels"]).logits, expected, **CLOSE)


@some_units
@every_kind
def test_padding_of_the_target_stands_anywhere(unit, fields):
    model, pairs = make_translator(**unit, **fields), some_pairs()
    source = {name: pairs[name][:3] for name in ("input_ids", "attention_mask")}
    ids = torch.tensor([[1, 4, 0, 0, 0], [0, 0, 1, 4, 5], [1, 0, 4, 0, 0]])
    mask = ids != 0
    together = model(**source, decoder_input_ids=ids, decoder_attention_mask=mask, output_attentions=True)
    for index, row in enumerate(rows_of({**pairs, "labels": pairs["labels"]})[:3]):
        alone = model(row["input_ids"], decoder_input_ids=ids[index][mask[index]][None], output_attentions=True)
        torch.testing.assert_close(together.logits[index, mask[index]], alone.logits[0], **CLOSE)
        for layer, expected in zip(together.cache.layers, alone.cache.layers, strict=True):
            torch.testing.assert_close(layer.keys[index], expected.keys[0], **CLOSE)
            if expected.values is not None:
                torch.testing.assert_close(layer.values[index], expected.values[0], **CLOSE)
        if alone.cross_attentions is not None:
            weights = together.cross_attentions[0][index][:, mask[index]][..., source["attention_mask"][index].bool()]
            torch.testing.assert_close(weights, alone.cross_attentions[0][0], **CLOSE)


@some_units
@every_kind
def test_steps_with_the_state_are_the_whole_target(unit, fields):
    model, pairs = make_translator(**unit, **fields), some_pairs()
    ids = model.prepare_decoder_input_ids_from_labels(pairs.pop("labels"))
    whole, state = model(**pairs, decoder_input_ids=ids), RNNCache(model.config)
    read = model.encode(**pairs)
    for at in range(ids.shape[1]):
        step = model(encoder_outputs=read, decoder_input_ids=ids[:, at : at + 1], cache=state)
        torch.testing.assert_close(step.logits[:, 0], whole.logits[:, at], **CLOSE)
    assert state.get_seq_length() == whole.cache.get_seq_length() == 4
    for layer, expected in zip(state.layers, whole.cache.layers, strict=True):
        torch.testing.assert_close(layer.keys, expected.keys, **CLOSE)


@pytest.mark.parametrize("kind", ["general", "fed-additive", "deep-fed"])
def test_a_state_is_copied_forked_joined_and_saved_with_what_is_fed(kind, tmp_path):
    model, pairs = make_translator(cell_type="lstm", **KINDS[kind]), some_pairs()
    read = model.encode(pairs["input_ids"])
    state = model(encoder_outputs=read, decoder_input_ids=torch.tensor([[1, 4, 5]] * 4)).cache
    following = torch.tensor([[3]] * 4)
    expected = model(encoder_outputs=read, decoder_input_ids=following, cache=state.copy()).logits
    state.save(tmp_path / "state", model)
    joined = RNNCache.cat([state.rows([0, 1]), state.rows([2, 3])])
    for other in (RNNCache.load(tmp_path / "state", model), joined):
        found = model(encoder_outputs=read, decoder_input_ids=following, cache=other).logits
        torch.testing.assert_close(found, expected, **CLOSE)
    turned = model.encode(pairs["input_ids"][[2, 2, 0, 0]])
    found = model(encoder_outputs=turned, decoder_input_ids=following, cache=state.rows([2, 0]).fork(2)).logits
    torch.testing.assert_close(found, expected[[2, 2, 0, 0]], **CLOSE)


@every_kind
def test_a_source_of_padding_alone_gives_finite_numbers(fields):
    model, pairs = make_translator(**fields), some_pairs()
    pairs["input_ids"][1] = pairs["attention_mask"][1] = 0
    outputs = model(**pairs)
    outputs.loss.backward()
    assert outputs.logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values() if gradient is not None)


# The loss


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@every_kind
def test_the_loss_in_parts_is_cross_entropy_and_smooth_in_training_alone(fields, smoothing):
    model, pairs = make_translator(label_smoothing=smoothing, **fields), some_pairs()
    labels, results = pairs["labels"], []
    for training in (False, True):
        model.train(training)
        logits = model(**pairs, skip_logits=False).logits
        share = smoothing if training else 0.0
        expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=share)
        expected.backward()
        gradients = gradients_of(model)
        for skips in (False, True, None):
            outputs = model(**pairs, skip_logits=skips)
            assert (outputs.logits is None) == (training if skips is None else skips)
            torch.testing.assert_close(outputs.loss, expected, **CLOSE)
            outputs.loss.backward()
            assert_same_gradients(gradients_of(model), gradients, rtol=1e-9, atol=1e-10)
        results.append(expected.item())
    assert (results[0] == pytest.approx(results[1])) == (not smoothing)


@every_kind
def test_gradients_are_those_of_finite_differences(fields):
    model, pairs = make_translator(**fields), some_pairs()
    model(**pairs).loss.backward()
    expected = gradients_of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            place = parameter.view(-1)[parameter.numel() // 2 : parameter.numel() // 2 + 1]
            before, losses = place.clone(), []
            for change in (1e-6, -1e-6):
                place.copy_(before + change)
                losses.append(model(**pairs).loss)
            place.copy_(before)
            found = expected[name].view(-1)[parameter.numel() // 2]
            torch.testing.assert_close(found, (losses[0] - losses[1]) / 2e-6, rtol=1e-4, atol=1e-7, msg=name)


def test_what_does_not_fit_is_refused_by_name():
    model, pairs = make_translator(), some_pairs()
    source, labels = {"input_ids": pairs["input_ids"]}, pairs["labels"]
    other = RNNCache(make_translator(hidden_size=10).config)
    make_translator(hidden_size=10)(**source, decoder_input_ids=torch.ones(4, 1).long(), cache=other)
    wrong = [
        ({"labels": labels}, "`input_ids`"),
        (source, "`decoder_input_ids` or `labels`.*`DataCollatorForSeq2Seq` the model"),
        ({**source, "decoder_input_ids": labels[:2]}, "`decoder_input_ids` must be .4, time"),
        ({**source, "decoder_input_ids": torch.ones(4, 2).long(), "labels": labels}, "`labels` must have shape"),
        ({**source, "decoder_input_ids": torch.ones(4, 1).long(), "skip_logits": True}, "`skip_logits=True` needs"),
        ({**source, "decoder_input_ids": torch.ones(4, 1).long(), "cache": other}, "state of another network"),
        ({**source, "attention_mask": torch.ones(4, 2), "labels": labels}, "`attention_mask`"),
    ]  # fmt: skip
    for given, named in wrong:
        with pytest.raises(ValueError, match=named):
            model(**given)
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="`decoder_start_token_id`"):
        model(**pairs)
    states = model.get_encoder()(pairs["input_ids"]).last_hidden_state
    with pytest.raises(ValueError, match="`final_state`"):
        make_translator(**KINDS["identity"])(encoder_outputs=(states,), decoder_input_ids=torch.ones(4, 1).long())


# Checkpoints, embeddings


@every_kind
def test_what_is_saved_is_loaded(fields, tmp_path):
    model, pairs = make_translator(**fields), some_pairs()
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == {name for name, _ in model.named_parameters()}
    again, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is RNNForConditionalGeneration and not any(report.values()), report
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in model.named_parameters()]
    torch.testing.assert_close(again(**pairs).logits, model(**pairs).logits, **CLOSE)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_rnn_seq2seq.RNNSeq2SeqConfig",
        "AutoModelForSeq2SeqLM": "modeling_rnn_seq2seq.RNNForConditionalGeneration",
    }


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("other", [None, 9])
def test_embeddings_are_one_where_the_configuration_says_so(ties, shares, other, tmp_path):
    fields = {"tie_word_embeddings": ties, "share_embeddings": shares, "decoder_vocab_size": other}
    model = make_translator(**fields)
    model.save_pretrained(tmp_path)
    for each in (model, RNNForConditionalGeneration.from_pretrained(tmp_path)):
        encoder, decoder = each.model.encoder.embed_tokens.weight, each.model.decoder.embed_tokens.weight
        assert (encoder is decoder) == (shares and other is None)
        assert (decoder is each.lm_head.weight) == ties
        assert decoder.shape == each.lm_head.weight.shape == (other or 12, 6)


@pytest.mark.parametrize("ties", [False, True])
def test_a_vocabulary_grows_and_the_numbers_stay(ties, tmp_path):
    model, pairs = make_translator(tie_word_embeddings=ties), some_pairs()
    expected = model(**pairs).logits
    model.resize_token_embeddings(15)
    assert model.config.vocab_size == 15 == model.config.output_vocab_size
    torch.testing.assert_close(model(**pairs).logits[..., :12], expected, **CLOSE)
    model.save_pretrained(tmp_path)
    again = RNNForConditionalGeneration.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**pairs).logits, model(**pairs).logits, **CLOSE)
    pairs["labels"][0, 0] = pairs["input_ids"][0, 0] = 14
    again.config.embedding_dropout = 0.5
    again.train()(**pairs).loss.backward()
    for fields in ({"share_embeddings": False}, {"decoder_vocab_size": 9}):
        with pytest.raises(ValueError, match="one embedding"):
            make_translator(**fields).resize_token_embeddings(15)


def test_fresh_weights_are_as_documented():
    config = RNNSeq2SeqConfig(vocab_size=50, embedding_size=32, hidden_size=64, attention="multihead")
    model = RNNForConditionalGeneration(config)
    assert 0.09 < model.lm_head.weight.abs().max() <= 0.1 and not model.lm_head.bias.any()
    for module in (model.model.decoder.bridge, model.model.decoder.readout, model.model.decoder.attention.q_proj):
        bound = (6 / sum(module.weight.shape)) ** 0.5
        assert 0.9 * bound < module.weight.abs().max() <= bound and not module.bias.any()
    assert model.get_output_embeddings() is model.lm_head and model.can_generate()


STRANGER = """
import torch
from transformers import AutoModelForSeq2SeqLM

model = AutoModelForSeq2SeqLM.from_pretrained("saved", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules")
model.save_pretrained("again")
again = AutoModelForSeq2SeqLM.from_pretrained("again", trust_remote_code=True).eval()
ids, labels = torch.tensor([[3, 4, 5, 2], [6, 2, 0, 0]]), torch.tensor([[4, 5, 2], [3, 2, -100]])
loss = again(ids, labels=labels).loss
loss.backward()
print(json.dumps([loss.item(), again.generate(ids, num_beams=2, max_length=8).tolist()]))
"""


@pytest.mark.slow
def test_a_stranger_loads_it_and_translates(tmp_path):
    model = make_translator(**KINDS["fed-additive"])
    model.save_pretrained(tmp_path / "saved")
    loss, sequences = told_by_a_stranger(STRANGER, tmp_path)
    ids, labels = torch.tensor([[3, 4, 5, 2], [6, 2, 0, 0]]), torch.tensor([[4, 5, 2], [3, 2, -100]])
    assert loss == pytest.approx(model(ids, labels=labels).loss.item())
    assert sequences == model.generate(ids, num_beams=2, max_length=8).tolist()
