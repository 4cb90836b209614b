"""The loss of a linear layer's logits, in parts, so that the logits of a batch never stand in memory together.

Shapes in comments: N tokens, H width of the last layer, V vocabulary.
"""

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


def product(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` without gradients, by oneDNN on a CPU: on one of AMD 2 to 2.4 times as fast as torch's own there."""
    if has_onednn(inputs):
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return F.linear(inputs, weight, bias)


def parts_of(rows: int, words: int, held: int) -> tuple[int, int]:
    """How many tokens and words to take the logits of at a time, so that so many numbers are held."""
    if words * min(rows, FEWEST_ROWS) <= held:
        return max(1, held // words), words
    return MOST_ROWS, max(1, held // min(rows, MOST_ROWS))


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of `F.linear(inputs, weight, bias)`, whose gradients are computed on the way forward.

    The gradient of a logit is its probability, less one at the target: it is at hand where the loss is computed, and
    takes the logit's place in memory. Where not all words fit, logits are computed twice: for their sum, and again
    for the gradients.
    """

    @staticmethod
    def forward(ctx: Any, inputs, weight, bias, targets, smoothing: float, dtype: torch.dtype) -> torch.Tensor:
        wants = any(ctx.needs_input_grad[:3])
        held = LOGITS_ON_CPU if inputs.device.type == "cpu" else LOGITS_ELSEWHERE
        rows, words = parts_of(len(inputs), len(weight), held)
        matrix, offset = weight.to(dtype), bias.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        total = inputs.new_zeros((), dtype=wide)
        gradients = [torch.zeros_like(tensor) for tensor in (inputs, weight, bias)] if wants else []
        blocks = [slice(start, start + words) for start in range(0, len(weight), words)]
        for start in range(0, len(inputs), rows):
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
            for block in blocks if wants else []:
                if len(blocks) > 1:
                    logits = product(part, matrix[block], offset[block]).to(wide)
                    logits.sub_(norm).exp_().mul_(counts)
                else:  # the powers are at hand
                    logits.mul_((top - norm).exp() * counts)
                if smoothing:
                    logits.sub_(counts * (smoothing / len(weight)))
                place = target - block.start
                inside = (place >= 0) & (place < logits.shape[1])
                logits.scatter_add_(1, place.clamp(0, logits.shape[1] - 1), (inside * counts) * (smoothing - 1))
                logits = logits.to(dtype)
                gradients[0][mine] += product(logits, matrix[block].t())
                gradients[1][block] += product(logits.t(), part.t())
                gradients[2][block] += logits.sum(0)
        ctx.save_for_backward(*gradients)
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
    with torch.autocast(kind, enabled=False):
        return LinearCrossEntropy.apply(inputs, weight, bias, targets, label_smoothing, dtype)


__all__ = ["has_onednn", "linear_cross_entropy", "product"]
