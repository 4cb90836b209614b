"""Matrix products and one-token steps on a CPU, and the choice of the fastest way by a short measurement.

Which kernel is fastest depends on the CPU, the library, the shape and the number of threads, so nothing here is chosen
by the name of a maker. All ways give the same numbers up to rounding.

Shapes in comments: B batch, K inputs and N outputs of a product, H width of a layer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


Product = Callable[[torch.Tensor], torch.Tensor]  # inputs (B, K) to `inputs @ weight.T + bias`, (B, N)


class Choices(dict[str, str]):
    """What was chosen in this process, by what it was chosen for.

    A training run stores this in its checkpoints and puts it back when it resumes: another kernel rounds differently.

    Attributes:
        measures: Whether a choice is measured. If not, the first way of each list is taken.
    """

    measures = True


CHOICES = Choices()
# A measurement takes so many rounds; fewer, but not below the minimum, where a way has taken so many seconds.
ROUNDS, FEWEST_ROUNDS, SECONDS = 7, 3, 0.01
MARGIN = 1.05

MINUS_ONE = torch.tensor(-1.0, device="cpu")  # whatever default device the program that imports this has set


def fastest(what: str, ways: Mapping[str, Callable[[], object]], margin: float = MARGIN) -> str:
    """The name of the fastest of several ways to the same numbers, measured once a process.

    Args:
        what: What it is for: task, type and class of shapes. The number of threads is added.
        ways: To run. One that raises is left out: a private operator may be missing, or be another in this torch.
        margin: How many times as fast as the first way another one must be, so that noise does not choose.

    Raises:
        RuntimeError: Every way raises.
    """
    if len(ways) == 1:
        return next(iter(ways))
    key = f"{what}, threads {torch.get_num_threads()}"
    if key not in CHOICES:
        CHOICES[key] = _measure(what, ways, margin) if CHOICES.measures else next(iter(ways))
    return CHOICES[key]


def _measure(what: str, ways: Mapping[str, Callable[[], object]], margin: float) -> str:
    seconds: dict[str, float] = {}
    errors = []
    for name, way in ways.items():
        try:
            way()  # brings the caches to the state of a loop
        except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
            errors.append(f"{name}: {error}")
            continue
        seconds[name] = float("inf")
    if not seconds:
        raise RuntimeError(f"no way to compute {what}: {'; '.join(errors)}")
    spent = dict.fromkeys(seconds, 0.0)
    for done in range(ROUNDS):
        for name in [name for name in seconds if done < FEWEST_ROUNDS or spent[name] < SECONDS]:
            start = time.perf_counter()
            ways[name]()
            elapsed = time.perf_counter() - start
            seconds[name], spent[name] = min(seconds[name], elapsed), spent[name] + elapsed
    first, *others = seconds
    best = min(others, key=seconds.__getitem__, default=first)
    return best if seconds[best] * margin < seconds[first] else first


def size_class(*sizes: int) -> str:
    """Sizes up to the next power of two: shapes of one class share a choice."""
    return "x".join(str(1 << max(0, size - 1).bit_length()) for size in sizes)


def type_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def has_onednn(tensor: torch.Tensor) -> bool:
    """Whether this torch has oneDNN's product, switched on, for a tensor of this type."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def onednn_product(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` without gradients, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def row_blocks(matrix: torch.Tensor) -> torch.Tensor:
    """A view of a matrix `(N, K)` as a few blocks of as many rows each."""
    return matrix.unflatten(0, (next(parts for parts in (4, 2, 1) if len(matrix) % parts == 0), -1))


def in_parts(weight: torch.Tensor, bias: torch.Tensor) -> Product:
    """The product with a matrix `(N, K)` on its own memory, its rows in parts and the inputs as columns.

    Where `F.linear` leaves few inputs to a single thread or to a slow kernel, up to 5 times as fast.
    """
    rows = len(weight)
    matrix, column = row_blocks(weight), row_blocks(bias[:, None])
    parts = len(matrix)

    def product(inputs: torch.Tensor) -> torch.Tensor:
        outputs = torch.baddbmm(column, matrix, inputs.t().expand(parts, -1, -1))
        # A single column is viewed as a row, since transposing would leave it the strides of a column.
        return outputs.view(1, -1) if len(inputs) == 1 else outputs.view(rows, -1).t()

    return product


def packed(weight: torch.Tensor, bias: torch.Tensor, rows: int) -> Product:
    """The product with a copy of a matrix `(N, K)` in the order that oneDNN's kernel reads, for so many rows of input.

    The copy takes the time of a step or two.
    """
    matrix = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return partial(onednn_product, weight=matrix, bias=bias)


