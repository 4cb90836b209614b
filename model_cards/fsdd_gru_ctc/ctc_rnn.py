"""The loss of connectionist temporal classification (CTC): exact in float64, and right over accumulated batches.

Shapes in comments: B batch, T steps, U labels, V kinds of labels with the blank.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .heads_rnn import at_least_float32


NO_LABEL = -100


def ctc_loss(
    logits: Tensor,
    lengths: Tensor,
    labels: Tensor,
    blank: int,
    num_items_in_batch: int | Tensor | None = None,
    zero_infinity: bool = False,
) -> Tensor:
    """Negative log-likelihood of the labels, over all ways to align them with the steps (Graves et al., 2006).

    Args:
        logits: `(B, T, V)`.
        lengths: `(B,)`, how many steps each row has.
        labels: `(B, U)`, in the order in which they were said; -100 where a row has none. A row may have none at all.
        blank: Id of the blank.
        num_items_in_batch: Divides the sum over rows in place of the number of labels.
        zero_infinity: Whether a row that is too short for its labels counts as a loss of 0, or is refused.

    Returns:
        In nats a label, of at least float32. Without any label the sum itself.

    Raises:
        ValueError: Labels of a wrong shape, not in the vocabulary, or the blank; a row that is too short for its own.
    """
    check_labels(labels, logits.shape[0], logits.shape[2], blank)
    labels, lengths = labels.to(logits.device).long(), lengths.to(logits.device)
    if not zero_infinity:
        check_alignable(labels, lengths)
    packed, counts = packed_labels(labels)
    log_probs = at_least_float32(logits).log_softmax(dim=-1).transpose(0, 1)
    if not len(log_probs):
        log_probs = F.pad(log_probs, (0, 0, 0, 0, 0, 1))  # torch wants a step, which no row reads
    # cuDNN's loss has other gradients, is not deterministic and takes few shapes.
    with torch.backends.cudnn.flags(enabled=False):
        total = F.ctc_loss(
            log_probs, packed.clamp(min=0), lengths, counts, blank, reduction="sum", zero_infinity=zero_infinity
        )
    count = counts.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return total / count.clamp(min=1)


def packed_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels `(B, U)` from the start of each row on, behind them -100; and how many a row has, `(B,)`."""
    is_label = labels != NO_LABEL
    order = is_label.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    return labels.take_along_dim(order, dim=1), is_label.sum(dim=1)


def steps_needed(labels: Tensor) -> Tensor:
    """How many steps labels `(B, U)` need at least, `(B,)`: one each, and a blank between two that are equal."""
    packed, counts = packed_labels(labels)
    is_repeated = (packed[:, 1:] == packed[:, :-1]) & (packed[:, 1:] != NO_LABEL)
    return counts + is_repeated.sum(dim=1)


def check_labels(labels: Tensor, rows: int, vocab_size: int, blank: int) -> None:
    """Refuse what cannot be labels of so many rows.

    Raises:
        ValueError: Naming what is wrong.
    """
    is_whole = not labels.is_floating_point() or not labels.numel()  # torch.tensor([[]]) is of floats
    if labels.ndim != 2 or len(labels) != rows or not is_whole:
        raise ValueError(
            f"`labels` must be whole numbers of shape ({rows}, number of labels), -100 where a row has none, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
    is_wrong = ((labels < 0) & (labels != NO_LABEL)) | (labels >= vocab_size) | (labels == blank)
    if is_wrong.any():
        raise ValueError(
            f"`labels` must be at least 0, below `vocab_size` ({vocab_size}) and not {blank}, the blank; -100 where a "
            f"row has none; got {sorted(set(labels[is_wrong].tolist()))}"
        )


def check_alignable(labels: Tensor, lengths: Tensor) -> None:
    """Refuse rows that have fewer steps than their labels `(B, U)` need.

    Raises:
        ValueError: Naming the rows.
    """
    needed = steps_needed(labels)
    rows = (needed > lengths).nonzero()[:, 0].tolist()
    if rows:
        said = ", ".join(f"row {row} has {lengths[row]} of {needed[row]}" for row in rows[:8])
        said += f" and {len(rows) - 8} rows more" * (len(rows) > 8)
        raise ValueError(
            f"too few steps for the `labels`, which need one each and one more between equal neighbours: {said}. "
            "Leave these rows out, make `frame_stack` smaller, or set `ctc_zero_infinity=True` to count them as 0"
        )


__all__ = ["ctc_loss", "steps_needed"]
