"""Perplexity of a checkpoint over every token of a split, with the state carried.

    rnn-hf evaluate MODEL --split test [--ptb_dir DIR | --dataset_name NAME | --test_file FILE] [--save]

Without data flags the corpus is that of the run that made the model.
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rnn_hf.commands import Parser, add_corpus_flags, add_device_flag, add_model_argument, corpus_of
from rnn_hf.data.corpora import SPLITS


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "evaluate")
    add_model_argument(parser)
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub")
    parser.add_argument("--split", choices=SPLITS, nargs="+", default=["validation"], help="to score")
    parser.add_argument("--batch_size", type=int, default=1, help="pieces of the text scored in parallel; 1 is exact")
    parser.add_argument("--window", type=int, default=256, help="steps a forward pass; does not change the result")
    parser.add_argument("--json", action="store_true", help="print one JSON object a split")
    parser.add_argument("--save", action="store_true", help="add to MODEL/evaluation.json, which the card is made of")
    add_corpus_flags(parser)
    add_device_flag(parser)
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.evaluation import evaluate_splits
    from rnn_hf.runs import load_corpus_of, save_scores

    given = corpus_of(arguments)
    disable_progress_bar()
    if arguments.save and (set(given) - {"ptb_dir"} or arguments.batch_size > 1):
        raise ValueError(
            "--save is for the run's own corpus scored exactly: drop --batch_size and all of the data flags but "
            "--ptb_dir"
        )
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
            print(
                f"{split}: perplexity {score.perplexity:.2f} over {score.num_tokens:,} tokens "
                f"({score.loss:.4f} nats, {result['bits_per_token']:.4f} bits a token)"
            )
    return 0
