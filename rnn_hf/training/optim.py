"""Optimizer and learning-rate schedule from arguments, and the update of the weights."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from transformers import get_scheduler

from rnn_hf.training.arguments import TrainingArguments


def build_optimizer(model: nn.Module, arguments: TrainingArguments) -> Optimizer:
    """The optimizer of `optim` over all parameters, fused, as `Updater` needs it."""
    parameters = model.parameters()
    rate = arguments.learning_rate
    decay = arguments.weight_decay
    if arguments.optim == "sgd":
        sgd = SGD(parameters, lr=rate, momentum=arguments.momentum, weight_decay=decay, fused=True)
        if arguments.momentum:  # torch would begin with whatever lies in memory, where the first step is left out
            for parameter in sgd.param_groups[0]["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    kind = {"adam": Adam, "adamw": AdamW}[arguments.optim]
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    # As every fused one it could be recorded as a CUDA graph without the last argument, but it asks for it.
    return kind(parameters, lr=rate, betas=betas, weight_decay=decay, fused=True, capturable=True)


class Updater:
    """Clips the gradient and updates the weights without waiting for the device: the kernels of a fused optimizer
    divide the gradient by a number that lies there, and leave all as it is where another one says that they must.

    A gradient that is not finite changes nothing. With a scaler, as float16 needs it, the next step has a smaller
    scale; without one no later step changes anything either, since the run is over once the norm is read.

    Args:
        optimizer: Fused, with one group of parameters.
        max_grad_norm: To which the norm of the gradient is clipped; 0 for no clipping.
        scaler: Of the loss, if any.
    """

    def __init__(self, optimizer: Optimizer, max_grad_norm: float, scaler: GradScaler | None = None):
        self.optimizer: Any = optimizer
        self.max_grad_norm, self.scaler = max_grad_norm, scaler
        device = optimizer.param_groups[0]["params"][0].device
        self.is_over = torch.zeros((), device=device)  # 1 from the first gradient on that is not finite

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        """What to go backward from."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """Update the weights by their gradients, which are then gone; returns the norm of these, on the device."""
        (group,) = self.optimizer.param_groups
        norm = get_total_norm([parameter.grad for parameter in group["params"]]).float()
        norm = norm / self.scale(torch.ones_like(norm))
        limit = self.max_grad_norm or float("inf")
        self.optimizer.grad_scale = (norm / limit).clamp(min=1)
        if self.scaler is None:
            torch.maximum(self.is_over, norm.isfinite().logical_not().float(), out=self.is_over)
            self.optimizer.found_inf = self.is_over
            self.optimizer.step()
        else:  # which multiplies `grad_scale` by its own and sets `found_inf`
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        return norm


def build_scheduler(optimizer: Optimizer, arguments: TrainingArguments, steps: Sequence[int]) -> LRScheduler:
    """The schedule of `lr_scheduler_type`, stepped once an optimizer step; the plateau one once a validation.

    `step` multiplies the rate by `lr_decay` at the start of each epoch after the first `lr_decay_start`
    (Zaremba et al., 2014).

    Args:
        optimizer: Of the run.
        arguments: Of the run.
        steps: Optimizer steps of each epoch, which differ where windows are drawn at random.
    """
    total = sum(steps)
    kind = arguments.lr_scheduler_type
    if kind == "reduce_lr_on_plateau":
        return ReduceLROnPlateau(optimizer, factor=arguments.lr_decay, patience=arguments.lr_patience)
    if kind == "one_cycle":
        return OneCycleLR(optimizer, arguments.learning_rate, total_steps=total, cycle_momentum=False)
    if kind == "step":
        ends = list(accumulate(steps))
        first = arguments.lr_decay_start - 1
        return LambdaLR(optimizer, lambda step: arguments.lr_decay ** max(0, bisect_right(ends, step) - first))
    name = "constant_with_warmup" if kind == "constant" else kind
    return get_scheduler(name, optimizer, num_warmup_steps=arguments.warmup_steps, num_training_steps=total)
