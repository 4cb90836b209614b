"""The mean of the weights over the steps of training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """The running mean of the weights after each step (Polyak and Juditsky, 1992), empty until it is started.

    Args:
        model: Unwrapped.
        decay: Of an exponential mean, which forgets: it is about that of the last 1 / (1 - decay) steps. At 1 all
            steps count alike.
    """

    def __init__(self, model: nn.Module, decay: float = 1.0):
        self.decay = decay
        self.parameters: list[torch.Tensor] = list(model.parameters())
        self.mean: list[torch.Tensor] = []
        self.count = 0

    @property
    def is_on(self) -> bool:
        return bool(self.mean)

    def start(self) -> None:
        """Begin with the weights as they are."""
        self.mean, self.count = [parameter.detach().clone() for parameter in self.parameters], 1

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the mean."""
        self.count += 1
        torch._foreach_lerp_(self.mean, self.parameters, max(1 / self.count, 1 - self.decay))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the mean for weights, if there is one."""
        if not self.is_on:
            yield
            return
        own = [parameter.detach().clone() for parameter in self.parameters]
        self._set(self.mean)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict:
        """For a checkpoint."""
        return {"mean": self.mean, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        """From a checkpoint, whatever device its tensors are on."""
        mean, self.count = state["mean"], state["count"]
        parameters = self.parameters if mean else []
        self.mean = [tensor.to(own.device) for tensor, own in zip(mean, parameters, strict=True)]
