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

    if argv and not Path(argv[0]).is_file() and (recipe := RECIPES / f"{argv[0]}.yaml").is_file():
        argv = [str(recipe), *argv[1:]]
    disable_progress_bar()  # transformers' own, of saving; the run has one
    arguments = parse_arguments(argv)
    record = train(arguments)
    if not PartialState().is_main_process:
        return 0  # one process speaks for all
    result, directory = record["result"], arguments.training.output_dir
    if result["best_step"]:
        print(f"best validation perplexity {result['best_validation_perplexity']:.2f} (step {result['best_step']})")
    if result["is_complete"]:
        print(f"model, run.json, metrics.jsonl and curve.png are in {directory}")
    else:
        how = "go on with --resume_from_checkpoint last"
        how = how if arguments.training.save_total_limit else "--save_total_limit 0 left no checkpoint to go on from"
        print(f"stopped at step {result['steps']}; {how}")
    return 0
