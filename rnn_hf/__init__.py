"""Recurrent networks (Elman, GRU, LSTM) as Hugging Face models.

Importing the package registers them with transformers' Auto classes, so that a checkpoint loads by
`AutoModelForCausalLM.from_pretrained` without `trust_remote_code`.
"""

from typing import Any

import transformers

from rnn_hf.models import (
    HEADS,
    RecurrentStateLayer,
    RNNCache,
    RNNConfig,
    RNNCTCTokenizer,
    RNNFeatureExtractor,
    RNNForCausalLM,
    RNNForConditionalGeneration,
    RNNForCTC,
    RNNForSequenceClassification,
    RNNForTimeSeriesPrediction,
    RNNForTokenClassification,
    RNNModel,
    RNNSeq2SeqConfig,
    RNNSeriesState,
    RNNSpeechConfig,
    RNNSpeechStream,
    RNNTimeSeriesConfig,
    RNNTranslationPipeline,
)


__version__ = "0.1.0"

for _config in (RNNConfig, RNNSeq2SeqConfig, RNNSpeechConfig, RNNTimeSeriesConfig):
    transformers.AutoConfig.register(_config.model_type, _config, exist_ok=True)
    _config.register_for_auto_class()
for _name, _model in HEADS.items():
    getattr(transformers, _name).register(_model.config_class, _model, exist_ok=True)
    _model.register_for_auto_class(_name)  # so that save_pretrained writes the code next to the weights
transformers.AutoFeatureExtractor.register(RNNSpeechConfig, RNNFeatureExtractor, exist_ok=True)
transformers.AutoTokenizer.register(RNNSpeechConfig, RNNCTCTokenizer, exist_ok=True)
for _part in (RNNFeatureExtractor, RNNCTCTokenizer):
    _part.register_for_auto_class()
transformers.pipelines.PIPELINE_REGISTRY.register_pipeline(
    "rnn-translation", RNNTranslationPipeline, transformers.AutoModelForSeq2SeqLM, type="text"
)

__all__ = [
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
    "RNNModel",
    "RNNONNXForCausalLM",
    "RNNSeq2SeqConfig",
    "RNNSeriesState",
    "RNNSpeechConfig",
    "RNNSpeechStream",
    "RNNTimeSeriesConfig",
    "RNNTranslationPipeline",
    "RecurrentStateLayer",
]


def __getattr__(name: str) -> Any:
    """The runner of exported models, when it is asked for: it stands above the modules that import this one."""
    if name == "RNNONNXForCausalLM":
        from rnn_hf.onnx.model import RNNONNXForCausalLM

        return RNNONNXForCausalLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
