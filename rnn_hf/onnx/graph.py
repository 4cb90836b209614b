"""ONNX graphs put together by hand from standard operators: their parts, and the graph of a language model.

The exporters of torch freeze the length of the sequence, silently or with a warning, and lack Elman cells.
Inside the graph time comes first, as the recurrent operators want it (`layout` 0, the one that TensorRT takes).

Shapes in comments: B batch, T time, E embedding, H width of a layer, P width of a projection, K softmaxes,
V vocabulary.
"""

import json
from typing import Any

import torch

from rnn_hf import __version__
from rnn_hf.errors import InputError, MissingPackageError
from rnn_hf.loading import check_reads_forward
from rnn_hf.models import RNNConfig, RNNForCausalLM
from rnn_hf.models.cache_rnn import identity_of


# Old enough for ONNX Runtime 1.16 and TensorRT 10, and nothing here is better in a newer one.
OPSET, IR_VERSION = 17, 8
LARGEST_FILE = 2**31 - 2**20  # bytes: a protobuf message ends at 2 GiB, and the graph needs some room too

OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
# Where ONNX wants torch's gates: i, f, g, o are i, o, f, g there, and r, z, n are z, r, n.
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


class Graph:
    """Nodes and weights of a graph in the making; each method adds to them and returns the name of the result."""

    def __init__(self) -> None:
        self.onnx = import_onnx()
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, tensor: torch.Tensor) -> str:
        """A constant of the file: whole numbers as they are, all others as float32."""
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        array = tensor.detach().to("cpu", dtype).contiguous().numpy()
        self.weights.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, *more: str, **attributes: Any) -> str:
        """An operator, named as its first output; an empty name among the inputs stands for one that is left out."""
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output, *more], output, **attributes))
        return output

    def axis(self, number: int) -> str:
        """The constant `[number]`, which operators take as the axis they work on."""
        name = f"axis.{number}"
        if all(weight.name != name for weight in self.weights):
            self.weight(name, torch.tensor([number]))
        return name

    def linear(self, name: str, inputs: str, weight: str, bias: str = "") -> str:
        """`inputs @ weight + bias`, with the weight as (in, out)."""
        if not bias:
            return self.node("MatMul", [inputs, weight], name)
        return self.node("Add", [self.node("MatMul", [inputs, weight], f"{name}.product"), bias], name)


