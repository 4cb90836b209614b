"""A state dict of any names: one embedding, recurrent layers and one linear layer, told apart by their shapes."""

from typing import Any

import torch

from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.reading import Checkpoint, tensors_of
from rnn_hf.conversion.source import Linear, Source, is_same
from rnn_hf.conversion.torch_layers import activation_of, take_layers, unwrap, without_prefix
from rnn_hf.conversion.vocabulary import Vocabulary
from rnn_hf.errors import InputError


Tensor = torch.Tensor


def matches(checkpoint: Checkpoint) -> bool:
    if checkpoint.container not in ("torch", "safetensors", "npz"):
        return False
    content, _ = unwrap(checkpoint.content)
    return any("weight_hh" in name or "weight_ih" in name for name in tensors_of(content))


def read(checkpoint: Checkpoint, choices: Choices) -> Source:
    content, others = unwrap(checkpoint.content)
    source = source_of(without_prefix(tensors_of(content), "module."), choices, content)
    source.dropped = [f"`{name}`, saved with the weights" for name in others] + source.dropped
    return source


def source_of(tensors: dict[str, Tensor], choices: Choices, content: Any = None) -> Source:
    """The network of tensors that torch's modules named.

    Args:
        tensors: By name.
        choices: Of their owner.
        content: The module, if it was saved whole.

    Raises:
        InputError: A tensor is left over, or two could be the embedding or the layer to the vocabulary.
    """
    left = dict(tensors)
    layers, reverse = take_layers(left, choices.hidden_act or activation_of(content))
    width, outputs = layers[0].of_input.shape[1], layers[-1].output_size * (1 if reverse is None else 2)
    embedding = take_embedding(left, width, outputs, choices)
    head, is_tied = None, False
    if embedding is not None and reverse is None and not choices.backbone:
        head = take_head(left, len(embedding), outputs, choices)
        is_tied = head is not None and is_same(head.weight, embedding)
    if left and not choices.backbone:
        raise InputError(
            f"it has tensors that are no part of an embedding, recurrent layers and one linear layer to the "
            f"vocabulary: {', '.join(f'{name} {list(tensor.shape)}' for name, tensor in left.items())}; "
            "`backbone=True` leaves them out"
        )
    dropped = [f"`{name}` {list(tensor.shape)}" for name, tensor in left.items()]
    return Source(layers, reverse, embedding, head, is_tied, dropped=dropped, wants=Vocabulary(kind=""))


def take_embedding(left: dict[str, Tensor], width: int, outputs: int, choices: Choices) -> Tensor | None:
    """The embedding, taken out of what is left; `None` for a network over features.

    Raises:
        InputError: Several tensors could be it, or the one that was named is not.
    """
    if choices.embedding:
        name = full_name(left, choices.embedding, "embedding")
        if left[name].ndim != 2 or left[name].shape[1] != width:
            raise InputError(
                f"`embedding` {name} is {list(left[name].shape)}, and the first layer reads {width} numbers"
            )
        return left.pop(name)
    # A module of an embedding has no bias.
    names = [name for name, tensor in left.items() if tensor.ndim == 2 and tensor.shape[1] == width]
    names = [name for name in names if bias_of(name) not in left]
    if len(names) > 1 and all(is_same(left[names[0]], left[name]) for name in names):
        head = [name for name in names[1:] if outputs == width]
        names = [name for name in names if name not in head[-1:]]  # an output matrix without bias, tied
        for name in names[1:]:
            left.pop(name)
        names = names[:1]
    if len(names) > 1:
        raise InputError(f"any of {', '.join(names)} could be the embedding: name it by `embedding`")
    return left.pop(names[0]) if names else None


def take_head(left: dict[str, Tensor], rows: int, outputs: int, choices: Choices) -> Linear | None:
    """The layer to the vocabulary, taken out of what is left; `None` if there is none.

    Raises:
        InputError: Several tensors could be it, or the one that was named is not.
    """
    names = [name for name, tensor in left.items() if tuple(tensor.shape) == (rows, outputs)]
    if choices.head:
        name = full_name(left, choices.head, "head")
        if name not in names:
            raise InputError(f"`head` {name} is {list(left[name].shape)}, and [{rows}, {outputs}] is the vocabulary's")
        names = [name]
    if len(names) > 1:
        raise InputError(f"any of {', '.join(names)} could be the layer to the vocabulary: name it by `head`")
    if not names:
        return None
    bias = left.get(bias_of(names[0]))
    if bias is not None and tuple(bias.shape) != (rows,):
        raise InputError(f"{bias_of(names[0])} is {list(bias.shape)}, and the vocabulary has {rows} words")
    left.pop(bias_of(names[0]), None)
    return Linear(left.pop(names[0]), bias)


def bias_of(name: str) -> str:
    """The name of the bias of a weight."""
    return name.removesuffix("weight") + "bias"


def full_name(left: dict[str, Tensor], name: str, what: str) -> str:
    """The name of a tensor, which may be given as that of its module.

    Raises:
        InputError: There is no such tensor.
    """
    for found in (name, f"{name}.weight"):
        if found in left:
            return found
    raise InputError(f"`{what}`: there is no {name}, only {', '.join(left)}")


FORMAT = Format(
    "state-dict", "a state dict of PyTorch", "the authors of the file", matches, read,
)  # fmt: skip
