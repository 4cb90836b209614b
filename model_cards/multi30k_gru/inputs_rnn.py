"""What the models are called with: read, and checked, so that nothing is passed over in silence.

Shapes in comments: B batch, T time, E embedding, H width of a layer.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging


# Arguments that pack several texts into a row, and those that say nothing to this network.
PACKED = {"cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "seq_idx"}
IGNORED = {
    "cache_position", "head_mask", "max_length_k", "max_length_q", "num_items_in_batch", "position_ids", "return_dict",
    "token_type_ids",
}  # fmt: skip

logger = logging.get_logger(__name__)


def read_inputs(input_ids: Tensor | None, inputs_embeds: Tensor | None, input_size: int | None = None) -> Tensor:
    """What is given of ids `(B, T)` and embeddings `(B, T, E)`; the features of a network that has an `input_size`.

    Raises:
        ValueError: Both or neither are given, or one of a wrong shape; ids for a network that reads features.
    """
    if input_size is not None and (input_ids is not None or inputs_embeds is None):
        raise ValueError("a network with `input_size` reads features, given as `inputs_embeds`, and no `input_ids`")
    if input_ids is not None and inputs_embeds is None:
        inputs, name, shape = input_ids, "input_ids", "(batch, time)"
    elif input_ids is None and inputs_embeds is not None:
        inputs, name, shape = inputs_embeds, "inputs_embeds", "(batch, time, embedding_size)"
    else:
        raise ValueError("pass exactly one of `input_ids` and `inputs_embeds`")
    if inputs.ndim != shape.count(",") + 1 or not inputs.shape[1]:
        raise ValueError(f"`{name}` must be {shape} with at least one time step, got shape {tuple(inputs.shape)}")
    if input_size is not None and inputs.shape[2] != input_size:
        raise ValueError(f"`inputs_embeds` must be `input_size` ({input_size}) wide, got shape {tuple(inputs.shape)}")
    return inputs


def read_mask(attention_mask: Tensor | None, inputs: Tensor) -> Tensor | None:
    """The mask of these inputs, `(B, T)`, true at real tokens; of a longer one the last T columns count.

    Raises:
        ValueError: It has another shape.
    """
    if attention_mask is None:
        return None
    batch, time = inputs.shape[:2]
    if attention_mask.ndim != 2 or len(attention_mask) != batch or attention_mask.shape[1] < time:
        raise ValueError(
            f"`attention_mask` must be ({batch}, {time}) or longer in time, got {tuple(attention_mask.shape)}"
        )
    return attention_mask[:, -time:].to(device=inputs.device, dtype=torch.bool)


def from_end(
    input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None, given: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a network, and what else was `given`, as one with `reads_backward` has them: last step first.

    Raises:
        ValueError: As `read_inputs`, `read_mask` and `check_extra`.
    """
    mask = read_mask(attention_mask, read_inputs(input_ids, inputs_embeds))
    check_extra(given, mask)  # in the order of the text, in which positions rise
    input_ids, mask, inputs_embeds = flip_time(input_ids, mask, inputs_embeds)
    flipped = {"input_ids": input_ids, "attention_mask": mask, "inputs_embeds": inputs_embeds}
    return {**given, **flipped, "position_ids": None}


def flip_time(*parts: Tensor | None) -> list[Tensor | None]:
    """Tensors `(B, T, ...)` with their last step first."""
    return [None if part is None else part.flip(1) for part in parts]


def check_extra(given: dict[str, Any], mask: Tensor | None) -> None:
    """Refuse or warn of arguments without a name in `forward`, so that none is passed by in silence.

    Args:
        given: By name.
        mask: `(B, T)`, true at real tokens; `None` where all are.

    Raises:
        ValueError: Heads are masked, or a row holds several texts.
    """
    if given.get("head_mask") is not None:
        raise ValueError("`head_mask` is not supported: a recurrent network has no attention heads")
    packed = [name for name in PACKED if given.get(name) is not None]
    if begins_again(given.get("position_ids"), mask):
        packed.append("position_ids")
    if packed:
        raise ValueError(
            f"`{packed[0]}` says that a row holds several texts, and the state would go from one to the next: give "
            "each text a row of its own, padded, with an `attention_mask`"
        )
    for name in given.keys() - IGNORED - PACKED:
        if given[name] is not None and given[name] is not False:
            logger.warning_once(f"`{name}` is no argument of the model and has no effect")


def begins_again(positions: Tensor | None, mask: Tensor | None) -> bool:
    """Whether the positions of real tokens, `(B, T)`, fall within a row."""
    if positions is None or positions.is_meta:
        return False
    positions = torch.atleast_2d(positions)
    falls = positions[:, 1:] <= positions[:, :-1]
    if mask is not None:
        falls = falls & mask[:, 1:] & mask[:, :-1]
    return bool(falls.any())


def select_positions(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The positions of `(B, T, H)` that `logits_to_keep` names, as transformers defines its forms."""
    if isinstance(logits_to_keep, int):
        return hidden_states[:, -logits_to_keep:]
    if logits_to_keep.ndim == 2:
        if logits_to_keep.dtype == torch.bool:
            return hidden_states[logits_to_keep]
        return hidden_states.take_along_dim(logits_to_keep[..., None], dim=1)
    return hidden_states[:, logits_to_keep]


__all__ = ["check_extra", "flip_time", "from_end", "read_inputs", "read_mask", "select_positions"]
