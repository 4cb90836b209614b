"""Recurrent layers among tensors that torch's modules named: stacked, one module a layer, or cells."""

import re
from collections.abc import Iterator
from typing import Any

import torch

from rnn_hf.conversion.pickles import Inert
from rnn_hf.conversion.source import Layer
from rnn_hf.errors import InputError


Tensor = torch.Tensor
NAME = re.compile(r"(.*?)(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(\d+))?(_reverse)?")
CELLS = {4: "lstm", 3: "gru", 1: "rnn"}  # by the number of gates
# What training scripts call the state dict among other things that they save.
WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params",
)  # fmt: skip
MODES = {"RNN_TANH": "tanh", "RNN_RELU": "relu", "tanh": "tanh", "relu": "relu"}


def unwrap(content: Any) -> tuple[Any, list[str]]:
    """The state dict or module in what a script saved, and the names of the rest."""
    if isinstance(content, dict):
        for name in WRAPPERS:
            if isinstance(content.get(name), (dict, Inert)):
                return content[name], [str(key) for key in content if key != name]
    return content, []


def without_prefix(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """Tensors without what stands before all of their names, such as `module.` of data parallelism."""
    for prefix in prefixes:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def objects_in(content: Any, level: int = 0) -> Iterator[Inert]:
    """A module and the modules in it."""
    if isinstance(content, Inert) and level < 32:
        yield content
        modules = content.attributes.get("_modules")
        for part in modules.values() if isinstance(modules, dict) else ():
            yield from objects_in(part, level + 1)


def activation_of(content: Any) -> str | None:
    """The activation that pickled Elman modules name, if there are any.

    Raises:
        InputError: They name several.
    """
    found = set()
    for part in objects_in(content):
        for name in ("mode", "nonlinearity"):
            mode = part.attributes.get(name)
            if isinstance(mode, str) and mode in MODES:
                found.add(MODES[mode])
    if len(found) > 1:
        raise InputError(f"its layers have the activations {' and '.join(sorted(found))}, and here all have one")
    return found.pop() if found else None


def take_layers(tensors: dict[str, Tensor], activation: str | None) -> tuple[list[Layer], list[Layer] | None]:
    """The recurrent layers, first layer first, of one direction or two; their tensors are taken out of `tensors`.

    Args:
        tensors: By name.
        activation: Of Elman layers, which their tensors do not tell.

    Raises:
        InputError: There are none, those of several networks, or tensors that do not fit each other.
    """
    groups: dict[tuple[str, int, bool], dict[str, Tensor]] = {}
    for name in list(tensors):
        if found := NAME.fullmatch(name):
            prefix, part, index, reverse = found.groups()
            groups.setdefault((prefix, int(index or 0), bool(reverse)), {})[part] = tensors.pop(name)
    if not groups:
        raise InputError("it has no recurrent layers of torch (weight_ih_l0, weight_hh_l0, ...)")
    prefixes = {prefix for prefix, _, _ in groups}
    stems = {re.sub(r"\d+", "", prefix) for prefix in prefixes}
    if len(stems) > 1 or (len(prefixes) > 1 and any(index for _, index, _ in groups)):
        raise InputError(
            f"it has several recurrent networks ({', '.join(sorted(prefixes))}): of two, those of an encoder and a "
            "decoder are converted, by names that begin with `encoder.` and `decoder.`; else a file has one"
        )
    layers = {key: layer_of(parts, "".join(map(str, key[:2])), activation) for key, parts in groups.items()}
    order = sorted(layers, key=lambda key: ([int(part) for part in re.findall(r"\d+", key[0])], key[1]))
    forward = [layers[key] for key in order if not key[2]]
    backward = [layers[key] for key in order if key[2]]
    if backward and len(backward) != len(forward):
        raise InputError("only some of its layers have a second direction, and here all have or none")
    check_chain(forward, 2 if backward else 1)
    check_chain(backward, 2)
    return forward, backward or None


def layer_of(parts: dict[str, Tensor], name: str, activation: str | None) -> Layer:
    """A layer from `weight_ih`, `weight_hh` and whatever else of `bias_ih`, `bias_hh`, `weight_hr` there is.

    Raises:
        InputError: Their shapes are those of no cell; or an Elman layer without an activation.
    """
    of_input, of_state = parts.get("weight_ih"), parts.get("weight_hh")
    if of_input is None or of_state is None or of_input.ndim != 2 or of_state.ndim != 2:
        raise InputError(f"the layer {name} lacks a matrix: it has {', '.join(parts)}")
    rows, columns = of_state.shape
    projection = parts.get("weight_hr")
    gates, rest = (4, rows % 4) if projection is not None else divmod(rows, max(columns, 1))
    shapes = {tuple(parts[bias].shape) for bias in ("bias_ih", "bias_hh") if bias in parts}
    is_whole = len(of_input) == rows and not shapes - {(rows,)} and not rest and gates in CELLS
    if projection is not None:
        is_whole = is_whole and tuple(projection.shape) == (columns, rows // 4)
    if not is_whole:
        raise InputError(f"the layer {name} is no LSTM, GRU or Elman layer: its state has {rows} rows for {columns}")
    cell = CELLS[gates]
    if cell == "rnn" and activation is None:
        raise InputError("it has Elman layers, whose activation is not in the file: give `hidden_act` tanh or relu")
    return Layer(
        cell, of_input, of_state, parts.get("bias_ih"), parts.get("bias_hh"), projection=projection,
        activation=activation if cell == "rnn" else None,
    )  # fmt: skip


def check_chain(layers: list[Layer], directions: int) -> None:
    """Refuse layers that do not read what the one before them gives.

    Raises:
        InputError: Naming the widths.
    """
    for before, after in zip(layers, layers[1:], strict=False):
        if after.of_input.shape[1] != directions * before.output_size:
            raise InputError(
                f"a layer reads {after.of_input.shape[1]} numbers, and the one before it gives "
                f"{directions * before.output_size}: there is something between them"
            )
