"""Optimizer and learning-rate schedule from arguments."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from transformers import get_scheduler

from rnn_hf.training.arguments import TrainingArguments


def build_optimizer(model: nn.Module, arguments: TrainingArguments) -> Optimizer:
    """The optimizer of `--optim` over all parameters."""
    parameters, rate, decay = model.parameters(), arguments.learning_rate, arguments.weight_decay
    if arguments.optim == "sgd":
        return SGD(parameters, lr=rate, momentum=arguments.momentum, weight_decay=decay)
    kind = {"adam": Adam, "adamw": AdamW}[arguments.optim]
    return kind(parameters, lr=rate, betas=(arguments.adam_beta1, arguments.adam_beta2), weight_decay=decay)


def build_scheduler(optimizer: Optimizer, arguments: TrainingArguments, steps: Sequence[int]) -> LRScheduler:
    """The schedule of `--lr_scheduler_type`, stepped once an optimizer step; the plateau one once a validation.

    `step` multiplies the rate by `lr_decay` at the start of each epoch after the first `lr_decay_start`
    (Zaremba et al., 2014).

    Args:
        optimizer: Of the run.
        arguments: Of the run.
        steps: Optimizer steps of each epoch, which differ where windows are drawn at random.
    """
    total, kind = sum(steps), arguments.lr_scheduler_type
    if kind == "reduce_lr_on_plateau":
        return ReduceLROnPlateau(optimizer, factor=arguments.lr_decay, patience=arguments.lr_patience)
    if kind == "one_cycle":
        return OneCycleLR(optimizer, arguments.learning_rate, total_steps=total, cycle_momentum=False)
    if kind == "step":
        ends, first = list(accumulate(steps)), arguments.lr_decay_start - 1
        return LambdaLR(optimizer, lambda step: arguments.lr_decay ** max(0, bisect_right(ends, step) - first))
    name = "constant_with_warmup" if kind == "constant" else kind
    return get_scheduler(name, optimizer, num_warmup_steps=arguments.warmup_steps, num_training_steps=total)
