"""What differs between releases of transformers and torch: names, and private pieces with what replaces them.

The only file that knows: everything else takes its names from here.
"""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
import transformers
from transformers import cache_utils, generation, modeling_outputs
from transformers.generation import GenerationMixin
from transformers.models.auto import modeling_auto
from transformers.utils import ModelOutput, logging


# The oldest and the newest release of transformers that the tests were run on; a later one gives a warning.
OLDEST_TRANSFORMERS, NEWEST_TRANSFORMERS = "5.17.0", "5.24.0"

# The names of the recurrent state as an argument and an output: transformers' present one, and the one before 5.24.
CACHE_NAMES = ("cache", "past_key_values")
# The one that the installed transformers reads and writes, by the field of its outputs.
FIELDS = modeling_outputs.BaseModelOutputWithPast.__dataclass_fields__
CACHE_NAME = next((name for name in CACHE_NAMES if name in FIELDS), CACHE_NAMES[0])

logger = logging.get_logger(__name__)


def warn_if_untested(version: str) -> None:
    """Say once that the tests were not run on this release of transformers, if it is newer than those they were."""

    def number(text: str) -> list[int]:
        return [int(part) for part in text.split(".")[:2]]

    if number(version) > number(NEWEST_TRANSFORMERS):
        logger.warning_once(
            f"transformers {version} is newer than the releases that this recurrent model was tested with "
            f"({OLDEST_TRANSFORMERS} to {NEWEST_TRANSFORMERS})"
        )


warn_if_untested(transformers.__version__)


def one_cache(cache: Any, past_key_values: Any) -> Any:
    """The state that was given under either of its names.

    Raises:
        ValueError: Both are given.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("pass the state as `cache` or as `past_key_values`, its older name, and not as both")
    return past_key_values if cache is None else cache


def rename_cache(arguments: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments with the state under the name that the installed transformers reads.

    Raises:
        ValueError: Both names have a value.
    """
    given = {name: arguments.pop(name) for name in CACHE_NAMES if name in arguments}
    if given:
        arguments[CACHE_NAME] = one_cache(*(given.get(name) for name in CACHE_NAMES))
    return arguments


class EitherName:
    """An output that answers to both names of the state, where transformers' own knows one."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(CACHE_NAME if isinstance(key, str) and key in CACHE_NAMES else key)


def with_either_name(kind: type[ModelOutput]) -> type[Any]:
    """An output class that answers to `cache` and to `past_key_values`: transformers' own where that does."""
    others = [name for name in CACHE_NAMES if name != CACHE_NAME and not hasattr(kind, name)]
    if not others:
        return kind
    names = {name: property(lambda self: getattr(self, CACHE_NAME)) for name in others}
    return type(kind.__name__, (EitherName, kind), {**names, "__module__": __name__, "__doc__": kind.__doc__})


BaseModelOutputWithPast = with_either_name(modeling_outputs.BaseModelOutputWithPast)
CausalLMOutputWithPast = with_either_name(modeling_outputs.CausalLMOutputWithPast)
Seq2SeqLMOutput = with_either_name(modeling_outputs.Seq2SeqLMOutput)
GenerateDecoderOnlyOutput = with_either_name(generation.GenerateDecoderOnlyOutput)
GenerateBeamDecoderOnlyOutput = with_either_name(generation.GenerateBeamDecoderOnlyOutput)

GenerateEncoderDecoderOutput = with_either_name(generation.GenerateEncoderDecoderOutput)

GENERATE_OUTPUTS: dict[type, type[Any]] = {
    generation.GenerateDecoderOnlyOutput: GenerateDecoderOnlyOutput,
    generation.GenerateBeamDecoderOnlyOutput: GenerateBeamDecoderOnlyOutput,
    generation.GenerateEncoderDecoderOutput: GenerateEncoderDecoderOutput,
    generation.GenerateBeamEncoderDecoderOutput: with_either_name(generation.GenerateBeamEncoderDecoderOutput),
}


def answering_to_either(output: Any) -> Any:
    """What `generate()` returns, under both names of the state."""
    kind = GENERATE_OUTPUTS.get(type(output))
    return output if kind in (None, type(output)) else kind(**output)


def has_method(owner: type, name: str, parameters: str) -> bool:
    """Whether a private method is there and takes these parameters, at least, in this order."""
    method, wanted = getattr(owner, name, None), parameters.split()
    return method is not None and list(inspect.signature(method).parameters)[1 : 1 + len(wanted)] == wanted


# What the light loop of `generate()` takes the place of, and what it calls; without them it is not used.
HAS_SAMPLE = has_method(
    GenerationMixin, "_sample", "input_ids logits_processor stopping_criteria generation_config synced_gpus streamer"
) and has_method(GenerationMixin, "_prefill", "input_ids generation_config model_kwargs is_first_iteration")

# The same of the beam search of networks with an encoder.
HAS_BEAM_SEARCH = has_method(
    GenerationMixin, "_beam_search", "input_ids logits_processor stopping_criteria generation_config synced_gpus"
)


def register_static_layer(kind: type) -> None:
    """Let `cache_implementation="static"` build this layer, where transformers has a table for that."""
    table = getattr(cache_utils, "STATIC_LAYER_TYPE_MAPPING", None)
    if table is not None:
        table[kind._layer_type] = kind  # type: ignore[attr-defined]


def register_causal(kind: type) -> None:
    """Let Trainer's `label_smoothing_factor` shift the labels of this class, which it does by a table of names."""
    table = getattr(modeling_auto, "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", None)
    if table is not None:
        table.setdefault(kind.config_class.model_type, kind.__name__)  # type: ignore[attr-defined]


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The type that autocast gives on a device, `None` where it is off or where the device has none (`meta`)."""
    try:
        return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    except RuntimeError:
        return None


def without_autocast(device: torch.device) -> Any:
    """A context in which autocast is off."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


__all__ = [
    "CACHE_NAME",
    "CACHE_NAMES",
    "HAS_BEAM_SEARCH",
    "HAS_SAMPLE",
    "BaseModelOutputWithPast",
    "CausalLMOutputWithPast",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "GenerateEncoderDecoderOutput",
    "Seq2SeqLMOutput",
    "answering_to_either",
    "autocast_dtype",
    "one_cache",
    "register_causal",
    "register_static_layer",
    "rename_cache",
    "warn_if_untested",
    "without_autocast",
]
