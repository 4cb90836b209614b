"""The configuration of a network that writes a text from another one."""

import copy

import pytest
from huggingface_hub.errors import StrictDataclassError
from seq2seq_models import KINDS, UNITS, make_translator
from transformers import AutoConfig

from rnn_hf import RNNForConditionalGeneration, RNNSeq2SeqConfig
from rnn_hf.models import HEADS


def test_defaults_follow_from_the_other_fields():
    config = RNNSeq2SeqConfig(hidden_size=10, cell_type="rnn", attention="additive", bos_token_id=5)
    assert (config.embedding_size, config.readout_size, config.attention_size, config.hidden_act) == (
        10,
        10,
        10,
        "tanh",
    )
    assert (config.decoder_start_token_id, config.is_encoder_decoder, config.output_vocab_size) == (5, True, 4000)
    assert RNNSeq2SeqConfig(decoder_start_token_id=7).decoder_start_token_id == 7
    plain = RNNSeq2SeqConfig(attention=None, hidden_size=10)
    assert (plain.readout_size, plain.attention_size, plain.output_size, plain.context_size) == (None, None, 10, 0)


def test_searches_see_the_vocabulary_that_is_written():
    config = RNNSeq2SeqConfig(vocab_size=12, decoder_vocab_size=9)
    assert config.get_text_config().vocab_size == config.get_text_config(decoder=True).vocab_size == 9
    assert config.get_text_config(encoder=True) is config and config.vocab_size == 12


def test_widths_follow_from_the_other_fields():
    config = RNNSeq2SeqConfig(**{"embedding_size": 6, "hidden_size": 8, "cell_type": "lstm"}, **KINDS["deep-fed"])
    assert config.decoder_layer_sizes == [(6 + 6, 8), (8 + 12, 8)] and config.encoder_layer_sizes == [(6, 4)]
    assert config.state_sizes == [(8, 8), (8, 8), (6, None)]
    assert config.num_hidden_layers == 2 and config.get_text_config(decoder=True) is config


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"decoder_vocab_size": 0}, "decoder_vocab_size"),
        ({"num_encoder_layers": 0}, "num_encoder_layers"),
        ({"num_decoder_layers": 0}, "num_decoder_layers"),
        ({"hidden_size": 7}, "`bidirectional_encoder` needs an even `hidden_size`"),
        ({"attention": "luong"}, "attention"),
        ({"attention_size": 4}, "`attention_size`"),
        ({"attention_heads": 2}, "`attention_heads`"),
        ({"attention": "multihead", "attention_heads": 3}, "`attention_size` .8. must be a multiple"),
        ({"attention": None, "embedding_size": 8, "input_feeding": True}, "`input_feeding`"),
        ({"attention": None, "embedding_size": 8, "deep_fusion": True}, "`deep_fusion`"),
        ({"attention": None, "embedding_size": 8, "readout_size": 8}, "`readout_size`"),
        ({"attention": None, "embedding_size": 8, "bridge": "zero"}, "`bridge='zero'` needs `attention`"),
        ({"attention": None}, "set `hidden_size` .8. equal to `embedding_size` .6."),
        ({"readout_size": 7}, "set `readout_size` .7. equal to `embedding_size` .6."),
        ({"deep_fusion": True}, "`deep_fusion` needs `num_decoder_layers`"),
        ({"input_feeding": True, "recurrent_dropout": 0.1}, "`recurrent_dropout` does not go with `input_feeding`"),
        ({"residual_from": 0}, "residual_from"),
        ({"residual_from": 1}, "`residual_from` .1. is none of the layers 0 to 0"),
        ({"bridge": "identity"}, "`bidirectional_encoder=False`"),
        ({"bridge": "identity", "bidirectional_encoder": False, "num_encoder_layers": 2}, "as many layers"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"output_dropout": 1.0}, "output_dropout"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"initializer_range": 0}, "initializer_range"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_name(fields, named):
    with pytest.raises(StrictDataclassError, match=named):
        RNNSeq2SeqConfig(**{"embedding_size": 6, "hidden_size": 8} | fields)


def test_a_field_set_later_is_checked_when_a_model_is_made():
    config = RNNSeq2SeqConfig()
    config.hidden_size = 7
    with pytest.raises(StrictDataclassError, match="`hidden_size`"):
        RNNForConditionalGeneration(config)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
def test_saved_is_loaded(unit, fields, tmp_path):
    config = make_translator(**unit, **fields).config
    config.save_pretrained(tmp_path)
    config.name_or_path = str(tmp_path)
    for other in (AutoConfig.from_pretrained(tmp_path), copy.deepcopy(config)):
        assert type(other) is RNNSeq2SeqConfig and other.to_dict() == config.to_dict()


def test_auto_map_names_what_a_stranger_loads_and_is_not_shared():
    heads = {name: head for name, head in HEADS.items() if head.config_class is RNNSeq2SeqConfig}
    assert heads == {"AutoModelForSeq2SeqLM": RNNForConditionalGeneration}
    first, second = RNNSeq2SeqConfig(), RNNSeq2SeqConfig()
    assert second.auto_map == {"AutoConfig": "configuration_rnn_seq2seq.RNNSeq2SeqConfig"} | {
        name: f"modeling_rnn_seq2seq.{head.__name__}" for name, head in heads.items()
    }
    first.auto_map["AutoModelForSeq2SeqLM"] = "elsewhere.Model"
    assert second.auto_map["AutoModelForSeq2SeqLM"] == "modeling_rnn_seq2seq.RNNForConditionalGeneration"
