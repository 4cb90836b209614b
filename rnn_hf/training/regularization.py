"""What is added to the loss or done to the weights in training: activation regularisation, weight averaging."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rnn_hf.models import RNNForCausalLM


class ActivationRegularization:
    """Activation regularisation and its temporal form (Merity et al., 2017, equations 1 and 2).

    Sees the output of the backbone by a hook, so that the model and its loss stay what they are.

    Args:
        model: Unwrapped.
        activation: Factor on the mean square of the last layer's output after dropout, alpha there.
        temporal: Factor on the mean square of the change of that output from step to step before dropout, beta there.
    """

    def __init__(self, model: RNNForCausalLM, activation: float, temporal: float):
        self.activation, self.temporal = activation, temporal
        self.dropped = self.raw = torch.empty(0)
        if self.is_on:
            model.model.register_forward_hook(self._see)

    def _see(self, module: nn.Module, arguments: Any, outputs: Any) -> None:
        if module.training:
            self.dropped, self.raw = outputs.last_hidden_state, outputs.hidden_states[-1]

    @property
    def is_on(self) -> bool:
        return bool(self.activation or self.temporal)

    def penalty(self) -> torch.Tensor:
        """What is added to the loss of the last forward pass."""
        penalty = self.activation * self.dropped.square().mean()
        if self.raw.shape[1] > 1:
            penalty = penalty + self.temporal * self.raw.diff(dim=1).square().mean()
        self.dropped = self.raw = torch.empty(0)  # or the graph would live until the next pass
        return penalty


class WeightAverage:
    """The running mean of the weights after each step (Polyak and Juditsky, 1992), empty until it is started.

    Args:
        model: Unwrapped.
    """

    def __init__(self, model: nn.Module):
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
        torch._foreach_lerp_(self.mean, self.parameters, 1 / self.count)

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
        """From a checkpoint."""
        self.mean, self.count = state["mean"], state["count"]
