"""Validation during training: each process scores its share of the columns, and all decide by one number."""

import math

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from rnn_hf.evaluation import Score, evaluate


EVALUATION_WINDOW = 64


def share_of(tokens: np.ndarray, start: int, columns: int, rank: int, ranks: int) -> tuple[np.ndarray, int, int]:
    """What one of `ranks` processes scores, so that together they score what one would in `columns` columns.

    Args:
        tokens: Ids of the whole text, `(tokens,)`.
        start: Id of the token before the first one.
        columns: Columns of all processes together; those of a process may be one more than those of another.
        rank: Which process.
        ranks: How many.

    Returns:
        Ids of its part of the text, the id before these, and its number of columns, 0 where there are too few for all.
    """
    first, last = (part * columns // ranks for part in (rank, rank + 1))
    steps = len(tokens) // columns
    before = int(tokens[first * steps - 1]) if first else start
    return tokens[first * steps : last * steps], before, last - first


def validate(
    accelerator: Accelerator,
    model: PreTrainedModel,
    tokens: np.ndarray,
    start: int,
    columns: int,
    steps: int | None = None,
) -> Score:
    """The score of a text, the same on all processes to the last bit, so that none goes on where another one stops.

    Args:
        accelerator: Of the run.
        model: Unwrapped, with the same weights on each process.
        tokens: Ids, `(tokens,)`.
        start: Id of the token before the first one.
        columns: Pieces of the text that are scored in parallel by all processes together, at most as many as tokens.
        steps: Of each piece only the first so many tokens, as if the text were as short.
    """
    columns = min(columns, len(tokens))
    tokens = tokens[: columns * steps] if steps else tokens
    ranks = accelerator.num_processes
    part, before, own_columns = share_of(tokens, start, columns, accelerator.process_index, ranks)
    score = evaluate(model, part, before, own_columns, EVALUATION_WINDOW) if own_columns else Score(0.0, 0)
    if ranks == 1:
        return score
    own = torch.tensor([score.loss * score.num_tokens, score.num_tokens], dtype=torch.float64)
    total, count = map(math.fsum, accelerator.gather(own.to(accelerator.device)).view(ranks, 2).T.tolist())
    return Score(total / count, int(count))
