"""Models of Keras: an embedding, recurrent layers (also those of cuDNN) and a dense layer to the vocabulary."""

from typing import Any

import numpy as np
import torch

from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.keras_files import KerasLayer, KerasModel, read_keras
from rnn_hf.conversion.reading import Checkpoint
from rnn_hf.conversion.source import Layer, Linear, Source
from rnn_hf.conversion.vocabulary import Vocabulary
from rnn_hf.errors import InputError


Tensor = torch.Tensor
CELLS = {4: ("lstm", "ifgo"), 3: ("gru", "zrn"), 1: ("rnn", "h")}  # by gates, in Keras's order of columns
RECURRENT = ("LSTM", "GRU", "SimpleRNN", "CuDNNLSTM", "CuDNNGRU")
# Layers that do nothing when a model is used.
IDLE = (
    "InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "ActivityRegularization",
    "Masking", "NotEqual", "Activation", "Softmax",
)  # fmt: skip


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.container in ("hdf5", "keras")


def read(checkpoint: Checkpoint, choices: Choices) -> Source:
    model = read_keras(checkpoint)
    source, left = Source([], wants=Vocabulary(kind="")), list[KerasLayer]()
    given = {"recurrent_activation": choices.recurrent_activation, "activation": choices.hidden_act}
    for layer in model.layers:
        kind = kind_of(layer)
        if kind == "embedding" and source.embedding is None and not source.layers:
            source.embedding = embedding_of(layer)
            if layer.config.get("mask_zero"):
                source.notes.append("The source leaves out steps with the id 0: leave them out, or mask them.")
        elif kind == "recurrent" and not left and source.head is None:
            if not model.has_config:
                layer.config = {name: value for name, value in given.items() if value is not None}
            add_recurrent(layer, model, source)
        elif kind == "dense" and is_head(layer, source) and not left and not choices.backbone:
            source.head = head_of(layer, source)
        elif kind != "idle":
            left.append(layer)
    if not source.layers:
        raise InputError("it has no LSTM, GRU or SimpleRNN layers")
    check_widths(source)
    if left and not choices.backbone:
        names = ", ".join(f"{layer.name} ({layer.class_name or 'of an unknown class'})" for layer in left)
        raise InputError(
            f"it has layers that are no part of an embedding, recurrent layers and one dense layer to the "
            f"vocabulary: {names}; `backbone=True` leaves them out"
        )
    source.dropped += [f"the layer `{layer.name}` ({layer.class_name or 'of an unknown class'})" for layer in left]
    if not model.has_config:
        source.notes.append(
            "The file has no configuration: the output of cells is tanh's, as is the default of Keras."
        )
    source.inexact = list(dict.fromkeys(source.inexact))
    return source


def embedding_of(layer: KerasLayer) -> Tensor:
    """The matrix of an embedding, which is all that it has.

    Raises:
        InputError: It is not there.
    """
    matrices = [tensor for tensor in layer.weights.values() if tensor.ndim == 2]
    if len(matrices) != 1 or len(layer.weights) != 1:
        raise InputError(f"the layer {layer.name} has no matrix in the file, or more than one")
    return matrices[0]


def kind_of(layer: KerasLayer) -> str:
    """`embedding`, `recurrent`, `dense`, `idle` or `other`, by the class, and without one by the weights."""
    names = {name.rpartition("/")[2] for name in layer.weights}
    inner = wrapped_by(layer).get("class_name")
    if layer.class_name is None:
        if names == {"embeddings"} or names == {"W"}:
            return "embedding"
        return "recurrent" if "recurrent_kernel" in names else "dense" if names <= {"kernel", "bias"} else "other"
    if layer.class_name == "Embedding":
        return "embedding"
    if layer.class_name in RECURRENT or (layer.class_name == "Bidirectional" and inner in RECURRENT):
        return "recurrent"
    if layer.class_name == "Dense" or (layer.class_name == "TimeDistributed" and inner == "Dense"):
        return "dense"
    is_softmax = layer.class_name != "Activation" or layer.config.get("activation") in ("softmax", "linear")
    return "idle" if layer.class_name in IDLE and is_softmax and not layer.weights else "other"


