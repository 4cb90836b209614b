"""The loss of a linear layer's logits, in parts, so that the logits of a batch never stand in memory together.

Shapes in comments: N tokens, H width of the last layer, V vocabulary.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional as F


# Numbers of logits that are held at a time, on a CPU and elsewhere. Linux hands out large blocks of memory anew, page
# by page, each time: on two cores 2**22 is as fast as more for 10,000 words, and by a fifth faster for 50,000.
LOGITS_ON_CPU, LOGITS_ELSEWHERE = 1 << 22, 1 << 26
# Fewest tokens to hold all their logits of, as every part of the tokens reads and writes the gradient of the whole
# matrix; and how many to take at a time where the words are cut in parts instead.
FEWEST_ROWS, MOST_ROWS = 256, 1024


def has_onednn(tensor: torch.Tensor) -> bool:
    """Whether this torch has oneDNN's product, on, for a tensor of this type."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def without_autocast(device: torch.device):
    """A context in which autocast is off."""
    enabled = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if enabled else nullcontext()


def product(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` without gradients, by oneDNN on a CPU: on one of AMD 2 to 2.4 times as fast as torch's own there."""
    if has_onednn(inputs) and inputs.numel():
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return F.linear(inputs, weight, bias)


def parts_of(rows: int, words: int, held: int) -> tuple[int, int]:
    """How many tokens and words to take the logits of at a time, so that so many numbers are held."""
    if words * min(rows, FEWEST_ROWS) <= held:
        return max(1, held // words), words
    return MOST_ROWS, max(1, held // min(rows, MOST_ROWS))


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of `F.linear(inputs, weight, bias)`, whose gradients are computed on the way forward.

    The gradient of a logit is its probability, less one at the target: it is at hand where the loss is computed, but
    for a factor a token that goes to the inputs, and takes the logit's place in memory. Where not all words fit,
    logits are computed twice: for their sum, and again for the gradients.
    """

    @staticmethod
    def forward(ctx: Any, inputs, weight, bias, targets, smoothing: float, dtype: torch.dtype) -> torch.Tensor:
        wants = any(ctx.needs_input_grad[:3])
        held = LOGITS_ON_CPU if inputs.device.type == "cpu" else LOGITS_ELSEWHERE
        rows, words = parts_of(len(inputs), len(weight), held)
        matrix, offset = weight.to(dtype), bias.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        total = inputs.new_zeros((), dtype=wide)
        to_inputs, to_weight, to_bias = torch.zeros_like(inputs), torch.empty_like(weight), torch.empty_like(bias)
        blocks = [slice(start, start + words) for start in range(0, len(weight), words)]
        # Of the weight, turned, so that oneDNN takes the logits as they stand in memory; the last row is the bias's.
        turned: list[Any] = [None] * len(blocks)
        for start in range(0, max(1, len(inputs)), rows):
            mine = slice(start, start + rows)
            part, target = inputs[mine].to(dtype), targets[mine, None]
            counts = (target != -100).to(wide)
            norm = counts.new_full(counts.shape, -torch.inf)
            picked, mean = torch.zeros_like(counts), torch.zeros_like(counts)
            for block in blocks:
                logits = product(part, matrix[block], offset[block]).to(wide)
                place = target - block.start
                inside = (place >= 0) & (place < logits.shape[1])
                picked += torch.where(inside, logits.gather(1, place.clamp(0, logits.shape[1] - 1)), 0)
                if smoothing:
                    mean += logits.sum(1, keepdim=True) / len(weight)
                top = logits.amax(1, keepdim=True)
                logits.sub_(top).exp_()
                norm = torch.logaddexp(norm, top + logits.sum(1, keepdim=True).log())
            total += ((norm - (1 - smoothing) * picked - smoothing * mean) * counts).sum()
            # The powers are at hand and want a factor each row; in half precision they might not fit without it.
            is_scaled = len(blocks) > 1 or dtype != wide
            scale = torch.ones_like(norm) if is_scaled else (top - norm).exp()
            factors = (counts * scale).to(dtype)
            part_and_one = torch.cat([part * factors, factors], dim=1)
            for index, block in enumerate(blocks if wants else []):
                if len(blocks) > 1:
                    logits = product(part, matrix[block], offset[block]).to(wide)
                    logits.sub_(norm).exp_()
                elif is_scaled:
                    logits.mul_((top - norm).exp())
                if smoothing:
                    logits.sub_(smoothing / len(weight) / scale)
                place = target - block.start
                inside = (place >= 0) & (place < logits.shape[1])
                logits.scatter_add_(1, place.clamp(0, logits.shape[1] - 1), inside / scale * (smoothing - 1))
                logits = logits.to(dtype)
                to_inputs[mine] += product(logits, matrix[block].t()) * factors
                gradient = product(part_and_one.t(), logits.t()).to(weight.dtype)
                if turned[index] is not None:
                    gradient += turned[index]
                is_last = mine.stop >= len(inputs)
                turned[index] = None if is_last else gradient
                if is_last:
                    to_weight[block], to_bias[block] = gradient[:-1].t(), gradient[-1]
        if wants:
            ctx.save_for_backward(to_inputs, to_weight, to_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor):
        return *(gradient.mul_(grad_outputs[0]) for gradient in ctx.saved_tensors), None, None, None


def linear_cross_entropy(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Summed cross entropy, in nats, of the logits `F.linear(inputs, weight, bias)`; first derivatives only.

    Under autocast the products are of its type, and the rest of float32.

    Args:
        inputs: `(N, H)`.
        weight: `(V, H)`.
        bias: `(V,)`.
        targets: `(N,)`, -100 to ignore a row.
        label_smoothing: Share of each target that is spread over all words (Szegedy et al., 2016).
    """
    kind, dtype = inputs.device.type, inputs.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    with without_autocast(inputs.device):
        return LinearCrossEntropy.apply(inputs, weight, bias, targets, label_smoothing, dtype)


__all__ = ["has_onednn", "linear_cross_entropy", "product", "without_autocast"]
