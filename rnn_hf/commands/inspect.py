"""What a network does over a text: gradient norms over distance, spectral radii, saturation of gates.

    rnn-hf inspect MODEL [--text FILE] [--json FILE] [--plot PNG]

Gradient norms during training stand in the run's metrics.jsonl as `grad_norm`.
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rnn_hf.commands import Parser, add_device_flag, add_model_argument
from rnn_hf.data.corpora import lines_of


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "inspect")
    add_model_argument(parser)
    parser.add_argument("--text", help="text file; default: the validation text of the run that made the model")
    parser.add_argument("--ptb_dir", help="directory of Penn Treebank, for a model of it")
    parser.add_argument("--rows", type=int, default=4, help="pieces of the text to average over")
    parser.add_argument("--steps", type=int, default=100, help="tokens in each piece")
    parser.add_argument("--distances", type=int, default=50, help="steps to go back for gradient norms")
    add_device_flag(parser)
    parser.add_argument("--json", help="also write the numbers to this file")
    parser.add_argument("--plot", help="also draw them to this PNG file")
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    import torch

    from rnn_hf.analysis import inspect, plot_inspection
    from rnn_hf.data.tokenization import encode_stream
    from rnn_hf.evaluation import check_token_ids
    from rnn_hf.files import write_json
    from rnn_hf.loading import load_model
    from rnn_hf.runs import load_corpus_of

    model, tokenizer = load_model(arguments.model, device=arguments.device)
    given = {"validation_file": arguments.text, "ptb_dir": arguments.ptb_dir}
    corpus = load_corpus_of(arguments.model, **{name: value for name, value in given.items() if value})
    split = next(split for split in ("validation", "train", "test") if split in corpus)
    tokens = torch.from_numpy(encode_stream(lines_of(corpus[split]), tokenizer)).long()
    if len(tokens) < arguments.rows * arguments.steps:
        raise ValueError(f"the text has {len(tokens)} tokens, fewer than --rows x --steps")
    ids = tokens[: arguments.rows * arguments.steps].view(arguments.rows, arguments.steps)
    check_token_ids(model, ids.flatten().numpy())
    found = inspect(model, ids, arguments.distances)
    if arguments.plot:
        plot_inspection(found, Path(arguments.plot))
    if arguments.json:
        write_json(Path(arguments.json), found)
    for index, norms in enumerate(found["gradient_norms"]):
        shown = ", ".join(f"{step}: {norms[step - 1]:.2e}" for step in (1, 5, 10, 20, 50) if step <= len(norms))
        print(f"layer {index}: gradient norm by steps back {shown}")
        print(f"  spectral radius {json.dumps(found['spectral_radius'][index])}")
        print(f"  saturation {json.dumps(found['saturation'][index])}")
    return 0
