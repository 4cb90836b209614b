"""The configuration refuses what cannot work by a message that names the field, and survives being saved."""

import copy
import json
import pickle
import re

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from rnn_hf import RNNConfig, RNNModel
from rnn_hf.models import HEADS


DROPOUTS = [
    "classifier_dropout", "embedding_dropout", "input_dropout", "hidden_dropout", "output_dropout", "recurrent_dropout"
]  # fmt: skip
SIZES = ["vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"]


def refused(*words: str):
    """The refusal shows every word, the field's name among them."""
    return pytest.raises(StrictDataclassError, match="(?s)" + "".join(f"(?=.*{re.escape(word)})" for word in words))


# Ranges


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_below_one_are_refused(name, value):
    with refused(f"`{name}`", str(value)):
        RNNConfig(**{name: value})


@pytest.mark.parametrize("name", DROPOUTS)
@pytest.mark.parametrize("value", [-0.1, 1, 1.0, 1.5, float("nan"), float("inf")])
def test_dropouts_that_are_no_probability_are_refused(name, value):
    with refused(f"`{name}`", str(value)):
        RNNConfig(**{name: value})


@pytest.mark.parametrize("value", [0, 0.0, -0.1, float("nan"), float("inf")])
def test_initializer_ranges_that_are_not_positive_and_finite_are_refused(value):
    with refused("`initializer_range`", str(value)):
        RNNConfig(initializer_range=value)


@pytest.mark.parametrize("value", ["LSTM", "elman", "rwkv", None, 1])
def test_unknown_cells_are_refused(value):
    with refused("cell_type", "lstm", "gru", "rnn", str(value)):
        RNNConfig(cell_type=value)


@pytest.mark.parametrize("value", ["gelu", "Tanh", 1])
def test_unknown_activations_are_refused(value):
    with refused("hidden_act", "tanh", "relu", "sigmoid", str(value)):
        RNNConfig(cell_type="rnn", hidden_act=value)


@pytest.mark.parametrize("value", ["cls", "first", None])
def test_unknown_poolings_are_refused(value):
    with refused("pooling", "last", "mean", "max", "concat", str(value)):
        RNNConfig(pooling=value)


# Fields that must fit each other


@pytest.mark.parametrize("cell_type", ["lstm", "gru"])
@pytest.mark.parametrize("value", ["tanh", "relu", "sigmoid"])
def test_activation_is_refused_where_it_is_part_of_the_cell(cell_type, value):
    with refused("`hidden_act`", value, cell_type):
        RNNConfig(cell_type=cell_type, hidden_act=value)


@pytest.mark.parametrize("cell_type", ["gru", "rnn"])
def test_projection_is_refused_for_other_cells(cell_type):
    with refused("`projection_size`", cell_type):
        RNNConfig(cell_type=cell_type, projection_size=2, embedding_size=2, hidden_size=8)


@pytest.mark.parametrize("value", [-1, 8, 9])
def test_projection_outside_its_range_is_refused(value):
    with refused("`projection_size`", str(value)):
        RNNConfig(projection_size=value, hidden_size=8, tie_word_embeddings=False)


def test_tied_projection_of_another_width_than_the_embedding_is_refused():
    with refused("`tie_word_embeddings`", "`projection_size`", "`embedding_size`", "3", "4"):
        RNNConfig(projection_size=3, embedding_size=4, hidden_size=8)
    assert RNNConfig(projection_size=4, embedding_size=4, hidden_size=8).output_size == 4


# Types


@pytest.mark.parametrize("name", [*SIZES, "projection_size"])
@pytest.mark.parametrize("value", [2.0, "2", True])
def test_integers_are_strict(name, value):
    with refused(name, "int"):
        RNNConfig(**{name: value})


@pytest.mark.parametrize("name", [*DROPOUTS, "initializer_range"])
@pytest.mark.parametrize("value", ["0.5", True, None])
def test_floats_are_strict(name, value):
    with refused(name, "float"):
        RNNConfig(**{name: value})


@pytest.mark.parametrize("name", DROPOUTS)
def test_float_fields_take_an_integer(name):
    assert getattr(RNNConfig(**{name: 0}), name) == 0


def test_initializer_range_takes_an_integer():
    assert RNNConfig(initializer_range=1).initializer_range == 1


@pytest.mark.parametrize("name", ["tie_word_embeddings", "use_cache", "bidirectional"])
@pytest.mark.parametrize("value", [1, "true", None])
def test_flags_are_strict(name, value):
    with refused(name, "bool"):
        RNNConfig(**{name: value})


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_token_ids_are_strict(name):
    with refused(name, "int"):
        RNNConfig(**{name: "<eos>"})


# Assignment after construction


@pytest.mark.parametrize(
    "name, value", [("hidden_size", "8"), ("cell_type", "elman"), ("use_cache", 1), ("input_dropout", "0.5")]
)
def test_a_later_value_of_a_wrong_type_is_refused_at_once(name, value):
    config = RNNConfig()
    with refused(name):
        setattr(config, name, value)


