"""The ONNX graphs of a recognizer of speech: one hears whole recordings, one as they come, with the state.

Shapes in comments: B batch, T frames, T' steps of several frames, L steps that the network runs over, F mel bands,
H width of a layer with all of its directions, V kinds of labels with the blank.
"""

from typing import Any

import torch

from rnn_hf.errors import InputError
from rnn_hf.models import RNNForCTC
from rnn_hf.onnx.classifier_graph import ClassifierGraph, add_directions
from rnn_hf.onnx.graph import Graph, add_layer, add_projected_layer, check_size, finish, states_of


SPEECH = "automatic-speech-recognition"  # as the metadata of a file name the task


def build_speech_graph(model: Any) -> Any:
    """The `onnx.ModelProto` of a recognizer over whole recordings, float32, in one direction or two.

    Inputs are `input_features`, float32 `(batch, frames, num_mel_bins)`, and `attention_mask`, int64
    `(batch, frames)`, any size from 1. Padding stands on the right, where the feature extractor puts it: of the mask
    only the sum of each row counts. The output is `logits`, float32 `(batch, frames // frame_stack, vocab_size)`, at
    padding those of a certain blank, as PyTorch has them.

    Args:
        model: An `RNNForCTC`, of any type of float. Dropout is never part of the graph.

    Raises:
        InputError: It is none, or has over 2 GB of weights, which no ONNX file holds.
        MissingPackageError: onnx is not installed.
    """
    check_recognizer(model)
    config, graph = model.config, ClassifierGraph()
    frames = graph.node("ReduceSum", ["attention_mask", graph.axis(1)], "row.frames", keepdims=0)
    steps = graph.node("Div", [frames, graph.number(config.frame_stack)], "row.steps")  # (B,)
    at_least_one = graph.node("Max", [steps, graph.number(1)], "row.lengths")
    lengths = graph.node("Cast", [at_least_one], "row.lengths32", to=graph.onnx.TensorProto.INT32)
    stacked = add_whole_steps(graph, config)  # (B, T' + 1, stack * F)
    number = graph.node("Shape", [stacked], "number.shape", start=1, end=2)
    number = graph.node("Squeeze", [number], "number")
    numbers = graph.node("Range", [graph.number(0), number, graph.number(1)], "steps.flat")
    numbers = graph.node("Unsqueeze", [numbers, graph.axis(1)], "steps")
    is_real = graph.node("Less", [numbers, steps], "is_real.flat")  # (T' + 1, B)
    is_real = graph.node("Unsqueeze", [is_real, graph.axis(-1)], "is_real")
    outputs = add_projection(graph, model, stacked)
    for index, layer in enumerate(model.model.layers):
        outputs, _ = add_directions(graph, f"layers.{index}", layer, outputs, lengths, is_real)
    logits = add_labels(graph, model, outputs, "logits.any")
    certain = torch.full((config.vocab_size,), torch.finfo(torch.float32).min)
    certain[config.pad_token_id] = 0
    logits = graph.node("Where", [is_real, logits, graph.weight("certain_blank", certain)], "logits.steps")
    logits = graph.node("Transpose", [logits], "logits.longer", perm=[1, 0, 2])
    graph.node("Slice", [logits, graph.axis(0), graph.axis(-1), graph.axis(1)], "logits")  # without the last step
    inputs = [features_of(config), {"name": "attention_mask", "shape": ["batch", "frames"], "dtype": "int64"}]
    return finish(graph, model, {"inputs": inputs, "outputs": [logits_of(config)]}, about(config))


