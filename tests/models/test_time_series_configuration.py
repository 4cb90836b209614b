"""The configuration of a network that forecasts."""

import copy

import pytest
from huggingface_hub.errors import StrictDataclassError
from series_models import FIELDS, config_of
from transformers import AutoConfig

from rnn_hf import RNNForTimeSeriesPrediction, RNNTimeSeriesConfig
from rnn_hf.models import HEADS


def refused(match):
    return pytest.raises(StrictDataclassError, match=match)


def test_defaults_make_networks_of_both_heads():
    config = RNNTimeSeriesConfig()
    assert (config.context_length, config.lags_sequence, config.past_length) == (24, [1], 25)
    direct = RNNTimeSeriesConfig(prediction_head="direct", prediction_length=48, loss="quantile")
    assert (direct.lags_sequence, direct.segment_length, direct.past_length, direct.input_size) == ([], 24, 48, 24)
    assert direct.quantiles[0] == 0.05 and direct.quantiles[9] == 0.5 and direct.num_outputs == 19
    for fields in ({"hidden_size": 4}, {"hidden_size": 4, "prediction_head": "direct"}):
        model = RNNForTimeSeriesPrediction(RNNTimeSeriesConfig(**fields))
        assert model.get_input_embeddings() is model.model.input_projection and model.main_input_name == "past_values"
        assert not model.can_generate()  # text


def test_widths_follow_from_the_other_fields():
    config = config_of("autoregressive", cardinality=[4, 9], num_static_categorical_features=2)
    assert config.embedding_dimension == [2, 5]
    assert config.input_size == 3 + 3 + 2 + (2 + 5) + 1 + 2
    with refused("`input_size` .* may be left out"):
        config_of("autoregressive", input_size=9)
    direct = config_of("direct", cardinality=[4, 9], num_static_categorical_features=2, embedding_size=12)
    assert direct.embedding_dimension == [3, 3]
    assert config_of("direct", embedding_dimension=[5]).embedding_dimension == [5]


@pytest.mark.parametrize(
    "head, fields, named",
    [
        ("autoregressive", {"prediction_length": 0}, "prediction_length"),
        ("autoregressive", {"context_length": 0}, "context_length"),
        ("autoregressive", {"num_parallel_samples": 0}, "num_parallel_samples"),
        ("autoregressive", {"lags_sequence": [0, 1]}, "lags_sequence"),
        ("autoregressive", {"lags_sequence": [2, 1]}, "lags_sequence"),
        ("autoregressive", {"lags_sequence": [1, 1]}, "lags_sequence"),
        ("autoregressive", {"lags_sequence": []}, "lags_sequence"),
        ("autoregressive", {"num_time_features": -1}, "num_time_features"),
        ("autoregressive", {"cardinality": [4, 2]}, "cardinality"),
        ("autoregressive", {"cardinality": [0]}, "cardinality"),
        ("autoregressive", {"cardinality": None}, "cardinality"),
        ("autoregressive", {"embedding_dimension": [1, 2]}, "embedding_dimension"),
        ("autoregressive", {"scale_floor": 0}, "scale_floor"),
        ("autoregressive", {"scaling": "max"}, "scaling"),
        ("autoregressive", {"loss": "mae"}, "loss"),
        ("autoregressive", {"segment_length": 1}, "segment_length"),
        ("autoregressive", {"bidirectional": True}, "bidirectional"),
        ("autoregressive", {"num_softmaxes": 2}, "num_softmaxes"),
        ("autoregressive", {"quantiles": [0.1, 0.9]}, "quantiles"),
        ("autoregressive", {"distribution_output": "negative_binomial"}, "scaling='std'"),
        ("direct", {"distribution_output": "negative_binomial"}, "scaling='last'"),
        ("direct", {"segment_length": 0}, "segment_length"),
        ("direct", {"segment_length": 2}, "`context_length` .9. must be a multiple of `segment_length`"),
        ("direct", {"prediction_length": 7}, "`prediction_length` .7. must be a multiple of `segment_length`"),
        ("direct", {"lags_sequence": [1]}, "lags_sequence"),
        ("direct", {"num_time_features": 1}, "num_time_features"),
        ("direct", {"num_static_real_features": 1}, "num_static_real_features"),
        ("direct", {"output_dropout": 0.1}, "output_dropout"),
        ("direct", {"embedding_dimension": [6]}, "embedding_dimension"),
        ("direct", {"loss": "quantile", "quantiles": [0.5]}, "quantiles"),
        ("direct", {"loss": "quantile", "quantiles": [0.9, 0.1]}, "quantiles"),
        ("direct", {"loss": "quantile", "quantiles": [0.0, 0.5]}, "quantiles"),
        ("direct", {"loss": "crps"}, "loss"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_name(head, fields, named):
    with refused(named):
        config_of(head, **fields)


def test_a_field_set_later_is_checked_when_a_model_is_made():
    config = config_of("direct")
    config.prediction_length = 7
    with refused("`prediction_length`"):
        RNNForTimeSeriesPrediction(config)


@pytest.mark.parametrize("head", FIELDS)
def test_saved_is_loaded(head, tmp_path):
    config = config_of(head, {"cell_type": "gru"}, scale_floor=0.5, scaling=None)
    config.save_pretrained(tmp_path)
    config.name_or_path = str(tmp_path)
    for other in (AutoConfig.from_pretrained(tmp_path), copy.deepcopy(config)):
        assert type(other) is RNNTimeSeriesConfig and other.to_dict() == config.to_dict()


def test_auto_map_names_what_a_stranger_loads():
    heads = {name: head for name, head in HEADS.items() if head.config_class is RNNTimeSeriesConfig}
    assert heads == {"AutoModelForTimeSeriesPrediction": RNNForTimeSeriesPrediction}
    assert RNNTimeSeriesConfig().auto_map == {"AutoConfig": "configuration_rnn_time_series.RNNTimeSeriesConfig"} | {
        name: f"modeling_rnn_time_series.{head.__name__}" for name, head in heads.items()
    }
