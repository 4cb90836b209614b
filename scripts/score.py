"""Surprisal of each token of texts, as tab-separated lines: text, token, surprisal.

    python scripts/score.py MODEL "The Congress shall assemble." [TEXT ...]
    python scripts/score.py MODEL --file FILE [--unit nats] [--carry_state]

A file has a text a line.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from rnn_hf.commands import add_device_flag, run_command
from rnn_hf.loading import load_model
from rnn_hf.scoring import PER_NAT, score


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


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="directory or name on the Hub")
    parser.add_argument("texts", nargs="*", help="texts to score")
    parser.add_argument("--file", help="file with a text a line, - for standard input")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub")
    parser.add_argument("--unit", choices=PER_NAT, default="bits", help="of surprisal")
    parser.add_argument("--batch_size", type=int, default=16, help="texts scored together; does not change the result")
    parser.add_argument("--carry_state", action="store_true", help="each text continues the one before it")
    add_device_flag(parser)
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    run_command(main)
