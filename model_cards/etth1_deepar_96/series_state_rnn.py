"""What an autoregressive network knows of series that it has read: enough to forecast, and to read on.

Shapes in comments: B batch, K the longest lag, H width of a layer.
"""

import copy
import os
from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .cache_rnn import RNNCache, identity_of


class RNNSeriesState:
    """The state after the last value of each series that was read: as much after a decade as after a day.

    [`RNNForTimeSeriesPrediction.read`] makes it. It is never written to: to read on makes another one.

    Attributes:
        cache: The state of the network, which has read the value before the last one.
        values: `(B, K)`, the last values, as many as the longest lag, 0 where one is missing.
        observed: `(B, K)`, where they are observed. Before the first one nothing is.
        loc, scale: `(B, 1)`, what is subtracted from each series and what it is divided by, for good.
    """

    def __init__(self, cache: RNNCache, values: Tensor, observed: Tensor, loc: Tensor, scale: Tensor):
        self.cache, self.values, self.observed, self.loc, self.scale = cache, values, observed, loc, scale

    def __len__(self) -> int:
        return len(self.loc)

    def rows(self, indices: Tensor | Sequence[int] | Sequence[bool]) -> "RNNSeriesState":
        """Some of the series, by a list or tensor of indices or a boolean mask."""
        chosen = torch.as_tensor(indices, device=self.loc.device)
        return RNNSeriesState(self.cache.rows(chosen), *(part[chosen] for part in self._tensors().values()))

    def detach(self) -> "RNNSeriesState":
        """The same without the autograd graph behind it, for training from piece to piece of a long series."""
        return RNNSeriesState(self.own_cache().detach(), *(part.detach() for part in self._tensors().values()))

    def own_cache(self) -> RNNCache:
        """The state of the network in an object of its own, for the network to go on from."""
        parts, cache = list(self.cache), copy.copy(self.cache)
        for layer, (hidden, cell) in zip(cache.layers, parts, strict=True):
            layer.keys, layer.values = hidden, cell  # with the autograd graph behind them, which a copy has not
        return cache

    def save(self, path: str | os.PathLike, model: Any) -> None:
        """Write the state to a safetensors file, with the identity of its model: a draft, then moved in place."""
        tensors = dict(self._tensors())
        for index, (hidden, cell) in enumerate(self.cache):
            tensors |= {f"layers.{index}.hidden": hidden} | ({} if cell is None else {f"layers.{index}.cell": cell})
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        draft = f"{os.fspath(path)}.writing"
        save_file(tensors, draft, identity(model))
        os.replace(draft, path)

    @classmethod
    def load(cls, path: str | os.PathLike, model: Any) -> "RNNSeriesState":
        """Read a state of `model` from a file, onto its device.

        Raises:
            ValueError: It is the state of another model, whose weights or lags differ, or no such state at all.
        """
        try:
            opened = safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{os.fspath(path)} is not a whole file of a state: {error}") from error
        with opened as file:
            if (file.metadata() or {}) != identity(model):
                raise ValueError(f"{os.fspath(path)} is no state of this model: it has other weights or other lags")
            tensors = {name: file.get_tensor(name).to(model.device) for name in file.keys()}  # noqa: SIM118
        layers = range(model.config.num_hidden_layers)
        cache = RNNCache([(tensors[f"layers.{i}.hidden"], tensors.get(f"layers.{i}.cell")) for i in layers])
        return cls(cache, *(tensors[name] for name in ("values", "observed", "loc", "scale")))

    def _tensors(self) -> dict[str, Tensor]:
        return {"values": self.values, "observed": self.observed, "loc": self.loc, "scale": self.scale}


def identity(model: Any) -> dict[str, str]:
    """Which model a state is of: weights alone do not say which lags they are for."""
    return {"model": identity_of(model), "lags": " ".join(map(str, model.config.lags_sequence))}


__all__ = ["RNNSeriesState"]
