"""What a network does: how gradients fade over distance, spectra of recurrent weights, saturation of gates."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rnn_hf.models import RNNModel
from rnn_hf.plotting import new_figure, save_figure


def backbone_of(model: PreTrainedModel) -> RNNModel:
    """The recurrent layers of a model, a copy in double precision that drops nothing; on the CPU in place of an Apple
    GPU, which does not have that precision."""
    network = copy.deepcopy(getattr(model, "model", model))
    return (network.cpu() if network.device.type == "mps" else network).double().eval()


@torch.backends.cudnn.flags(enabled=False)  # which has no gradients outside of training
def gradient_norms(model: PreTrainedModel, input_ids: torch.Tensor, distances: int = 50) -> list[list[float]]:
    """Norms of dh_T / dh_{T-k} for k = 1 .. `distances`, by layer: whether gradients vanish or explode.

    The largest singular value of the Jacobian of a layer's hidden state over k steps, inputs held fixed and for an
    LSTM with the path through its cell state, averaged over rows (Pascanu et al., 2013, equation 5).

    Args:
        model: A model of this package.
        input_ids: `(B, T)` with T at least `distances`; the last steps count.
        distances: Steps to go back.

    Returns:
        `distances` norms for each layer.

    Raises:
        ValueError: The text is too short.
    """
    if input_ids.shape[1] < distances:
        raise ValueError(f"`input_ids` has {input_ids.shape[1]} steps, fewer than the {distances} to go back")
    network = backbone_of(model)
    outputs, norms = network.embed_tokens(input_ids.to(network.device)), []
    layer: Any
    for layer in network.layers:
        layer.steps_directly = False
        inputs, state = outputs, (None, None)
        jacobians: list[torch.Tensor] = []
        for time in range(inputs.shape[1]):
            step = inputs[:, time : time + 1]
            if time >= inputs.shape[1] - distances:
                state, jacobian = _step_with_jacobian(layer, step, state)
                jacobians.append(jacobian)
            else:
                with torch.no_grad():
                    state = tuple(layer(step, *state)[1:])
        product, found, width = None, [], layer.rnn.hidden_size
        for jacobian in reversed(jacobians):
            product = jacobian if product is None else product @ jacobian
            found.append(float(torch.linalg.matrix_norm(product[:, :width, :], ord=2).mean()))
        norms.append(found)
        with torch.no_grad():
            outputs = layer(inputs)[0]
    return norms


def _step_with_jacobian(layer: Any, inputs: torch.Tensor, state: tuple) -> tuple[tuple, torch.Tensor]:
    """One step, and the Jacobian `(B, S, S)` of the state after it by the state before: h, and c of an LSTM."""
    rnn: Any = layer.rnn
    widths = [rnn.proj_size or rnn.hidden_size] + ([rnn.hidden_size] if isinstance(rnn, nn.LSTM) else [])
    if state[0] is None:
        state = tuple(inputs.new_zeros(len(inputs), width) for width in widths)
    joined = torch.cat([part for part in state if part is not None], dim=1).detach()

    def run(flat: torch.Tensor) -> torch.Tensor:
        hidden, cell = (*flat.split(widths, dim=1), None)[:2]
        return torch.cat([part for part in layer(inputs, hidden, cell)[1:] if part is not None], dim=1)

    # Rows do not mix, so the Jacobian of the sum over rows is that of each row.
    jacobian = torch.autograd.functional.jacobian(lambda flat: run(flat).sum(0), joined, vectorize=False)
    after = run(joined).detach().split(widths, dim=1)
    return (*after, None)[:2], jacobian.transpose(0, 1)


def spectra(model: PreTrainedModel) -> list[dict[str, float]]:
    """Spectral radius (largest modulus of an eigenvalue) of each gate's recurrent matrix, by layer."""
    network, found = backbone_of(model), []
    for layer in network.layers:
        rnn: Any = layer.rnn
        names = {nn.LSTM: ("input", "forget", "cell", "output"), nn.GRU: ("reset", "update", "new")}
        gates = rnn.weight_hh_l0.detach().split(rnn.hidden_size)
        scale = 0.25 if layer.is_sigmoid else 1.0  # the slope of the activation at 0
        radii = (
            float(torch.linalg.eigvals(gate).abs().max()) if gate.shape[1] == len(gate) else None for gate in gates
        )
        found.append({
            name: radius * scale
            for name, radius in zip(names.get(type(rnn), ("hidden",)), radii, strict=True) if radius is not None
        })  # fmt: skip
    return found


