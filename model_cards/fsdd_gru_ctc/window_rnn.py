"""GRU and Elman layers over a window of steps on a CPU, forward and backward, from the equations.

oneDNN has kernels for an LSTM alone. The others torch computes step by step, backward as well: a product of matrices a
weight and step, where one a weight will do for all steps, and element by element what does not depend on later steps.

Shapes in comments: B batch, T time, E width of the inputs, H width of the layer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kernels_rnn import fastest, size_class, tanh, type_name


LONGEST_SAMPLE = 16  # steps on which the two ways are compared


class GRUWindow(torch.autograd.Function):
    """A GRU in the variant of cuDNN, which resets after the product (Cho et al., 2014):

    r = sigmoid(W_r x + b_r + U_r h + c_r), z = sigmoid(W_z x + b_z + U_z h + c_z),
    n = tanh(W_n x + b_n + r (U_n h + c_n)), and the next h = (1 - z) n + z h.
    """

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, hidden: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        of_input, of_hidden, input_bias, hidden_bias = weights
        rows, size = hidden.shape
        gates = F.linear(inputs, of_input, input_bias)  # (T, B, 3 H); r and z take their places
        states = hidden.new_empty(len(inputs) + 1, rows, size)
        states[0] = hidden
        new, resettable = torch.empty_like(states[1:]), torch.empty_like(states[1:])
        for step, gate in enumerate(gates):
            opened, of_state = gate[:, : 2 * size], F.linear(states[step], of_hidden, hidden_bias)
            opened.add_(of_state[:, : 2 * size]).sigmoid_()
            resettable[step] = of_state[:, 2 * size :]
            new[step] = tanh(torch.addcmul(gate[:, 2 * size :], opened[:, :size], resettable[step]))
            torch.lerp(new[step], states[step], opened[:, size:], out=states[step + 1])
        ctx.save_for_backward(inputs, states, gates, new, resettable, of_input, of_hidden)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, states, gates, new, resettable, of_input, of_hidden = ctx.saved_tensors
        reset, keep, _ = gates.chunk(3, 2)
        of_new = (1 - keep) * (1 - new * new)  # of what the tanh is of, by the state after the step
        of_reset, of_keep = of_new * resettable * reset * (1 - reset), (states[:-1] - new) * keep * (1 - keep)
        gradients = torch.stack([of_reset, of_keep, of_new * reset], dim=2)  # (T, B, 3, H)
        outer, gradient = grad_outputs[0], torch.zeros_like(states[0])
        for step in reversed(range(len(new))):
            gradient = gradient + outer[step]
            gradients[step] *= gradient[:, None]
            of_new[step] *= gradient
            gradient = torch.addcmul(gradients[step].flatten(1) @ of_hidden, gradient, keep[step])
        flat = gradients.flatten(0, 1).flatten(1)  # of U h + c, (T B, 3 H)
        to_hidden, hidden_bias = flat.t() @ states[:-1].flatten(0, 1), flat.sum(0)
        gradients[:, :, 2] = of_new  # and now of W x + b
        return *before_layer(ctx, inputs, of_input, flat, gradient), to_hidden, flat.sum(0), hidden_bias


class ElmanWindow(torch.autograd.Function):
    """An Elman layer (1990): the next h = f(W x + b + U h + c), where f is tanh or ReLU."""

    @staticmethod
    def forward(
        ctx: Any, is_relu: bool, inputs: torch.Tensor, hidden: torch.Tensor, *weights: torch.Tensor
    ) -> torch.Tensor:
        of_input, of_hidden, input_bias, hidden_bias = weights
        sums = F.linear(inputs, of_input, input_bias)
        states = hidden.new_empty(len(inputs) + 1, *hidden.shape)
        states[0] = hidden
        activation = torch.relu if is_relu else tanh
        for step, total in enumerate(sums):
            states[step + 1] = activation(total.add_(F.linear(states[step], of_hidden, hidden_bias)))
        ctx.is_relu = is_relu
        ctx.save_for_backward(inputs, states, of_input, of_hidden)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, states, of_input, of_hidden = ctx.saved_tensors
        after = states[1:]
        gradients = (after > 0).to(after) if ctx.is_relu else 1 - after * after  # (T, B, H)
        outer, gradient = grad_outputs[0], torch.zeros_like(states[0])
        for step in reversed(range(len(after))):
            gradients[step] *= gradient.add_(outer[step])
            gradient = gradients[step] @ of_hidden
        flat = gradients.flatten(0, 1)
        bias = flat.sum(0)
        before = before_layer(ctx, inputs, of_input, flat, gradient)
        # A copy, as torch may keep either as a `.grad`, and behind views both (pytorch issue 34082).
        return None, *before, flat.t() @ states[:-1].flatten(0, 1), bias, bias.clone()


def before_layer(
    ctx: Any, inputs: torch.Tensor, of_input: torch.Tensor, gradients: torch.Tensor, hidden: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """Gradients by the inputs, the state before the window and W, from those of `W x`, `(T B, G)`."""
    is_wanted = ctx.needs_input_grad[-6]  # of inputs, state and four weights
    to_inputs = (gradients @ of_input).view(inputs.shape) if is_wanted else None
    return to_inputs, hidden, gradients.t() @ inputs.flatten(0, 1)


def run_window(
    kind: str, inputs: torch.Tensor, hidden: torch.Tensor | None, weights: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What torch's function of a layer returns, with gradients; first derivatives only.

    Args:
        kind: `"gru"`, `"tanh"` or `"relu"`.
        inputs: `(B, T, E)`.
        hidden: State before the window, `(1, B, H)`; `None` is zeros.
        weights: Of input, `(G, E)`, and hidden state, `(G, H)`, and their biases, `(G,)`, G being H, or 3 H for a GRU.

    Returns:
        Outputs `(B, T, H)` and the state after the window, `(1, B, H)`.
    """
    steps = inputs.transpose(0, 1)
    if hidden is None:
        hidden = inputs.new_zeros(1, len(inputs), weights[1].shape[1])
    if kind == "gru":
        outputs = GRUWindow.apply(steps, hidden[0], *weights)
    else:
        outputs = ElmanWindow.apply(kind == "relu", steps, hidden[0], *weights)
    return outputs.transpose(0, 1), outputs[-1:]


def is_faster(kind: str, inputs: torch.Tensor, weights: Sequence[torch.Tensor], function: Callable[..., Any]) -> bool:
    """Whether `run_window` is faster than torch's function, forward and backward, on the first steps of the first
    window that a layer of this shape trains on.

    Later windows keep to it, however many rows they have: so a checkpoint of the first step knows the choice.

    Args:
        kind, inputs, weights: As in `run_window`.
        function: Torch's, called with inputs, state and weights.
    """
    sample = inputs.detach()[:, :LONGEST_SAMPLE]

    def way(run: Callable[..., Any]) -> None:
        leaves = [sample.clone(), *(weight.detach().clone() for weight in weights)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        outputs, _ = run(leaves[0], None, leaves[1:])
        torch.autograd.grad(outputs.sum(), leaves)

    ways = {"module": partial(way, function), "own": partial(way, partial(run_window, kind))}
    return fastest(f"window {kind} {type_name(sample)} {size_class(*weights[0].shape)}", ways) == "own"


__all__ = ["is_faster", "run_window"]
