"""The ONNX graph of a classifier of texts or of tokens, any padding.

The real tokens of a padded batch, or its words where the network puts them together, stand in one list, row after row.
Layers run over that list cut into rows again, each from its first step on, with the lengths of the rows as
`sequence_lens`. Entry 0 of a list stands for none, so that no list is empty.

Shapes in comments: B batch, T time, L steps of the longest row, N + 1 entries of a list, E embedding, H width of a
layer with all of its directions, C number of classes.
"""

from typing import Any

import torch

from rnn_hf.errors import InputError
from rnn_hf.models import RNNForSequenceClassification, RNNForTokenClassification
from rnn_hf.models.words_rnn import CONTINUES, NO_ROW
from rnn_hf.onnx.graph import Graph, add_scan, add_weights, check_size, finish, operator_of


# The metadata of a file name its task as the Hub does.
TASKS = {RNNForSequenceClassification: "text-classification", RNNForTokenClassification: "token-classification"}
INPUTS = ("input_ids", "attention_mask")


def build_classifier_graph(model: Any) -> Any:
    """The `onnx.ModelProto` of a classifier, float32.

    Inputs are `input_ids` and `attention_mask`, int64 `(batch, sequence)`, any size from 1. Padding, where the mask is
    0, may stand anywhere. The output is `logits`: `(batch, classes)`, or `(batch, sequence, classes)` where tokens are
    classified, with those of the last real token at padding after it, or of the next one at padding before it where
    the model has `reads_backward`, as PyTorch has them.

    Args:
        model: An `RNNForSequenceClassification` or `RNNForTokenClassification`, of any type of float. Dropout is never
            part of the graph.

    Raises:
        InputError: It is none of these, or has over 2 GB of weights, which no ONNX file holds.
        MissingPackageError: onnx is not installed.
    """
    task = next((task for kind, task in TASKS.items() if isinstance(model, kind)), None)
    if task is None:
        raise InputError(f"`model` must be a classifier of this package, not {type(model).__name__}")
    check_size(model)
    graph = ClassifierGraph()
    network = model.model
    is_real = graph.node("Cast", ["attention_mask"], "is_real", to=graph.onnx.TensorProto.BOOL)
    from_end = model.config.reads_backward
    if network.words is None:
        embeddings = graph.weight("model.embed_tokens.weight", network.embed_tokens.weight)
        rows = Rows(graph, is_real)
        ids = graph.node("Gather", [graph.listed("tokens", "input_ids", is_real), rows.entries], "row.ids")
        outputs = graph.node("Gather", [embeddings, ids], "embeds")  # (L, B, E)
    else:
        words, starts_word = add_words(graph, network, is_real)
        rows = Rows(graph, starts_word)
        outputs = graph.node("Gather", [words, rows.entries], "embeds")
    for index, layer in enumerate(network.layers):  # (L, B, H) and (B, H)
        outputs, last = add_directions(graph, f"layers.{index}", layer, outputs, rows.lengths, rows.is_real, from_end)
    weight = graph.weight("score.weight", model.score.weight.T)
    bias = graph.weight("score.bias", model.score.bias)
    if task == "text-classification":
        pooled = add_pooling(graph, model.config.pooling, outputs, last, rows)
        graph.linear("logits", pooled, weight, bias)
        shape = ["batch", model.num_labels]
    else:
        rows.spread(graph.linear("score", outputs, weight, bias), bias, "logits", from_end)
        shape = ["batch", "sequence", model.num_labels]
    inputs = [{"name": name, "shape": ["batch", "sequence"], "dtype": "int64"} for name in INPUTS]
    interface = {"inputs": inputs, "outputs": [{"name": "logits", "shape": shape, "dtype": "float32"}]}
    return finish(graph, model, interface, {"task": task})


