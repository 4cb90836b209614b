"""Perplexity of a checkpoint over every token of a split, with the state carried.

    python scripts/evaluate.py MODEL --split test [--ptb_dir DIR | --dataset_name NAME | --test_file FILE]

MODEL is a directory or a name on the Hub. Without data flags the corpus is that of the run that made the model.
"""

import json
import math
import sys
from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from rnn_hf.data.corpora import SPLITS, lines_of
from rnn_hf.data.tokenization import encode_stream
from rnn_hf.evaluation import evaluate, load_model
from rnn_hf.training.arguments import DataArguments
from rnn_hf.training.setup import data_arguments_of, read_corpus


CORPUS_FLAGS = [f.name for f in fields(DataArguments) if f.name.endswith(("_file", "_dir", "_column"))]
CORPUS_FLAGS += [f.name for f in fields(DataArguments) if f.name.startswith("dataset_")]


def parse(argv: list[str] | None = None):
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="directory or name on the Hub")
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--batch_size", type=int, default=1, help="pieces of the text scored in parallel; 1 is exact")
    parser.add_argument("--window", type=int, default=256, help="steps a forward pass; does not change the result")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name in CORPUS_FLAGS:
        parser.add_argument(f"--{name}")
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse()
    given = {name: getattr(arguments, name) for name in CORPUS_FLAGS if getattr(arguments, name) is not None}
    disable_progress_bar()
    try:
        source = DataArguments(**given) if given else data_arguments_of(Path(arguments.model))
        if source is None:
            raise ValueError("name a corpus: --dataset_name, --ptb_dir or --test_file and its like")
        corpus = read_corpus(source)
        if arguments.split not in corpus:
            raise ValueError(f"the corpus has no split {arguments.split!r}, only {', '.join(corpus)}")
        model, tokenizer = load_model(arguments.model)
        tokens = encode_stream(lines_of(corpus[arguments.split]), tokenizer)
        end = tokenizer.eos_token_id
        score = evaluate(model, tokens, end, arguments.batch_size, arguments.window, progress=not arguments.json)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {"model": arguments.model, "split": arguments.split, "perplexity": score.perplexity}
    result |= {"loss_nats": score.loss, "bits_per_token": score.loss / math.log(2), "tokens": score.num_tokens}
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{arguments.split}: perplexity {score.perplexity:.2f} over {score.num_tokens:,} tokens "
              f"({score.loss:.4f} nats, {result['bits_per_token']:.4f} bits a token)")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
