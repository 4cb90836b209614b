"""What the commands share: their parser, flags, and how they end.

A command is a module here with `parse` and `run`. It imports what takes long in `run`, so that help and a mistyped
flag are answered at once.
"""

import difflib
import io
import os
import re
import sys
from argparse import Action, ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rnn_hf.errors import InputError, MissingPackageError


RECIPES = Path(__file__).parents[1] / "recipes"
CORPUS_HELP = {
    "dataset_name": "ptb, sotu, or a data set of the Hub",
    "dataset_config_name": "configuration of a data set of the Hub",
    "dataset_revision": "branch, tag or commit of a data set of the Hub",
    "text_column": "column of text of a data set of the Hub",
    "ptb_dir": "directory with ptb.{train,valid,test}.txt",
    "train_file": "text file of the training split",
    "validation_file": "text file of the validation split",
    "test_file": "text file of the test split",
}
# Of a recognizer of speech: arguments of `rnn_hf.tasks.speech_search.load_search`.
SEARCH: dict[str, tuple[type, str, str]] = {
    "num_beams": (int, "N", "hypotheses of a search, 16 with one of the flags below; of a translator 5"),
    "language_model": (str, "MODEL", "directory or name on the Hub of a language model that has a say in the search"),
    "language_model_weight": (float, "WEIGHT", "of its log-probabilities (0.5)"),
    "length_bonus": (float, "NATS", "for each label of a hypothesis (0)"),
}


class Arguments(Namespace):
    """What a command was given; `flags` are the names of its flags, and no value of `vars()`."""

    __slots__ = ("flags",)
    flags: set[str]


class Formatter(ArgumentDefaultsHelpFormatter):
    """Help with the defaults, but for flags that are off or have none."""

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(ArgumentParser):
    """A parser whose errors are one line, and whose help has the defaults.

    Args:
        doc: Docstring of the command; its first line says what the command does.
        name: Of the command.
    """

    def __init__(self, doc: str | None, name: str):
        super().__init__(
            f"rnn-hf {name}", description=(doc or "").partition("\n")[0], allow_abbrev=False,
            formatter_class=lambda prog: Formatter(prog, max_help_position=32, width=110),
        )  # fmt: skip

    def parse_args(self, argv: Sequence[str] | None = None, namespace: Any = None) -> Namespace:  # type: ignore[override]
        arguments, unknown = self.parse_known_args(argv, namespace or Arguments())
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        if unknown:
            close = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1)
            self.error(f"unknown argument {unknown[0]!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        arguments.flags = {flag.removeprefix("--") for flag in flags}
        return arguments

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help lists all)\n")


def utf8_text(value: str) -> str:
    """The type of an argument that a tokenizer reads: bytes of a shell that are not UTF-8 are refused."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ArgumentTypeError(f"must be UTF-8 text, got {value!r}") from None
    return value


def add_model_argument(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="directory, or name on the Hub")


def add_device_flag(parser: ArgumentParser) -> None:
    """The flag `--device`, whose value `rnn_hf.loading.load_model` takes."""
    names = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", choices=names, default="auto", help="auto is a GPU where there is one")


def add_corpus_flags(parser: ArgumentParser) -> None:
    """The arguments of `rnn_hf.data.corpora.load_corpus` as flags."""
    for name, text in CORPUS_HELP.items():
        parser.add_argument(f"--{name}", metavar=name.rpartition("_")[2].upper(), help=text)


def corpus_of(arguments: Namespace) -> dict[str, str]:
    """The corpus flags that were given, for `load_corpus`."""
    return {name: value for name in CORPUS_HELP if (value := getattr(arguments, name)) is not None}


def add_search_flags(parser: ArgumentParser) -> None:
    """Flags that say how a recognizer of speech finds labels."""
    for name, (kind, value, text) in SEARCH.items():
        parser.add_argument(f"--{name}", type=kind, metavar=value, help=f"of a recognizer of speech: {text}")


def search_of(arguments: Namespace) -> dict[str, Any]:
    """Those that were given, for `load_search`.

    Raises:
        InputError: A weight without a language model.
    """
    given = {name: value for name in SEARCH if (value := getattr(arguments, name)) is not None}
    if "language_model_weight" in given and "language_model" not in given:
        raise InputError("--language_model_weight is that of --language_model, which is not given")
    return given


def check_file(flag: str, file: str | None) -> None:
    """Refuse a file that cannot be written, before the work whose result goes there."""
    if file is None:
        return
    path = Path(file).absolute()
    if path.is_dir():
        raise IsADirectoryError(f"--{flag} must name a file, and {file} is a directory")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--{flag}: no directory {Path(file).parent}")


def check_picture(flag: str, file: str | None) -> None:
    """Refuse a picture that cannot be drawn or written."""
    from rnn_hf.plotting import new_figure

    if file is None:
        return
    if Path(file).suffix.lower() != ".png":
        raise InputError(f"--{flag} must name a file that ends in .png, got {file}")
    check_file(flag, file)
    new_figure(1, 1)  # says what is missing


def with_flags(message: str, flags: Collection[str] | None = None) -> str:
    """A message of the library, which speaks of arguments in backquotes, in the words of the command line.

    Args:
        message: Of an error.
        flags: Names of the command's flags; other names stay as they are. `None`: any argument is a flag.

    Example:

    >>> with_flags('give `train_file` or `dataset_name="ptb"`, not `input_ids`', {"train_file", "dataset_name"})
    'give --train_file or --dataset_name ptb, not `input_ids`'
    """

    def as_flag(match: re.Match) -> str:
        name, value = match.groups()
        if flags is not None and name not in flags:
            return match[0]
        return f"--{name}" if value is None else f"--{name} {value}"

    return re.sub(r"""`([a-z_]\w*)(?:=["']?([^`]*?)["']?)?`""", as_flag, message)


def mistake_of(error: Exception) -> str | None:
    """What a user did wrong, or the world refused, in one line; `None` for a bug."""
    if type(error) is Exception and "Missing [UNK] token" in str(error):  # tokenizers has no class of its own for it
        return "the text has a word that is not in the vocabulary of the model, which has no token for unknown words"
    if isinstance(error, InputError | MissingPackageError | OSError | FloatingPointError):
        return re.sub(r"\s*\n\s*", " ", str(error))
    return None


def run_command(main: Callable[[], int], flags: Collection[str] | None = None) -> NoReturn:
    """Run what a command does and exit with its code.

    A user's mistake, or what the world refuses, is one line and code 2; any other error is a bug, whose traceback
    Python prints with code 1.

    What a console cannot show is printed as `\\u2581`, and the command ends without a word when its reader, such as
    `head`, has seen enough. A GPU computes float32 in full.

    Args:
        main: What the command does; returns its code.
        flags: As of `with_flags`.
    """
    import torch

    # cuDNN would round the factors of float32 products to TF32. Training sets this by its own flag.
    torch.backends.cudnn.allow_tf32 = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more on its way out, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        line = mistake_of(error)
        if line is None:
            raise
        sys.stderr.write(f"error: {with_flags(line, flags)}\n")
        code = 2
    sys.exit(code)