class ClassifierGraph(Graph):
    """What graphs of classifiers count with, in whole numbers of 64 bits."""

    def number(self, value: int) -> str:
        """The constant `value`, without axes."""
        name = f"number.{value}"
        if all(weight.name != name for weight in self.weights):
            self.weight(name, torch.tensor(value))
        return name

    def integers(self, name: str, inputs: str) -> str:
        """Truths or other whole numbers."""
        return self.node("Cast", [inputs], name, to=self.onnx.TensorProto.INT64)

    def listed(self, name: str, inputs: str, chosen: str) -> str:
        """The entries of `(B, T)` where `chosen` is true, row after row, behind an entry 0: `(N + 1,)`."""
        is_chosen = self.node("Reshape", [chosen, self.axis(-1)], f"{name}.is_chosen")
        entries = self.node("Compress", [inputs, is_chosen], f"{name}.chosen")
        return self.node("Concat", [self.axis(0), entries], name, axis=0)  # `axis(0)` is [0], whatever it is for

    def sums(self, name: str, values: str, axis: int = 0, exclusive: int = 0) -> str:
        """The sum of the values up to each, without itself if `exclusive`."""
        return self.node("CumSum", [values, self.number(axis)], name, exclusive=exclusive)

    def filled(self, name: str, shape: str, value: int) -> str:
        """The value at each place of a shape `(axes,)`."""
        tensor = self.onnx.helper.make_tensor(f"{name}.value", self.onnx.TensorProto.INT64, [1], [value])
        return self.node("ConstantOfShape", [shape], name, value=tensor)

    def added(self, name: str, values: str, places: str, size: str) -> str:
        """The sum of the values at each of `size` places, `(size,)`: values `(N + 1,)` and their places `(N + 1,)`."""
        zeros = self.filled(f"{name}.zeros", size, 0)
        return self.node("ScatterElements", [zeros, places, values], name, axis=0, reduction="add")

    def steps(self, name: str, lengths: str) -> str:
        """The numbers of the steps of the longest of some rows, `(L, 1)`."""
        longest = self.node("ReduceMax", [lengths], f"{name}.longest", keepdims=0)
        numbers = self.node("Range", [self.number(0), longest, self.number(1)], f"{name}.numbers")
        return self.node("Unsqueeze", [numbers, self.axis(1)], name)


class Rows:
    """A list cut into rows, each from its first step on.

    Attributes:
        entries: `(L, B)`, which entry of the list stands at each step, 0 behind the end of a row.
        lengths: `(B,)`, of 32 bits, at least 1, as operators want them.
        is_real: `(L, B, 1)`, where a row has not ended.
        has_any: `(B, 1)`, whether a row has a step.
    """

    def __init__(self, graph: ClassifierGraph, chosen: str):
        """Of the positions `(B, T)` of a batch those that are `chosen`."""
        self.graph = graph
        self.flags = graph.integers("row.flags", chosen)
        self.seen = graph.sums("row.seen", self.flags, axis=1)  # (B, T), steps of the row up to each position
        self.counts = graph.node("ReduceSum", [self.flags, graph.axis(1)], "row.counts", keepdims=0)  # (B,)
        at_least_one = graph.node("Max", [self.counts, graph.number(1)], "row.lengths")
        self.lengths = graph.node("Cast", [at_least_one], "row.lengths32", to=graph.onnx.TensorProto.INT32)
        steps = graph.steps("row.steps", at_least_one)
        is_real = graph.node("Less", [steps, self.counts], "row.is_real.flat")  # (L, B)
        before = graph.sums("row.before", self.counts, exclusive=1)  # entries of the rows above
        first = graph.node("Add", [before, graph.number(1)], "row.first")
        numbers = graph.node("Add", [steps, first], "row.entries.all")
        self.entries = graph.node("Where", [is_real, numbers, graph.number(0)], "row.entries")
        self.is_real = graph.node("Unsqueeze", [is_real, graph.axis(-1)], "row.is_real")
        self.column = graph.node("Unsqueeze", [self.counts, graph.axis(-1)], "row.counts.column")  # (B, 1)
        self.has_any = graph.node("Greater", [self.column, graph.number(0)], "row.has_any")

    def spread(self, values: str, empty: str, name: str, from_end: bool = False) -> str:
        """Values of steps, `(L, B, C)`, at the positions of the batch, `(B, T, C)`.

        A position has the value of the last step up to there, or `empty`, `(C,)`, before the first; read `from_end`,
        that of the first step from there on, or `empty` behind the last.
        """
        graph = self.graph
        by_row = graph.node("Transpose", [values], f"{name}.rows", perm=[1, 0, 2])
        step = graph.node("Sub", [self.seen, self.flags if from_end else graph.number(1)], f"{name}.step.any")
        limits = (self.column, step) if from_end else (self.seen, graph.number(0))
        has_step = graph.node("Greater", list(limits), f"{name}.has_step.flat")
        step = graph.node("Where", [has_step, step, graph.number(0)], f"{name}.step")
        step = graph.node("Unsqueeze", [step, graph.axis(-1)], f"{name}.places")
        shown = graph.node("GatherND", [by_row, step], f"{name}.shown", batch_dims=1)
        has_step = graph.node("Unsqueeze", [has_step, graph.axis(-1)], f"{name}.has_step")
        return graph.node("Where", [has_step, shown, empty], name)


