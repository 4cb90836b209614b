"""Surprisal of each token of texts, as tab-separated lines: text, token, surprisal.

    rnn-hf score MODEL "The Congress shall assemble." [TEXT ...]
    rnn-hf score MODEL --file FILE [--unit nats] [--carry_state]

A file has a text a line.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from rnn_hf.commands import Parser, add_device_flag, add_model_argument


UNITS = ("bits", "nats")  # of `rnn_hf.scoring.score`
# What would break a line of the table, or a column, is written as in a string of Python.
AS_WRITTEN = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})


def lines_of(file: str) -> Iterator[str]:
    """The lines of a text file, - for standard input, without their ends."""
    # A file from some Windows editors begins with a mark, which is no part of its first word.
    with open(0 if file == "-" else file, encoding="utf-8-sig") as opened:
        try:
            yield from (line.removesuffix("\n") for line in opened)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: {error}") from error


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "score")
    add_model_argument(parser)
    parser.add_argument("texts", nargs="*", help="texts to score")
    parser.add_argument("--file", help="file with a text a line, - for standard input")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub")
    parser.add_argument("--unit", choices=UNITS, default="bits", help="of surprisal")
    parser.add_argument("--batch_size", type=int, default=16, help="texts scored together; does not change the result")
    parser.add_argument("--carry_state", action="store_true", help="each text continues the one before it")
    add_device_flag(parser)
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.loading import load_model
    from rnn_hf.scoring import score

    disable_progress_bar()
    if bool(arguments.texts) == bool(arguments.file):
        raise ValueError("give either texts or --file FILE")
    if arguments.file and arguments.file != "-" and not Path(arguments.file).is_file():
        raise FileNotFoundError(f"no file {arguments.file}")
    if arguments.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {arguments.batch_size}")
    model, tokenizer = load_model(arguments.model, arguments.revision, arguments.device)
    lines = lines_of(arguments.file) if arguments.file else arguments.texts
    options = {"unit": arguments.unit, "batch_size": arguments.batch_size, "carry_state": arguments.carry_state}
    print(f"text\ttoken\tsurprisal_{arguments.unit}")
    for number, found in enumerate(score(model, tokenizer, lines, **options), start=1):
        for token, surprisal in zip(found.tokens, found.surprisals, strict=True):
            print(f"{number}\t{token.removeprefix('▁').translate(AS_WRITTEN)}\t{surprisal:.4f}")
    return 0
