"""A recurrent layer, of one direction or two, over rows that may be padded.

Shapes in comments: B batch, T time, E embedding, H width of a layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import GradientCheckpointingLayer

from .configuration_rnn import RNNConfig
from .kernels_rnn import (
    OneRowLayer,
    fastest,
    has_global_hooks,
    is_bare,
    is_own,
    product_of,
    size_class,
    step,
    type_name,
)
from .padding_rnn import mirrored
from .versions_rnn import autocast_dtype, without_autocast
from .window_rnn import is_faster, run_window


CELLS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
# torch's functions behind the modules, by the kind of a layer: they take weights of other shapes.
FUNCTIONS = {
    "lstm": torch.lstm, "gru": torch.gru, "tanh": torch.rnn_tanh, "relu": torch.rnn_relu, "sigmoid": torch.rnn_tanh,
}  # fmt: skip
# Outputs of a layer, and its state after them, h and c.
Outputs = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]

WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
# What shuts or opens a gate for good, in every type: its sigmoid is 0 or 1, exactly.
SHUT = 1e4
# How many times as fast half precision must make a layer, for the digits that it costs.
WORTH_DIGITS = 1.2


def locked_dropout(inputs: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Dropout with one mask for all time steps of `(B, T, H)` (Gal and Ghahramani, 2016)."""
    if not training or not probability:
        return inputs
    return inputs * F.dropout(inputs.new_ones(inputs.shape[0], 1, inputs.shape[2]), probability)