def add_directions(
    graph: ClassifierGraph, name: str, layer: Any, inputs: str, lengths: str, is_real: str = "", from_end: bool = False
) -> tuple[str, str]:
    """One recurrent layer in one or two directions.

    Args:
        graph: To add to.
        name: Of the layer.
        layer: An `RNNLayer`.
        inputs: `(L, B, E)`, of any value behind the end of a row.
        lengths: Of the rows, `(B,)`, of 32 bits, at least 1.
        is_real: `(L, B, 1)`, where a row has not ended, for a layer with a projection.
        from_end: Whether a layer in one direction reads each row from its end.

    Returns:
        The outputs `(L, B, H)`, and the last one of each direction, `(B, H)`.
    """
    directions = [layer.rnn] if layer.reverse is None else [layer.rnn, layer.reverse]
    if getattr(layer.rnn, "proj_size", 0):
        return _add_projected(graph, name, directions, inputs, lengths, is_real, from_end)
    operator, attributes = operator_of(layer.kind, *directions)
    if from_end:
        attributes["direction"] = "reverse"
    arguments = [inputs, *add_weights(graph, name, operator, *directions), lengths]
    graph.node(operator, arguments, f"{name}.directions", f"{name}.last.directions", **attributes)
    # (L, directions, B, width) and (directions, B, width)
    by_unit = graph.node("Transpose", [f"{name}.directions"], f"{name}.by_unit", perm=[0, 2, 1, 3])
    last = graph.node("Transpose", [f"{name}.last.directions"], f"{name}.last.by_unit", perm=[1, 0, 2])
    shapes = [graph.weight(f"{name}.shape.{axes}", torch.tensor([0] * axes + [-1])) for axes in (2, 1)]
    return (
        graph.node("Reshape", [by_unit, shapes[0]], f"{name}.output"),
        graph.node("Reshape", [last, shapes[1]], f"{name}.last"),
    )


def _add_projected(
    graph: ClassifierGraph, name: str, directions: list[Any], inputs: str, lengths: str, is_real: str, from_end: bool
) -> tuple[str, str]:
    """As `add_directions`, for an LSTM that projects its output."""
    column = graph.node("Unsqueeze", [lengths, graph.axis(1)], f"{name}.column")
    shape = graph.node("Shape", [column], f"{name}.shape")  # [B, 1]
    outputs, last = [], []
    for number, rnn in enumerate(directions):
        one = f"{name}.{number}"
        past = []
        for part, width in (("hidden", rnn.proj_size), ("cell", rnn.hidden_size)):
            zeros = graph.weight(f"{one}.{part}.zero", torch.zeros(1, width))
            past.append(graph.node("Expand", [zeros, shape], f"{one}.{part}"))
        present = [f"{one}.hidden.last", f"{one}.cell.last"]
        outputs.append(add_scan(graph, one, rnn, inputs, past, present, is_real, from_end or number == 1))
        last.append(present[0])
    return (
        graph.node("Concat", outputs, f"{name}.output", axis=-1),
        graph.node("Concat", last, f"{name}.last", axis=-1),
    )


