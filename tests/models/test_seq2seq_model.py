"""Networks that write a text from another one: rows and padding, steps, the loss, training and checkpoints."""

import pytest
import torch
from seq2seq_models import CLOSE, KINDS, UNITS, make_translator, rows_of, some_pairs

from rnn_hf import RNNCache, RNNForConditionalGeneration


every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
every_unit = pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)


@every_unit
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


@every_unit
@every_kind
def test_steps_with_the_state_are_the_whole_target(unit, fields):
    model, pairs = make_translator(**unit, **fields), some_pairs()
    ids = model.prepare_decoder_input_ids_from_labels(pairs.pop("labels"))
    whole, state = model(**pairs, decoder_input_ids=ids), RNNCache(model.config)
    read = model.encode(**pairs)
    for at in range(ids.shape[1]):
        step = model(encoder_outputs=read, decoder_input_ids=ids[:, at : at + 1], cache=state)
        torch.testing.assert_close(step.logits[:, 0], whole.logits[:, at], **CLOSE)
    for layer, expected in zip(state.layers, whole.cache.layers, strict=True):
        torch.testing.assert_close(layer.keys, expected.keys, **CLOSE)


@every_kind
def test_a_saved_network_is_the_loaded_one(fields, tmp_path):
    model, pairs = make_translator(**fields), some_pairs()
    model.save_pretrained(tmp_path)
    loaded, report = RNNForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(loaded(**pairs).logits, model(**pairs).logits, **CLOSE)
