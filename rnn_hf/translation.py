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
from rnn_hf.models.decoding_seq2seq_rnn import BeamSearch
from rnn_hf.models.encoder_decoder_rnn import RNNEncoderOutput


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

    Raises:
        InputError: The vocabulary is too small for so many hypotheses.
    """
    config, options = models[0].config, models[0].generation_config
    ends = torch.as_tensor(config.eos_token_id).reshape(-1).tolist()
    power = options.length_penalty if length_penalty is None else length_penalty
    search = BeamSearch(
        num_beams, num_return_sequences=1, length_penalty=1.0 if power is None else power, early_stopping=False,
        ends=frozenset(ends), max_new_tokens=(max_length or options.max_length) - 1, are_log_probs=True,
    )  # fmt: skip
    if search.num_candidates > config.output_vocab_size:
        most = config.output_vocab_size // max(2, 1 + len(ends))
        raise InputError(f"`num_beams` may be at most {most} with so few pieces in the vocabulary, got {num_beams}")
    steps = StepsTogether(models, [model.encode(input_ids, attention_mask) for model in models])
    first = steps(input_ids.new_full((len(input_ids),), config.decoder_start_token_id))
    found = [sequences[0] for sequences in search(first, lambda: steps.repeated(num_beams))]
    return padded(found, config.pad_token_id).to(input_ids.device)


class StepsTogether:
    """One-token steps of several networks, as `BeamSearch` takes them: tokens `(R,)` to the mean of their
    log-probabilities `(R, V)`, and all states go with them.

    Args:
        models: As of `search_together`.
        read: What the encoder of each made of the sources, a row each.
    """

    def __init__(self, models: Sequence[Any], read: Sequence[Any]):
        self.models, self.read = models, [dict(each.items()) for each in read]
        self.caches: list[Any] = [None] * len(models)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        parts = []
        for place, (model, read) in enumerate(zip(self.models, self.read, strict=True)):
            outputs = model(
                decoder_input_ids=tokens[:, None], encoder_outputs=RNNEncoderOutput(**read),
                cache=self.caches[place], use_cache=True,
            )  # fmt: skip
            self.caches[place] = outputs.cache
            parts.append(outputs.logits[:, -1].float().log_softmax(dim=-1))
        return torch.stack(parts).mean(dim=0)

    def repeated(self, times: int) -> "StepsTogether":
        """Go on with each row so many times."""
        read = self.read[0]["last_hidden_state"]
        rows = torch.arange(len(read), device=read.device).repeat_interleave(times)
        self.select(rows, rows)
        return self

    def select(self, rows: torch.Tensor, sources: torch.Tensor | None = None) -> None:
        """Go on with these rows; `sources` is `None` where each stays at its source."""
        for cache in self.caches:
            cache.batch_select_indices(rows)
        if sources is not None:
            self.read = [
                {name: part[rows] for name, part in read.items() if torch.is_tensor(part)} for read in self.read
            ]