def add_pooling(graph: ClassifierGraph, kind: str, outputs: str, last: str, rows: Rows) -> str:
    """One vector a text, `(B, H)`, or `(B, 3 H)` for `"concat"`; zeros for a text without tokens."""
    parts = []
    if kind in ("last", "concat"):
        parts.append(last)
    if kind in ("max", "concat"):
        lowest = graph.weight("lowest", torch.tensor(-torch.inf))
        masked = graph.node("Where", [rows.is_real, outputs, lowest], "pooled.masked.max")
        parts.append(graph.node("ReduceMax", [masked], "pooled.max", axes=[0], keepdims=0))
    zero = graph.weight("zero", torch.tensor(0.0))
    if kind in ("mean", "concat"):
        masked = graph.node("Where", [rows.is_real, outputs, zero], "pooled.masked.mean")
        total = graph.node("ReduceSum", [masked, graph.axis(0)], "pooled.sum", keepdims=0)
        lengths = graph.node("Cast", [rows.lengths], "pooled.lengths", to=graph.onnx.TensorProto.FLOAT)
        lengths = graph.node("Unsqueeze", [lengths, graph.axis(-1)], "pooled.lengths.column")
        parts.append(graph.node("Div", [total, lengths], "pooled.mean"))
    pooled = graph.node("Concat", parts, "pooled.parts", axis=-1)
    return graph.node("Where", [rows.has_any, pooled, zero], "pooled")


def add_words(graph: ClassifierGraph, network: Any, is_real: str) -> tuple[str, str]:
    """The words that a network with `character_embedding_size` reads, as its `WordEncoder` makes them of pieces.

    Returns:
        The list of words' vectors, `(N + 1, E)`, and where words begin, `(B, T)`.
    """
    words = network.words

    def look_up(name: str, table: torch.Tensor, places: str) -> str:
        values = graph.node("Gather", [graph.weight(name, table), places], f"{name}.of.{places}")
        return graph.integers(f"{name}.of.{places}.int64", values)

    starts_word = add_first_pieces(graph, words, is_real)
    pieces = graph.listed("pieces", "input_ids", is_real)  # (N + 1,)
    starts = graph.listed("pieces.starts_word", graph.integers("starts_word.int64", starts_word), is_real)
    number = graph.sums("pieces.word", starts)  # of each piece that of its word; 0 for the entry that stands for none
    num_words = graph.node("ReduceSum", [starts, graph.axis(0)], "words.number.real", keepdims=1)
    num_words = graph.node("Add", [num_words, graph.number(1)], "words.number")

    ends = words.ends
    begins = torch.cat([ends.new_zeros(1), ends[:-1]])
    lengths = look_up("words.lengths", ends - begins, pieces)
    sizes = graph.added("words.sizes", lengths, number, num_words)
    text = add_text(graph, look_up("words.begins", begins, pieces), lengths, words.characters)
    vectors = add_spelled(graph, words, text, sizes)

    ones = graph.filled("pieces.ones", graph.node("Shape", [pieces], "pieces.shape"), 1)
    counts = graph.added("words.counts", ones, number, num_words)
    rows = look_up("words.rows", words.rows.clamp(min=NO_ROW), pieces)
    rows = graph.added("words.rows.summed", rows, number, num_words)  # which are those of its piece, where it is one
    is_whole = graph.node("Equal", [counts, graph.number(1)], "words.is_whole")
    rows = graph.node("Where", [is_whole, rows, graph.number(NO_ROW)], "words.rows.whole")
    table = network.embed_tokens.weight.detach().clone()
    table[NO_ROW] = 0
    embeds = graph.node("Gather", [graph.weight("model.embed_tokens.weight", table), rows], "words.embeds")
    return graph.node("Concat", [embeds, vectors], "words", axis=-1), starts_word


