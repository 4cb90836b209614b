"""The configuration of a network that hears."""

import copy

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from rnn_hf import RNNConfig, RNNForCTC, RNNSpeechConfig
from rnn_hf.models import HEADS


def refused(match):
    return pytest.raises(StrictDataclassError, match=match)


def test_defaults_make_a_network_of_bands_without_a_tied_matrix():
    config = RNNSpeechConfig()
    assert (config.pad_token_id, config.tie_word_embeddings, config.use_cache) == (0, False, False)
    assert config.layer_sizes == [(256, 256)] * 2 and config.has_state
    assert RNNForCTC(RNNSpeechConfig(vocab_size=5, hidden_size=4)).lm_head.out_features == 5


@pytest.mark.parametrize("bands, stack, hop", [(40, 3, 80), (1, 1, 1), (13, 7, 160)])
def test_steps_follow_from_frames(bands, stack, hop):
    config = RNNSpeechConfig(num_mel_bins=bands, frame_stack=stack, hop_length=hop, input_size=bands * stack)
    assert config.input_size == bands * stack and config.inputs_to_logits_ratio == stack * hop
    assert RNNSpeechConfig(num_mel_bins=bands, frame_stack=stack, hop_length=hop).to_dict() == config.to_dict()
    with refused("`input_size` .* may be left out"):
        RNNSpeechConfig(num_mel_bins=bands, frame_stack=stack, input_size=bands * stack + 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_mel_bins": 0},
        {"frame_stack": 0},
        {"hop_length": -1},
        {"vocab_size": 1},
        {"pad_token_id": 32},
        {"pad_token_id": -1},
        {"pad_token_id": None},
        {"num_softmaxes": 2},
        {"output_projection_size": 8},
        {"embedding_dropout": 0.1},
        {"reads_backward": True},
        {"frame_stack": 1.5},
        {"ctc_zero_infinity": "yes"},
        {"cell_type": "transformer"},
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_name(fields):
    with refused(next(iter(fields))):
        RNNSpeechConfig(**fields)


def test_a_field_set_later_is_checked_when_a_model_is_made():
    for name in ("frame_stack", "num_mel_bins"):
        config = RNNSpeechConfig(vocab_size=5, hidden_size=4)
        setattr(config, name, 5)
        with refused("`input_size`"):
            RNNForCTC(config)


def test_saved_is_loaded(tmp_path):
    config = RNNSpeechConfig(vocab_size=9, pad_token_id=3, cell_type="gru", frame_stack=2, bidirectional=True)
    config.save_pretrained(tmp_path)
    config.name_or_path = str(tmp_path)
    for other in (AutoConfig.from_pretrained(tmp_path), copy.deepcopy(config)):
        assert type(other) is RNNSpeechConfig and other.to_dict() == config.to_dict()
        assert other.inputs_to_logits_ratio == 160


def test_auto_map_names_what_a_stranger_loads_and_is_not_shared():
    first, second, of_text = RNNSpeechConfig(), RNNSpeechConfig(), RNNConfig()
    heads = {name: head for name, head in HEADS.items() if head.config_class is RNNSpeechConfig}
    assert second.auto_map == {"AutoConfig": "configuration_rnn_speech.RNNSpeechConfig"} | {
        name: f"modeling_rnn_speech.{head.__name__}" for name, head in heads.items()
    }
    first.auto_map["AutoModelForCTC"] = "elsewhere.Model"
    assert second.auto_map["AutoModelForCTC"] == "modeling_rnn_speech.RNNForCTC"
    assert not set(heads) & set(of_text.auto_map)
