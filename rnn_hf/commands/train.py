"""Train a recurrent language model.

    rnn-hf train [RECIPE] [--flag value ...]
    accelerate launch [--multi_gpu --num_processes N] scripts/train.py [RECIPE] [--flag value ...]

RECIPE is a YAML file, or the name of one that comes with the package (`rnn-hf recipes`). Flags override it.
"""

from collections.abc import Sequence
from pathlib import Path

from rnn_hf.commands import RECIPES


def parse(argv: Sequence[str]) -> list[str]:
    return list(argv)  # read in `run`: most flags are fields of the model's configuration


def run(argv: list[str]) -> int:
    from accelerate import PartialState
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.training.arguments import parse_arguments
    from rnn_hf.training.loop import train
    from rnn_hf.training.reporting import closing_lines

    if argv and not Path(argv[0]).is_file() and (recipe := RECIPES / f"{argv[0]}.yaml").is_file():
        argv = [str(recipe), *argv[1:]]
    disable_progress_bar()  # transformers' own, of saving; the run has one
    arguments = parse_arguments(argv)
    record = train(arguments)
    if not PartialState().is_main_process:
        return 0  # one process speaks for all
    print("\n".join(closing_lines(record)))
    return 130 if record["result"]["stopped_by"] == "SIGINT" else 0
