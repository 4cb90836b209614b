"""The ONNX graphs of a network that writes a text from another one: its encoder, and steps of its decoder.

Shapes in comments: B batch, S source, L steps of the longest source, T target, E embedding, H hidden size, A width of
the keys of attention, N its heads, C width of what it finds, R width of what the output matrix sees, V vocabulary.
"""

from typing import Any

import torch

from rnn_hf.errors import InputError
from rnn_hf.models import RNNForConditionalGeneration
from rnn_hf.models.attention_rnn import Memory
from rnn_hf.onnx.classifier_graph import ClassifierGraph, Rows, add_directions, add_pooling
from rnn_hf.onnx.graph import Graph, add_layer, add_weights, check_size, finish, operator_of, states_of


TRANSLATION = "translation"  # as the metadata of a file name the task


def build_encoder_graph(model: Any) -> Any:
    """The `onnx.ModelProto` of an encoder, float32.

    Inputs are `input_ids` and `attention_mask`, int64 `(batch, source)`, any size from 1; padding, where the mask is
    0, may stand anywhere. Outputs are what attention looks at, `keys` and `values`, `(batch, source, width)`, if there
    is any, and the first state of the decoder, `present.{i}.hidden` and for an LSTM `present.{i}.cell`,
    `(batch, width)`.

    Args:
        model: An `RNNForConditionalGeneration`, of any type of float. Dropout is never part of the graph.

    Raises:
        InputError: It is none, or has over 2 GB of weights, which no ONNX file holds.
        MissingPackageError: onnx is not installed.
    """
    check_translator(model)
    config, encoder, graph = model.config, model.model.encoder, ClassifierGraph()
    is_real = graph.node("Cast", ["attention_mask"], "is_real", to=graph.onnx.TensorProto.BOOL)
    rows = Rows(graph, is_real)
    words = graph.weight("encoder.embed_tokens.weight", encoder.embed_tokens.weight)
    ids = graph.node("Gather", [graph.listed("tokens", "input_ids", is_real), rows.entries], "row.ids")
    outputs, states = graph.node("Gather", [words, ids], "embeds"), []  # (L, B, E)
    for index, layer in enumerate(encoder.layers):
        name = f"encoder.layers.{index}"
        if config.bridge == "identity":
            raw, *last = add_reading_layer(graph, name, layer, outputs, rows.lengths)
            states.append(last)
        else:
            raw, _ = add_directions(graph, name, layer, outputs, rows.lengths)
        adds = config.residual_from is not None and index >= config.residual_from
        outputs = graph.node("Add", [raw, outputs], f"{name}.added") if adds else raw
    add_first_state(graph, model, outputs, states, rows)
    projected = []
    if config.attention is not None:
        attention = model.model.decoder.attention
        column = graph.node("Unsqueeze", [is_real, graph.axis(-1)], "is_real.column")
        for name, module in (("keys", attention.k_proj), ("values", attention.v_proj)):
            width = config.hidden_size if module is None else module.out_features
            made = outputs
            if module is not None:
                made = graph.linear(f"{name}.rows", outputs, graph.weight(f"{name}.weight", module.weight.T))
            zeros = graph.weight(f"{name}.zeros", torch.zeros(width))
            spread = rows.spread(made, zeros, f"{name}.spread")
            graph.node("Where", [column, spread, zeros], name)
            projected.append({"name": name, "shape": ["batch", "source", width], "dtype": "float32"})
    inputs = [
        {"name": name, "shape": ["batch", "source"], "dtype": "int64"} for name in ("input_ids", "attention_mask")
    ]
    interface = {"inputs": inputs, "outputs": [*projected, *states_of(config, "present")]}
    return finish(graph, model, interface, {"task": TRANSLATION, "part": "encoder"})