def import_onnx() -> Any:
    """The module `onnx`.

    Raises:
        MissingPackageError: It is not installed; the message names the extra.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingPackageError("ONNX files need onnx: pip install 'rnn_hf[onnx]'") from error
    return onnx


def build_graph(model: RNNForCausalLM, last_logits_only: bool = False) -> Any:
    """The `onnx.ModelProto` of a language model, float32, with the state as inputs and outputs.

    Inputs are `input_ids` int64 `(batch, sequence)` and the state of each layer, `past.{i}.hidden` and for an LSTM
    `past.{i}.cell`, `(batch, width)`, zeros for none; outputs `logits` and the state after the last token,
    `present.{i}.hidden` and `present.{i}.cell`. Batch and sequence may have any size from 1. There is no mask.

    Args:
        model: In evaluation mode or not; dropout is never part of the graph. Of any type of float.
        last_logits_only: Whether `logits` are those of the last position, `(batch, 1, vocab_size)`, and not of all.

    Raises:
        InputError: It is no language model of this package, it reads backward, or it has over 2 GB of weights, which
            no ONNX file holds.
        MissingPackageError: onnx is not installed.
    """
    if not isinstance(model, RNNForCausalLM):
        raise InputError(f"`model` must be a language model of this package, not {type(model).__name__}")
    check_reads_forward(model, "an ONNX file")
    check_size(model)
    graph = Graph()
    config = model.config
    words = graph.weight("model.embed_tokens.weight", model.model.embed_tokens.weight)
    outputs = graph.node("Gather", [words, graph.node("Transpose", ["input_ids"], "steps", perm=[1, 0])], "embeds")
    for index, layer in enumerate(model.model.layers):
        build = add_projected_layer if config.projection_size else add_layer
        outputs = build(graph, layer.rnn, layer.kind, index, outputs)  # (T, B, H)
    if last_logits_only:
        last = f"present.{config.num_hidden_layers - 1}.hidden"
        outputs = graph.node("Unsqueeze", [last, graph.axis(1)], "hidden")  # (B, 1, H)
    else:
        outputs = graph.node("Transpose", [outputs], "hidden", perm=[1, 0, 2])  # (B, T, H)
    add_head(graph, model, outputs)
    logits = "last" if last_logits_only else "all"
    return finish(graph, model, interface_of(config, last_logits_only), {"logits": logits})


def check_size(model: Any) -> None:
    """Refuse a model whose weights no ONNX file holds.

    Raises:
        InputError: They take over 2 GB.
    """
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > LARGEST_FILE:
        raise InputError(f"the weights take {size:,} bytes as float32, and an ONNX file holds at most 2 GB")


def add_layer(graph: Graph, rnn: Any, kind: str, index: int | str, inputs: str) -> str:
    """One recurrent layer by its own operator, from `(T, B, in)` to `(T, B, H)`; `rnn` is torch's module."""
    name, past, present = f"layers.{index}", f"past.{index}", f"present.{index}"
    operator, attributes = operator_of(kind, rnn)
    # Without the lengths of the rows: all are whole.
    arguments = [inputs, *add_weights(graph, name, operator, rnn), ""]
    arguments.append(graph.node("Unsqueeze", [f"{past}.hidden", graph.axis(0)], f"{name}.hidden"))
    outputs = [f"{name}.directions", f"{name}.hidden.last"]
    if operator == "LSTM":
        arguments.append(graph.node("Unsqueeze", [f"{past}.cell", graph.axis(0)], f"{name}.cell"))
        outputs.append(f"{name}.cell.last")
    graph.node(operator, arguments, *outputs, **attributes)
    for output in outputs[1:]:
        graph.node("Squeeze", [output, graph.axis(0)], output.replace(name, present).removesuffix(".last"))
    return graph.node("Squeeze", [outputs[0], graph.axis(1)], f"{name}.output")  # (T, 1, B, H): one direction


def operator_of(kind: str, *directions: Any) -> tuple[str, dict[str, Any]]:
    """The recurrent operator of a layer of this kind, and its attributes; `directions` are torch's modules."""
    attributes: dict[str, Any] = {"hidden_size": directions[0].hidden_size}
    if len(directions) == 2:
        attributes["direction"] = "bidirectional"
    if kind == "gru":
        attributes["linear_before_reset"] = 1  # as torch has it: the reset gate after the matrix product
    elif kind not in OPERATORS:
        attributes["activations"] = len(directions) * [kind.capitalize()]
    return OPERATORS.get(kind, "RNN"), attributes


def add_weights(graph: Graph, name: str, operator: str, *directions: Any) -> list[str]:
    """The constants W, R and B of a recurrent operator, which has its directions in the first place."""

    def gates(parameter: torch.Tensor) -> torch.Tensor:
        order = GATES[operator]
        parts = parameter.chunk(len(order))
        return torch.cat([parts[place] for place in order])

    weights = {
        "W": [gates(rnn.weight_ih_l0) for rnn in directions],
        "R": [gates(rnn.weight_hh_l0) for rnn in directions],
        "B": [torch.cat([gates(rnn.bias_ih_l0), gates(rnn.bias_hh_l0)]) for rnn in directions],
    }
    return [graph.weight(f"{name}.{part}", torch.stack(values)) for part, values in weights.items()]


def add_projected_layer(graph: Graph, rnn: Any, kind: str, index: int | str, inputs: str) -> str:
    """An LSTM that projects its output, from `(T, B, in)` to `(T, B, P)`."""
    past, present = ([f"{side}.{index}.{part}" for part in ("hidden", "cell")] for side in ("past", "present"))
    return add_scan(graph, f"layers.{index}", rnn, inputs, past, present)


