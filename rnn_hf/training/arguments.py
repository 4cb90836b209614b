"""The arguments of a training run: dataclasses, recipes in YAML, and flags that override them."""

import argparse
import dataclasses
import difflib
import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from rnn_hf.models import RNNConfig


# What other programs call these arguments.
SYNONYMS = {
    "batch_size": "per_device_train_batch_size", "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size", "epochs": "num_train_epochs", "num_epochs": "num_train_epochs",
    "lr": "learning_rate", "optimizer": "optim", "wd": "weight_decay", "clip": "max_grad_norm", "bptt": "window",
    "seq_len": "window", "block_size": "window", "model": "cell_type", "nlayers": "num_hidden_layers",
    "num_layers": "num_hidden_layers", "nhid": "hidden_size", "emsize": "embedding_size",
    "tied": "tie_word_embeddings", "dropout": "embedding_dropout input_dropout hidden_dropout output_dropout",
    "data": "train_file dataset_name ptb_dir", "save": "output_dir", "resume": "resume_from_checkpoint",
    "model_name_or_path": "init_from", "no_cuda": "use_cpu", "cpu": "use_cpu", "log_interval": "logging_steps",
}  # fmt: skip
OTHER_VALUES = {"elman": "rnn"}  # what a choice is called besides
KINDS_OF_VALUE = {int: "a whole number", float: "a number"}


def _refuse_non_finite(arguments: Any) -> None:
    for name, value in vars(arguments).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name} must be a finite number, got {value}")


def _described(docstring: str | None) -> dict[str, str]:
    """What the Args section of a docstring says of each argument; nothing under `python -OO`."""
    section = inspect.cleandoc(docstring or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()).replace("%", "%%") for name, text in entries}