def build_decoder_graph(model: Any) -> Any:
    """The `onnx.ModelProto` of a decoder, float32, with the state as inputs and outputs.

    Inputs are `input_ids`, int64 `(batch, sequence)`, one step at a time with `input_feeding`; what the encoder gave,
    `keys` and `values`, and its `attention_mask`, int64 `(batch, source)`, if there is attention; and the state, what
    was `present` named `past`. Outputs are `logits`, `(batch, sequence, vocab_size)`, and the state after them. Beams
    of one source are rows with the same keys and values.

    Args:
        model: As of `build_encoder_graph`.

    Raises:
        InputError: As of `build_encoder_graph`.
        MissingPackageError: onnx is not installed.
    """
    check_translator(model)
    config, decoder, graph = model.config, model.model.decoder, ClassifierGraph()
    words = graph.weight("decoder.embed_tokens.weight", decoder.embed_tokens.weight)
    steps = graph.node("Transpose", ["input_ids"], "steps", perm=[1, 0])
    outputs = graph.node("Gather", [words, steps], "embeds")  # (T, B, E)
    fed = f"{len(decoder.layers)}.hidden"
    if config.input_feeding:
        before = graph.node("Unsqueeze", [f"past.{fed}", graph.axis(0)], "fed")
        outputs = graph.node("Concat", [outputs, before], "embeds.fed", axis=-1)
    asks = 0 if config.deep_fusion else len(decoder.layers) - 1
    found = ""
    for index, layer in enumerate(decoder.layers):
        read = graph.node("Concat", [outputs, found], f"layers.{index}.read", axis=-1) if found else outputs
        raw = add_layer(graph, layer.rnn, layer.kind, index, read)
        adds = config.residual_from is not None and index >= config.residual_from
        outputs = graph.node("Add", [raw, outputs], f"layers.{index}.added") if adds else raw
        if config.attention is not None and index == asks:
            found = add_attention(graph, model, outputs)
    if decoder.readout is not None:
        joined = graph.node("Concat", [outputs, found], "readout.inputs", axis=-1)
        weight = graph.weight("readout.weight", decoder.readout.weight.T)
        outputs = graph.linear("readout.linear", joined, weight, graph.weight("readout.bias", decoder.readout.bias))
        outputs = graph.node("Tanh", [outputs], "readout")
    if config.input_feeding:
        graph.node("Squeeze", [outputs, graph.axis(0)], f"present.{fed}")
    if model.lm_head.weight is decoder.embed_tokens.weight:
        matrix = graph.node("Transpose", [words], "lm_head.weight", perm=[1, 0])
    else:
        matrix = graph.weight("lm_head.weight", model.lm_head.weight.T)
    hidden = graph.node("Transpose", [outputs], "hidden", perm=[1, 0, 2])
    graph.linear("logits", hidden, matrix, graph.weight("lm_head.bias", model.lm_head.bias))
    sequence = 1 if config.input_feeding else "sequence"
    inputs = [{"name": "input_ids", "shape": ["batch", sequence], "dtype": "int64"}]
    if config.attention is not None:
        width = config.attention_size or config.hidden_size
        for name, size in (("keys", width), ("values", config.context_size)):
            inputs.append({"name": name, "shape": ["batch", "source", size], "dtype": "float32"})
        inputs.append({"name": "attention_mask", "shape": ["batch", "source"], "dtype": "int64"})
    logits = {"name": "logits", "shape": ["batch", sequence, config.output_vocab_size], "dtype": "float32"}
    interface = {
        "inputs": [*inputs, *states_of(config, "past")],
        "outputs": [logits, *states_of(config, "present")],
    }
    return finish(graph, model, interface, {"task": TRANSLATION, "part": "decoder"})


def check_translator(model: Any) -> None:
    """Refuse what is none, or too large.

    Raises:
        InputError: See `build_encoder_graph`.
    """
    if not isinstance(model, RNNForConditionalGeneration):
        raise InputError(f"`model` must have an encoder and a decoder of this package, not {type(model).__name__}")
    check_size(model)


def add_reading_layer(graph: Graph, name: str, layer: Any, inputs: str, lengths: str) -> tuple[str, ...]:
    """A layer of one direction over rows `(L, B, in)`: its outputs `(L, B, H)`, and its state at each row's end."""
    operator, attributes = operator_of(layer.kind, layer.rnn)
    arguments = [inputs, *add_weights(graph, name, operator, layer.rnn), lengths]
    parts = ["hidden", "cell"] if operator == "LSTM" else ["hidden"]
    ends = [f"{name}.{part}.end" for part in parts]
    graph.node(operator, arguments, f"{name}.directions", *ends, **attributes)
    last = [graph.node("Squeeze", [end, graph.axis(0)], f"{end}.flat") for end in ends]
    return graph.node("Squeeze", [f"{name}.directions", graph.axis(1)], f"{name}.output"), *last


