"""The arguments of the networks of all tasks, made from their configurations.

Nothing large is imported, so that help and a mistyped flag are answered at once.
"""

import ast
import inspect
import re
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rnn_hf.training.data_arguments import check_finite


MODELS = Path(__file__).parents[1] / "models"
SIZES_BY_VOCABULARY = ("num_characters", "num_spelled_characters", "num_word_rows")
SET_BY_DATA = {
    "vocab_size", "input_size", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id", *SIZES_BY_VOCABULARY,
}  # fmt: skip
OF_LANGUAGE_MODELS = {
    "last_hidden_size", "output_projection_size", "num_softmaxes", "tie_word_embeddings", "softmax_dropout",
}  # fmt: skip
OF_CLASSIFIERS = {
    "bidirectional", "classifier_dropout", "pooling", "character_embedding_size", "character_hidden_size",
    "max_word_characters", "rare_word_dropout",
}  # fmt: skip
OF_TEXTS = {"embedding_dropout", "reads_backward"}
OF_SIDES = {"decoder_vocab_size", "decoder_start_token_id", "is_encoder_decoder", "label_smoothing"}
OF_SERIES = {  # by the data, or lists, which are texts here
    "num_time_features", "num_static_categorical_features", "num_static_real_features", "cardinality",
    "scale_floor", "embedding_dimension", "lags_sequence", "quantiles", "scaling",
}  # fmt: skip


def _described(docstring: str | None) -> dict[str, str]:
    """What the Args section of a docstring says of each argument; nothing under `python -OO`."""
    section = inspect.cleandoc(docstring or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {
        name: " ".join(text.split()).replace("%", "%%") for names, text in entries for name in names.split(", ")
    }  # fmt: skip


def _config_class(name: str) -> ast.ClassDef:
    """The source of a configuration, because importing it imports torch and transformers, which takes seconds."""
    files = {
        "RNNSpeechConfig": "configuration_rnn_speech.py",
        "RNNTimeSeriesConfig": "configuration_rnn_time_series.py",
        "RNNSeq2SeqConfig": "configuration_rnn_seq2seq.py",
    }
    file = files.get(name, "configuration_rnn.py")
    body = ast.parse((MODELS / file).read_text(encoding="utf-8")).body
    (config,) = [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]
    return config


def _model_arguments(name: str, without: set[str], *configs: str) -> Any:
    """A dataclass of the fields of configurations, with their defaults and descriptions: said once, there."""
    classes = [_config_class(config) for config in configs or ("RNNConfig",)]
    described = {key: text for config in classes for key, text in _described(ast.get_docstring(config)).items()}
    fields = []
    for node in [node for config in classes for node in config.body]:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.target) in SET_BY_DATA | without:
            continue
        key, kind = ast.unparse(node.target), eval(ast.unparse(node.annotation), {"Literal": Literal})
        if float in get_args(kind):
            kind = float  # RNNConfig takes whole numbers for its probabilities as well
        assert node.value is not None
        metadata = {"help": described.get(key, f"RNNConfig.{key}")}
        fields.append((key, kind, field(default=ast.literal_eval(node.value), metadata=metadata)))
    made = make_dataclass(name, fields, namespace={"__post_init__": check_finite})
    made.__module__ = __name__  # so that it can be pickled
    made.__doc__ = f"The shape and the dropouts of the network: fields of {' and '.join(configs) or 'RNNConfig'}."
    return made


ModelArguments = _model_arguments("ModelArguments", OF_CLASSIFIERS)
ClassifierArguments = _model_arguments("ClassifierArguments", OF_LANGUAGE_MODELS)
TaggerArguments = _model_arguments("TaggerArguments", OF_LANGUAGE_MODELS | {"pooling"})
SpeechArguments = _model_arguments(
    "SpeechArguments",
    OF_LANGUAGE_MODELS | OF_CLASSIFIERS - {"bidirectional", "classifier_dropout"} | OF_TEXTS | {"hop_length"},
    "RNNConfig", "RNNSpeechConfig",
)  # fmt: skip

NetworkOfForecasts: Any = _model_arguments(
    "NetworkOfForecasts",
    OF_LANGUAGE_MODELS | OF_CLASSIFIERS - {"classifier_dropout"} | OF_TEXTS | OF_SERIES,
    "RNNConfig", "RNNTimeSeriesConfig",
)  # fmt: skip
NetworkOfTranslations: Any = _model_arguments("NetworkOfTranslations", OF_SIDES, "RNNSeq2SeqConfig")


@dataclass
class ForecastArguments(NetworkOfForecasts):
    """The shape and the dropouts of a network that forecasts, and how it reads series."""

    lags_sequence: str | None = field(
        default=None, metadata={"help": "steps back of the values that an autoregressive head sees: 1-7,24,168"}
    )
    quantiles: str | None = field(default=None, metadata={"help": "levels for the loss quantile: 0.1,0.5,0.9"})
    scaling: Literal["none", "mean", "std", "last"] = field(
        default="mean", metadata={"help": "of each window: by what it is shifted and divided"}
    )
    embedding_dimension: int | None = field(
        default=None,
        metadata={"help": "width of the embedding of which series it is; 0: none; default: by their number"},
    )


@dataclass
class TranslationArguments(NetworkOfTranslations):
    """The shape and the dropouts of a network that translates."""

    attention: Literal["dot", "general", "additive", "multihead", "none"] = field(
        default="general", metadata={"help": "how the decoder finds what it looks at in the source"}
    )
