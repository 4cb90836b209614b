"""What a network does: how gradients fade over distance, spectra of recurrent weights, gates and units over a text."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from rnn_hf.errors import InputError
from rnn_hf.files import read_json_lines
from rnn_hf.models import RNNModel
from rnn_hf.runs import read_run


# What `activations` gives of each cell.
ACTIVATIONS = {
    "lstm": ("hidden", "cell", "input", "forget", "output"),
    "gru": ("hidden", "reset", "update"),
    "rnn": ("hidden",),
}


def pieces_of(tokens: torch.Tensor, rows: int, steps: int) -> torch.Tensor:
    """The first `rows` x `steps` of a text's ids `(tokens,)`, as `(rows, steps)`.

    Raises:
        InputError: A number below 1, or the text is too short.
    """
    for name, number in (("rows", rows), ("steps", steps)):
        if number < 1:
            raise InputError(f"`{name}` must be at least 1, got {number}")
    if len(tokens) < rows * steps:
        raise InputError(f"the text has {len(tokens)} tokens, fewer than `rows` x `steps`, {rows} x {steps}")
    return tokens[: rows * steps].view(rows, steps)


def backbone_of(model: PreTrainedModel) -> RNNModel:
    """The recurrent layers of a model, a copy in double precision that drops nothing; on the CPU in place of an Apple
    GPU, which does not have that precision."""
    network = copy.deepcopy(getattr(model, "model", model))
    return (network.cpu() if network.device.type == "mps" else network).double().eval()


@torch.backends.cudnn.flags(enabled=False)  # which has no gradients outside of training
def gradient_norms(
    model: PreTrainedModel, input_ids: torch.Tensor, distances: int = 50, progress: bool = False
) -> list[list[float]]:
    """Norms of dh_T / dh_{T-k} for k = 1 .. `distances`, by layer: whether gradients vanish or explode.

    The largest singular value of the Jacobian of a layer's hidden state over k steps, inputs held fixed and for an
    LSTM with the path through its cell state, averaged over rows (Pascanu et al., 2013, equation 5).

    Args:
        model: A model of this package.
        input_ids: `(B, T)` with T at least `distances`; the last steps count.
        distances: Steps to go back.
        progress: Whether to show a progress bar.

    Returns:
        `distances` norms for each layer.

    Raises:
        InputError: `distances` is below 1, or `input_ids` has no rows or fewer steps.
    """
    if distances < 1:
        raise InputError(f"`distances` must be at least 1, got {distances}")
    if input_ids.ndim != 2 or not len(input_ids) or input_ids.shape[1] < distances:
        shape = " x ".join(map(str, input_ids.shape))
        raise InputError(f"`input_ids` is {shape}: it needs a row, of at least `distances`, {distances}, steps")
    network: Any = backbone_of(model)
    outputs, norms = network.embed_tokens(input_ids.to(network.device)), []
    layer: Any
    bar = tqdm(
        total=2 * distances * len(network.layers), desc="gradients", leave=False, mininterval=1, disable=not progress
    )
    for layer in network.layers:
        layer.steps_directly = False
        inputs, state = outputs, (None, None)
        jacobians: list[torch.Tensor] = []
        for time in range(inputs.shape[1]):
            step = inputs[:, time : time + 1]
            if time >= inputs.shape[1] - distances:
                state, jacobian = _step_with_jacobian(layer, step, state)
                jacobians.append(jacobian)
                bar.update()
            else:
                with torch.no_grad():
                    state = tuple(layer(step, *state)[1:])
        width = layer.rnn.proj_size or layer.rnn.hidden_size
        product, values = None, []
        for jacobian in reversed(jacobians):
            product = jacobian[:, :width] if product is None else product @ jacobian
            values.append(float(_largest_singular_value(product).mean()))
            bar.update()
        norms.append(values)
        with torch.no_grad():
            outputs = layer(inputs)[0]
    bar.close()
    return norms


def _largest_singular_value(matrices: torch.Tensor) -> torch.Tensor:
    """Of `(B, M, N)`, by the eigenvalues of the products with their transposes, four times as fast as by an SVD."""
    scale = matrices.abs().amax(dim=(1, 2))  # or the squares of small numbers would be 0
    matrices = matrices / scale.clamp(min=torch.finfo(matrices.dtype).tiny)[:, None, None]
    return scale * torch.linalg.eigvalsh(matrices @ matrices.mT)[:, -1].clamp(min=0).sqrt()


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
    # On a GPU the step is one kernel, whose gradients are not computed for many outputs at once.
    is_cpu = inputs.device.type == "cpu"
    jacobian = torch.autograd.functional.jacobian(lambda flat: run(flat).sum(0), joined, vectorize=is_cpu)
    after = run(joined).detach().split(widths, dim=1)
    return (*after, None)[:2], jacobian.transpose(0, 1)


def spectra(model: PreTrainedModel) -> list[dict[str, float]]:
    """Spectral radius (largest modulus of an eigenvalue) of each gate's recurrent matrix, by layer."""
    network: Any = backbone_of(model)
    layers = []
    for layer in network.layers:
        rnn: Any = layer.rnn
        names = {nn.LSTM: ("input", "forget", "cell", "output"), nn.GRU: ("reset", "update", "new")}
        gates = rnn.weight_hh_l0.detach().split(rnn.hidden_size)
        scale = 0.25 if layer.is_sigmoid else 1.0  # the slope of the activation at 0
        radii = (
            float(torch.linalg.eigvals(gate).abs().max()) if gate.shape[1] == len(gate) else None for gate in gates
        )
        layers.append({
            name: radius * scale
            for name, radius in zip(names.get(type(rnn), ("hidden",)), radii, strict=True) if radius is not None
        })  # fmt: skip
    return layers