def build_stream_graph(model: Any) -> Any:
    """The `onnx.ModelProto` of a recognizer that hears while somebody speaks, float32.

    Inputs are `input_features`, float32 `(batch, frames, num_mel_bins)`, a multiple of `frame_stack` frames, and the
    state of each layer, named and shaped as of [`rnn_hf.onnx.graph.build_graph`], zeros at first; outputs `logits`,
    `(batch, frames // frame_stack, vocab_size)`, and the state after them. There is no mask: a row that has nothing to
    say for now is left out of the batch.

    Args:
        model: As of `build_speech_graph`.

    Raises:
        InputError: As of `build_speech_graph`; or it reads in both directions.
        MissingPackageError: onnx is not installed.
    """
    check_recognizer(model)
    if model.config.bidirectional:
        raise InputError("a streaming graph is not for a network with `bidirectional=True`: it hears whole recordings")
    config, graph = model.config, Graph()
    stacked = add_stacked(graph, config, "input_features")
    outputs = add_projection(graph, model, stacked)  # (T', B, E)
    for index, layer in enumerate(model.model.layers):
        build = add_projected_layer if config.projection_size else add_layer
        outputs = build(graph, layer.rnn, layer.kind, index, outputs)
    graph.node("Transpose", [add_labels(graph, model, outputs, "logits.steps")], "logits", perm=[1, 0, 2])
    interface = {
        "inputs": [features_of(config), *states_of(config, "past")],
        "outputs": [logits_of(config), *states_of(config, "present")],
    }
    return finish(graph, model, interface, about(config))


def check_recognizer(model: Any) -> None:
    """Refuse what is no recognizer, or too large.

    Raises:
        InputError: See `build_speech_graph`.
    """
    if not isinstance(model, RNNForCTC):
        raise InputError(f"`model` must be a recognizer of speech of this package, not {type(model).__name__}")
    check_size(model)


def add_whole_steps(graph: Graph, config: Any) -> str:
    """Frames `(B, T, F)` as steps `(B, T' + 1, stack * F)`: those that fill none are cut off, and one of zeros added.

    Without that one a recording shorter than a step would leave the recurrent operators nothing to run over.
    """
    size = config.frame_stack
    pads = graph.weight("frames.pads", torch.tensor([0, 0, 0, 0, size, 0]))
    padded = graph.node("Pad", ["input_features", pads], "frames.padded")
    total = graph.node("Shape", [padded], "frames.total", start=1, end=2)
    stack = graph.weight("frames.stack", torch.tensor([size]))
    whole = graph.node("Mul", [graph.node("Div", [total, stack], "frames.steps"), stack], "frames.whole")
    read = graph.node("Slice", [padded, graph.axis(0), whole, graph.axis(1)], "frames.read")
    return add_stacked(graph, config, read)


def add_stacked(graph: Graph, config: Any, frames: str) -> str:
    """Frames `(B, T, F)`, T a multiple of the stack, side by side, `(B, T', stack * F)`."""
    shape = graph.weight("stacked.shape", torch.tensor([0, -1, config.input_size]))  # 0: as it is
    return graph.node("Reshape", [frames, shape], "stacked")


def add_projection(graph: Graph, model: Any, stacked: str) -> str:
    """What the first layer reads, `(T', B, E)`, of steps `(B, T', stack * F)`."""
    projection = model.model.input_projection
    weight = graph.weight("input_projection.weight", projection.weight.T)
    bias = graph.weight("input_projection.bias", projection.bias)
    by_step = graph.node("Transpose", [stacked], "stacked.by_step", perm=[1, 0, 2])
    return graph.linear("embeds", by_step, weight, bias)


def add_labels(graph: Graph, model: Any, outputs: str, name: str) -> str:
    """The output layer, from `(L, B, H)` to `(L, B, V)`."""
    weight = graph.weight("lm_head.weight", model.lm_head.weight.T)
    return graph.linear(name, outputs, weight, graph.weight("lm_head.bias", model.lm_head.bias))


def features_of(config: Any) -> dict[str, Any]:
    """Name, shape and type of the frames that a graph takes."""
    return {"name": "input_features", "shape": ["batch", "frames", config.num_mel_bins], "dtype": "float32"}


def logits_of(config: Any) -> dict[str, Any]:
    """Name, shape and type of the logits that a graph gives."""
    return {"name": "logits", "shape": ["batch", "steps", config.vocab_size], "dtype": "float32"}


def about(config: Any) -> dict[str, str]:
    """What the metadata of a file say besides its interface."""
    return {"task": SPEECH, "frame_stack": str(config.frame_stack)}