def add_first_pieces(graph: ClassifierGraph, words: Any, is_real: str) -> str:
    """Where words begin, `(B, T)`: at real pieces that continue none, and at the first real one of a row."""
    continues = graph.weight("words.continues", words.rows == CONTINUES)
    continues = graph.node("Gather", [continues, "input_ids"], "piece.continues")
    seen = graph.sums("piece.seen", graph.integers("piece.is_real", is_real), axis=1)
    is_later = graph.node("Greater", [seen, graph.number(1)], "piece.is_later")
    is_inside = graph.node("And", [continues, is_later], "piece.is_inside")
    return graph.node("And", [is_real, graph.node("Not", [is_inside], "piece.is_outside")], "starts_word")


def add_text(graph: ClassifierGraph, begins: str, lengths: str, characters: torch.Tensor) -> str:
    """The characters of pieces, one after the other, and one more, so that there is one.

    Args:
        graph: To add to.
        begins, lengths: `(N + 1,)`, of each piece where its spelling begins in `characters`, and how long it is.
        characters: The spellings of all types.
    """
    total = graph.node("ReduceSum", [lengths, graph.axis(0)], "text.total", keepdims=1)
    size = graph.node("Add", [total, graph.number(1)], "text.size")
    starts = graph.sums("text.starts", lengths, exclusive=1)
    ones = graph.filled("text.ones", graph.node("Shape", [starts], "text.pieces"), 1)
    # How many pieces begin up to a place says which piece it is of: one without characters begins where the next does.
    owners = graph.sums("text.begun", graph.added("text.beginning", ones, starts, size))
    owners = graph.node("Sub", [owners, graph.number(1)], "text.owners")
    shifts = graph.node("Gather", [graph.node("Sub", [begins, starts], "text.shifts"), owners], "text.shift")
    end = graph.node("Squeeze", [size], "text.end")
    numbers = graph.node("Range", [graph.number(0), end, graph.number(1)], "text.places")
    table = graph.weight("words.characters", torch.cat([characters, characters.new_zeros(1)]))
    places = graph.node("Add", [numbers, shifts], "text.sources")
    return graph.integers("text", graph.node("Gather", [table, places], "text.int16"))


def add_spelled(graph: ClassifierGraph, words: Any, text: str, sizes: str) -> str:
    """What the characters of words say, `(N + 1, 2 character_hidden_size)`: zeros of a word without characters.

    Args:
        graph: To add to.
        words: The `WordEncoder`.
        text: The characters of all words, one more at its end.
        sizes: How many there are of each word, `(N + 1,)`.
    """
    limit = words.max_word_characters
    excess = graph.node("Sub", [sizes, graph.number(limit)], "spelled.over")
    excess = graph.node("Max", [excess, graph.number(0)], "spelled.excess")
    kept = graph.node("Sub", [sizes, excess], "spelled.kept")
    lengths = graph.node("Max", [kept, graph.number(1)], "spelled.lengths")
    lengths32 = graph.node("Cast", [lengths], "spelled.lengths32", to=graph.onnx.TensorProto.INT32)
    steps = graph.steps("spelled.steps", lengths)
    # Of a word that is too long the middle is left out.
    is_head = graph.node("Less", [steps, graph.number(limit // 2)], "spelled.is_head")
    skipped = graph.node("Where", [is_head, graph.number(0), excess], "spelled.skipped")  # (L, N + 1)
    places = graph.node("Add", [steps, skipped], "spelled.steps.kept")
    places = graph.node("Add", [places, graph.sums("spelled.starts", sizes, exclusive=1)], "spelled.places.all")
    end = graph.node("ReduceSum", [sizes, graph.axis(0)], "spelled.end", keepdims=1)
    places = graph.node("Min", [places, end], "spelled.places")  # steps behind the end of a word may be of any value
    characters = graph.node("Gather", [text, places], "spelled.characters")
    table = graph.weight("words.embed_characters.weight", words.embed_characters.weight)
    embeds = graph.node("Gather", [table, characters], "spelled.embeds")
    _, last = add_directions(graph, "words.layer", words.layer, embeds, lengths32)
    has_any = graph.node("Greater", [kept, graph.number(0)], "spelled.has_any.flat")
    has_any = graph.node("Unsqueeze", [has_any, graph.axis(-1)], "spelled.has_any")
    return graph.node("Where", [has_any, last, graph.weight("spelled.none", torch.tensor(0.0))], "spelled")
