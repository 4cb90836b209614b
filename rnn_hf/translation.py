"""Translations of texts by a network that reads one and writes another."""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluating
from rnn_hf.loading import input_device


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of ids as one tensor `(rows, longest)`, with `value` behind them."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)


def source_batch(rows: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    """Ids of texts as a model reads them: `input_ids` and `attention_mask`, with padding on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = padded(rows, pad)
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}


@torch.no_grad()
def translate(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], num_beams: int = 5, batch_size: int = 32,
    progress: bool = False, **options: Any,
) -> list[str]:  # fmt: skip
    """The translations of texts, in their order.

    Args:
        model: An `RNNForConditionalGeneration`; its training mode is restored afterwards.
        tokenizer: Its own.
        texts: A sentence each, as the model was trained on.
        num_beams: Hypotheses of the search; 1 is greedy.
        batch_size: Texts that are translated together, those of about one length; does not change the result.
        progress: Whether to show a progress bar.
        options: Others of `generate()`, such as `length_penalty` and `max_length`.

    Raises:
        InputError: `num_beams` or `batch_size` below 1.
    """
    for name, value in (("num_beams", num_beams), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, got {value}")
    ids = [tokenizer(text).input_ids for text in texts]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    answers = [""] * len(ids)
    with evaluating(model):
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc="translating", leave=False, mininterval=1, disable=not progress):
            chosen = order[start : start + batch_size]
            batch = source_batch([ids[index] for index in chosen], model.config.pad_token_id)
            batch = {name: tensor.to(input_device(model)) for name, tensor in batch.items()}
            outputs = model.generate(**batch, num_beams=num_beams, do_sample=False, **options)
            written = tokenizer.batch_decode(outputs, skip_special_tokens=True)
            for index, text in zip(chosen, written, strict=True):
                answers[index] = text
    return answers
