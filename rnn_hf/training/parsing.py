"""Recipes in YAML and flags, read into the dataclasses of arguments; flags override recipes."""

import argparse
import dataclasses
import difflib
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from rnn_hf.errors import InputError
from rnn_hf.training.arguments import KINDS, Arguments


# What other programs call these arguments.
SYNONYMS = {
    "batch_size": "per_device_train_batch_size", "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size", "epochs": "num_train_epochs", "num_epochs": "num_train_epochs",
    "lr": "learning_rate", "optimizer": "optim", "wd": "weight_decay", "clip": "max_grad_norm", "bptt": "window",
    "seq_len": "window", "block_size": "window", "model": "cell_type", "nlayers": "num_hidden_layers",
    "num_layers": "num_hidden_layers", "nhid": "hidden_size", "emsize": "embedding_size",
    "tied": "tie_word_embeddings", "data": "train_file dataset_name ptb_dir dataset_dir",
    "dropout": "embedding_dropout input_dropout hidden_dropout output_dropout classifier_dropout",
    "save": "output_dir", "resume": "resume_from_checkpoint",
    "model_name_or_path": "init_from", "no_cuda": "use_cpu", "cpu": "use_cpu", "log_interval": "logging_steps",
}  # fmt: skip
OTHER_VALUES = {"elman": "rnn"}  # what a choice is called besides
KINDS_OF_VALUE = {int: "a whole number", float: "a number", bool: "true or false"}
SWITCH = dict.fromkeys(("yes", "true", "t", "y", "1", "on"), True) | dict.fromkeys(
    ("no", "false", "f", "n", "0", "off"), False
)


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Read a recipe and flags: defaults, then the recipe, then the flags.

    Args:
        argv: `[recipe.yaml] [--flag value ...]`; `None` takes those of the process.

    Raises:
        InputError: A recipe that does not exist, an unknown key or flag, or a value of the wrong type or out of range.

    Example:

    >>> parse_arguments(["--cell_type", "gru", "--learning_rate", "1e-3"]).training.learning_rate
    0.001
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    recipe, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    written = {} if recipe is None else read_recipe(recipe)
    task = _task_of(recipe, written, rest)
    kinds = KINDS[task]
    types_of = {"task": str} | {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    parser, known = _parser(kinds, task), list(types_of)
    if recipe is not None:
        for name in written:
            if name not in known:
                raise InputError(f"recipe {recipe}: unknown key {name!r}" + _hint(name, known, task))
        flags = _as_flags(recipe, written, types_of)
        try:
            given = parser.parse_args(flags)
            _made(kinds, given)  # so that a value out of range is told as the recipe's
        except (argparse.ArgumentError, InputError) as error:
            raise InputError(f"recipe {recipe}: {_reason(error).replace('--', '').replace('`', '')}") from error
        parser.set_defaults(**vars(given))
    try:
        values, unknown = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise InputError(_reason(error)) from error
    if unknown:
        flag = unknown[0].partition("=")[0]
        raise InputError(f"unknown flag {flag!r}" + _hint(flag.lstrip("-"), known, task, "--"))
    if values.recipe is not None:
        raise InputError(f"put the recipe before the flags: {values.recipe} [--flag value ...]")
    model, data, training = _made(kinds, values)
    return Arguments(model, data, training, recipe, task)


def _task_of(recipe: str | None, written: dict[str, str | None], flags: Sequence[str]) -> str:
    """The task by its flag, or as the recipe has it, which other flags depend on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task")
    task = parser.parse_known_args(flags)[0].task
    own = written.get("task") or "language-modeling"
    if task is not None and recipe is not None and task != own:
        raise InputError(f"--task {task} does not go with the recipe {recipe}, whose task is {own}")
    if (task or own) not in KINDS:
        raise InputError(f"--task must be one of {', '.join(KINDS)}, got {task or own!r}")
    return task or own


def _made(kinds: Sequence[Any], values: argparse.Namespace) -> list[Any]:
    """Each of the dataclasses from its values, which it checks."""
    return [kind(**{part.name: getattr(values, part.name) for part in dataclasses.fields(kind)}) for kind in kinds]


def read_recipe(path: str) -> dict[str, str | None]:
    """The values of a recipe as they are written there, to be parsed as flags are; `None` for a key without one.

    Raises:
        InputError: No such file, not a mapping, a key that is there twice, or a value that is a list or a mapping.
    """
    if not Path(path).is_file():
        raise InputError(f"no recipe {path}; recipes are YAML files, see scripts/recipes/")
    try:
        # Nodes, which have the text of a value: loaded, 2024_05 would be a number and `no` false.
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise InputError(f"recipe {path} is not UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"recipe {path} must be a mapping of flags to values")
    values: dict[str, str | None] = {}
    for key, value in root.value:
        name = str(key.value)
        if name in values:
            raise InputError(f"recipe {path}: {name!r} is there twice, again in line {key.start_mark.line + 1}")
        if not isinstance(value, yaml.ScalarNode):
            raise InputError(f"recipe {path}: {name!r} must be one value")
        values[name] = None if value.tag == "tag:yaml.org,2002:null" else value.value
    return values


def _as_flags(recipe: str, values: dict[str, str | None], types_of: dict[str, Any]) -> list[str]:
    """A recipe as flags. A key without a value keeps the default, which is None, where None is a value."""
    flags = []
    for name, value in values.items():
        if value is not None:
            flags.append(f"--{name}={value}")
        elif types.NoneType not in get_args(types_of[name]):
            raise InputError(f"recipe {recipe}: {name!r} has no value: give one, or leave the line out")
    return flags


def _parser(kinds: Sequence[Any], task: str) -> argparse.ArgumentParser:
    """A parser with a flag for each field of the dataclasses; it raises `argparse.ArgumentError`."""
    parser = argparse.ArgumentParser(
        "rnn-hf train", allow_abbrev=False, exit_on_error=False,
        description=f"Train a recurrent network: {task}. The flags of another task: --task NAME --help.",
        formatter_class=lambda prog: argparse.ArgumentDefaultsHelpFormatter(prog, max_help_position=32, width=110),
    )  # fmt: skip
    parser.add_argument("recipe", nargs="?", help="YAML file of values for these flags, or the name of a recipe")
    parser.add_argument("--task", default=task, metavar=f"{{{','.join(KINDS)}}}", help="what is learned")
    for kind in kinds:
        hints = get_type_hints(kind)
        for part in dataclasses.fields(kind):
            _add_flag(parser, part.name, hints[part.name], part.default, part.metadata["help"])
    return parser


def _add_flag(parser: argparse.ArgumentParser, name: str, hint: Any, default: Any, text: str) -> None:
    """`--name VALUE`; a switch is also on as `--name`, and off as `--no_name`. Dashes may stand for underscores."""
    (kind,) = set(get_args(hint)) - {types.NoneType} if get_origin(hint) in (Union, types.UnionType) else {hint}
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    shown = f"{{{','.join(choices)}}}" if choices else {int: "N", float: "X", bool: "BOOL"}.get(kind, "TEXT")
    options: dict[str, Any] = {"type": _reader(kind, choices), "metavar": shown, "help": text}
    if kind is bool:
        options |= {"nargs": "?", "const": True}
    dashed = name.replace("_", "-")
    action = parser.add_argument(*dict.fromkeys((f"--{name}", f"--{dashed}")), default=default, **options)
    if kind is bool:
        off = dict.fromkeys((f"--no_{name}", f"--no-{dashed}"))
        parser.add_argument(*off, dest=name, action="store_const", const=False, help=argparse.SUPPRESS)
    action.option_strings = [f"--{name}"]  # the one of the manual, in help and errors


def _reader(kind: Callable[[str], Any], choices: Sequence[str]) -> Callable[[str], Any]:
    """A value from its text; raises what argparse reports where it cannot."""
    right = f"one of {', '.join(choices)}" if choices else KINDS_OF_VALUE.get(kind, "text")  # type: ignore[call-overload]

    def read(text: str) -> Any:
        try:
            value = SWITCH[text.lower()] if kind is bool else OTHER_VALUES.get(text, text) if choices else kind(text)
        except (ValueError, KeyError):
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


def _hint(name: str, known: Sequence[str], task: str, prefix: str = "") -> str:
    """What somebody may have meant by a name that is not `known`."""
    name = name.replace("-", "_")
    meant = SYNONYMS.get(name, "").split()
    here = [prefix + other for other in meant if other in known]
    if here:
        return f": that is {' or '.join(here)} here"
    wanted = {name, *meant}
    others = [other for other in KINDS if any(wanted & get_type_hints(kind).keys() for kind in KINDS[other])]
    if others:
        what = f"that is {' or '.join(prefix + other for other in meant)}, which" if meant else "it"
        return f": {what} is for the task {' and '.join(others)}, and this is {task}"
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""
