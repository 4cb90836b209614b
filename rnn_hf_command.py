"""The command `rnn-hf`: what it can do is said at once, and a command's flags are read before the package is imported.

That takes seconds, as torch and transformers come with it.
"""

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn


COMMANDS = {
    "train": "train a network, by a recipe and flags",
    "recipes": "list the recipes",
    "evaluate": "perplexity of a language model, accuracy of a classifier, word errors of a recognizer, BLEU",
    "predict": "labels of texts, or of words, by a classifier; texts of recordings",
    "transcribe": "text of recordings, with --stream as they are heard",
    "translate": "texts in another language, by one network or several",
    "generate": "write text",
    "score": "surprisal of each word",
    "adapt": "perplexity with dynamic evaluation, neural cache or temperature",
    "inspect": "gradients over distance, spectra and gates of a network",
    "compare": "training runs side by side, seeds with mean and deviation",
    "benchmark": "latency of a token of your own model",
    "export": "write an ONNX file",
    "serve": "serve a model by OpenAI's interface",
    "convert": "a repository of the Hub from a checkpoint of another project",
    "push": "push a model to the Hub",
}


def main(name: str | None = None, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code.

    Args:
        name: Of `COMMANDS`; `None` takes the first word of the command line.
        argv: What follows the name; `None` takes it from the command line.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if name is None:
        name = words.pop(0) if words else "--help"
    try:
        try:
            answer(name, words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # its reader, such as head, has seen enough; Python flushes once more on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def answer(name: str, words: Sequence[str]) -> NoReturn:
    """Say what there is, or run a command."""
    if name in ("-h", "--help", "help"):
        rows = "\n".join(f"  {command:<10} {text}" for command, text in COMMANDS.items())
        print(f"usage: rnn-hf COMMAND [ARGUMENTS]\n\n{rows}\n\nrnn-hf COMMAND --help lists the flags of a command.")
        sys.exit(0)
    if name == "--version":
        print(metadata.version("rnn_hf"))
        sys.exit(0)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(COMMANDS)}"
        sys.stderr.write(f"error: no command {name!r}; {hint}\n")
        sys.exit(2)
    run(name, words)


def run(name: str, argv: Sequence[str]) -> NoReturn:
    """Read the flags of a command, import the package, and run the command."""
    spec = importlib.util.find_spec("rnn_hf")
    assert spec is not None and spec.loader is not None
    is_imported = "rnn_hf" in sys.modules
    # The package's own file imports torch and registers models; until it is run there is a package without content.
    package = sys.modules.setdefault("rnn_hf", importlib.util.module_from_spec(spec))
    command = importlib.import_module(f"rnn_hf.commands.{name}")
    arguments = command.parse(argv)
    if not is_imported:
        spec.loader.exec_module(package)
    importlib.import_module("rnn_hf.commands").run_command(
        lambda: command.run(arguments), getattr(arguments, "flags", None)
    )
    raise AssertionError("unreachable")


if __name__ == "__main__":
    main()
