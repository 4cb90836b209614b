"""The loss of a linear layer's logits, in parts, so that the logits of a batch never stand in memory together.

Shapes in comments: N tokens, H width of the last layer, V vocabulary.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional as F


# Numbers of logits that are held at a time, on a CPU and elsewhere. A CPU holds 32 MB: blocks above 32 MiB glibc takes
# from the system anew each time, page by page, unless told otherwise.
LOGITS_ON_CPU, LOGITS_ELSEWHERE = 8_000_000, 1 << 26
# Fewest tokens to hold all their logits of, as every part of the tokens reads and writes the gradient of the whole
# matrix; and how many tokens and words to take at a time where the words are cut in parts instead.
FEWEST_ROWS, MOST_ROWS, MOST_WORDS = 256, 1024, 8192


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
    if inputs.numel() and has_onednn(inputs):
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return F.linear(inputs, weight, bias)


def parts_of(rows: int, words: int, held: int) -> tuple[int, int]:
    """How many tokens and words to take the logits of at a time, so that so many numbers are held."""
    if words * min(rows, FEWEST_ROWS) <= held:
        return max(1, held // words), words
    return MOST_ROWS, max(1, min(MOST_WORDS, held // min(rows, MOST_ROWS)))


def place_in(
    block: slice, targets: torch.Tensor, counts: torch.Tensor, words: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in a block of `words` each target is, or 0; and its count, or 0 where it is in another block."""
    size = min(block.stop, words) - block.start
    if size == words:
        return targets, counts
    place = targets - block.start
    return place.clamp(0, size - 1), counts * ((place >= 0) & (place < size))


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
        tokens, matrix, offset = inputs.to(dtype), weight.to(dtype), bias.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        is_counted = (targets != -100)[:, None]
        counts, targets = is_counted.to(wide), targets[:, None].where(is_counted, 0)
        total = counts.new_zeros(())
        to_inputs, to_weight, to_bias = torch.zeros_like(inputs), torch.empty_like(weight), torch.zeros_like(bias)
        blocks = [slice(start, start + words) for start in range(0, len(weight), words)]
        gradients: list[Any] = [None] * len(blocks)  # of the weight
        is_turned = has_onednn(tokens)  # which takes the logits as they stand in memory for a product turned round
        for start in range(0, max(1, len(inputs)), rows):
            mine = slice(start, start + rows)
            part, count, norm = tokens[mine], counts[mine], None
            places = [place_in(block, targets[mine], count, len(weight)) for block in blocks]
            for block, (place, inside) in zip(blocks, places, strict=True):
                logits = product(part, matrix[block], offset[block]).to(wide)
                total -= (logits.gather(1, place) * inside).sum() * (1 - smoothing)
                if smoothing:
                    total -= (logits.sum(1, keepdim=True) * count).sum() * (smoothing / len(weight))
                top = logits.amax(1, keepdim=True)
                sums = logits.sub_(top).exp_().sum(1, keepdim=True)
                found = top + sums.log()
                norm = found if norm is None else torch.logaddexp(norm, found)
            total += (norm * count).sum()
            if not wants:
                continue
            if len(blocks) > 1:
                sums = torch.ones_like(sums)
            factors = (count / sums if dtype == wide else count).to(dtype)
            scaled = part * factors
            if is_turned:
                scaled = torch.cat([scaled, factors], dim=1)  # the last column gives the bias's
            for index, (block, (place, inside)) in enumerate(zip(blocks, places, strict=True)):
                if len(blocks) > 1:
                    logits = product(part, matrix[block], offset[block]).to(wide).sub_(norm).exp_()
                if smoothing:
                    logits.sub_(sums * (smoothing / len(weight)))
                logits.scatter_add_(1, place, inside * sums * (smoothing - 1))
                if dtype != wide:  # in which the powers might not fit without their factor
                    logits = torch.div(logits, sums, out=logits.new_empty(logits.shape, dtype=dtype))
                to_inputs[mine].addcmul_(product(logits, matrix[block].t()), factors)
                if is_turned:
                    both = product(scaled.t(), logits.t()).t()
                    gradient, of_bias = both[:, :-1], both[:, -1]
                else:  # apart, as units for half precision want widths in eights
                    gradient, of_bias = product(logits.t(), scaled.t()), (factors.t() @ logits)[0]
                to_bias[block] += of_bias
                if gradients[index] is not None:
                    gradient = gradients[index].add_(gradient)
                if mine.stop < len(inputs):
                    gradients[index] = gradient.to(weight.dtype)
                else:
                    to_weight[block], gradients[index] = gradient, None
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