def add_scan(
    graph: Graph, name: str, rnn: Any, inputs: str, past: list[str], present: list[str], is_real: str = "",
    from_end: bool = False,
) -> str:  # fmt: skip
    """An LSTM that projects its output: a Scan, as ONNX's own has no projection.

    Args:
        graph: To add to.
        name: Of the layer.
        rnn: torch's module.
        inputs: `(T, B, in)`.
        past, present: The state before, `(B, P)` and `(B, H)`, and the names of the one after.
        is_real: `(T, B, 1)`, where the state changes; none where it does at each step.
        from_end: Whether the last step is the first to be read.

    Returns:
        The outputs, `(T, B, P)`.
    """
    weight = graph.weight(f"{name}.W", rnn.weight_ih_l0.T)
    bias = graph.weight(f"{name}.B", rnn.bias_ih_l0.float() + rnn.bias_hh_l0.float())
    recurrent = graph.weight(f"{name}.R", rnn.weight_hh_l0.T)
    projection = graph.weight(f"{name}.P", rnn.weight_hr_l0.T)
    of_inputs = graph.linear(f"{name}.inputs", inputs, weight, bias)  # (T, B, 4H), all steps at once

    step, new = Graph(), "new" if is_real else "after"
    step.node("MatMul", ["hidden", recurrent], "of_hidden")
    step.node("Add", ["of_input", "of_hidden"], "gates")
    step.node("Split", ["gates"], "i", "f", "g", "o", axis=1)
    for gate, activation in (("i", "Sigmoid"), ("f", "Sigmoid"), ("g", "Tanh"), ("o", "Sigmoid")):
        step.node(activation, [gate], f"{gate}.active")
    step.node("Mul", ["f.active", "cell"], "kept")
    step.node("Mul", ["i.active", "g.active"], "new")
    step.node("Add", ["kept", "new"], f"cell.{new}")
    step.node("Mul", ["o.active", step.node("Tanh", [f"cell.{new}"], "cell.active")], "unprojected")
    step.node("MatMul", ["unprojected", projection], f"hidden.{new}")
    if is_real:
        for part in ("cell", "hidden"):
            step.node("Where", ["is_real", f"{part}.new", part], f"{part}.after")
    step.node("Identity", ["hidden.after"], "output")
    float32, boolean = graph.onnx.TensorProto.FLOAT, graph.onnx.TensorProto.BOOL
    widths = {"hidden": rnn.proj_size, "cell": rnn.hidden_size, "of_input": 4 * rnn.hidden_size}
    widths |= {"is_real": 1} if is_real else {}
    num_inputs = len(widths)
    widths |= {"hidden.after": rnn.proj_size, "cell.after": rnn.hidden_size, "output": rnn.proj_size}
    values = [
        graph.onnx.helper.make_tensor_value_info(key, boolean if key == "is_real" else float32, ["batch", size])
        for key, size in widths.items()
    ]
    body = graph.onnx.helper.make_graph(step.nodes, f"{name}.step", values[:num_inputs], values[num_inputs:])
    scanned = [of_inputs, is_real] if is_real else [of_inputs]
    options: dict[str, Any] = (
        {"scan_input_directions": len(scanned) * [1], "scan_output_directions": [1]} if from_end else {}
    )
    output = f"{name}.output"
    graph.node("Scan", [*past, *scanned], *present, output, body=body, num_scan_inputs=len(scanned), **options)
    return output


