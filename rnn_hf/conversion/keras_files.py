"""Layers, weights and configuration in the files of Keras 1 to 3: HDF5, and the zip archives of Keras 3."""

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rnn_hf.conversion.reading import MOST_EXPANSION, MOST_LEVELS, Checkpoint, check_expansion, read_json
from rnn_hf.errors import InputError, MissingPackageError


WEIGHTS = "model.weights.h5"  # of an archive
# Weights of a layer by their number, where the file has no names: of Keras 3.
ORDER = ("kernel", "recurrent_kernel", "bias")


@dataclass
class KerasLayer:
    """A layer: its name, its class and configuration where the file has them, and its weights by their names."""

    name: str
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    class_name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class KerasModel:
    """A model: the version of Keras that wrote it (the empty string where it is not said) and its layers in order."""

    version: str
    layers: list[KerasLayer]
    has_config: bool


def read_keras(checkpoint: Checkpoint) -> KerasModel:
    """The layers of a file.

    Raises:
        MissingPackageError: h5py is not installed.
        InputError: The file is damaged, links to other files, or would unpack to far more than it is.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingPackageError("Keras files need h5py: pip install 'rnn_hf[conversion]'") from error
    path, config, version = checkpoint.path, None, ""
    try:
        if checkpoint.container == "keras":
            with zipfile.ZipFile(path) as archive:
                check_expansion(path, sum(entry.file_size for entry in archive.infolist()))
                config = read_json(archive.read("config.json"), f"config.json in {path}")
                version = str(
                    read_json(archive.read("metadata.json"), f"metadata.json in {path}").get("keras_version")
                )
                data = archive.read(WEIGHTS)
            with h5py.File(io.BytesIO(data), "r") as file:
                return _model(file, config, version, len(data))
        with h5py.File(path, "r") as file:
            return _model(file, None, "", path.stat().st_size)
    except InputError:
        raise
    except Exception as error:  # a file that is not whole can fail in any way
        raise InputError(f"{path} is damaged ({error}): put a whole copy in its place") from error


def _model(file: Any, config: Any, version: str, size: int) -> KerasModel:
    attributes = {name: _text(file.attrs[name]) for name in ("model_config", "keras_version") if name in file.attrs}
    if "model_config" in attributes:
        config = read_json(attributes["model_config"].encode(), "the model_config of the file")
    root = _within(file, "model_weights") if "model_weights" in file else file
    if "keras_version" in root.attrs:
        attributes["keras_version"] = _text(root.attrs["keras_version"])
    version = attributes.get("keras_version", version)
    if "layer_names" in root.attrs:
        layers = [_named(root, _text(name), size) for name in root.attrs["layer_names"]]
    else:
        layers, version = _numbered(root, size), version or "3.0"
    configs = list(configs_of(config)) if config is not None else []
    if not configs:
        return KerasModel(version, [layer for layer in layers if layer.weights], False)
    return KerasModel(version, _with_configs(layers, configs), True)


def configs_of(config: Any, level: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class and configuration of each layer of a model's configuration, those of models in it in their place."""
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner if isinstance(inner, list) else inner.get("layers") if isinstance(inner, dict) else None
    if level > 8 or not isinstance(config, dict):
        return
    if isinstance(layers, list):  # a list itself in Sequential of Keras 1
        for layer in layers:
            yield from configs_of(layer, level + 1)
    elif isinstance(inner, dict):
        yield str(config.get("class_name")), inner


def _with_configs(layers: list[KerasLayer], configs: list[tuple[str, dict[str, Any]]]) -> list[KerasLayer]:
    """The layers in the order of the configuration; Keras 3 numbers them by class, in that order."""
    by_name = {layer.name: layer for layer in layers}
    counts: dict[str, int] = {}
    found = []
    for class_name, config in configs:
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", class_name).lower()
        number = counts[snake] = counts.get(snake, -1) + 1
        numbered = snake if number == 0 else f"{snake}_{number}"
        layer = by_name.get(str(config.get("name"))) or by_name.get(numbered) or KerasLayer(numbered)
        found.append(KerasLayer(layer.name, layer.weights, class_name, config))
    return found


def _named(root: Any, name: str, size: int) -> KerasLayer:
    """A layer whose group names its weights, as Keras 1 and 2 and the .h5 of Keras 3 do."""
    group = _within(root, name)
    names = [_text(weight) for weight in group.attrs.get("weight_names", [])]
    return KerasLayer(name, {weight.partition(":")[0]: _read(group, weight, size) for weight in names})


def _numbered(root: Any, size: int) -> list[KerasLayer]:
    """The layers of Keras 3's weights, which have numbers: `layers/lstm_1/cell/vars/0`."""
    found: dict[str, KerasLayer] = {}
    for path in sorted(_datasets(root), key=lambda path: [(len(part), part) for part in path.split("/")]):
        parts = path.split("/")
        if "vars" not in parts or "seed_generator" in parts or parts[0] in ("optimizer", "_tracker"):
            continue
        start = 1 if parts[0] in ("layers", "_layer_checkpoint_dependencies") else 0
        layer = found.setdefault(parts[start], KerasLayer(parts[start]))
        inner, number = parts[start + 1 : -2], int(parts[-1])
        role = "embeddings" if parts[start].startswith("embedding") else ORDER[number]
        layer.weights["/".join([*inner, role])] = _read(root, path, size)
        if "cell" not in inner and number == 1:  # of a layer without a state the second one is the bias
            layer.weights["/".join([*inner, "bias"])] = layer.weights.pop("/".join([*inner, role]))
    # Without a configuration the order of layers of different classes is that of a language model.
    return sorted(found.values(), key=lambda layer: _rank({name.rpartition("/")[2] for name in layer.weights}))


def _rank(roles: set[str]) -> int:
    return 0 if "embeddings" in roles else 1 if "recurrent_kernel" in roles else 2


def _datasets(group: Any, before: str = "", level: int = 0) -> Iterator[str]:
    for name in group:
        part = _within(group, name)
        if level > MOST_LEVELS:
            raise InputError(f"the file is damaged: groups such as {before[:60]} go on without end")
        if hasattr(part, "shape"):
            yield f"{before}{name}"
        else:
            yield from _datasets(part, f"{before}{name}/", level + 1)


def _within(group: Any, name: str) -> Any:
    """What has a name in a group; a link, which may lead to another file, is refused."""
    for part in name.split("/"):
        if group.get(part, getlink=True).__class__.__name__ != "HardLink":
            raise InputError(f"the file has a link in the place of {name}: only what is in it is read")
        group = group[part]
    return group


def _read(group: Any, name: str, size: int) -> torch.Tensor:
    """A data set of numbers; those that lie elsewhere, or unpack to far more than the file is, are refused."""
    data = _within(group, name)
    if getattr(data, "external", None) or data.is_virtual:
        raise InputError(f"the numbers of {name} are in another file: only what is in this one is read")
    if data.dtype.kind not in "fiu" or data.nbytes > MOST_EXPANSION * size + 2**20:
        raise InputError(f"{name} has {data.shape} numbers of the type {data.dtype}, more than the file can hold")
    array = np.asarray(data[()])
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