def add_first_state(graph: ClassifierGraph, model: Any, outputs: str, states: list[list[str]], rows: Rows) -> None:
    """The first state of the decoder, as `config.bridge` makes it of the encoder's outputs `(L, B, H)` and, for
    `"identity"`, of its states."""
    config = model.config
    sizes = {f"present.{i}.{part}": width for i, part, width in parts_of(config)}
    made = [name for name in sizes if int(name.split(".")[1]) < config.num_decoder_layers]
    if config.bridge == "identity":
        zero = graph.weight("state.zero", torch.tensor(0.0))
        for name, last in zip(made, [part for state in states for part in state], strict=True):
            graph.node("Where", [rows.has_any, last, zero], name)
    elif config.bridge in ("linear", "mean"):
        pooled = add_summary(graph, config, outputs, rows)
        bridge = model.model.decoder.bridge
        weight = graph.weight("bridge.weight", bridge.weight.T)
        pooled = graph.linear("bridge.linear", pooled, weight, graph.weight("bridge.bias", bridge.bias))
        tanh = graph.node("Tanh", [pooled], "bridge")
        split = graph.weight("bridge.sizes", torch.tensor([sizes[name] for name in made]))
        graph.node("Split", [tanh, split], *made, axis=1)
    for name in sizes if config.bridge == "zero" else [name for name in sizes if name not in made]:
        zeros = graph.weight(f"{name}.zeros", torch.zeros(1, sizes[name]))
        shape = graph.node("Shape", [rows.column], f"{name}.shape")  # [B, 1]
        graph.node("Expand", [zeros, shape], name)


def parts_of(config: Any) -> list[tuple[int, str, int]]:
    """Layer, name and width of each part of the decoder's state."""
    return [
        (index, part, width)
        for index, widths in enumerate(config.state_sizes)
        for part, width in zip(("hidden", "cell"), widths, strict=True)
        if width is not None
    ]