def add_head(graph: Graph, model: RNNForCausalLM, hidden: str) -> str:
    """The output layer, after its projection if it has one, or the mixture, from `(B, T, H)` to `(B, T, V)`."""
    if model.lm_head.weight is model.model.embed_tokens.weight:
        words = graph.node("Transpose", ["model.embed_tokens.weight"], "lm_head.weight", perm=[1, 0])
    else:
        words = graph.weight("lm_head.weight", model.lm_head.weight.T)
    bias = graph.weight("lm_head.bias", model.lm_head.bias)
    if model.output_projection is not None:
        projection = model.output_projection
        weight = graph.weight("output_projection.weight", projection.weight.T)
        hidden = graph.linear("projected", hidden, weight, graph.weight("output_projection.bias", projection.bias))
    if model.mixture is None:
        return graph.linear("logits", hidden, words, bias)
    mixture: Any = model.mixture
    latent = mixture.latent
    prior = mixture.prior
    weight = graph.weight("latent.weight", latent.weight.T)
    latent_bias = graph.weight("latent.bias", latent.bias)
    graph.linear("latent.linear", hidden, weight, latent_bias)
    graph.node("Tanh", ["latent.linear"], "latent.flat")
    shape = graph.weight("latent.shape", torch.tensor([0, 0, prior.out_features, -1]))  # 0: as it is
    graph.node("Reshape", ["latent.flat", shape], "latent")  # (B, T, K, E)
    graph.linear("softmaxes.linear", "latent", words, bias)
    graph.node("LogSoftmax", ["softmaxes.linear"], "softmaxes", axis=-1)
    graph.linear("prior.linear", hidden, graph.weight("prior.weight", prior.weight.T))
    graph.node("LogSoftmax", ["prior.linear"], "prior.flat", axis=-1)
    graph.node("Unsqueeze", ["prior.flat", graph.axis(-1)], "prior")
    graph.node("Add", ["softmaxes", "prior"], "joint")
    # Not ReduceLogSumExp: a runtime may compute it as written, which underflows, in half precision soon.
    graph.node("ReduceMax", ["joint"], "joint.largest", axes=[-2], keepdims=1)
    graph.node("Exp", [graph.node("Sub", ["joint", "joint.largest"], "joint.below")], "joint.ratio")
    graph.node("ReduceSum", ["joint.ratio", graph.axis(-2)], "joint.sum", keepdims=1)
    graph.node("Add", ["joint.largest", graph.node("Log", ["joint.sum"], "joint.log")], "logits.mixed")
    return graph.node("Squeeze", ["logits.mixed", graph.axis(-2)], "logits")


def untie(proto: Any) -> None:
    """Store a tied output matrix for itself, in place, as ONNX Runtime's `quantize_dynamic` needs it.

    That leaves a product in float whose matrix is computed, though it be by turning the embedding alone. In float32
    one copy is as fast as two, since a runtime turns it when it loads the file, and the file is smaller by the second.
    """
    numpy_helper = import_onnx().numpy_helper
    graph = proto.graph
    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        turned = numpy_helper.to_array(weights[node.input[0]]).T.copy()
        graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        graph.node.remove(node)


def interface_of(config: RNNConfig, last_logits_only: bool) -> dict[str, list[dict[str, Any]]]:
    """Names, shapes and types of what goes in and comes out; a name in a shape is a size of the caller's choice."""
    shape = ["batch", 1 if last_logits_only else "sequence", config.vocab_size]
    ids = {"name": "input_ids", "shape": ["batch", "sequence"], "dtype": "int64"}
    logits = {"name": "logits", "shape": shape, "dtype": "float32"}
    return {"inputs": [ids, *states_of(config, "past")], "outputs": [logits, *states_of(config, "present")]}


def states_of(config: RNNConfig, prefix: str) -> list[dict[str, Any]]:
    """Name, shape and type of each part of the state: `past` goes in, `present` comes out."""
    return [
        {"name": f"{prefix}.{index}.{part}", "shape": ["batch", width], "dtype": "float32"}
        for index, sizes in enumerate(config.state_sizes)
        for part, width in zip(("hidden", "cell"), sizes, strict=True)
        if width is not None
    ]


def finish(graph: Graph, model: Any, interface: dict[str, list[dict[str, Any]]], about: dict[str, str]) -> Any:
    """The model file of a graph, with its interface and what else there is to say of it in the metadata."""
    onnx = graph.onnx
    types = {"int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(v["name"], types[v["dtype"]], v["shape"]) for v in interface[side]]
        for side in ("inputs", "outputs")
    )
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "rnn_hf", inputs, outputs, graph.weights),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rnn_hf",
        producer_version=__version__,
    )
    metadata = {
        "rnn_hf_version": __version__,
        **about,
        "identity": identity_of(model),
        "interface": json.dumps(interface),
    }
    onnx.helper.set_model_props(proto, metadata)
    return proto
