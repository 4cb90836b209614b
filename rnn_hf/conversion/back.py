"""From a model of this package to files that older code reads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from rnn_hf.conversion.card import KINDS
from rnn_hf.conversion.reading import read_json
from rnn_hf.data.tokenization import SPACE
from rnn_hf.errors import InputError
from rnn_hf.files import write_text
from rnn_hf.loading import config_of


Tensors = dict[str, torch.Tensor]


def convert_back(model: str, out: str | Path, to: str) -> list[Path]:
    """Write the weights of a model as a state dict of other code, tensor by tensor the same.

    Args:
        model: Directory of a model of this package, or its name on the Hub.
        out: File to write. `word-language-model` has its vocabulary next to it, in a file with `.vocab.txt` more.
        to: One of `TARGETS`.

    Returns:
        The files.

    Raises:
        FileNotFoundError: There is no such model.
        InputError: The other code has no such network, or `out` is there already.
    """
    if to not in TARGETS:
        raise InputError(f"`to` must be one of {', '.join(TARGETS)}, got {to!r}")
    target = Path(out)
    if target.exists():
        raise InputError(f"`out` {out} is there already: name a new file")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"no directory {target.parent}")
    config: Any = config_of(model)
    architecture = (config.architectures or [""])[0]
    if architecture not in KINDS:
        raise InputError(
            f"{model} holds an {architecture}; language models, their backbones and encoder-decoders are converted"
        )
    is_pair = architecture == "RNNForConditionalGeneration"
    if is_pair and to != "state-dict":
        raise InputError(f"{to} has language models alone; an encoder-decoder becomes a state-dict")
    check_plain(config, is_pair)
    weights = getattr(transformers, KINDS[architecture].auto_class).from_pretrained(model).state_dict()
    named = encoder_decoder(weights, source_ids_of(model, config)) if is_pair else TARGETS[to](config, weights)
    tensors = {name: tensor.contiguous() for name, tensor in named.items()}
    draft = target.with_name(f".{target.name}.writing")
    torch.save(tensors, draft)
    os.replace(draft, target)
    if to == "state-dict":
        return [target]
    vocabulary = target.with_name(f"{target.name}.vocab.txt")
    write_text(vocabulary, "".join(f"{token}\n" for token in tokens_of(model, config.vocab_size)))
    return [target, vocabulary]


# Fields that torch's own modules, and for a pair the state between them, have in one way only.
PLAIN: dict[str, Any] = {
    "num_softmaxes": 1, "output_projection_size": None, "character_embedding_size": 0, "input_size": None,
}  # fmt: skip
PLAIN_PAIR: dict[str, Any] = {"attention": None, "bridge": "identity", "residual_from": None}


def check_plain(config: Any, is_pair: bool) -> None:
    """Refuse what torch's own modules do not have.

    Raises:
        InputError: Naming the field.
    """
    what, parts = ("an encoder-decoder", "embeddings") if is_pair else ("a model", "embedding")
    for name, plain in (PLAIN_PAIR if is_pair else PLAIN).items():
        value = getattr(config, name)
        if value != plain:
            raise InputError(f"{what} with `{name}={value}` has no form as {parts}, layers and head")
    if config.hidden_act == "sigmoid":
        raise InputError(
            "a model with `hidden_act='sigmoid'` has no form in torch, whose Elman layers are tanh or relu"
        )


def state_dict(config: Any, weights: Tensors) -> Tensors:
    """`embed`, `rnn` (a module a layer, `rnns.0`, where widths differ) and `fc`."""
    is_stacked = len({size for _, size in config.layer_sizes}) == 1
    return renamed(weights, "embed", "rnn" if is_stacked else "rnns", "fc", is_stacked)


def word_language_model(config: Any, weights: Tensors) -> Tensors:
    """The names of pytorch/examples word_language_model.

    Raises:
        InputError: It has no such network.
    """
    if config.bidirectional or config.projection_size or "lm_head.weight" not in weights:
        raise InputError("word_language_model has language models of one direction and no projection alone")
    if len({size for _, size in config.layer_sizes}) > 1:
        raise InputError(f"word_language_model has layers of one width, and these have {config.layer_sizes}")
    return renamed(weights, "encoder", "rnn", "decoder", True)


TARGETS: dict[str, Callable[[Any, Tensors], Tensors]] = {
    "state-dict": state_dict, "word-language-model": word_language_model,
}  # fmt: skip


def renamed(weights: Tensors, embedding: str, layers: str, head: str, is_stacked: bool) -> Tensors:
    """The weights of a model under other names."""
    named = {}
    for name, tensor in weights.items():
        parts = name.removeprefix("model.").split(".")
        if parts[0] == "layers":
            index, direction, weight = parts[1:]
            end = "_reverse" if direction == "reverse" else ""
            stacked = f"{layers}.{weight.removesuffix('0')}{index}{end}"
            named[stacked if is_stacked else f"{layers}.{index}.{weight}{end}"] = tensor
        else:
            module = {"embed_tokens": embedding, "lm_head": head}[parts[0]]
            named[f"{module}.{parts[1]}"] = tensor
    return named


def encoder_decoder(weights: Tensors, source_ids: list[int] | None) -> Tensors:
    """The names of tutorials: `embedding` and `rnn` of `encoder` and `decoder`, and `decoder.fc_out`.

    Args:
        weights: Of the model here.
        source_ids: Rows of the embedding of what is read, in the order of the source; `None` for all of them.
    """
    named = {}
    for name, tensor in weights.items():
        parts = name.removeprefix("model.").split(".")
        if parts[0] == "lm_head":
            named[f"decoder.fc_out.{parts[1]}"] = tensor
        elif parts[1] == "embed_tokens":
            is_chosen = parts[0] == "encoder" and source_ids is not None
            named[f"{parts[0]}.embedding.weight"] = tensor[source_ids] if is_chosen else tensor
        else:
            named[f"{parts[0]}.rnn.{parts[4].removesuffix('0')}{parts[2]}"] = tensor
    return named


def source_ids_of(model: str, config: Any) -> list[int] | None:
    """Of a converted encoder-decoder the id here of each id that its source reads; `None` where all are the same.

    Raises:
        InputError: conversion.json names ids that are none of the model.
    """
    path = cached_file(model, "conversion.json", _raise_exceptions_for_missing_entries=False)
    content = {} if path is None else read_json(Path(path).read_bytes(), str(path))
    ids = content.get("source_ids") if isinstance(content, dict) else None
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(each) is int and 0 <= each < config.vocab_size for each in ids):
        raise InputError(f"{path} has `source_ids` that are none of the model: put a whole copy in its place")
    return ids


def tokens_of(model: str, size: int) -> list[str]:
    """The tokens of a model by id, without the mark of a space."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(f"{model} has no tokenizer, whose words go with the weights") from error
    tokens = tokenizer.convert_ids_to_tokens(list(range(size)))
    return [token if token == SPACE else token.removeprefix(SPACE) for token in tokens]