def add_summary(graph: ClassifierGraph, config: Any, outputs: str, rows: Rows) -> str:
    """What the bridge sees of outputs `(L, B, H)`, `(B, H)`: their mean, or where each direction ends."""
    if config.bridge == "mean":
        return add_pooling(graph, "mean", outputs, "", rows)
    by_row = graph.node("Transpose", [outputs], "ends.rows", perm=[1, 0, 2])
    lengths = graph.integers("ends.lengths", rows.lengths)
    place = graph.node("Sub", [lengths, graph.number(1)], "ends.place.flat")
    place = graph.node("Unsqueeze", [place, graph.axis(-1)], "ends.place")
    last = graph.node("GatherND", [by_row, place], "ends.last", batch_dims=1)  # (B, H)
    if config.bidirectional_encoder:
        half = graph.weight("ends.half", torch.tensor([config.hidden_size // 2]))
        end = graph.weight("ends.whole", torch.tensor([config.hidden_size]))
        first = graph.node("Gather", [outputs, graph.number(0)], "ends.first", axis=0)
        first = graph.node("Slice", [first, half, end, graph.axis(1)], "ends.backward")
        last = graph.node("Slice", [last, graph.axis(0), half, graph.axis(1)], "ends.forward")
        last = graph.node("Concat", [last, first], "ends", axis=-1)
    return add_pooling(graph, "last", outputs, last, rows)


def add_attention(graph: ClassifierGraph, model: Any, outputs: str) -> str:
    """What outputs of the decoder `(T, B, H)` find in `keys` and `values`, `(T, B, C)`."""
    config, attention = model.config, model.model.decoder.attention
    queries = graph.node("Transpose", [outputs], "queries", perm=[1, 0, 2])  # (B, T, H)
    if attention.q_proj is not None:
        weight = graph.weight("q_proj.weight", attention.q_proj.weight.T)
        queries = graph.linear("queries.made", queries, weight, graph.weight("q_proj.bias", attention.q_proj.bias))
    mask = graph.node("Cast", ["attention_mask"], "source.is_real", to=graph.onnx.TensorProto.BOOL)
    lowest = graph.weight("lowest", torch.tensor(torch.finfo(torch.float32).min))
    keys, values, axes = "keys", "values", [0, 2, 1]
    mask = graph.node("Unsqueeze", [mask, graph.axis(1)], "source.row")  # (B, 1, S)
    if config.attention == "multihead":
        size = config.attention_size // config.attention_heads
        shape = graph.weight("heads.shape", torch.tensor([0, 0, config.attention_heads, size]))

        def heads(name: str) -> str:
            apart = graph.node("Reshape", [name, shape], f"{name}.apart")
            return graph.node("Transpose", [apart], f"{name}.heads", perm=[0, 2, 1, 3])  # (B, N, ., A / N)

        scale = graph.weight("heads.scale", torch.tensor(float(size) ** -0.5))
        queries = graph.node("Mul", [heads(queries), scale], "queries.scaled")
        keys, values, axes = heads(keys), heads(values), [0, 1, 3, 2]
        mask = graph.node("Unsqueeze", [mask, graph.axis(1)], "source.heads")  # (B, 1, 1, S)
    if config.attention == "additive":
        apart = graph.node("Unsqueeze", [queries, graph.axis(2)], "queries.apart")  # (B, T, 1, A)
        keys = graph.node("Unsqueeze", [keys, graph.axis(1)], "keys.apart")  # (B, 1, S, A)
        compared = graph.node("Tanh", [graph.node("Add", [apart, keys], "compared.linear")], "compared")
        scores = graph.linear("scores.apart", compared, graph.weight("score.weight", attention.score.weight.T))
        scores = graph.node("Squeeze", [scores, graph.axis(-1)], "scores")
    else:
        scores = graph.node("MatMul", [queries, graph.node("Transpose", [keys], "keys.turned", perm=axes)], "scores")
    masked = graph.node("Where", [mask, scores, lowest], "scores.masked")
    weights = graph.node("Softmax", [masked], "weights", axis=-1)
    found = graph.node("MatMul", [weights, values], "found.rows")
    if config.attention == "multihead":  # (B, N, T, C / N)
        found = graph.node("Transpose", [found], "found.by_step", perm=[2, 0, 1, 3])
        return graph.node("Reshape", [found, graph.weight("found.shape", torch.tensor([0, 0, -1]))], "found")
    return graph.node("Transpose", [found], "found", perm=[1, 0, 2])


@torch.no_grad()
def run_translator(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What PyTorch makes of the inputs of either graph, by the names of its outputs."""
    config, decoder = model.config, model.model.decoder
    given = {name: each.to(model.dtype) if each.is_floating_point() else each for name, each in inputs.items()}
    found: dict[str, torch.Tensor] = {}
    if "past.0.hidden" not in given:
        read = model.encode(given["input_ids"], given["attention_mask"])
        memory = decoder.memory_of(read, None)
        states = decoder.initial_state(read, memory)
        if config.attention is not None:
            found |= dict(zip(("keys", "values"), memory.compared, strict=True))
    else:
        states = [(given[f"past.{i}.hidden"], given.get(f"past.{i}.cell")) for i in range(len(config.state_sizes))]
        padding = None if config.attention is None else given["attention_mask"] == 0
        values = given.get("values", states[0][0][:, None])
        run = decoder(given["input_ids"], states, Memory(values, given.get("keys"), values, padding))
        found["logits"], states = model.lm_head(run.outputs), run.states
    for index, (hidden, cell) in enumerate(states):
        found |= {f"present.{index}.hidden": hidden} | ({} if cell is None else {f"present.{index}.cell": cell})
    return found


def random_translation(
    config: Any, interface: dict[str, list[dict[str, Any]]], batch: int, sequence: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Inputs of either graph, with padding anywhere in sources; of a first row of several there is none."""
    inputs, is_encoder = {}, all(value["name"] != "past.0.hidden" for value in interface["inputs"])
    for value in interface["inputs"]:
        sizes = {"batch": batch, "sequence": sequence, "source": sequence if is_encoder else sequence + 1}
        shape = [sizes.get(size, size) for size in value["shape"]]
        if value["name"] == "input_ids":
            number = config.vocab_size if is_encoder else config.output_vocab_size
            inputs["input_ids"] = torch.randint(number, shape, generator=generator)
        elif value["name"] == "attention_mask":
            mask = torch.rand(shape, generator=generator) < 0.7
            mask[0] |= batch > 1
            inputs["attention_mask"] = mask.long()
        else:
            inputs[value["name"]] = 2 * torch.rand(shape, generator=generator) - 1
    return inputs


__all__ = ["TRANSLATION", "build_decoder_graph", "build_encoder_graph", "random_translation", "run_translator"]