def settings_of(layer: KerasLayer) -> dict[str, Any]:
    """The configuration of a layer, or of the one that it wraps."""
    inner = wrapped_by(layer).get("config")
    return inner if isinstance(inner, dict) else layer.config


def wrapped_by(layer: KerasLayer) -> dict[str, Any]:
    """The layer that one of two directions, or of one step, wraps; empty for others."""
    wrapped = layer.config.get("layer")
    return wrapped if isinstance(wrapped, dict) else {}


def add_recurrent(layer: KerasLayer, model: KerasModel, source: Source) -> None:
    """Add a recurrent layer to a source, of one direction or two.

    Raises:
        InputError: It has activations or settings that no layer here has.
    """
    settings, sides = settings_of(layer), {"forward": {}, "backward": {}}  # type: ignore[var-annotated]
    for name, tensor in layer.weights.items():
        sides["backward" if "backward" in name else "forward"][name.rpartition("/")[2]] = tensor
    if settings.get("go_backwards"):
        raise InputError(f"the layer {layer.name} goes backwards, which here whole networks do (`reads_backward`)")
    if sides["backward"] and layer.config.get("merge_mode", "concat") != "concat":
        raise InputError(
            f"the layer {layer.name} merges directions by {layer.config['merge_mode']}, and not side by side"
        )
    class_name = str(wrapped_by(layer).get("class_name", layer.class_name))
    made = [
        layer_of(weights, layer.name, class_name, settings, model, source) for weights in sides.values() if weights
    ]
    if not made:
        raise InputError(f"the layer {layer.name} has no weights in the file")
    if source.layers and (source.reverse is not None) != (len(made) == 2):
        raise InputError("only some of its layers have two directions, and here all have or none")
    source.layers.append(made[0])
    if len(made) == 2:
        source.reverse = [*(source.reverse or []), made[1]]


