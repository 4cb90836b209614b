"""Perplexity with test-time adaptation: dynamic evaluation, neural cache, temperature, chosen on validation.

    rnn-hf adapt MODEL dynamic cache temperature [--ptb_dir DIR] [--split test] [--save]

Settings are chosen on the beginning of the validation text, one after the other; then each split is scored once.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rnn_hf.commands import Parser, add_device_flag, add_model_argument
from rnn_hf.data.corpora import SPLITS, lines_of
from rnn_hf.errors import InputError


# What is tried for each way to adapt: where it starts, and the values of each setting.
WAYS: dict[str, tuple[dict[str, Any], dict[str, list[float]]]] = {
    "dynamic": (
        {"learning_rate": 1e-4},
        {"learning_rate": [3e-5, 5e-5, 2e-4, 3e-4], "decay": [0.005, 0.01, 0.04], "epsilon": [1e-4, 1e-3]},
    ),
    "cache": (
        {"cache_size": 2000},
        {"cache_flatness": [0.1, 0.2, 0.5], "cache_weight": [0.05, 0.07, 0.15, 0.2], "cache_size": [500, 4000]},
    ),
    "temperature": ({}, {"temperature": [0.9, 0.95, 1.05, 1.1]}),
}


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "adapt")
    add_model_argument(parser)
    parser.add_argument("ways", nargs="+", choices=WAYS, help="ways to adapt, all of them together")
    parser.add_argument("--ptb_dir", help="directory of Penn Treebank, for a model of it")
    parser.add_argument("--split", choices=SPLITS, nargs="+", default=["validation"])
    parser.add_argument("--tune_tokens", type=int, default=20_000, help="tokens of validation to choose settings on")
    parser.add_argument("--save", action="store_true", help="add to MODEL/evaluation.json, apart from static figures")
    add_device_flag(parser)
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from rnn_hf.adaptation import Adaptation, evaluate_adapted, gradient_statistics, tune
    from rnn_hf.data.tokenization import start_id
    from rnn_hf.evaluation import stream_for
    from rnn_hf.loading import load_model
    from rnn_hf.runs import load_corpus_of, save_scores

    if arguments.tune_tokens < 1:
        raise InputError(f"--tune_tokens must be at least 1, got {arguments.tune_tokens}")
    if arguments.save and not Path(arguments.model).is_dir():
        raise InputError(f"--save needs a directory, and {arguments.model} is none")
    corpus = load_corpus_of(arguments.model, **({"ptb_dir": arguments.ptb_dir} if arguments.ptb_dir else {}))
    needed = {"validation", *arguments.split, *(["train"] if "dynamic" in arguments.ways else [])}
    if missing := needed - set(corpus):
        raise InputError(f"the corpus has no {' or '.join(sorted(missing))} text, only {', '.join(corpus)}")
    model, tokenizer = load_model(arguments.model, device=arguments.device)
    end = start_id(tokenizer)
    adaptation = Adaptation()
    statistics = None
    streams = {split: stream_for(model, lines_of(corpus[split]), tokenizer) for split in needed}
    if "dynamic" in arguments.ways:
        statistics = gradient_statistics(model, streams["train"], end)
    for way in arguments.ways:
        start, choices = WAYS[way]
        text = streams["validation"][: arguments.tune_tokens]
        adaptation, _ = tune(model, text, end, replace(adaptation, **start), choices, statistics)
    print(f"settings: {adaptation}")
    scores = {}
    for split in arguments.split:
        scores[split] = score = evaluate_adapted(model, streams[split], end, adaptation, statistics, progress=True)
        print(f"{split}, adapted: perplexity {score.perplexity:.2f} over {score.num_tokens:,} tokens")
    if arguments.save:
        save_scores(Path(arguments.model), scores, " + ".join(arguments.ways), asdict(adaptation))
    return 0
