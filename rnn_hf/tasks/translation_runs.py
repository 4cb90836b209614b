"""What a training run of translation works on: pairs of texts as ids, in batches of about as many tokens each."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase, set_seed

from rnn_hf.data.bpe import PieceDropout, build_bpe
from rnn_hf.data.parallel import ParallelData
from rnn_hf.data.tokenization import vocab_size_of
from rnn_hf.errors import InputError
from rnn_hf.files import check_local
from rnn_hf.loading import config_of
from rnn_hf.models import RNNForConditionalGeneration, RNNSeq2SeqConfig
from rnn_hf.tasks import BLEU, TASKS
from rnn_hf.tasks.translation_scores import TranslationScores, bleu_of
from rnn_hf.translation import padded, source_batch


SPREAD = 0.2  # by which the lengths of sources are noised, so that batches differ from epoch to epoch
MAX_LENGTH = 100  # of a translation, in pieces with its end


def configuration_of(**fields: Any) -> RNNSeq2SeqConfig:
    """A configuration by fields, whose `attention` is `"none"` for none.

    Raises:
        huggingface_hub.errors.StrictDataclassError: As of `RNNSeq2SeqConfig`.
    """
    attention = fields.pop("attention", None)
    return RNNSeq2SeqConfig(attention=None if attention == "none" else attention, **fields)


class TranslationExamples(Dataset):
    """Pairs of texts as ids.

    Args:
        sources: Ids of each text, with the end token.
        targets: Ids of its translation, with the end token.
        seed: Of the run.
        word_dropout: Probability that a piece of a source is read as `unknown`, drawn again each epoch.
        unknown: Id of it.
        pieces: Split both sides in other pieces each epoch; `None` keeps them as they are.
    """

    def __init__(
        self, sources: Sequence[list[int]], targets: Sequence[list[int]], seed: int = 0, word_dropout: float = 0.0,
        unknown: int | None = None, pieces: tuple[PieceDropout, PieceDropout] | None = None,
    ):  # fmt: skip
        self.sources, self.targets = sources, targets
        self.seed, self.word_dropout, self.unknown, self.pieces = seed, word_dropout, unknown, pieces
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """`input_ids` and `labels` of a pair."""
        source = self.sources[index]
        if self.word_dropout and self.unknown is not None:
            draw = random.Random(f"words {self.seed} {self.epoch} {index}").random
            dropped = [self.unknown if draw() < self.word_dropout else piece for piece in source[:-1]]
            source = [*dropped, source[-1]]
        return {"input_ids": source, "labels": self.targets[index]}

    def batches(self, epoch: int, number: int, by_length: bool = True) -> list[list[int]]:
        """The indices of an epoch's batches, which depend on the seed and the number of the epoch alone.

        Args:
            epoch: Whose batches these are; examples are drawn for it from now on.
            number: Of batches, at most that of the examples. Each has about as many tokens, and none is empty.
            by_length: Whether a batch has texts of about one length; else it has them at random.
        """
        self.epoch = epoch
        if self.pieces is not None:
            draws = random.Random(f"pieces {self.seed} {epoch}")
            self.sources, self.targets = (side.draw(draws) for side in self.pieces)
        generator = random.Random(f"batches {self.seed} {epoch}")
        order = list(range(len(self)))
        generator.shuffle(order)
        if by_length:  # what is written costs most, so its length comes first
            noise = [generator.uniform(1 - SPREAD, 1 + SPREAD) for _ in order]
            order.sort(key=lambda index: (len(self.targets[index]), len(self.sources[index]) * noise[index]))
        sizes = [len(self.sources[index]) + len(self.targets[index]) for index in order]
        batches = [order[start:end] for start, end in even_parts(sizes, number)]
        generator.shuffle(batches)
        return batches


def even_parts(sizes: Sequence[int], number: int) -> list[tuple[int, int]]:
    """Begin and end of parts of a sequence that have about as much in all, and at least one element each.

    >>> even_parts([1, 1, 1, 3, 3, 1], 3)
    [(0, 3), (3, 4), (4, 6)]
    """
    total, seen = sum(sizes), 0
    ends: list[int] = []
    for index, size in enumerate(sizes):
        part = len(ends)
        # A part ends where its share does, but leaves one for each part behind it, which none is before.
        is_full = (seen + size / 2) * number >= total * (part + 1)
        must_end = len(sizes) - index <= number - part - 1
        begin = ends[-1] if ends else 0
        if part < number - 1 and index > begin and (is_full or must_end):
            ends.append(index)
        seen += size
    starts = [0, *ends]
    return list(zip(starts, [*ends, len(sizes)], strict=True))


def collate(rows: Sequence[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """A batch of examples: padding behind the ids, -100 behind the labels."""
    batch = source_batch([row["input_ids"] for row in rows], pad)
    return batch | {"labels": padded([row["labels"] for row in rows], -100)}


@dataclass
class PreparedPairs:
    """Pairs ready to train on.

    Attributes:
        data: As loaded.
        tokenizer: Built from the training texts, one by name, or that of the model to start from.
        examples: `train` as `TranslationExamples`, `validation` as pairs to score.
    """

    data: ParallelData
    tokenizer: PreTrainedTokenizerBase
    examples: dict[str, Any]


class TranslationWork:
    """The data of a run and all that is made of it; the same for texts is `rnn_hf.tasks.text_runs.TextWork`.

    Args:
        arguments: A `rnn_hf.training.arguments.Arguments`.

    Attributes:
        prepared: Pairs, tokenizer and examples.
        metric: That decides which weights are best.

    Raises:
        InputError: There is nothing to train or validate on, or a file cannot be read.
    """

    config_class = staticmethod(configuration_of)
    metric = BLEU

    def __init__(self, arguments: Any):
        self.arguments, self.module = arguments, TASKS[arguments.task].module
        options, seed = arguments.data, arguments.training.seed
        data = self.module.load_data(**asdict(options), seed=seed)
        for split in ("train", "validation"):
            if not data.splits.get(split):
                raise InputError(f"there are no pairs for {split}: give `{split}_file`")
        train = data.splits["train"]
        tokenizer = self._tokenizer(data)
        sources = tokenizer([pair.source for pair in train]).input_ids
        targets = tokenizer(text_target=[pair.target for pair in train]).input_ids
        kept = [
            index for index in range(len(train)) if max(len(sources[index]), len(targets[index])) <= options.max_length
        ]
        if not kept:
            raise InputError(f"no pair of train has at most `max_length` {options.max_length} pieces on both sides")
        self.too_long = len(train) - len(kept)
        pieces = None
        if options.bpe_dropout:
            sides = [[train[index].source for index in kept], [train[index].target for index in kept]]
            first, second = (PieceDropout(tokenizer, side, options.bpe_dropout) for side in sides)
            pieces = (first, second)
        examples = TranslationExamples(
            [sources[index] for index in kept], [targets[index] for index in kept], seed, options.word_dropout,
            tokenizer.unk_token_id, pieces,
        )  # fmt: skip
        self.prepared = PreparedPairs(data, tokenizer, {"train": examples, "validation": data.splits["validation"]})
        self.tokenize = self.module.tokenize_of(asdict(options))
        validation = data.splits["validation"]
        texts, references = [pair.source for pair in validation], [pair.target for pair in validation]
        self.floor = bleu_of(texts, references, self.tokenize)

    def _tokenizer(self, data: ParallelData) -> PreTrainedTokenizerBase:
        options, source = self.arguments.data, self.arguments.training.init_from
        if source is not None:
            config_of(source)  # names what is wrong with the name
            return AutoTokenizer.from_pretrained(source)
        if options.tokenizer_name is not None:
            return load_tokenizer(options.tokenizer_name)
        lines = [text for pair in data.splits["train"] for text in (pair.source, pair.target)]
        return build_bpe(lines, options.tokenizer_vocab_size, options.min_frequency, options.lowercase)

    def build_model(self) -> RNNForConditionalGeneration:
        """A fresh model, or one on the weights of `init_from`.

        Raises:
            InputError: The weights do not load, or the arguments ask for another shape than they have.
        """
        arguments, source = self.arguments.model, self.arguments.training.init_from
        tokenizer, smoothing = self.prepared.tokenizer, self.arguments.training.label_smoothing_factor
        set_seed(self.arguments.training.seed)
        if source is None:
            start = tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
            config = configuration_of(
                vocab_size=vocab_size_of(tokenizer), pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id, bos_token_id=start, decoder_start_token_id=start,
                label_smoothing=smoothing, **asdict(arguments),
            )  # fmt: skip
            model = RNNForConditionalGeneration(config)
            model.generation_config.max_length = MAX_LENGTH
            model.generation_config.num_beams = 5
            return model
        before, default = config_of(source), type(arguments)()
        dropouts = {name: value for name, value in asdict(arguments).items() if "dropout" in name}
        for name, value in asdict(arguments).items():
            other = getattr(before, name, None)
            if name not in dropouts and value not in (getattr(default, name), other, "none" if other is None else 0):
                raise InputError(f"`{name}` is {value}, and the model of `init_from` has {other}: leave it out")
        return RNNForConditionalGeneration.from_pretrained(source, **dropouts, label_smoothing=smoothing)

    def training_examples(self) -> TranslationExamples:
        """What Trainer takes batches of."""
        return self.prepared.examples["train"]

    def collator(self) -> Any:
        """Makes a batch of examples."""
        return partial(collate, pad=self.prepared.tokenizer.pad_token_id)

    def score(self, model: Any) -> TranslationScores:
        """The scores of a model on the validation split, by greedy decoding."""
        size = self.arguments.training.per_device_eval_batch_size
        pairs, tokenizer = self.prepared.examples["validation"], self.prepared.tokenizer
        return self.module.score(model, tokenizer, pairs, self.tokenize, 1, size)

    def save_processors(self, directory: Path) -> None:
        """Write what a model needs besides its weights."""
        self.prepared.tokenizer.save_pretrained(directory)

    def _languages(self) -> list[str] | None:
        data = self.prepared.data
        return None if data.source_lang is None or data.target_lang is None else [data.source_lang, data.target_lang]

    def summary(self) -> list[str]:
        """The data in lines, for people."""
        data, examples = self.prepared.data, self.training_examples()
        into = " to ".join(self._languages() or [])
        pieces = [sum(map(len, side)) for side in (examples.sources, examples.targets)]
        lines = [
            f"train: {len(examples):,} pairs{' of ' if into else ''}{into}, {pieces[0]:,} pieces to read and "
            f"{pieces[1]:,} to write, {len(self.prepared.tokenizer):,} types"
        ]
        if self.too_long:
            lines.append(f"{self.too_long:,} pairs are longer than `max_length` and left out")
        lines.append(f"validation: {len(data.splits['validation']):,} pairs")
        lines.append(f"the source as its own translation: {BLEU.label(self.floor)}")
        return lines

    def counts(self) -> dict[str, Any]:
        """What run.json says of the data: sizes, languages, the floor of copying the source, a checksum."""
        examples, data = self.training_examples(), self.prepared.data
        options = self.arguments.data
        drawn = (options.word_dropout, options.bpe_dropout)  # with others a resumed run would read something else
        checksum = sha1(repr((examples.sources, examples.targets, drawn)).encode())
        return {
            "rows": {"train": len(examples), "validation": len(data.splits["validation"])},
            "pieces": {"source": sum(map(len, examples.sources)), "target": sum(map(len, examples.targets))},
            "languages": self._languages(),
            "floor": self.floor,
            "too_long": self.too_long,
            "bleu_tokenize": self.tokenize,
            "vocab_size": vocab_size_of(self.prepared.tokenizer),
            "train_sha1": checksum.hexdigest(),
        }


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """An existing tokenizer by name or path; it must end each text by its end token.

    Raises:
        InputError: There is none, or it has no end or padding token, or does not put the end token there.
    """
    check_local(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"`tokenizer_name` {name} does not load: {' '.join(str(error).split())}") from error
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise InputError(f"`tokenizer_name` {name} needs an end and a padding token")
    if tokenizer("a").input_ids[-1:] != [tokenizer.eos_token_id]:
        raise InputError(f"`tokenizer_name` {name} must put its end token {tokenizer.eos_token!r} behind each text")
    return tokenizer
