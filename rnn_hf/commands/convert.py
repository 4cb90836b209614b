"""Convert a checkpoint of another project into a repository of the Hub, or a model back into a file of older code.

    rnn-hf convert FILE OUT [--format NAME] [--vocab FILE | --corpus DIR] [--license ID] [--check TEXT]
    rnn-hf convert MODEL OUT --to state-dict|word-language-model

Nothing that FILE holds is run. The model is compared with the source's own arithmetic before OUT is written.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from rnn_hf.commands import Parser, utf8_text
from rnn_hf.errors import InputError


OPTIONS = (
    "format", "vocab", "corpus", "license", "check", "approximate", "backbone", "reads_backward", "hidden_act",
    "recurrent_activation", "forget_bias", "embedding", "head", "target_vocab", "source_length",
)  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "convert")
    parser.add_argument("file", metavar="FILE", help="checkpoint; with --to a model, by directory or name on the Hub")
    parser.add_argument("out", metavar="OUT", help="new directory; with --to a new file")
    parser.add_argument("--format", metavar="NAME", help="of the file, in place of the one that is found")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--vocab", metavar="FILE", help="vocabulary: a token a line, JSON, or a pickled list")
    words.add_argument("--corpus", metavar="DIR", help="with train.txt, valid.txt and test.txt of the training")
    parser.add_argument("--license", metavar="ID", help="of the weights, as the Hub spells it: cc-by-nc-4.0, mit, ...")
    parser.add_argument(
        "--check", metavar="TEXT", type=utf8_text,
        help="print the perplexity of a text; of an encoder-decoder what it writes of it",
    )  # fmt: skip
    parser.add_argument("--approximate", action="store_true", help="convert what is not exact, and say how far off")
    parser.add_argument("--backbone", action="store_true", help="leave out all but embedding and recurrent layers")
    parser.add_argument("--reads_backward", action="store_true", help="it was given texts from their end")
    parser.add_argument("--hidden_act", choices=["tanh", "relu"], help="activation of Elman layers")
    parser.add_argument("--recurrent_activation", choices=["sigmoid", "hard_sigmoid"], help="of Keras's gates")
    parser.add_argument(
        "--forget_bias", type=float, metavar="NUMBER", help="of TensorFlow 1, which adds it at run time"
    )
    parser.add_argument("--embedding", metavar="NAME", help="of the tensor, where several could be it")
    parser.add_argument("--head", metavar="NAME", help="the same, of the layer to the vocabulary")
    parser.add_argument("--target_vocab", metavar="FILE", help="as --vocab, of what an encoder-decoder writes")
    parser.add_argument(
        "--source_length", type=int, metavar="N", help="tokens that an encoder-decoder reads, padding among them"
    )
    parser.add_argument("--to", metavar="FORMAT", help="of the file to write: state-dict or word-language-model")
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.conversion import convert, convert_back

    disable_progress_bar()
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) not in (None, False)}
    if arguments.to is not None:
        if given:
            raise InputError(f"--{next(iter(given))} does not go with --to")
        for path in convert_back(arguments.file, arguments.out, arguments.to):
            print(path)
        return 0
    done = convert(arguments.file, arguments.out, **given)
    print(f"{done.file} is {done.title}: {done.architecture}, {done.parameters:,} parameters")
    print(
        f"largest difference from the source's arithmetic in {done.compared:,} outputs: {done.difference:.2g} in "
        f"float64, {done.difference_float32:.2g} as it is stored"
    )
    for title, lines in (("not exact", done.inexact), ("left out", done.dropped), ("note", done.notes)):
        for line in lines:
            print(f"{title}: {line}")
    if done.perplexity is not None:
        print(f"perplexity {done.perplexity:.2f} a token, by chance {done.vocabulary}")
        if done.perplexity >= (done.vocabulary or 0):
            print("warning: worse than chance: is it the vocabulary that it was trained with?", file=sys.stderr)
    if done.written is not None:
        print(f"{done.check} -> {done.written}")
    if done.license is None:
        print("warning: no --license: the card says that it is not stated", file=sys.stderr)
    print(f"the repository is in {arguments.out}")
    return 0