@torch.no_grad()
def saturation(
    model: PreTrainedModel, input_ids: torch.Tensor, margin: float = 0.1
) -> list[dict[str, dict[str, float]]]:
    """Share of gate values within `margin` of 0 (`closed`) and of 1 (`open`) over a text, by layer and gate.

    (Karpathy et al., 2015, section 4.2.) For an Elman cell, the share of activations near the ends of its range.

    Args:
        model: A model of this package.
        input_ids: `(B, T)`.
        margin: How near counts.
    """
    network, found = backbone_of(model), []
    outputs = network.embed_tokens(input_ids.to(network.device))
    for layer in network.layers:
        rnn: Any = layer.rnn
        inputs, (outputs, *_) = outputs, layer(outputs)
        before = torch.cat([torch.zeros_like(outputs[:, :1]), outputs[:, :-1]], dim=1)
        of_input = nn.functional.linear(inputs, rnn.weight_ih_l0, rnn.bias_ih_l0)
        of_hidden = nn.functional.linear(before, rnn.weight_hh_l0, rnn.bias_hh_l0)
        size = rnn.hidden_size
        if isinstance(rnn, nn.LSTM):
            positions = {"input": 0, "forget": 1, "output": 3}
        elif isinstance(rnn, nn.GRU):
            positions = {"reset": 0, "update": 1}
        else:
            values = outputs if layer.kind != "tanh" else (outputs + 1) / 2
            found.append({"hidden": _ends(values, margin)})
            continue
        gates = (of_input + of_hidden).sigmoid().split(size, dim=-1)
        found.append({name: _ends(gates[position], margin) for name, position in positions.items()})
    return found


def _ends(values: torch.Tensor, margin: float) -> dict[str, float]:
    return {"closed": float((values < margin).double().mean()), "open": float((values > 1 - margin).double().mean())}


def inspect(model: PreTrainedModel, input_ids: torch.Tensor, distances: int = 50) -> dict[str, Any]:
    """All of the above, as plain numbers for JSON."""
    return {
        "gradient_norms": gradient_norms(model, input_ids, distances),
        "spectral_radius": spectra(model),
        "saturation": saturation(model, input_ids),
    }


def plot_inspection(found: dict[str, Any], png: Path) -> None:
    """Draw `inspect`: gradient norms over distance, spectral radii, saturation.

    Raises:
        ImportError: matplotlib is not installed; the message names the extra.
    """
    figure = new_figure(12, 3.6)
    norms, radii, gates = figure.subplots(1, 3)
    for index, values in enumerate(found["gradient_norms"]):
        norms.plot(range(1, len(values) + 1), values, label=f"layer {index}")
    norms.set(xlabel="steps back", ylabel="norm of $dh_T / dh_{T-k}$", yscale="log")
    norms.legend()
    labels = [f"{name} {index}" for index, layer in enumerate(found["spectral_radius"]) for name in layer]
    radii.barh(labels, [value for layer in found["spectral_radius"] for value in layer.values()])
    radii.axvline(1, color="0.4", linewidth=1)
    radii.set(xlabel="spectral radius, by gate and layer")
    named = {
        f"{name} {index}": ends for index, layer in enumerate(found["saturation"]) for name, ends in layer.items()
    }
    closed, opened = ([ends[side] for ends in named.values()] for side in ("closed", "open"))
    gates.barh(list(named), closed, label="below 0.1")
    gates.barh(list(named), opened, left=[1 - value for value in opened], label="above 0.9")
    gates.set(xlabel="share of values, by gate and layer", xlim=(0, 1))
    gates.legend()
    for panel in (norms, radii, gates):
        panel.grid(alpha=0.3)
    save_figure(figure, png)
