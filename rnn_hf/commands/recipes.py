"""List the recipes that come with the package.

    rnn-hf recipes

Train by `rnn-hf train NAME --ptb_dir DIR`; a line of each says what it is.
"""

from argparse import Namespace
from collections.abc import Sequence
from itertools import takewhile
from textwrap import shorten

from rnn_hf.commands import RECIPES, Parser


def parse(argv: Sequence[str] | None = None) -> Namespace:
    return Parser(__doc__, "recipes").parse_args(argv)


def run(arguments: Namespace) -> int:
    for path in sorted(RECIPES.glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = [line.removeprefix("#") for line in takewhile(lambda line: line.startswith("#"), lines)]
        print(f"{path.stem:<26} {shorten(' '.join(comment), 90, placeholder=' ...')}")
    return 0
