"""Variables of TensorFlow 1, saved by numpy.savez under their names, as the cells of its tutorials made them."""

import re

import torch

from rnn_hf.conversion.formats import Choices, Format
from rnn_hf.conversion.reading import Checkpoint
from rnn_hf.conversion.source import Layer, Linear, Source
from rnn_hf.conversion.vocabulary import Vocabulary
from rnn_hf.errors import InputError


Tensor = torch.Tensor
CELL = re.compile(
    r"(?P<cell>.*?(?P<kind>lstm|gru|rnn)_?cell.*?)/(?P<part>kernel|weights|matrix|bias|biases|gates/.*|candidate/.*|"
    r"w_[ifo]_diag|projection/.*|linear/matrix|linear/bias)",
    re.IGNORECASE,
)
# What optimizers and the like leave next to the variables.
OF_TRAINING = re.compile(
    r"(^|/)(global_step|learning_rate|lr|Adam(_\d+)?|Adagrad|Momentum|RMSProp(_\d+)?|beta[12]_power)$"
)


def matches(checkpoint: Checkpoint) -> bool:
    return checkpoint.container == "npz" and any(CELL.fullmatch(name.partition(":")[0]) for name in checkpoint.content)


def read(checkpoint: Checkpoint, choices: Choices) -> Source:
    left = {name.partition(":")[0]: tensor for name, tensor in checkpoint.content.items()}
    source = Source([], wants=Vocabulary(kind=""))
    for name in [name for name in left if OF_TRAINING.search(name)]:
        left.pop(name)
        source.dropped.append(f"`{name}`, of the training")
    cells: dict[str, dict[str, Tensor]] = {}
    for name in list(left):
        if found := CELL.fullmatch(name):
            cells.setdefault(found["cell"], {})[found["part"].lower()] = left.pop(name)
    order = sorted(cells, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    source.layers = [layer_of(cells[name], name, choices.forget_bias) for name in order]
    take_ends(left, source, choices)
    if left and not choices.backbone:
        names = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in left.items())
        raise InputError(f"it has variables that are not known: {names}; `backbone=True` leaves them out")
    source.dropped += [f"`{name}`" for name in left]
    return source


def layer_of(parts: dict[str, Tensor], name: str, forget_bias: float | None) -> Layer:
    """A cell from `kernel` `(in + state, G H)`, whose first rows read the input, and `bias` `(G H,)`.

    Raises:
        InputError: This package has no such cell; or an LSTM without `forget_bias`.
    """
    if any(part.startswith(("gates/", "candidate/")) for part in parts):
        raise InputError(f"{name}: TensorFlow's GRUCell resets the state before the product, and torch's GRU after it")
    if any("_diag" in part for part in parts):
        raise InputError(f"{name} has peepholes, which no cell here has")
    kernel = next((parts[part] for part in ("kernel", "weights", "matrix", "linear/matrix") if part in parts), None)
    bias = next((parts[part] for part in ("bias", "biases", "linear/bias") if part in parts), None)
    projection = next((tensor for part, tensor in parts.items() if part.startswith("projection/")), None)
    if kernel is None or bias is None or kernel.ndim != 2 or tuple(bias.shape) != (kernel.shape[1],):
        raise InputError(f"{name} is no cell: it has {', '.join(parts)}")
    is_lstm = "lstm" in name.lower()
    size = kernel.shape[1] // 4 if is_lstm else kernel.shape[1]
    width = size if projection is None else projection.shape[1]
    of_input, of_state = kernel[: len(kernel) - width].T, kernel[len(kernel) - width :].T
    if not is_lstm:
        return Layer("rnn", of_input.contiguous(), of_state.contiguous(), bias, activation="tanh")
    if forget_bias is None:
        raise InputError(
            "what TensorFlow adds to the forget gates when it runs is not in the file: give `forget_bias`, by default "
            "1.0 in its cells, and 0.0 in the tutorial on Penn Treebank"
        )
    return Layer(
        "lstm", of_input.contiguous(), of_state.contiguous(), bias, gates="igfo", forget_bias=forget_bias,
        projection=None if projection is None else projection.T.contiguous(),
    )  # fmt: skip


def take_ends(left: dict[str, Tensor], source: Source, choices: Choices) -> None:
    """The embedding `(V, E)`, and the output matrix `(H, V)` or `(V, H)` with its bias, taken out of what is left.

    Raises:
        InputError: Several variables could be either.
    """
    width, outputs = source.layers[0].of_input.shape[1], source.layers[-1].output_size

    def the_one(names: list[str], what: str, given: str | None) -> str | None:
        names = [name for name in names if given in (None, name)]
        if len(names) > 1:
            raise InputError(f"any of {', '.join(names)} could be the {what}: name it by `{what}`")
        return names[0] if names else None

    sizes = {tensor.numel() for tensor in left.values() if tensor.ndim == 1}  # of the biases of output layers
    shaped = [name for name, tensor in left.items() if tensor.ndim == 2 and tensor.shape[1] == width]
    shaped = [name for name in shaped if len(left[name]) in sizes or not sizes] or shaped
    if (name := the_one(shaped, "embedding", choices.embedding)) is None or choices.backbone:
        source.embedding = left.pop(name) if name else None
        return
    source.embedding = left.pop(name)
    rows = len(source.embedding)
    heads = [name for name, tensor in left.items() if tuple(tensor.shape) in ((outputs, rows), (rows, outputs))]
    if (name := the_one(heads, "head", choices.head)) is None:
        return
    matrix = left.pop(name)
    bias = the_one([name for name, tensor in left.items() if tuple(tensor.shape) == (rows,)], "bias", None)
    matrix = matrix if tuple(matrix.shape) == (rows, outputs) else matrix.T.contiguous()
    source.head = Linear(matrix, left.pop(bias) if bias else None)
    source.is_tied = matrix.shape == source.embedding.shape and torch.equal(matrix, source.embedding)


FORMAT = Format(
    "tf1", "variables of TensorFlow 1 in an archive of NumPy", "the authors of the file", matches, read,
)  # fmt: skip
