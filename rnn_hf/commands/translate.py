"""Translations of texts by a network, or by several together.

    rnn-hf translate MODEL "two dogs are playing ." [TEXT ...] [--num_beams 5]
    rnn-hf translate MODEL --file captions.en --output captions.de
    ... | rnn-hf translate MODEL
    rnn-hf translate MODEL MODEL MODEL "two dogs are playing ."
    rnn-hf translate MODEL "two dogs are playing ." --attention attention.png

Texts are split into words as those that the model was trained on; a file has one a line. Models of one vocabulary
write together what the mean of their log-probabilities says: behind the first one, the directory of a model and a name
such as USER/NAME are further models. The picture shows for each word of the first translation where the network
looked.
"""

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rnn_hf.commands import Parser, add_device_flag, add_model_argument, check_file, check_picture, utf8_text
from rnn_hf.errors import InputError


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "translate")
    add_model_argument(parser)
    parser.add_argument(
        "texts", type=utf8_text, nargs="*", metavar="TEXT",
        help="to translate; default: lines of standard input. Before texts, further models",
    )  # fmt: skip
    parser.add_argument("--file", metavar="FILE", help="texts, one a line, - for standard input")
    parser.add_argument("--output", metavar="FILE", help="file of the translations; default: printed")
    parser.add_argument("--num_beams", type=int, default=5, metavar="N", help="hypotheses of the search; 1: greedy")
    parser.add_argument(
        "--length_penalty", type=float, metavar="POWER",
        help="of the length by which scores are divided; higher: longer translations; default: the model's own",
    )  # fmt: skip
    parser.add_argument(
        "--attention", metavar="PNG", help="picture of where the network looked for the first translation"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="texts translated together; same result")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a model of the Hub")
    add_device_flag(parser)
    arguments = parser.parse_args(argv)
    arguments.models = [arguments.model]
    while arguments.texts and is_model(arguments.texts[0]):
        arguments.models.append(arguments.texts.pop(0))
    return arguments


def is_model(word: str) -> bool:
    """Whether a word names a model: the directory of one, or as repositories of the Hub are named."""
    is_directory = bool(word.strip()) and (Path(word) / "config.json").is_file()
    return is_directory or re.fullmatch(r"[\w.-]+/[\w.-]+", word) is not None


def check(arguments: Namespace) -> None:
    """What makes no sense is refused before the models are loaded."""
    from rnn_hf.loading import config_of

    if arguments.texts and arguments.file:
        raise InputError("give either texts or --file FILE")
    for flag in ("num_beams", "batch_size"):
        if getattr(arguments, flag) < 1:
            raise InputError(f"--{flag} must be at least 1, got {getattr(arguments, flag)}")
    check_file("output", arguments.output)
    if arguments.attention and len(arguments.models) > 1:
        raise InputError("--attention is of one model, and there are several")
    config = config_of(arguments.model, arguments.revision)
    if arguments.attention and getattr(config, "attention", None) is None:
        raise InputError(f"--attention needs a network with attention, and {arguments.model} has none")
    check_picture("attention", arguments.attention)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.files import write_text
    from rnn_hf.scoring import read_lines
    from rnn_hf.tasks.translation import load_translators
    from rnn_hf.tasks.translation_alignment import alignment_of, plot_alignment
    from rnn_hf.translation import translate

    check(arguments)
    disable_progress_bar()
    models, tokenizer = load_translators(arguments.models, arguments.revision, arguments.device)
    if not (arguments.texts or arguments.file) and sys.stdin.isatty():
        sys.stderr.write("reading texts from standard input, one a line; Ctrl-D ends them\n")
    texts = arguments.texts or list(read_lines(arguments.file or "-"))
    if not any(text.strip() for text in texts):
        source = arguments.file or ("the arguments" if arguments.texts else "standard input")
        raise InputError(f"there is no text in {source}")
    written = translate(
        models, tokenizer, texts, arguments.num_beams, arguments.batch_size, arguments.length_penalty,
        progress=bool(arguments.output) and sys.stderr.isatty(),
    )  # fmt: skip
    if arguments.output:
        write_text(Path(arguments.output), "".join(f"{line}\n" for line in written))
    else:
        print("\n".join(written))
    if arguments.attention:
        first = next(index for index, text in enumerate(texts) if text.strip())
        alignment = alignment_of(models[0], tokenizer, texts[first], written[first])
        plot_alignment(alignment, Path(arguments.attention))
    return 0
