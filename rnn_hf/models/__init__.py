"""The files that travel to the Hub with the weights.

They are flat siblings that import torch, transformers and each other by the single-dot form with a name, because
transformers copies exactly these files and finds them by that form; anything else saves quietly and then fails
for a stranger. tests/test_architecture.py holds the rule.
"""

from typing import Any

from .cache_rnn import RecurrentStateLayer, RNNCache
from .configuration_rnn import RNNConfig
from .configuration_rnn_seq2seq import RNNSeq2SeqConfig
from .configuration_rnn_speech import RNNSpeechConfig
from .configuration_rnn_time_series import RNNTimeSeriesConfig
from .feature_extraction_rnn import RNNFeatureExtractor
from .modeling_rnn import (
    RNNForCausalLM,
    RNNForSequenceClassification,
    RNNForTokenClassification,
    RNNLayer,
    RNNModel,
    RNNPreTrainedModel,
)
from .modeling_rnn_seq2seq import RNNForConditionalGeneration
from .modeling_rnn_speech import RNNForCTC
from .modeling_rnn_time_series import RNNForTimeSeriesPrediction
from .pipeline_rnn_translation import RNNTranslationPipeline
from .series_state_rnn import RNNSeriesState
from .streaming_rnn import RNNSpeechStream
from .tokenization_rnn_ctc import RNNCTCTokenizer


# What each of transformers' Auto classes makes of a checkpoint: registration, the Hub and the server go by this table.
HEADS: dict[str, Any] = {
    "AutoModel": RNNModel,
    "AutoModelForCausalLM": RNNForCausalLM,
    "AutoModelForSequenceClassification": RNNForSequenceClassification,
    "AutoModelForTokenClassification": RNNForTokenClassification,
    "AutoModelForCTC": RNNForCTC,
    "AutoModelForSeq2SeqLM": RNNForConditionalGeneration,
    "AutoModelForTimeSeriesPrediction": RNNForTimeSeriesPrediction,
}

__all__ = [
    "HEADS",
    "RNNCTCTokenizer",
    "RNNCache",
    "RNNConfig",
    "RNNFeatureExtractor",
    "RNNForCTC",
    "RNNForCausalLM",
    "RNNForConditionalGeneration",
    "RNNForSequenceClassification",
    "RNNForTimeSeriesPrediction",
    "RNNForTokenClassification",
    "RNNLayer",
    "RNNModel",
    "RNNPreTrainedModel",
    "RNNSeq2SeqConfig",
    "RNNSeriesState",
    "RNNSpeechConfig",
    "RNNSpeechStream",
    "RNNTimeSeriesConfig",
    "RNNTranslationPipeline",
    "RecurrentStateLayer",
]
