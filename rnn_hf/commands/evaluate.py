"""Scores of a checkpoint on a split: perplexity of a language model, accuracy and more of a classifier.

    rnn-hf evaluate MODEL --split test [--ptb_dir DIR | --dataset_name NAME | --test_file FILE] [--save]

Without data flags the data is that of the run that made the model. A language model is scored on every token, with the
state carried.
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnn_hf.commands import Parser, add_corpus_flags, add_device_flag, add_model_argument, corpus_of
from rnn_hf.data.named_corpora import CORPORA, SPLITS


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "evaluate")
    add_model_argument(parser)
    parser.add_argument("--revision", help="branch, tag or commit of a model of the Hub")
    parser.add_argument("--split", choices=SPLITS, nargs="+", default=["validation"], help="to score")
    parser.add_argument(
        "--batch_size", type=int, help="pieces of the text (default 1, which is exact) or examples scored in parallel"
    )
    parser.add_argument(
        "--window", type=int, help="steps a forward pass of a language model (256); does not change the result"
    )
    parser.add_argument(
        "--confusion_matrix", metavar="PNG", help="picture to draw of the last split, for a classifier"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a split")
    parser.add_argument("--save", action="store_true", help="add to MODEL/evaluation.json, which the card is made of")
    add_corpus_flags(parser)
    add_device_flag(parser)
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.errors import InputError
    from rnn_hf.loading import config_of
    from rnn_hf.runs import save_scores
    from rnn_hf.tasks import task_of_model

    disable_progress_bar()
    given = corpus_of(arguments)
    if arguments.save and not Path(arguments.model).is_dir():
        raise InputError(f"--save needs a directory, and {arguments.model} is none")
    task = task_of_model(config_of(arguments.model, arguments.revision).architectures)
    directories = {corpus.directory_argument for corpus in CORPORA.values()}
    is_exact = task.metric.name != "perplexity" or (arguments.batch_size or 1) == 1
    if arguments.save and (given.keys() - directories or not is_exact):
        raise InputError(
            "--save is for the run's own corpus scored exactly: drop --batch_size and all of the data flags but "
            "the directory of the corpus"
        )
    options: dict[str, Any] = {
        name: value for name in ("batch_size", "window") if (value := getattr(arguments, name)) is not None
    }
    scores = task.module.evaluate(
        arguments.model, arguments.split, given, revision=arguments.revision, progress=not arguments.json,
        device=arguments.device, **options,
    )  # fmt: skip
    if arguments.save:
        save_scores(Path(arguments.model), scores)
    for split, score in scores.items():
        if arguments.json:
            print(json.dumps({"model": arguments.model, "split": split} | score.to_dict()))
        else:
            print(f"{split}: {task.module.describe_score(score)}")
    return 0
