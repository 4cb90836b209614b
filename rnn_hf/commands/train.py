"""Train a recurrent network.

    rnn-hf train [RECIPE] [--flag value ...]
    accelerate launch [--multi_gpu --num_processes N] scripts/train.py [RECIPE] [--flag value ...]

RECIPE is a YAML file, or the name of one that comes with the package (`rnn-hf recipes`). Flags override it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rnn_hf.commands import RECIPES, with_flags
from rnn_hf.errors import InputError
from rnn_hf.training.arguments import Arguments
from rnn_hf.training.parsing import parse_arguments


def parse(argv: Sequence[str]) -> Arguments:
    if argv and not Path(argv[0]).is_file() and (recipe := RECIPES / f"{argv[0]}.yaml").is_file():
        argv = [str(recipe), *argv[1:]]
    try:
        return parse_arguments(argv)
    except InputError as error:
        sys.stderr.write(f"error: {with_flags(str(error))}\n")
        sys.exit(2)


def run(arguments: Arguments) -> int:
    from accelerate import PartialState
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # transformers' own, of saving; the run has one
    if arguments.task == "language-modeling":
        from rnn_hf.training.loop import train
        from rnn_hf.training.reporting import closing_lines
    else:
        from rnn_hf.training.labelled_run import closing_lines, train

    record = train(arguments)
    if not PartialState().is_main_process:
        return 0  # one process speaks for all
    print("\n".join(closing_lines(record)))
    return 130 if record["result"]["stopped_by"] == "SIGINT" else 0