def product_of(weight: torch.Tensor, bias: torch.Tensor, rows: int, packs: bool) -> Product:
    """The fastest product of so many rows with a matrix `(N, K)` on a CPU; with `packs`, copies of it may be made."""
    makers: dict[str, Callable[[], Product]] = {
        "linear": lambda: partial(F.linear, weight=weight, bias=bias),
        "parts": lambda: in_parts(weight, bias),
    }
    if rows == 1:
        makers["vector"] = lambda: lambda inputs: torch.addmv(bias, weight, inputs[0])[None]
    if packs and has_onednn(weight):
        makers["packed"] = lambda: packed(weight, bias, rows)
    made: dict[str, Product] = {}

    def way(name: str) -> None:
        made[name] = made.get(name) or makers[name]()
        with torch.no_grad():
            made[name](weight.new_ones(rows, weight.shape[1]))

    what = f"product{' packed' * packs} {type_name(weight)} {size_class(rows, *weight.shape)}"
    name = fastest(what, {name: partial(way, name) for name in makers})
    return made.get(name) or makers[name]()


def tanh(x: torch.Tensor) -> torch.Tensor:
    """`torch.tanh` to 1e-7 (absolute), by the sigmoid, which torch computes 5 times as fast on a CPU."""
    return torch.add(MINUS_ONE, (x + x).sigmoid(), alpha=2)


ELMAN_ACTIVATIONS = {"tanh": tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}


