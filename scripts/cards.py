"""Write code and card of stored models again, or evaluate their weights again and compare with the cards.

python scripts/cards.py MODEL [MODEL ...] [--check]
python scripts/cards.py MODEL [MODEL ...] --verify [--corpus_dir NAME=DIR ...]
"""

import tempfile
from argparse import ArgumentParser
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from rnn_hf.commands import run_command
from rnn_hf.data.named_corpora import CORPORA
from rnn_hf.errors import InputError
from rnn_hf.hub.cards import TOLERANCE, corpus_of, name_of, verify_card
from rnn_hf.hub.repository import build_repository


def check(model_dir: Path) -> bool:
    """Whether code and card are what would be written; prints those that are not."""
    with tempfile.TemporaryDirectory() as folder:
        build_repository(model_dir, Path(folder), name_of(model_dir))
        paths = [*Path(folder).glob("*.py"), Path(folder) / "README.md"]
        old = [p.name for p in paths if not (model_dir / p.name).is_file()
               or p.read_bytes() != (model_dir / p.name).read_bytes()]  # fmt: skip
    print(f"{model_dir}: {', '.join(old) + ' out of date, run make cards' if old else 'up to date'}")
    return not old


def verify(model_dir: Path, directories: dict[str, str]) -> bool:
    """Whether a card's figures are those of the weights; prints each."""
    corpus = corpus_of(model_dir)
    directory = directories.get(corpus or "")
    if corpus and CORPORA[corpus].directory_argument and not directory:
        print(f"{model_dir}: NOT VERIFIED, needs --corpus_dir {corpus}=DIR")
        return True
    holds = True
    for (split, metric), (printed, measured) in verify_card(model_dir, directory).items():
        differs = abs(measured - printed) > TOLERANCE
        holds = holds and not differs
        what = f"{split} {metric} {printed:.2f} on the card, {measured:.2f} measured"
        print(f"{model_dir}: {what}{' DIFFERS' * differs}")
    return holds


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", help="directories of models")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; exit 1 if code or card is out of date")
    what.add_argument("--verify", action="store_true", help="evaluate again; exit 1 if a figure is off by over 0.05")
    parser.add_argument(
        "--corpus_dir", metavar="NAME=DIR", nargs="*", default=[], help="directory of a corpus, such as ptb=DIR"
    )
    arguments = parser.parse_args()
    directories = dict(text.partition("=")[::2] for text in arguments.corpus_dir)
    if unknown := directories.keys() - CORPORA.keys():
        raise InputError(f"--corpus_dir: no corpus {', '.join(sorted(unknown))}, only {', '.join(CORPORA)}")
    disable_progress_bar()
    is_well = True
    for model_dir in map(Path, arguments.models):
        if arguments.verify:
            is_well = verify(model_dir, directories) and is_well
        elif arguments.check:
            is_well = check(model_dir) and is_well
        else:
            build_repository(model_dir, model_dir)
            print(f"{model_dir}: code and card written")
    return 0 if is_well else 1


if __name__ == "__main__":
    run_command(main)
