"""Translations of texts by a network that reads one and writes another, or by several together."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rnn_hf.errors import InputError
from rnn_hf.evaluation import evaluating
from rnn_hf.loading import input_device


NEVER = -1e9  # score of what cannot be


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of ids as one tensor `(rows, longest)`, with `value` behind them."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)


def source_batch(rows: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    """Ids of texts as a model reads them: `input_ids` and `attention_mask`, with padding on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = padded(rows, pad)
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}


def translate(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], num_beams: int = 5, batch_size: int = 32,
    length_penalty: float | None = None, max_length: int | None = None, progress: bool = False,
) -> list[str]:  # fmt: skip
    """The translations of texts, in their order. A text without words has one without.

    Args:
        model: An `RNNForConditionalGeneration`, or a list of several with one vocabulary, which write together what
            the mean of their log-probabilities says. Their training mode is restored afterwards.
        tokenizer: Its own, or that of all.
        texts: A sentence each, as the model was trained on.
        num_beams: Hypotheses of the search; 1 is greedy.
        batch_size: Texts that are translated together, those of about one length; does not change the result.
        length_penalty: Power of the length by which the score of a hypothesis is divided, and
        max_length: most pieces of a translation; by default as the model's `generation_config` has them.
        progress: Whether to show a progress bar.

    Raises:
        InputError: `num_beams` or `batch_size` below 1, no model, or several of different vocabularies.
    """
    models = list(model) if isinstance(model, list | tuple) else [model]
    for name, value in (("num_beams", num_beams), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, got {value}")
    check_together(models)
    chosen = {"length_penalty": length_penalty, "max_length": max_length}
    options: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    ids = [tokenizer(text).input_ids for text in texts]
    order = sorted((index for index in range(len(ids)) if texts[index].strip()), key=lambda index: len(ids[index]))
    answers = [""] * len(ids)
    with ExitStack() as modes:
        for each in models:
            modes.enter_context(evaluating(each))
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc="translating", leave=False, mininterval=1, disable=not progress):
            places = order[start : start + batch_size]
            batch = source_batch([ids[index] for index in places], models[0].config.pad_token_id)
            batch = {name: tensor.to(input_device(models[0])) for name, tensor in batch.items()}
            if len(models) == 1:
                written = models[0].generate(**batch, num_beams=num_beams, do_sample=False, **options)
            else:
                written = search_together(
                    models, batch["input_ids"], batch["attention_mask"], num_beams=num_beams, **options
                )
            for index, text in zip(places, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                answers[index] = text
    return answers


def check_together(models: Sequence[Any]) -> None:
    """Refuse networks that cannot write together.

    Raises:
        InputError: There is none, or they write with different vocabularies.
    """
    if not models:
        raise InputError("there is no model to translate with")
    names = ("vocab_size", "decoder_vocab_size", "pad_token_id", "eos_token_id", "decoder_start_token_id")
    shared = [{name: getattr(model.config, name) for name in names} for model in models]
    for own in shared[1:]:
        for name in names:
            if own[name] != shared[0][name]:
                raise InputError(
                    f"models that translate together need one vocabulary, and `{name}` is {shared[0][name]} of one "
                    f"and {own[name]} of another"
                )


@torch.no_grad()
def search_together(
    models: Sequence[Any], input_ids: torch.Tensor, attention_mask: torch.Tensor, num_beams: int = 5,
    length_penalty: float | None = None, max_length: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """The best translations that a beam search finds by the mean of several networks' log-probabilities.

    It ends and scores as the beam search of transformers with its `early_stopping=False`: of one network both find
    the same.

    Args:
        models: Several `RNNForConditionalGeneration` in evaluation mode, on one device.
        input_ids: `(rows, S)`.
        attention_mask: `(rows, S)`.
        num_beams: Hypotheses of a row.
        length_penalty: As of `translate`, and
        max_length: as there, with the start token.

    Returns:
        Ids `(rows, T)` without the start token, padding behind the end token.
    """
    config, options, device = models[0].config, models[0].generation_config, input_ids.device
    power = options.length_penalty if length_penalty is None else length_penalty
    power, most = 1.0 if power is None else power, (max_length or options.max_length) - 1
    rows, ends_by = len(input_ids), torch.as_tensor(config.eos_token_id, device=device).reshape(-1)
    read = [repeated(model.encode(input_ids, attention_mask), num_beams) for model in models]
    caches: list[Any] = [None] * len(models)
    running = torch.full((rows, num_beams, 1), config.decoder_start_token_id, device=device)
    scores = torch.zeros(rows, num_beams, device=device)
    scores[:, 1:] = NEVER  # all begin alike
    best = torch.full((rows, num_beams, most + 1), config.pad_token_id, device=device)
    best_scores, is_open = torch.full_like(scores, NEVER), torch.ones(rows, 1, dtype=torch.bool, device=device)
    first_row = num_beams * torch.arange(rows, device=device)[:, None]
    for step in range(1, most + 1):
        log_probs, caches = mean_log_probs(models, running[:, :, -1].reshape(-1, 1), read, caches)
        total = (scores.reshape(-1, 1) + log_probs).view(rows, -1)
        top, places = total.topk(min((1 + len(ends_by)) * num_beams, total.shape[1]))
        beam, token = places // log_probs.shape[1], places % log_probs.shape[1]
        sequences = torch.cat([of_beams(running, beam), token[..., None]], dim=-1)
        is_end = torch.isin(token, ends_by) | (step == most)
        # An end counts among the first hypotheses only, and where it can be better than what has ended.
        counts = is_end & (torch.arange(top.shape[1], device=device) < num_beams) & is_open
        ended = torch.where(counts, top / step**power, NEVER)
        longer = torch.nn.functional.pad(sequences, (0, most - step), value=config.pad_token_id)
        best_scores, chosen = torch.cat([best_scores, ended], dim=1).topk(num_beams)
        best = of_beams(torch.cat([best, longer], dim=1), chosen)
        scores, chosen = (top + NEVER * is_end).topk(num_beams)
        running, parents = of_beams(sequences, chosen), beam.gather(1, chosen)
        is_open = is_open & (scores[:, :1] / step**power > best_scores[:, -1:])
        if not is_open.any() or is_end.all():
            break
        for cache in caches:
            cache.reorder_cache((first_row + parents).flatten())
    return best[:, 0, 1 : step + 1]


def mean_log_probs(
    models: Sequence[Any], tokens: torch.Tensor, read: Sequence[Any], caches: Sequence[Any]
) -> tuple[torch.Tensor, list[Any]]:
    """What several networks say of the token after `tokens` `(B, 1)`, `(B, V)`, and their states after it."""
    steps = zip(models, read, caches, strict=True)
    outputs = [
        model(decoder_input_ids=tokens, encoder_outputs=own, cache=cache, use_cache=True)
        for model, own, cache in steps
    ]  # fmt: skip
    log_probs = torch.stack([output.logits[:, -1].float().log_softmax(dim=-1) for output in outputs])
    return log_probs.mean(dim=0), [output.cache for output in outputs]


def repeated(encoder_outputs: Any, times: int) -> Any:
    """What an encoder read, with each row so many times."""
    parts = {name: part for name, part in encoder_outputs.items() if torch.is_tensor(part)}
    return type(encoder_outputs)(**{name: part.repeat_interleave(times, dim=0) for name, part in parts.items()})


def of_beams(tensor: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Hypotheses `(rows, n, T)` by their indices `(rows, m)`, `(rows, m, T)`."""
    return tensor.gather(1, chosen[..., None].expand(-1, -1, tensor.shape[-1]))