def step(
    kind: str,
    inputs: torch.Tensor,
    hidden: torch.Tensor,
    cell: torch.Tensor | None,
    products: Sequence[Product],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One time step of one layer, from the equations.

    Args:
        kind: `"lstm"`, `"gru"`, or the activation of an Elman cell.
        inputs: `(B, input size)`.
        hidden, cell: State before the step, `(B, H)` each; `cell` of an LSTM only.
        products: With the weights, biases added and gates in torch's order: of the input and of the hidden state, or
            (not for a GRU) one of both side by side.

    Returns:
        The state after the step, `(hidden, cell)`.
    """
    if kind == "gru":
        of_input, of_hidden = products
        (reset_in, keep_in, new_in), (reset, keep, new) = of_input(inputs).chunk(3, 1), of_hidden(hidden).chunk(3, 1)
        new = tanh(torch.addcmul(new_in, (reset + reset_in).sigmoid(), new))
        return torch.lerp(new, hidden, (keep + keep_in).sigmoid()).contiguous(), None
    if len(products) == 1:
        gates = products[0](torch.cat([inputs, hidden], dim=1))
    else:
        gates = products[0](inputs) + products[1](hidden)
    # What comes out is laid out in rows: the next product is several times as fast where its columns lie apart.
    if kind == "lstm":
        size = hidden.shape[1]
        gates[:, 2 * size : 3 * size] *= 2  # one sigmoid for all four gates: see `tanh`
        open_in, forget, update, out = gates.sigmoid().chunk(4, 1)
        cell = torch.addcmul(forget * cell, open_in, torch.add(MINUS_ONE, update, alpha=2))
        return (out * tanh(cell)).contiguous(), cell.contiguous()
    return ELMAN_ACTIVATIONS[kind](gates).contiguous(), None


def is_bare(module: nn.Module) -> bool:
    """Whether nothing is hooked onto a module or wrapped around it, so that its arithmetic may be done without it."""
    own = (getattr(module, "_forward_pre_hooks", True), getattr(module, "_forward_hooks", True))
    return not any(own) and "forward" not in vars(module)


def has_global_hooks() -> bool:
    """Whether hooks are set for the forward pass of every module."""
    place = nn.modules.module
    return any(getattr(place, name, True) for name in ("_global_forward_pre_hooks", "_global_forward_hooks"))


def is_own(module: nn.Module, kind: type) -> bool:
    """Whether a module is of this very class, with nothing in its way: no subclass, wrapper, hook or parametrization.

    Only then may its weights be used without it.
    """
    return type(module) is kind and is_bare(module) and not has_global_hooks()


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module of this package runs as it was written: no subclass changes it, and no hook."""
    names = ("forward", "compute_logits", "compute_loss")
    methods = [getattr(type(module), name) for name in names if hasattr(type(module), name)]
    return (
        all(method.__module__.rpartition(".")[0] == __name__.rpartition(".")[0] for method in methods)
        and not vars(module).keys() & set(names)
        and is_bare(module)
        and not has_global_hooks()
    )


class OneRowLayer:
    """Steps of one layer for a single row, on the weights' own memory and on buffers that are made once.

    Products are torch's and the rest NumPy's, whose calls take a third of the time in so small arrays. One tanh serves
    all gates, since `sigmoid(z) = (tanh(z / 2) + 1) / 2`.

    Args:
        kind: As in `step`.
        weights: `weight_ih, weight_hh, bias_ih, bias_hh` in torch's order.
        hidden, cell: State to go on from, `(1, H)` each; `cell` of an LSTM only.

    Attributes:
        inputs: Buffer that the next input is written to, `(input size,)`.
        hidden, cell: The state, `(H,)` each.
    """

    def __init__(self, kind: str, weights: Sequence[torch.Tensor], hidden: torch.Tensor, cell: torch.Tensor | None):
        of_input, of_hidden, input_bias, hidden_bias = (weight.detach() for weight in weights)
        size = hidden.shape[1]
        inputs, hidden = of_input.new_zeros(of_input.shape[1]), hidden[0].detach().clone()
        self.inputs, self.hidden = inputs.numpy(), hidden.numpy()
        self.cell = None if cell is None else cell[0].detach().clone().numpy()
        self.spare = np.empty_like(self.hidden)
        if kind == "gru":  # whose new gate needs the products apart
            products = [
                InPlaceProduct(of_input, inputs, bias=input_bias), InPlaceProduct(of_hidden, hidden, bias=hidden_bias)
            ]  # fmt: skip
        else:
            products = [InPlaceProduct(of_input, inputs, bias=input_bias + hidden_bias)]
            products += [InPlaceProduct(of_hidden, hidden, onto=products[0].outputs)]
        self.products, self.gates = products, [product.outputs.numpy() for product in products]
        self.finish = {"lstm": self._lstm, "gru": self._gru, "relu": self._relu, "tanh": self._tanh}.get(
            kind, self._sigmoid
        )
        # From z to tanh and from there to the gate: halves where the gate is a sigmoid, which an LSTM's third is not.
        self.scale, self.shift = np.full_like(self.gates[0], 0.5), np.full_like(self.gates[0], 0.5)
        if kind == "lstm":
            self.scale[2 * size : 3 * size], self.shift[2 * size : 3 * size] = 1, 0

    def step(self) -> None:
        """Go on by what is in `inputs`."""
        for product in self.products:
            product()
        self.finish()

    def _lstm(self) -> None:
        gates, size = self.gates[0], len(self.hidden)
        gates *= self.scale
        np.tanh(gates, out=gates)
        gates *= self.scale
        gates += self.shift
        self.cell *= gates[size : 2 * size]
        np.multiply(gates[:size], gates[2 * size : 3 * size], out=self.spare)
        self.cell += self.spare
        np.tanh(self.cell, out=self.spare)
        np.multiply(self.spare, gates[3 * size :], out=self.hidden)

    def _gru(self) -> None:
        of_input, of_hidden, size = *self.gates, len(self.hidden)
        opened = of_input[: 2 * size]
        opened += of_hidden[: 2 * size]
        opened *= 0.5
        np.tanh(opened, out=opened)
        opened *= 0.5
        opened += 0.5
        new = of_hidden[2 * size :]
        new *= of_input[:size]
        new += of_input[2 * size :]
        np.tanh(new, out=new)
        self.hidden -= new
        self.hidden *= of_input[size : 2 * size]
        self.hidden += new

    def _relu(self) -> None:
        np.maximum(self.gates[0], 0, out=self.hidden)

    def _tanh(self) -> None:
        np.tanh(self.gates[0], out=self.hidden)

    def _sigmoid(self) -> None:
        gates = self.gates[0]
        gates *= 0.5
        np.tanh(gates, out=self.hidden)
        self.hidden *= 0.5
        self.hidden += 0.5


def numpy_product(
    start: np.ndarray, matrix: np.ndarray, inputs: np.ndarray, outputs: np.ndarray, spare: np.ndarray
) -> None:
    """`start + matrix @ inputs` into `outputs`, by the library of NumPy, which need not be that of torch."""
    np.dot(matrix, inputs, out=spare)
    np.add(start, spare, out=outputs)


class InPlaceProduct:
    """`bias + matrix @ inputs` for a matrix `(N, K)` and a single row of inputs, into the same memory at each call.

    Args:
        matrix, inputs: Read where they lie, at each call.
        bias: `(N,)`; or
        onto: Outputs of another product, `(N,)`, that this one is added to.
    """

    def __init__(
        self,
        matrix: torch.Tensor,
        inputs: torch.Tensor,
        bias: torch.Tensor | None = None,
        onto: torch.Tensor | None = None,
    ):
        start: Any = bias if onto is None else onto
        self.outputs: torch.Tensor = torch.empty_like(bias) if onto is None else onto
        apart, column, out = row_blocks(matrix), row_blocks(start[:, None]), row_blocks(self.outputs[:, None])
        spread = inputs[:, None].expand(len(apart), -1, -1)
        arrays = [part.numpy() for part in (start, matrix, inputs, self.outputs, torch.empty_like(start))]
        ways = {
            "whole": partial(torch.addmv, start, matrix, inputs, out=self.outputs),
            "parts": partial(torch.baddbmm, column, apart, spread, out=out),
            "numpy": partial(numpy_product, *arrays),
        }
        self._run = ways[fastest(f"product in place {type_name(matrix)} {size_class(*matrix.shape)}", ways)]

    def __call__(self) -> None:
        self._run()


__all__ = [
    "CHOICES",
    "InPlaceProduct",
    "OneRowLayer",
    "Product",
    "fastest",
    "has_global_hooks",
    "has_own_forward",
    "has_onednn",
    "in_parts",
    "is_bare",
    "is_own",
    "onednn_product",
    "packed",
    "product_of",
    "size_class",
    "step",
    "tanh",
    "type_name",
]
