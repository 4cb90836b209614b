"""What classifiers need on top of the network: one vector a text, and losses that add up over accumulated batches.

Shapes in comments: B batch, T time, H width of the output, L number of labels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def pooled_size(output_size: int, kind: str) -> int:
    """Width of what `pool` returns."""
    return 3 * output_size if kind == "concat" else output_size


def pool(hidden_states: Tensor, mask: Tensor | None, kind: str, num_directions: int) -> Tensor:
    """One vector a text, from the outputs at its real tokens; zeros for a text without any.

    Args:
        hidden_states: Of the last layer, `(B, T, H)`. What stands at padding does not count.
        mask: `(B, T)`, true at real tokens; `None` where all are.
        kind: `"last"`, `"max"`, `"mean"`, or `"concat"` for these three side by side. The last output of a direction
            is where it ends: at the last token, and for the second direction at the first one.
        num_directions: 1 or 2, whose outputs are the halves of `hidden_states`.

    Returns:
        `(B, H)`, or `(B, 3 H)` for `"concat"`.
    """
    if mask is None:
        mask = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
    mask = mask.to(hidden_states.device)
    parts = [POOLINGS[each](hidden_states, mask, num_directions) for each in POOLINGS if kind in (each, "concat")]
    return torch.cat(parts, dim=-1).masked_fill(~mask.any(dim=1, keepdim=True), 0)


def last_outputs(hidden_states: Tensor, mask: Tensor, num_directions: int) -> Tensor:
    rows, is_real = torch.arange(len(mask), device=mask.device), mask.long()
    ends = [mask.shape[1] - 1 - is_real.flip(1).argmax(dim=1), is_real.argmax(dim=1)]
    halves = hidden_states.chunk(num_directions, dim=-1)
    return torch.cat([half[rows, end] for half, end in zip(halves, ends, strict=False)], dim=-1)


def largest_outputs(hidden_states: Tensor, mask: Tensor, num_directions: int) -> Tensor:
    return hidden_states.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)


def mean_outputs(hidden_states: Tensor, mask: Tensor, num_directions: int) -> Tensor:
    return (hidden_states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


# In the order in which "concat" has them.
POOLINGS = {"last": last_outputs, "max": largest_outputs, "mean": mean_outputs}


def text_loss(
    logits: Tensor, labels: Tensor, problem_type: str | None, num_items_in_batch: int | Tensor | None = None
) -> Tensor:
    """The loss of a classifier of whole texts.

    It is the sum of the single losses by their number: of texts for one label a text, of `(B, L)` numbers otherwise,
    which is what transformers' Trainer counts.

    Args:
        logits: `(B, L)`.
        labels: `(B,)`, whole numbers, where a text has one label, -100 to ignore it; else `(B, L)`.
        problem_type: `"single_label_classification"` (cross entropy), `"multi_label_classification"` (binary cross
            entropy) or `"regression"` (squared error). `None`: regression for one output; else one label a text
            where labels are whole numbers, several where they are not.
        num_items_in_batch: Divides the sum in place of the number in this batch.

    Raises:
        ValueError: Labels of a wrong shape or type.
    """
    is_whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
    if problem_type is None and logits.shape[1] == 1:
        problem_type = "regression"
    elif problem_type is None:
        problem_type = "single_label_classification" if is_whole else "multi_label_classification"
    if problem_type == "single_label_classification":
        if labels.numel() != len(logits) or not is_whole:
            raise ValueError(
                f"`labels` must be {len(logits)} whole numbers, one a text, for `problem_type={problem_type!r}`, got "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        return label_loss(logits, labels, num_items_in_batch)
    if labels.numel() != logits.numel() or len(labels) != len(logits):
        raise ValueError(
            f"`labels` must have shape {tuple(logits.shape)}, a number for each output, for "
            f"`problem_type={problem_type!r}`, got {tuple(labels.shape)}"
        )
    logits = at_least_float32(logits)
    loss = F.mse_loss if problem_type == "regression" else F.binary_cross_entropy_with_logits
    total = loss(logits, labels.to(logits).view(logits.shape), reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def token_loss(logits: Tensor, labels: Tensor, num_items_in_batch: int | Tensor | None = None) -> Tensor:
    """The mean cross entropy of the labels of tokens.

    Args:
        logits: `(B, T, L)`.
        labels: `(B, T)`, -100 to ignore one.
        num_items_in_batch: Divides the sum in place of the number of labels.

    Raises:
        ValueError: Labels of a wrong shape.
    """
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"`labels` must have shape {tuple(logits.shape[:2])}, one a token, -100 where it has none, got "
            f"{tuple(labels.shape)}"
        )
    return label_loss(logits.flatten(0, 1), labels, num_items_in_batch)


def label_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: int | Tensor | None, label_smoothing: float = 0.0
) -> Tensor:
    """The mean cross entropy in nats of `(N, L)` logits and N labels, of which those of -100 do not count."""
    labels = labels.flatten().long().to(logits.device)
    total = F.cross_entropy(at_least_float32(logits), labels, reduction="sum", label_smoothing=label_smoothing)
    return total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in a type in which a loss may be summed."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


__all__ = ["label_loss", "pool", "pooled_size", "text_loss", "token_loss"]