def _model_fields() -> list[tuple[str, Any, Any]]:
    """The fields of RNNConfig that a user sets, with their defaults and descriptions: said once, there."""
    fixed = {"vocab_size", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id"}  # set from the tokenizer
    fields, described = [], _described(RNNConfig.__doc__)
    for name in (name for name in RNNConfig.__annotations__ if name not in fixed):
        kind = RNNConfig.__annotations__[name]
        if get_origin(kind) in (Union, types.UnionType) and float in get_args(kind):
            kind = float  # RNNConfig takes whole numbers for its probabilities as well
        metadata = {"help": described.get(name, f"RNNConfig.{name}")}
        fields.append((name, kind, field(default=getattr(RNNConfig, name), metadata=metadata)))
    return fields


ModelArguments = make_dataclass("ModelArguments", _model_fields(), namespace={"__post_init__": _refuse_non_finite})
ModelArguments.__doc__ = "The shape and the dropouts of the network: the fields of RNNConfig but the vocabulary."


@dataclass
class DataArguments:
    """Which corpus, and how it becomes tokens."""

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
        if not 1 <= self.validation_split_percentage <= 50:
            raise ValueError(
                f"--validation_split_percentage must be from 1 to 50, got {self.validation_split_percentage}"
            )
        if self.max_train_tokens is not None and self.max_train_tokens < 1:
            raise ValueError(f"--max_train_tokens must be at least 1, got {self.max_train_tokens}")
        if self.min_frequency < 1:
            raise ValueError(f"--min_frequency must be at least 1, got {self.min_frequency}")


@dataclass
class TrainingArguments:
    """How the run goes. Names are those of transformers.TrainingArguments where it has one."""

    output_dir: str = field(default="runs/default", metadata={"help": "where the model and the run's files go"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "replace the run that output_dir holds"})
    seed: int = field(default=42, metadata={"help": "of initialisation and dropout"})
    num_train_epochs: int = field(default=10, metadata={"help": "passes over the stream; the schedule's length"})
    max_steps: int = field(default=-1, metadata={"help": "stop after so many optimizer steps; -1: run all epochs"})
    per_device_train_batch_size: int = field(default=20, metadata={"help": "columns of the stream on each process"})
    per_device_eval_batch_size: int = field(default=10, metadata={"help": "columns when validating during training"})
    window: int = field(default=35, metadata={"help": "steps of truncated backpropagation through time"})
    random_windows: bool = field(
        default=False, metadata={"help": "draw each window's length around --window, with the rate in proportion"}
    )
    partial_shuffle: bool = field(default=False, metadata={"help": "turn each column at random before each epoch"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "windows an optimizer step"})
    optim: Literal["sgd", "adam", "adamw"] = field(default="adam", metadata={"help": "optimizer"})
    learning_rate: float = field(
        default=None,  # type: ignore[assignment]  # a number from __post_init__ on
        metadata={"help": "peak learning rate; None: 20 for sgd, 0.002 for adam and adamw"},
    )
    weight_decay: float = field(default=0.0, metadata={"help": "L2 (sgd, adam) or decoupled (adamw)"})
    momentum: float = field(default=0.0, metadata={"help": "of sgd"})
    adam_beta1: float = field(default=0.9, metadata={"help": "of adam and adamw"})
    adam_beta2: float = field(default=0.999, metadata={"help": "of adam and adamw"})
    activation_regularization: float = field(default=0.0, metadata={"help": "AR, on the output after dropout"})
    temporal_activation_regularization: float = field(default=0.0, metadata={"help": "TAR, on the output's changes"})
    past_decode_regularization: float = field(default=0.0, metadata={"help": "PDR, on decoding the token before"})
    label_smoothing_factor: float = field(default=0.0, metadata={"help": "share of a target spread over all words"})
    average_start_step: int = field(default=-1, metadata={"help": "average the weights after this step; -1: do not"})
    nonmonotone_interval: int = field(
        default=0,
        metadata={"help": "average once validation is worse than all but the last so many (NT-ASGD has 5); 0: do not"},
    )
    init_from: str | None = field(
        default=None, metadata={"help": "start from the weights of this model, of the same shape and vocabulary"}
    )
    max_grad_norm: float = field(
        default=None,  # type: ignore[assignment]  # as of the learning rate
        metadata={"help": "clip the gradient's norm to this, 0: do not; None: 0.25 for sgd, 1 for adam and adamw"},
    )
    lr_scheduler_type: Literal["constant", "linear", "cosine", "one_cycle", "step", "reduce_lr_on_plateau"] = field(
        default="cosine", metadata={"help": "learning-rate schedule"}
    )
    warmup_steps: int = field(default=0, metadata={"help": "linear warm-up of constant, linear and cosine"})
    lr_decay: float = field(default=0.5, metadata={"help": "factor of step and reduce_lr_on_plateau"})
    lr_decay_start: int = field(default=4, metadata={"help": "step: epochs before the first decay; then every epoch"})
    lr_patience: int = field(default=0, metadata={"help": "reduce_lr_on_plateau: evaluations without gain to bear"})
    bf16: bool = field(
        default=False, metadata={"help": "compute in bfloat16; recurrent layers too where that is faster"}
    )
    fp16: bool = field(default=False, metadata={"help": "the same in float16, on a GPU, with a scaled loss"})
    tf32: bool = field(
        default=True, metadata={"help": "on a GPU: round the factors of float32 products to TF32, which is faster"}
    )
    eval_steps: int = field(default=0, metadata={"help": "validate each so many steps; 0: after each epoch"})
    save_steps: int = field(default=0, metadata={"help": "checkpoint each so many steps; 0: after each epoch"})
    save_total_limit: int = field(default=1, metadata={"help": "resumable checkpoints to keep; 0: none at all"})
    logging_steps: int = field(default=50, metadata={"help": "write training loss each so many steps"})
    early_stopping_patience: int = field(default=0, metadata={"help": "stop after so many validations without gain"})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "a checkpoint-N directory, or 'last': the newest in output_dir, if any"}
    )
    report_to: str = field(default="none", metadata={"help": "Accelerate trackers, comma-separated: tensorboard, ..."})
    push_to_hub: bool = field(default=False, metadata={"help": "push the best model to the Hub at the end"})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "repository to push to, [USER/]NAME; default: the name of output_dir"}
    )
    hub_private_repo: bool | None = field(default=None, metadata={"help": "a new repository is private"})
    hub_strategy: Literal["end", "all_checkpoints"] = field(
        default="end", metadata={"help": "all_checkpoints: push at each checkpoint too, with the checkpoints kept"}
    )
    measure_kernels: bool = field(
        default=True,
        metadata={"help": "on a CPU: choose the fastest kernels by a short measurement; false: the same everywhere"},
    )
    cuda_graphs: bool = field(
        default=True, metadata={"help": "on one GPU: record steps and run them without Python, which is faster"}
    )
    use_cpu: bool = field(default=False, metadata={"help": "do not use a GPU"})
    disable_tqdm: bool = field(default=False, metadata={"help": "no progress bar"})

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            self.learning_rate = 20.0 if self.optim == "sgd" else 2e-3
        if self.max_grad_norm is None:
            self.max_grad_norm = 0.25 if self.optim == "sgd" else 1.0
        _refuse_non_finite(self)
        if not self.output_dir.strip():
            raise ValueError(f"--output_dir must name a directory, got {self.output_dir!r}")
        at_least = {
            1: "num_train_epochs per_device_train_batch_size per_device_eval_batch_size window logging_steps "
            "gradient_accumulation_steps",
            0: "max_grad_norm weight_decay momentum warmup_steps lr_decay_start lr_patience eval_steps save_steps "
            "save_total_limit early_stopping_patience seed nonmonotone_interval activation_regularization "
            "temporal_activation_regularization past_decode_regularization",
            -1: "average_start_step",
        }
        for bound, names in at_least.items():
            for name in names.split():
                if getattr(self, name) < bound:
                    raise ValueError(f"--{name} must be at least {bound}, got {getattr(self, name)}")
        if self.bf16 and self.fp16:
            raise ValueError("--bf16 and --fp16 do not go together: choose one")
        if self.learning_rate <= 0:
            raise ValueError(f"--learning_rate must be positive, got {self.learning_rate}")
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(f"--max_steps must be positive, or -1 for all epochs, got {self.max_steps}")
        for name in ("adam_beta1", "adam_beta2", "momentum", "label_smoothing_factor"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.lr_decay < 1:
            raise ValueError(f"--lr_decay is a factor in (0, 1), got {self.lr_decay}")


@dataclass
class Arguments:
    """A whole run: model, data and training arguments, and the recipe that they came from."""

    model: Any  # a ModelArguments, whose class is made from RNNConfig
    data: DataArguments
    training: TrainingArguments
    recipe: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, for run.json."""
        return dataclasses.asdict(self)


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Read a recipe and flags: defaults, then the recipe, then the flags.

    Args:
        argv: `[recipe.yaml] [--flag value ...]`; `None` takes those of the process.

    Raises:
        ValueError: A recipe that does not exist, an unknown key or flag, or a value of the wrong type or out of range.

    Example:

    >>> parse_arguments(["--cell_type", "gru", "--learning_rate", "1e-3"]).training.learning_rate
    0.001
    """
    kinds = (ModelArguments, DataArguments, TrainingArguments)
    parser = _Parser(
        kinds,  # type: ignore[arg-type]
        prog="rnn-hf train",
        description="Train a recurrent language model.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("recipe", nargs="?", help="YAML file of values for these flags")
    argv = sys.argv[1:] if argv is None else list(argv)
    recipe, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    types_of = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    known = list(types_of)
    if recipe is not None:
        given = _as_flags(recipe, read_recipe(recipe, known), types_of)
        try:
            parser.parse_args_into_dataclasses(given, look_for_args_file=False)
            parser.set_defaults(**vars(parser.parse_known_args(given)[0]))
        except (argparse.ArgumentError, ValueError) as error:
            raise ValueError(f"recipe {recipe}: {_reason(error).replace('--', '')}") from error
    try:
        model, data, training, other, unknown = parser.parse_args_into_dataclasses(
            args=rest, look_for_args_file=False, return_remaining_strings=True
        )
    except argparse.ArgumentError as error:
        raise ValueError(_reason(error)) from error
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise ValueError(f"unknown flag {flag!r}" + _hint(flag.lstrip("-"), known, "--"))
    if other.recipe is not None:
        raise ValueError(f"put the recipe before the flags: {other.recipe} [--flag value ...]")
    return Arguments(model, data, training, recipe)


def read_recipe(path: str, known: Sequence[str]) -> dict[str, str | None]:
    """The values of a recipe as they are written there, to be parsed as flags are; `None` for a key without one.

    Raises:
        ValueError: No such file, not a mapping, a key that is not in `known` or that is there twice, or a value that
            is a list or a mapping.
    """
    if not Path(path).is_file():
        raise ValueError(f"no recipe {path}; recipes are YAML files, see scripts/recipes/")
    try:
        # Nodes, which have the text of a value: loaded, 2024_05 would be a number and `no` false.
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"recipe {path} must be a mapping of flags to values")
    values: dict[str, str | None] = {}
    for key, value in root.value:
        name = str(key.value)
        if name not in known:
            raise ValueError(f"recipe {path}: unknown key {name!r}" + _hint(name, known))
        if name in values:
            raise ValueError(f"recipe {path}: {name!r} is there twice, again in line {key.start_mark.line + 1}")
        if not isinstance(value, yaml.ScalarNode):
            raise ValueError(f"recipe {path}: {name!r} must be one value")
        values[name] = None if value.tag == "tag:yaml.org,2002:null" else value.value
    return values


def _as_flags(recipe: str, values: dict[str, str | None], types_of: dict[str, Any]) -> list[str]:
    """A recipe as flags. A key without a value keeps the default, which is None, where None is a value."""
    flags = []
    for name, value in values.items():
        if value is not None:
            if bool in (types_of[name], *get_args(types_of[name])):
                value = {"on": "true", "off": "false"}.get(value.lower(), value)
            flags.append(f"--{name}={value}")
        elif types.NoneType not in get_args(types_of[name]):
            raise ValueError(f"recipe {recipe}: {name!r} has no value: give one, or leave the line out")
    return flags


class _Parser(HfArgumentParser):
    """Says of a value of the wrong type what would be right."""

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """As of argparse; of the two spellings of a flag that transformers gives, help shows the one of the manual."""
        if "type" in options:
            choices = options.pop("choices", ())
            if choices:
                options["metavar"] = f"{{{','.join(choices)}}}"
            options["type"] = _reader(options["type"], choices)
        spelled = [name for name in names if "-" not in name.removeprefix("--")]
        action = super().add_argument(*names, **options)
        if spelled and spelled != list(names):
            action.option_strings = spelled
        return action


def _reader(kind: Callable[[str], Any], choices: Sequence[str]) -> Callable[[str], Any]:
    """A value from its text, by `kind`, which raises an error where it cannot."""
    right = f"one of {', '.join(choices)}" if choices else KINDS_OF_VALUE.get(kind, "true or false")  # type: ignore[call-overload]

    def read(text: str) -> Any:
        try:
            value = OTHER_VALUES.get(text, text) if choices else kind(text)
        except (ValueError, argparse.ArgumentTypeError):
            value = None
        if value is None or (choices and value not in choices):
            raise argparse.ArgumentTypeError(f"must be {right}, got {text!r}")
        return value

    return read


def _reason(error: Exception) -> str:
    """What an error of argparse says, its flag by one of its two names."""
    if not isinstance(error, argparse.ArgumentError):
        return str(error)
    flag = str(error.argument_name).partition("/")[0]
    return f"{flag} {error.message}" if error.message.startswith("must be ") else f"{flag}: {error.message}"


def _hint(name: str, known: Sequence[str], prefix: str = "") -> str:
    """What somebody may have meant by a name that is not `known`."""
    name = name.replace("-", "_")
    if name in SYNONYMS:
        return f": that is {' or '.join(prefix + other for other in SYNONYMS[name].split())} here"
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""
