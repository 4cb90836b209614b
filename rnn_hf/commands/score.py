"""Surprisal of each token of texts, or which text of minimal pairs is the likelier.

    rnn-hf score MODEL "The Congress shall assemble." [TEXT ...]
    rnn-hf score MODEL --file FILE [--with_end] [--totals] [--format csv] [--html PAGE]
    rnn-hf score MODEL --pairs FILE

A file has a text a line, one of pairs the good text and the bad one between tabs, with or without a name before them.
"""

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rnn_hf.commands import Parser, add_device_flag, add_model_argument, check_file, utf8_text
from rnn_hf.errors import InputError
from rnn_hf.tables import FORMATS


UNITS = ("bits", "nats")  # of `rnn_hf.scoring.score`


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "score")
    add_model_argument(parser)
    parser.add_argument("texts", type=utf8_text, nargs="*", metavar="TEXT", help="texts to score")
    parser.add_argument("--file", metavar="FILE", help="file with a text a line, - for standard input")
    parser.add_argument(
        "--pairs", metavar="FILE", help="file of minimal pairs (.tsv or .csv): name, good text, bad text"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a model of the Hub")
    parser.add_argument("--unit", choices=UNITS, default="bits", help="of surprisal")
    parser.add_argument("--with_end", action="store_true", help="score the end of each text as well")
    parser.add_argument("--totals", action="store_true", help="a row a text in place of a row a token")
    parser.add_argument(
        "--format", choices=FORMATS, default="tsv", help="of what is printed; json is an object a line"
    )
    parser.add_argument("--html", metavar="FILE", help="also write a page that colours each word by its surprisal")
    parser.add_argument("--batch_size", type=int, default=16, help="texts scored together; does not change the result")
    parser.add_argument("--carry_state", action="store_true", help="each text continues the one before it")
    add_device_flag(parser)
    return parser.parse_args(argv)


def check(arguments: Namespace) -> None:
    """Refuse flags that make no sense before the model is loaded."""
    if sum(map(bool, (arguments.texts, arguments.file, arguments.pairs))) != 1:
        raise InputError("give either texts or --file FILE or --pairs FILE")
    for file in (arguments.file, arguments.pairs):
        if file and file != "-" and (not Path(file).exists() or Path(file).is_dir()):  # a pipe is a file too
            raise FileNotFoundError(f"no file {file}")
    if arguments.batch_size < 1:
        raise InputError(f"--batch_size must be at least 1, got {arguments.batch_size}")
    for name in ("carry_state", "totals"):
        if arguments.pairs and getattr(arguments, name):
            raise InputError(f"--{name} does not go with --pairs")
    check_file("html", arguments.html)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.files import write_text
    from rnn_hf.loading import load_model
    from rnn_hf.minimal_pairs import Accuracy
    from rnn_hf.scoring import Totals
    from rnn_hf.surprisal_page import render_page
    from rnn_hf.tables import table_lines

    check(arguments)
    disable_progress_bar()
    model, tokenizer = load_model(arguments.model, arguments.revision, arguments.device)
    totals = Totals(arguments.unit)
    accuracy = Accuracy()
    shown: list[Any] = []

    def seen(scores: Iterable[Any]) -> Iterator[Any]:
        for scored in totals.count(scores):
            if arguments.html:
                shown.append(scored)
            yield scored

    rows = rows_of(model, tokenizer, arguments, seen, accuracy)
    for line in table_lines(rows, arguments.format):
        print(line)
    if not totals.texts:
        raise InputError(f"{arguments.file} is empty: there is no text to score")
    if arguments.html:
        write_text(
            Path(arguments.html), render_page(shown, f"Surprisal by {arguments.model}", model.config.vocab_size)
        )
    sys.stderr.writelines(f"{line}\n" for line in closing_lines(totals, accuracy, tokenizer))
    return 0


def rows_of(model: Any, tokenizer: Any, arguments: Namespace, seen: Any, accuracy: Any) -> Iterator[dict[str, Any]]:
    """The rows to print; each score of a text goes through `seen`, each of a pair is counted in `accuracy`."""
    from rnn_hf.minimal_pairs import PairScore, pair_rows, read_pairs, score_pairs
    from rnn_hf.scoring import read_lines, score, text_rows, token_rows

    options = {"unit": arguments.unit, "batch_size": arguments.batch_size, "with_end": arguments.with_end}
    if arguments.pairs:
        pairs = accuracy.count(score_pairs(model, tokenizer, read_pairs(arguments.pairs), **options))
        return pair_rows(PairScore(pair.name, *seen((pair.good, pair.bad))) for pair in pairs)
    texts = read_lines(arguments.file) if arguments.file else arguments.texts
    scores = seen(score(model, tokenizer, texts, carry_state=arguments.carry_state, **options))
    return text_rows(scores) if arguments.totals else token_rows(scores)


def closing_lines(totals: Any, accuracy: Any, tokenizer: Any) -> Iterator[str]:
    """Sums over all texts, and what is to be said of unknown words and empty texts."""
    from rnn_hf.scoring import ways_to_be_known

    if totals.tokens:
        mean = f"{totals.surprisal / totals.tokens:.2f} a token, perplexity {totals.perplexity:.2f}"
        yield f"texts: {totals.texts}, tokens: {totals.tokens}, {totals.unit}: {totals.surprisal:.2f}, {mean}"
    if totals.empty:
        yield f"warning: without a token: {totals.empty} of {totals.texts} texts"
    if totals.unknown:
        ways = " and ".join(ways_to_be_known(tokenizer, totals.examples))
        advice = f"; the model knows some of them {ways}" if ways else ""
        words = " ".join(totals.examples)
        yield f"warning: unknown to the model: {totals.unknown} of {totals.tokens} tokens, such as {words}{advice}"
    if accuracy.pairs:
        if accuracy.comparable:
            counts = f"{accuracy.right} of {accuracy.comparable} pairs"
            yield f"accuracy {accuracy.accuracy:.3f}: the good text is the likelier one in {counts}"
        lost = accuracy.pairs - accuracy.comparable
        if lost:
            yield (
                f"warning: not comparable and not counted: {lost} of {accuracy.pairs} pairs, whose texts differ by "
                "words that the model does not know, or not at all"
            )