@pytest.mark.parametrize("name, value", [("hidden_size", 0), ("hidden_dropout", 1.5), ("hidden_act", "relu")])
def test_a_later_value_outside_its_range_is_refused_before_it_reaches_a_file(tmp_path, name, value):
    config = RNNConfig(cell_type="lstm")
    setattr(config, name, value)
    with refused(f"`{name}`"):
        config.validate()
    with refused(f"`{name}`"):
        config.save_pretrained(tmp_path)


# Widths


def test_embedding_is_as_wide_as_the_state_unless_said():
    assert RNNConfig(hidden_size=7).embedding_size == 7
    assert RNNConfig(hidden_size=7, embedding_size=3).embedding_size == 3


@pytest.mark.parametrize(
    "fields, sizes, output",
    [
        ({"num_hidden_layers": 1}, [(3, 3)], 3),
        ({"num_hidden_layers": 3}, [(3, 5), (5, 5), (5, 3)], 3),
        ({"num_hidden_layers": 1, "tie_word_embeddings": False}, [(3, 5)], 5),
        ({"num_hidden_layers": 3, "tie_word_embeddings": False}, [(3, 5), (5, 5), (5, 5)], 5),
        ({"num_hidden_layers": 3, "projection_size": 3}, [(3, 5), (3, 5), (3, 5)], 3),
        ({"num_hidden_layers": 2, "projection_size": 2, "tie_word_embeddings": False}, [(3, 5), (2, 5)], 2),
    ],
)
def test_widths_of_the_layers(make_model, fields, sizes, output):
    model = make_model({"cell_type": "lstm"}, embedding_size=3, hidden_size=5, **fields)
    assert model.config.layer_sizes == sizes
    assert model.config.output_size == output == model.lm_head.in_features
    assert [(layer.rnn.input_size, layer.rnn.hidden_size) for layer in model.model.layers] == sizes


@pytest.mark.parametrize("num_layers", [1, 4])
def test_layer_types_count_the_layers_and_cannot_be_set(num_layers):
    config = RNNConfig(num_hidden_layers=num_layers)
    assert len(config.layer_types) == num_layers
    assert "layer_types" not in config.to_dict()
    with pytest.raises(AttributeError, match="layer_types"):
        config.layer_types = ["full_attention"] * num_layers


def test_elman_activation_is_tanh_unless_said():
    assert RNNConfig(cell_type="rnn").hidden_act == "tanh"
    assert RNNConfig(cell_type="rnn", hidden_act="relu").hidden_act == "relu"
    assert RNNConfig(cell_type="lstm").hidden_act is None


# Saving


def test_saved_and_loaded_is_equal(tmp_path, cell):
    config = RNNConfig(
        vocab_size=11,
        embedding_size=3,
        hidden_size=5,
        hidden_dropout=0.25,
        recurrent_dropout=0,
        eos_token_id=[1, 2],
        use_cache=False,
        **cell,
    )
    config.save_pretrained(tmp_path)
    for loaded in (RNNConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is RNNConfig
        place = {"_name_or_path": None}  # where it was loaded from is no part of what was saved
        assert loaded.to_dict() | place == config.to_dict() | place


def test_dictionary_pickle_and_copy_are_equal(cell):
    config = RNNConfig(vocab_size=11, embedding_size=3, hidden_size=5, input_dropout=0.5, **cell)
    for other in (
        RNNConfig.from_dict(config.to_dict()),
        RNNConfig(**json.loads(config.to_json_string())),
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
    ):
        assert other.to_dict() == config.to_dict()
        assert other.layer_sizes == config.layer_sizes


def test_a_wrong_value_in_a_file_is_refused_by_name(tmp_path):
    RNNConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 0}))
    with refused("`hidden_size`"):
        RNNConfig.from_pretrained(tmp_path)


def test_auto_map_names_every_class_that_a_stranger_loads(tmp_path):
    RNNConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    assert saved["auto_map"] == {"AutoConfig": "configuration_rnn.RNNConfig"} | {
        name: f"modeling_rnn.{head.__name__}" for name, head in HEADS.items() if head.config_class is RNNConfig
    }
    # As an older release saved it, which had fewer classes; and next to a file that comes without code.
    for given, expected in (({"AutoModel": "own.Model"}, saved["auto_map"] | {"AutoModel": "own.Model"}), ({}, {})):
        path.write_text(json.dumps(saved | {"auto_map": given}))
        assert RNNConfig.from_pretrained(tmp_path).auto_map == expected


def test_configurations_do_not_share_their_auto_map():
    first, second = RNNConfig(), RNNConfig()
    first.auto_map["AutoModel"] = "elsewhere.Model"
    assert second.auto_map["AutoModel"] == "modeling_rnn.RNNModel"


def test_a_wrong_value_set_later_is_refused_when_a_model_is_made():
    config = RNNConfig(vocab_size=5, hidden_size=4)
    config.hidden_dropout = 1.5
    with pytest.raises(StrictDataclassError, match="`hidden_dropout`"):
        RNNModel(config)