@torch.no_grad()
def activations(model: PreTrainedModel, input_ids: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """What each unit of each layer has at each step of a text: `(B, T, units)`, by the names in `ACTIVATIONS`.

    `hidden` is the output of the layer, of an LSTM before its projection if it has one; `cell` its cell state; the
    rest are gates, between 0 and 1.

    Args:
        model: A model of this package.
        input_ids: `(B, T)`.
    """
    network: Any = backbone_of(model)
    layers = []
    outputs = network.embed_tokens(input_ids.to(network.device))
    for layer in network.layers:
        rnn: Any = layer.rnn
        inputs, (outputs, *_) = outputs, layer(outputs)
        before = torch.cat([torch.zeros_like(outputs[:, :1]), outputs[:, :-1]], dim=1)
        of_input = nn.functional.linear(inputs, rnn.weight_ih_l0, rnn.bias_ih_l0)
        of_hidden = nn.functional.linear(before, rnn.weight_hh_l0, rnn.bias_hh_l0)
        values = {"hidden": outputs}
        if isinstance(rnn, nn.LSTM):
            _, _, new, _ = (of_input + of_hidden).tanh().chunk(4, dim=-1)
            opening, keeping, _, out = (of_input + of_hidden).sigmoid().chunk(4, dim=-1)
            cells = [torch.zeros_like(new[:, 0])]
            for time in range(new.shape[1]):
                cells.append(keeping[:, time] * cells[-1] + opening[:, time] * new[:, time])
            cell = torch.stack(cells[1:], dim=1)
            values |= {"hidden": out * cell.tanh(), "cell": cell, "input": opening, "forget": keeping, "output": out}
        elif isinstance(rnn, nn.GRU):
            reset, update, _ = (of_input + of_hidden).sigmoid().chunk(3, dim=-1)
            values |= {"reset": reset, "update": update}
        layers.append(values)
    return layers


def saturation(
    model: PreTrainedModel, input_ids: torch.Tensor, margin: float = 0.1
) -> list[dict[str, dict[str, float]]]:
    """Share of gate values within `margin` of 0 (`closed`) and of 1 (`open`) over a text, by layer and gate.

    (Karpathy et al., 2015, section 4.2.) For an Elman cell, the share of activations near the ends of its range, which
    for tanh are -1 and 1: there (h + 1) / 2 is taken for h.

    Args:
        model: A model of this package.
        input_ids: `(B, T)`.
        margin: How near counts.
    """
    is_tanh, shares = _kind(model) == "tanh", []
    for layer in activations(model, input_ids):
        gates = {name: values for name, values in layer.items() if name not in ("hidden", "cell")}
        hidden = (layer["hidden"] + 1) / 2 if is_tanh else layer["hidden"]
        shares.append({name: _ends(values, margin) for name, values in (gates or {"hidden": hidden}).items()})
    return shares


def _kind(model: PreTrainedModel) -> str:
    network: Any = getattr(model, "model", model)
    return network.layers[0].kind


def _ends(values: torch.Tensor, margin: float) -> dict[str, float]:
    return {"closed": float((values < margin).double().mean()), "open": float((values > 1 - margin).double().mean())}


def inspect(
    model: PreTrainedModel, input_ids: torch.Tensor, distances: int = 50, progress: bool = False
) -> dict[str, Any]:
    """All of the above over a text, as plain numbers for JSON; `kind` is the cell, of an Elman cell its activation."""
    return {
        "kind": _kind(model),
        "gradient_norms": gradient_norms(model, input_ids, distances, progress),
        "spectral_radius": spectra(model),
        "saturation": saturation(model, input_ids),
    }


def training_norms(model_dir: Path) -> dict[str, Any] | None:
    """The norm of the gradient over training, by the metrics.jsonl of the run that made a model.

    Args:
        model_dir: Directory of the model.

    Returns:
        `steps`, `norms` (before clipping) and `clipped_at`, the norm that gradients were cut to; `None` where the run
        did not write them.
    """
    rows = [row for row in read_json_lines(model_dir / "metrics.jsonl") if "grad_norm" in row]
    if not rows:
        return None
    run = read_run(model_dir / "run.json")
    clipped_at = run["arguments"]["training"].get("max_grad_norm") if run else None
    return {
        "steps": [row["step"] for row in rows], "norms": [row["grad_norm"] for row in rows], "clipped_at": clipped_at,
    }  # fmt: skip
