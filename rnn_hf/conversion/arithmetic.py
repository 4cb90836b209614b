"""What a source computes, in float64 NumPy and from its own tensors in its own order of gates."""

from collections.abc import Callable

import numpy as np
import torch

from rnn_hf.conversion.source import Layer, Linear, Source


Array = np.ndarray
State = tuple[Array, Array]  # h and c; of a cell without c that is zeros


def logistic(values: Array) -> Array:
    """1 / (1 + exp(-x)), by a form that does not overflow."""
    return 0.5 * (np.tanh(0.5 * values) + 1)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": logistic,
    "hard_sigmoid": lambda values: np.clip(0.2 * values + 0.5, 0, 1),
    "hard_sigmoid_6": lambda values: np.clip(values / 6 + 0.5, 0, 1),
    "tanh": np.tanh,
    "relu": lambda values: np.maximum(values, 0),
}


def double(tensor: torch.Tensor | None, size: int = 0) -> Array:
    """A tensor as float64; `None` as that many zeros."""
    return np.zeros(size) if tensor is None else tensor.detach().double().numpy()


def run_layer(layer: Layer, inputs: Array, state: State | None = None) -> tuple[Array, State]:
    """Outputs `(T, width)` of a layer over inputs `(T, input size)` from a state on, and the state after them.

    Args:
        layer: The layer.
        inputs: In the order in which it reads them.
        state: h `(width,)` and c `(H,)`; `None` for zeros.
    """
    rows = len(layer.of_input)
    of_input = inputs @ double(layer.of_input).T + double(layer.bias, rows)
    of_state, bias = double(layer.of_state), double(layer.state_bias, rows)
    projection = None if layer.projection is None else double(layer.projection)
    gate = ACTIVATIONS[layer.gate_activation]
    hidden, cell = (np.zeros(layer.output_size), np.zeros(layer.size)) if state is None else state
    outputs = []

    def parts(row: Array) -> dict[str, Array]:
        return dict(zip(layer.gates, np.split(row, len(layer.gates)), strict=True))

    for row in of_input:
        x, h = parts(row), parts(of_state @ hidden + bias)
        if layer.cell == "rnn":
            hidden = ACTIVATIONS[layer.activation or "tanh"](x["h"] + h["h"])
        elif layer.cell == "gru":
            reset, update = gate(x["r"] + h["r"]), gate(x["z"] + h["z"])
            if layer.resets_after:
                new = np.tanh(x["n"] + reset * h["n"])
            else:
                new = np.tanh(x["n"] + parts(of_state @ (reset * hidden) + bias)["n"])
            hidden = update * hidden + (1 - update) * new
        else:
            forget = gate(x["f"] + h["f"] + layer.forget_bias)
            cell = forget * cell + gate(x["i"] + h["i"]) * np.tanh(x["g"] + h["g"])
            hidden = gate(x["o"] + h["o"]) * np.tanh(cell)
            hidden = hidden if projection is None else projection @ hidden
        outputs.append(hidden)
    return np.stack(outputs), (hidden, cell)


def run_linear(linear: Linear, inputs: Array) -> Array:
    """Outputs `(T, outputs)`."""
    return inputs @ double(linear.weight).T + double(linear.bias, len(linear.weight))


def outputs_of(source: Source, inputs: Array) -> Array:
    """Logits `(T, V)` of a network, log-probabilities of a mixture, or without a head the last layer's outputs.

    Args:
        source: The network.
        inputs: Ids `(T,)` in the order in which it reads them, or features `(T, width)`.
    """
    outputs = inputs if source.embedding is None else double(source.embedding)[inputs]
    for index, layer in enumerate(source.layers):
        sides = [run_layer(layer, outputs)[0]]
        if source.reverse is not None:
            sides.append(run_layer(source.reverse[index], outputs[::-1])[0][::-1])
        outputs = np.concatenate(sides, axis=1)
    if source.head is None:
        return outputs
    if source.projection is not None:
        outputs = run_linear(source.projection, outputs)
    if source.latent is None or source.prior is None:
        return run_linear(source.head, outputs)
    latent = np.tanh(run_linear(source.latent, outputs)).reshape(len(outputs), len(source.prior), -1)
    shares = log_softmax(outputs @ double(source.prior).T)
    mixed = log_softmax(run_linear(source.head, latent)) + shares[..., None]
    largest = mixed.max(axis=1)
    return largest + np.log(np.exp(mixed - largest[:, None]).sum(axis=1))


def log_softmax(values: Array) -> Array:
    """Logarithms of the softmax over the last axis."""
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
