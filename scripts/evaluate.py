"""Perplexity of a checkpoint over every token of a split, with the state carried.

    python scripts/evaluate.py MODEL --split test [--ptb_dir DIR | --dataset_name NAME | --test_file FILE] [--save]

MODEL is a directory or a name on the Hub. Without data flags the corpus is that of the run that made the model.
"""

import json
from argparse import ArgumentParser
from inspect import signature
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from rnn_hf.commands import add_device_flag, run_command
from rnn_hf.data.corpora import SPLITS, load_corpus
from rnn_hf.evaluation import evaluate_splits
from rnn_hf.runs import load_corpus_of, save_scores


CORPUS_FLAGS = list(signature(load_corpus).parameters)


def parse(argv: list[str] | None = None):
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="directory or name on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub")
    parser.add_argument("--split", choices=SPLITS, nargs="+", default=["validation"])
    parser.add_argument("--batch_size", type=int, default=1, help="pieces of the text scored in parallel; 1 is exact")
    parser.add_argument("--window", type=int, default=256, help="steps a forward pass; does not change the result")
    parser.add_argument("--json", action="store_true", help="print one JSON object a split")
    parser.add_argument("--save", action="store_true", help="add to MODEL/evaluation.json, which the card is made of")
    for name in CORPUS_FLAGS:
        parser.add_argument(f"--{name}")
    add_device_flag(parser)
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse()
    given = {name: getattr(arguments, name) for name in CORPUS_FLAGS if getattr(arguments, name) is not None}
    disable_progress_bar()
    if arguments.save and (set(given) - {"ptb_dir"} or arguments.batch_size > 1):
        raise ValueError("--save is for the run's own corpus scored exactly: drop --batch_size and all of "
                         "the data flags but --ptb_dir")  # fmt: skip
    if arguments.save and not Path(arguments.model).is_dir():
        raise ValueError(f"--save needs a directory, and {arguments.model} is none")
    corpus = load_corpus_of(arguments.model, arguments.revision, **given)
    scores = evaluate_splits(
        arguments.model, arguments.split, corpus, arguments.revision, not arguments.json,
        arguments.batch_size, arguments.window, arguments.device,
    )  # fmt: skip
    if arguments.save:
        save_scores(Path(arguments.model), scores)
    for split, score in scores.items():
        result = score.to_dict()
        if arguments.json:
            print(json.dumps({"model": arguments.model, "split": split} | result))
        else:
            print(f"{split}: perplexity {score.perplexity:.2f} over {score.num_tokens:,} tokens "
                  f"({score.loss:.4f} nats, {result['bits_per_token']:.4f} bits a token)")  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(main)