def layer_of(
    weights: dict[str, Tensor], name: str, class_name: str, settings: dict[str, Any], model: KerasModel, source: Source
) -> Layer:
    """One direction of a layer from `kernel` `(in, G H)`, `recurrent_kernel` `(H, G H)` and `bias`."""
    kernel, recurrent, bias = (weights.get(role) for role in ("kernel", "recurrent_kernel", "bias"))
    if kernel is None or recurrent is None or kernel.ndim != 2 or recurrent.ndim != 2 or not len(recurrent):
        raise InputError(f"the layer {name} lacks a matrix: its weights are {', '.join(weights)}")
    if recurrent.shape[1] not in [gates * len(recurrent) for gates in CELLS]:
        raise InputError(f"the layer {name} is no LSTM, GRU or SimpleRNN: its state has {list(recurrent.shape)}")
    size, gates = len(recurrent), recurrent.shape[1] // len(recurrent)
    cell, order = CELLS[gates]
    count = 0 if bias is None else bias.numel() // size
    is_cudnn = class_name.startswith("CuDNN") or (class_name == "None" and cell == "lstm" and count == 8)
    if is_cudnn:  # each gate transposed, and the input's filled column by column
        kernel = by_gate(kernel, gates, lambda gate: gate.T.reshape(gate.shape, order="F"))
        recurrent = by_gate(recurrent, gates, lambda gate: gate.T)
    layer = Layer(cell, kernel.T.contiguous(), recurrent.T.contiguous(), gates=order)
    if bias is not None:
        if bias.numel() not in (gates * size, 2 * gates * size):
            raise InputError(f"the layer {name} has {bias.numel()} biases for {size} units")
        halves = bias.reshape(count // gates, gates * size)
        layer.bias, layer.state_bias = halves[0], halves[1] if len(halves) == 2 else None
    if cell == "gru":
        layer.resets_after = bool(settings.get("reset_after", is_cudnn or layer.state_bias is not None)) or is_cudnn
    if not layer.resets_after:
        source.inexact.append(
            "a GRU with reset_after=False computes tanh(W x + U (r * h)), and torch's resets after the product"
        )
    set_activations(layer, name, is_cudnn, settings, model, source)
    return layer


def by_gate(matrix: Tensor, gates: int, change: Any) -> Tensor:
    """A matrix with each of its gates, which stand side by side, changed."""
    return torch.from_numpy(np.hstack([change(gate) for gate in np.hsplit(matrix.numpy(), gates)]))


def set_activations(
    layer: Layer, name: str, is_cudnn: bool, settings: dict[str, Any], model: KerasModel, source: Source
) -> None:
    """Take the activations from the configuration, or the defaults of the version.

    Raises:
        InputError: They are none that a layer here has.
    """
    major, minor = ([*map(int, model.version.split(".")[:2])] if model.version[:1].isdigit() else [2, 3])[:2]
    of_output = settings.get("activation", "tanh")
    if layer.cell == "rnn":
        if not model.has_config and "activation" not in settings:
            raise InputError("it has SimpleRNN layers, whose activation is not in the file: give `hidden_act`")
        if of_output not in ("tanh", "relu", "sigmoid"):
            raise InputError(f"the layer {name} has the activation {of_output}: here there are tanh, relu and sigmoid")
        layer.activation = of_output
        return
    default = "hard_sigmoid" if (major, minor) < (2, 3) else "sigmoid"
    of_gates = (
        "sigmoid" if is_cudnn else settings.get("recurrent_activation", settings.get("inner_activation", default))
    )
    if default == "sigmoid" and not model.has_config and not is_cudnn and "recurrent_activation" not in settings:
        raise InputError(
            "it has no configuration, which says how gates are computed: give `recurrent_activation`, by default "
            "sigmoid since Keras 2.3, and hard_sigmoid before"
        )
    if of_output != "tanh" or of_gates not in ("sigmoid", "hard_sigmoid"):
        raise InputError(
            f"the layer {name} has the activations {of_output} and {of_gates}: here they are tanh and sigmoid"
        )
    if of_gates == "hard_sigmoid":
        layer.gate_activation = "hard_sigmoid_6" if major >= 3 else "hard_sigmoid"
        said = (
            ""
            if "recurrent_activation" in settings
            else f", the default of Keras {model.version} (or give `recurrent_activation`)"
        )
        source.inexact.append(f"gates use hard_sigmoid{said}, and cuDNN's and oneDNN's have no such cell")


def is_head(layer: KerasLayer, source: Source) -> bool:
    """Whether a dense layer gives a number for each token that the network reads."""
    if not source.layers or source.head is not None or source.reverse is not None:
        return False
    rows = source.layers[0].of_input.shape[1] if source.embedding is None else len(source.embedding)
    kernels = [tensor for name, tensor in layer.weights.items() if name.rpartition("/")[2] == "kernel"]
    return len(kernels) == 1 and tuple(kernels[0].shape) == (source.layers[-1].size, rows)


def head_of(layer: KerasLayer, source: Source) -> Linear:
    """The layer to the vocabulary; without an embedding the network reads one-hot vectors, which is an identity.

    Raises:
        InputError: Its activation is not the softmax of a language model.
    """
    activation = settings_of(layer).get("activation", "softmax")
    if activation not in ("softmax", "linear"):
        raise InputError(f"the layer {layer.name} has the activation {activation}, and a language model has softmax")
    weights = {name.rpartition("/")[2]: tensor for name, tensor in layer.weights.items()}
    if source.embedding is None:
        source.embedding = torch.eye(source.layers[0].of_input.shape[1], dtype=weights["kernel"].dtype)
        source.notes.append("The source reads one-hot vectors; here they are rows of an embedding.")
    return Linear(weights["kernel"].T.contiguous(), weights.get("bias"))


def check_widths(source: Source) -> None:
    """Refuse layers that do not read what the one before them gives.

    Raises:
        InputError: Naming the widths.
    """
    directions = 1 if source.reverse is None else 2
    given = source.layers[0].of_input.shape[1] if source.embedding is None else source.embedding.shape[1]
    for layer in source.layers:
        if layer.of_input.shape[1] != given:
            raise InputError(f"a layer reads {layer.of_input.shape[1]} numbers, and what is before it gives {given}")
        given = directions * layer.size


FORMAT = Format("keras", "a model of Keras", "the authors of the file", matches, read)
