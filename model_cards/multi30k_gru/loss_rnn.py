"""The loss of a linear layer's logits, in parts, so that the logits of a batch never stand in memory together.

Shapes in comments: N tokens, H width of the last layer, V vocabulary.
"""

from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kernels_rnn import fastest, has_onednn, onednn_product, size_class, type_name
from .versions_rnn import autocast_dtype, without_autocast


# Numbers of logits that are held at a time, on a CPU and elsewhere. A CPU holds 32 MB: glibc serves
# blocks above 32 MiB by mmap, with page faults at every allocation, unless told otherwise.
LOGITS_ON_CPU, LOGITS_ELSEWHERE = 8_000_000, 1 << 26
# Fewest tokens to hold all their logits of, as every part of the tokens reads and writes the gradient of the whole
# matrix; and how many tokens and words to take at a time where the words are cut in parts instead.
FEWEST_ROWS, MOST_ROWS, MOST_WORDS = 256, 1024, 8192
# What part of a loss its product is chosen on.
SAMPLE_ROWS, SAMPLE_WORDS = 256, 8192


def parts_of(rows: int, words: int, held: int) -> tuple[int, int]:
    """How many tokens and words to take the logits of at a time, so that so many numbers are held."""
    if words * min(rows, FEWEST_ROWS) <= held:
        return max(1, held // words), words
    return MOST_ROWS, max(1, min(MOST_WORDS, held // min(rows, MOST_ROWS)))


def normalises_at_once(device: torch.device) -> bool:
    """Whether logits are normalised by torch's kernel: it passes over memory once in place of four times, which is
    most of the time of the loss on a GPU. On a CPU the passes in place are as fast and need half the memory."""
    return device.type != "cpu"


def exponentiate(logits: torch.Tensor, are_normal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn logits `(N, V)` in place into their exponentials, up to a factor a token that makes them fit.

    Returns:
        The sums of what they are now, and the logarithms of the sums of the true exponentials, `(N, 1)` each: 1 and 0
        where the logits `are_normal`, that is log-probabilities.
    """
    if are_normal:
        sums = logits.new_ones(len(logits), 1)
        logits.exp_()
        return sums, torch.zeros_like(sums)
    top = logits.amax(1, keepdim=True)
    sums = logits.sub_(top).exp_().sum(1, keepdim=True)
    return sums, top + sums.log()


def place_in(
    block: slice, targets: torch.Tensor, counts: torch.Tensor, words: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in a block of `words` each target is, or 0; and its count, or 0 where it is in another block."""
    size = min(block.stop, words) - block.start
    if size == words:
        return targets, counts
    place = targets - block.start
    return place.clamp(0, size - 1), counts * ((place >= 0) & (place < size))


# The products that the loss may be computed with. Each does what `F.linear` does.
PRODUCTS = {"blas": F.linear, "onednn": onednn_product}


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of `F.linear(inputs, weight, bias)`, whose gradients are computed on the way forward.

    The gradient of a logit is its probability, less one at the target: it is at hand where the loss is computed, but
    for a factor a token that goes to the inputs, and takes the logit's place in memory. Where not all words fit,
    logits are computed twice: for their sum, and again for the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        targets: torch.Tensor,
        smoothing: float,
        dtype: torch.dtype,
        wants: bool,
        kind: str,
    ) -> torch.Tensor:
        total, gradients = loss_and_gradients(inputs, weight, bias, targets, smoothing, dtype, wants, kind)
        if wants:
            ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if getattr(ctx, "was_run", False):
            raise RuntimeError(
                "the loss in parts has its gradients for one backward pass; for a second one pass `skip_logits=False`"
            )
        ctx.was_run = True
        return *(gradient.mul_(grad_outputs[0]) for gradient in ctx.saved_tensors), None, None, None, None, None


def loss_and_gradients(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    smoothing: float,
    dtype: torch.dtype,
    wants: bool,
    kind: str,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The loss and, if the caller `wants` them, its gradients by inputs, weight and bias.

    Args:
        inputs, weight, bias, targets, smoothing: As in `linear_cross_entropy`.
        dtype: Type of the products.
        wants: Whether to compute gradients.
        kind: Of `PRODUCTS`.
    """
    held = LOGITS_ON_CPU if inputs.device.type == "cpu" else LOGITS_ELSEWHERE
    rows, words = parts_of(len(inputs), len(weight), held)
    tokens, matrix, offset = inputs.to(dtype), weight.to(dtype), bias.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    is_counted = (targets != -100)[:, None]
    counts, targets = is_counted.to(wide), targets[:, None].where(is_counted, 0)
    total = counts.new_zeros(())
    blocks = [slice(start, start + words) for start in range(0, len(weight), words)]
    gradients = Gradients(inputs, weight, bias, len(blocks), kind) if wants else None
    is_at_once = normalises_at_once(inputs.device) and len(blocks) == 1
    for start in range(0, max(1, len(inputs)), rows):
        chosen = slice(start, start + rows)
        part, count, norm = tokens[chosen], counts[chosen], None
        places = [place_in(block, targets[chosen], count, len(weight)) for block in blocks]
        for block, (place, inside) in zip(blocks, places, strict=True):
            logits = PRODUCTS[kind](part, matrix[block], offset[block])
            logits = logits.log_softmax(1, dtype=wide) if is_at_once else logits.to(wide)
            total -= (logits.gather(1, place) * inside).sum() * (1 - smoothing)
            if smoothing:
                total -= (logits.sum(1, keepdim=True) * count).sum() * (smoothing / len(weight))
            sums, block_norm = exponentiate(logits, is_at_once)
            norm = block_norm if norm is None else torch.logaddexp(norm, block_norm)
        total += (norm * count).sum()
        if gradients is None:
            continue
        if len(blocks) > 1:
            sums = torch.ones_like(sums)
        gradients.begin(chosen, part, (count / sums if dtype == wide else count).to(dtype))
        for index, (block, (place, inside)) in enumerate(zip(blocks, places, strict=True)):
            if len(blocks) > 1:
                logits = PRODUCTS[kind](part, matrix[block], offset[block]).to(wide).sub_(norm).exp_()
            if smoothing:
                logits.sub_(sums * (smoothing / len(weight)))
            logits.scatter_add_(1, place, inside * sums * (smoothing - 1))
            if dtype != wide:  # in which the powers might not fit without their factor
                logits = torch.div(logits, sums, out=logits.new_empty(logits.shape, dtype=dtype))
            gradients.add(index, block, matrix[block], logits)
    if gradients is None:
        return total, ()
    of_inputs, of_bias = gradients.to_inputs.to(inputs.dtype), gradients.to_bias.to(bias.dtype)
    return total, (of_inputs, gradients.to_weight, of_bias)


class Gradients:
    """Gradients of the loss, from those of the logits of some tokens and a block of words after the other.

    Args:
        inputs, weight, bias: As in `linear_cross_entropy`.
        num_blocks: In how many blocks the words come.
        kind: Of `PRODUCTS`.
    """

    def __init__(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, num_blocks: int, kind: str):
        # Sums over parts are in single precision at least: in half of it, each part would round the sum so far.
        self.wide = torch.promote_types(weight.dtype, torch.float32)
        self.to_inputs, self.to_bias = (torch.zeros_like(tensor, dtype=self.wide) for tensor in (inputs, bias))
        self.to_weight = torch.empty_like(weight)
        self.sums: list[Any] = [None] * num_blocks  # of the weight's, until the last tokens
        self.product = PRODUCTS[kind]
        # oneDNN takes the logits as they lie in memory for the transposed product; bias and weight in one.
        self.is_transposed = kind == "onednn"

    def begin(self, chosen: slice, part: torch.Tensor, factors: torch.Tensor) -> None:
        """Some tokens: which, their inputs `(N, H)`, and the factor `(N, 1)` of the gradients of their logits."""
        self.chosen, self.factors, self.scaled = chosen, factors, part * factors
        if self.is_transposed:
            self.scaled = torch.cat([self.scaled, factors], dim=1)  # the last column gives the bias's

    def add(self, index: int, block: slice, matrix: torch.Tensor, logits: torch.Tensor) -> None:
        """The gradients of the logits of these tokens and a block of words, but for the factor."""
        self.to_inputs[self.chosen].addcmul_(self.product(logits, matrix.t()), self.factors)
        if self.is_transposed:
            both = self.product(self.scaled.t(), logits.t()).t()
            gradient, of_bias = both[:, :-1], both[:, -1]
        else:  # apart, as units for half precision want widths in eights
            gradient, of_bias = self.product(logits.t(), self.scaled.t()), (self.factors.t() @ logits)[0]
        self.to_bias[block] += of_bias
        if self.sums[index] is not None:
            gradient = self.sums[index].add_(gradient)
        if self.chosen.stop < len(self.to_inputs):
            self.sums[index] = gradient.to(self.wide)
        else:
            self.to_weight[block], self.sums[index] = gradient, None


def product_kind(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype, wants: bool
) -> str:
    """Which of `PRODUCTS` is the fastest for a loss of this shape and type, measured on a small part of it."""
    if torch.compiler.is_compiling():
        return "blas"  # which the compiler knows
    if not (len(inputs) and dtype == inputs.dtype and has_onednn(inputs)):
        return "blas"
    part = (inputs.detach()[:SAMPLE_ROWS], weight.detach()[:SAMPLE_WORDS], bias.detach()[:SAMPLE_WORDS])
    targets = torch.zeros(len(part[0]), dtype=torch.long, device=inputs.device)
    ways = {kind: partial(loss_and_gradients, *part, targets, 0.0, dtype, wants, kind) for kind in PRODUCTS}
    shape = size_class(*part[1].shape)
    with torch.no_grad():
        return fastest(f"loss {'gradients ' * wants}{type_name(inputs)} {shape}", ways)


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
    dtype = autocast_dtype(inputs.device) or inputs.dtype
    # Not `ctx.needs_input_grad`, which is true for parameters under `torch.no_grad()` as well.
    wants = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, weight, bias))
    with without_autocast(inputs.device):
        kind = product_kind(inputs, weight, bias, dtype, wants)
        return LinearCrossEntropy.apply(inputs, weight, bias, targets, label_smoothing, dtype, wants, kind)


__all__ = ["linear_cross_entropy"]
