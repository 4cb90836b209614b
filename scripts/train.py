"""Train a recurrent language model.

    python scripts/train.py [RECIPE.yaml] [--flag value ...]
    accelerate launch [--multi_gpu --num_processes N] scripts/train.py [RECIPE.yaml] [--flag value ...]

Flags override the recipe. See `python scripts/train.py --help` for all of them.
"""

from accelerate import PartialState
from transformers.utils.logging import disable_progress_bar

from rnn_hf.commands import run_command
from rnn_hf.training.arguments import parse_arguments
from rnn_hf.training.loop import train


def main() -> int:
    disable_progress_bar()  # transformers' own, of saving; the run has one
    arguments = parse_arguments()
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


if __name__ == "__main__":
    run_command(main)