class RNNLayer(GradientCheckpointingLayer):
    """One recurrent layer: a one-layer `nn.LSTM`, `nn.GRU` or `nn.RNN`, so cuDNN on a GPU and oneDNN on a CPU.

    One module a layer, because dropout masks, widths, hidden states, checkpointing and the state all need the seam.
    A bidirectional layer is two such modules, the second of which is run over mirrored rows: on a CPU much faster than
    one bidirectional module over packed rows.

    Attributes:
        steps_directly: Whether one token a row is computed by `step` where that is faster, on a CPU.
    """

    steps_directly = True

    def __init__(self, config: RNNConfig, layer_idx: int):
        super().__init__()
        extra: dict[str, Any] = {}
        if config.cell_type == "rnn":
            extra["nonlinearity"] = "relu" if config.hidden_act == "relu" else "tanh"
        if config.cell_type == "lstm":
            extra["proj_size"] = config.projection_size
        cell, sizes = CELLS[config.cell_type], config.layer_sizes[layer_idx]
        self.rnn = cell(*sizes, batch_first=True, **extra)
        self.reverse = cell(*sizes, batch_first=True, **extra) if config.bidirectional else None
        self.kind = config.hidden_act or config.cell_type
        self.is_sigmoid = self.kind == "sigmoid"
        self.recurrent_dropout = config.recurrent_dropout

    def forward(
        self,
        inputs: torch.Tensor,
        hidden: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        padding: torch.Tensor | None = None,
    ) -> Outputs:
        """Run the layer over a window.

        Args:
            inputs: `(B, T, input size)`.
            hidden, cell: State before the window, `(B, H)` each; `cell` for an LSTM only; `None` is zeros, and the
                only one that a bidirectional layer takes.
            padding: `(B, T)`, true behind the end of a row, where `inputs` are finite; `None` where all rows are full.

        Returns:
            Outputs `(B, T, H)`, of any finite value at padding, and the state `(B, H)`: `cell` after each row's last
            token, `hidden` after the last step of all. Of a bidirectional layer the outputs of both directions,
            `(B, T, 2 H)`, and no state.
        """
        # Autocast casts some of the recurrent operators and not others, and to a type that not every CPU has: a layer
        # keeps the type of its weights, unless the other one is faster here.
        dtype = self._autocast_dtype(inputs)
        with without_autocast(inputs.device):
            products = None
            if inputs.shape[1] == 1 and padding is None and dtype is None:
                products = self.step_products(len(inputs))
            if products is not None:
                if hidden is None:
                    hidden = inputs.new_zeros(len(inputs), self.rnn.hidden_size)
                    cell = torch.zeros_like(hidden) if self.kind == "lstm" else None
                hidden, cell = step(self.kind, inputs[:, 0], hidden, cell, products)
                return hidden[:, None], hidden, cell
            if self.reverse is None:
                return self._run(self.rnn, inputs, hidden, cell, padding, dtype)
            forward, *_ = self._run(self.rnn, inputs, None, None, padding, dtype)
            backward, *_ = self._run(self.reverse, mirrored(inputs, padding), None, None, padding, dtype)
        outputs = [forward.transpose(0, 1), mirrored(backward, padding).transpose(0, 1)]  # as they lie in memory
        return torch.cat(outputs, dim=-1).transpose(0, 1), None, None

    def _run(
        self,
        rnn: Any,
        inputs: torch.Tensor,
        hidden: torch.Tensor | None,
        cell: torch.Tensor | None,
        padding: torch.Tensor | None,
        dtype: torch.dtype | None,
    ) -> Outputs:
        """One direction by its module, or by torch's function on other weights than its own, in `dtype` if given."""
        given = inputs.dtype
        if self.is_sigmoid:
            size = rnn.hidden_size
            hidden = 2 * (inputs.new_zeros(len(inputs), size) if hidden is None else hidden) - 1
        kinds = ("lstm", "relu") if self.reverse is None else ("relu",)  # without a state, a cell's last one is idle
        shuts = padding is not None and self.kind in kinds and is_torch_rnn(rnn)
        runs_window = dtype is None and self._runs_window(rnn, inputs)

        def on_other_weights(inputs: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
            weights = self._weights(rnn, shuts, dtype)
            if shuts:
                steps = [inputs.transpose(0, 1), padding.t()[..., None].to(inputs)]
                inputs = torch.cat(steps, dim=-1).transpose(0, 1)
            if runs_window:
                return run_window(self._window_kind, inputs, state, weights)
            return self._run_function(rnn, inputs, state, weights, dtype)

        state = None if hidden is None else hidden[None].contiguous()
        if cell is not None:
            state = (state, cell[None].contiguous())
        changes = shuts or dtype is not None or self.is_sigmoid or (self.training and self.recurrent_dropout)
        if changes or runs_window:
            outputs, state = call(rnn, on_other_weights, inputs, state)
        elif padding is None or is_torch_rnn(rnn):
            outputs, state = rnn(inputs, state)
        else:
            outputs, state = run_packed(rnn, inputs, state, padding)
        hidden, cell = state if isinstance(state, tuple) else (state, None)
        if self.is_sigmoid:
            outputs, hidden = (outputs + 1) / 2, (hidden + 1) / 2
        return outputs.to(given), hidden[0].to(given), None if cell is None else cell[0].to(given)

    @property
    def _window_kind(self) -> str:
        """What `run_window` calls the cell. The sigmoid is a tanh in other coordinates: see `_weights`."""
        return "tanh" if self.is_sigmoid else self.kind

    def _runs_window(self, rnn: Any, inputs: torch.Tensor) -> bool:
        """Whether `run_window` computes a direction: in training on a CPU, where it is faster than the module."""
        trains = self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if self.kind == "lstm" or not trains or inputs.shape[1] == 1 or not is_torch_rnn(rnn):
            return False
        weights = [getattr(rnn, name) for name in WEIGHTS]
        if inputs.device.type != "cpu" or weights[0].dtype not in (torch.float32, torch.float64):
            return False
        return is_faster(self._window_kind, inputs, weights, partial(self._run_function, rnn, dtype=None))

    def _run_function(
        self,
        rnn: Any,
        inputs: torch.Tensor,
        state: Any,
        weights: list[torch.Tensor],
        dtype: torch.dtype | None,
    ) -> tuple[torch.Tensor, Any]:
        """What the module does, on these weights: outputs and state."""
        inputs = inputs if dtype is None else inputs.to(dtype)
        is_lstm = self.kind == "lstm"
        if state is None:
            state = inputs.new_zeros(1, len(inputs), getattr(rnn, "proj_size", 0) or rnn.hidden_size)
            state = (state, inputs.new_zeros(1, len(inputs), rnn.hidden_size)) if is_lstm else state
        state = tuple(part.to(inputs.dtype) for part in state) if is_lstm else state.to(inputs.dtype)
        # With biases, one layer, no dropout, in training or not, one direction, batch first.
        outputs, *state = FUNCTIONS[self.kind](inputs, state, weights, True, 1, 0.0, self.training, False, True)
        return outputs, tuple(state) if is_lstm else state[0]

    def _weights(self, rnn: Any, shuts: bool, dtype: torch.dtype | None) -> list[torch.Tensor]:
        """Weights to run with in place of the module's own, in torch's order.

        Args:
            rnn: The module of a direction.
            shuts: Whether there is an input more, which is 1 at padding. An LSTM then keeps its cell state, bit for
                bit: the input gate is shut and the forget gate open. The output of `relu` is 0, as it might grow
                without bound over long padding.
            dtype: Type to cast them to.
        """
        of_input, of_hidden, input_bias, hidden_bias = (getattr(rnn, name) for name in WEIGHTS)
        if self.training and self.recurrent_dropout:
            of_hidden = F.dropout(of_hidden, self.recurrent_dropout)
        if self.is_sigmoid:
            # sigmoid(z) = (tanh(z/2) + 1) / 2, so with g = 2h - 1 the cell is cuDNN's tanh in other coordinates:
            # g_t = tanh((W/2) x_t + (U/4) g_{t-1} + b/2 + (U/4) 1).
            of_input, of_hidden, input_bias = of_input / 2, of_hidden / 4, input_bias / 2
            hidden_bias = hidden_bias / 2 + of_hidden.sum(dim=1)
        if shuts:
            size = rnn.hidden_size
            column = of_input.new_zeros(len(of_input), 1)
            column[:size] = -SHUT
            if self.kind == "lstm":
                column[size : 2 * size] = SHUT
            of_input = torch.cat([of_input, column], dim=1)
        weights = [of_input, of_hidden, input_bias, hidden_bias]
        if getattr(rnn, "proj_size", 0):
            weights.append(rnn.weight_hr_l0)
        if dtype is None and of_input.device.type == "cpu":
            return weights
        # One block, which is one cast, and what cuDNN wants: it has the biases at the end.
        order = sorted(range(len(weights)), key=lambda index: weights[index].ndim == 1)
        block = torch.cat([weights[index].flatten() for index in order]).to(dtype)
        parts = dict(zip(order, block.split([weights[index].numel() for index in order]), strict=True))
        return [parts[index].view(weight.shape) for index, weight in enumerate(weights)]

    def _autocast_dtype(self, inputs: torch.Tensor) -> torch.dtype | None:
        """The type of autocast, where it is on and the layer was measured to be faster in it.

        torch's own autocast has cuDNN compute in float16 whatever type it was asked for.
        """
        device = inputs.device
        dtype = autocast_dtype(device)
        if dtype is None or device.type not in ("cpu", "cuda") or not is_torch_rnn(self.rnn):
            return None
        weight = getattr(self.rnn, WEIGHTS[0])
        if weight.dtype != torch.float32 or not is_bare(self.rnn):
            return None
        wants = torch.is_grad_enabled() and (self.training or device.type == "cpu")  # cuDNN has none in evaluation

        def way(dtype: torch.dtype) -> None:
            with without_autocast(device), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                sample = inputs.detach().clone().requires_grad_(wants)
                outputs, _ = self._run_function(self.rnn, sample, None, self._weights(self.rnn, False, dtype), dtype)
                if wants:
                    torch.autograd.grad(outputs.sum(), sample)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        what = f"autocast {dtype} {self.kind} {'gradients ' * wants}{size_class(len(inputs), *weight.shape)}"
        what = what if device.type == "cpu" else f"{device.type} {what}"
        ways = {"float32": partial(way, torch.float32), "autocast": partial(way, dtype)}
        return dtype if fastest(what, ways, WORTH_DIGITS) == "autocast" else None

    def step_products(self, rows: int, packs: bool = False) -> list | None:
        """What `step` computes so many rows with: `None` where the module itself must be run, or is faster.

        With `packs`, for many steps: copies of the weights in a faster order may be made, and nothing is compared with
        the module.
        """
        if not self._steps():
            return None
        of_input, of_hidden, input_bias, hidden_bias = (getattr(self.rnn, name) for name in WEIGHTS)
        pairs = [(of_input, input_bias), (of_hidden, hidden_bias)]
        if packs and self.kind != "gru":  # whose new gate needs the two apart
            pairs = [(torch.cat([of_input, of_hidden], dim=1), input_bias + hidden_bias)]
        products = [product_of(*pair, rows, packs) for pair in pairs]
        if packs:
            return products

        def way(is_step: bool) -> None:
            inputs, hidden = (weight.detach().new_zeros(rows, weight.shape[1]) for weight in (of_input, of_hidden))
            cell = hidden if self.kind == "lstm" else None
            with torch.no_grad():
                if is_step:
                    step(self.kind, inputs, hidden, cell, products)
                else:
                    self._run(self.rnn, inputs[:, None], hidden, cell, None, None)

        what = f"step {self.kind} {type_name(of_input)} {size_class(rows, *of_input.shape)}"
        is_faster = fastest(what, {"module": partial(way, False), "step": partial(way, True)}) == "step"
        return products if is_faster else None

    def one_row(self, hidden: torch.Tensor, cell: torch.Tensor | None) -> OneRowLayer | None:
        """Steps of a single row from this state; `None` where the module itself must be run."""
        if not self._steps():
            return None
        return OneRowLayer(self.kind, [getattr(self.rnn, name) for name in WEIGHTS], hidden, cell)

    def _steps(self) -> bool:
        """Whether a step may be computed without the module: not where gradients may be wanted.

        torch gives both summands of a sum one gradient, and where each goes through a view on its way to a parameter,
        the two `.grad` share their memory: what is accumulated next is added to it twice (pytorch issue 34082).
        """
        rnn: Any = self.rnn
        return (
            self.steps_directly
            and not self.training
            and not torch.is_grad_enabled()
            and self.reverse is None
            and type(rnn) in CELLS.values()
            and is_own(rnn, type(rnn))
            and not getattr(rnn, "proj_size", 0)
            and rnn.weight_hh_l0.device.type == "cpu"
            and rnn.weight_hh_l0.dtype in (torch.float32, torch.float64)
        )


def is_torch_rnn(module: nn.Module) -> bool:
    """Whether the forward pass of a module is torch's own, on its attributes: parametrized and hooked ones have it."""
    own = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)
    is_wrapped = "forward" in vars(module) and "_old_forward" not in vars(module)  # which is Accelerate's name
    return getattr(type(module), "forward", None) in own and not is_wrapped


def call(module: nn.Module, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in the place of a module's forward pass: with its hooks, and what Accelerate wraps around it."""
    if is_bare(module) and not has_global_hooks():
        return function(*arguments)
    name = "_old_forward" if "_old_forward" in vars(module) else "forward"
    before = vars(module).get(name)
    setattr(module, name, function)
    try:
        return module(*arguments)
    finally:
        if before is None:
            delattr(module, name)
        else:
            setattr(module, name, before)


def run_packed(module: nn.Module, inputs: torch.Tensor, state: Any, padding: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """A module that may not take a column more, over packed rows; those of padding alone keep their state."""
    lengths = (~padding).sum(dim=1)
    rows = pack_padded_sequence(inputs, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
    outputs, after = module(rows, state)
    outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
    if isinstance(after, tuple):
        cell = torch.zeros_like(after[1]) if state is None else state[1]
        after = (after[0], torch.where((lengths > 0)[:, None], after[1], cell))
    return outputs, after


__all__ = ["CELLS", "RNNLayer", "locked_dropout"]
