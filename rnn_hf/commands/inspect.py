"""What a network does over a text: gradient norms over distance, spectral radii, saturation of gates, single units.

    rnn-hf inspect MODEL [MODEL ...] [--text FILE] [--json FILE] [--plot PNG]
    rnn-hf inspect MODEL [MODEL ...] --sentence TEXT --heatmap PNG [--show forget]

The picture has a row a model, with the norm of the gradient over training where the model's run wrote it.
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnn_hf.commands import Parser, add_device_flag, check_file, utf8_text
from rnn_hf.data.corpora import lines_of
from rnn_hf.errors import InputError


PICTURES = (".png", ".pdf", ".svg")
SHOWN = ("hidden", "cell", "input", "forget", "output", "reset", "update")  # of `rnn_hf.analysis.activations`


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "inspect")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="directory, or name on the Hub")
    parser.add_argument("--text", metavar="FILE", help="text file; default: the validation text of each model's run")
    parser.add_argument("--ptb_dir", metavar="DIR", help="directory of Penn Treebank, for models of it")
    parser.add_argument("--rows", type=int, default=4, help="pieces of the text to average over")
    parser.add_argument("--steps", type=int, default=100, help="tokens in each piece")
    parser.add_argument("--distances", type=int, default=50, help="steps to go back for gradient norms")
    add_device_flag(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    parser.add_argument("--plot", metavar="PNG", help="also draw them to this file")
    parser.add_argument(
        "--heatmap", metavar="PNG", help="draw units over --sentence; without --json and --plot that alone"
    )
    parser.add_argument("--sentence", type=utf8_text, metavar="TEXT", help="text of the heat map")
    parser.add_argument(
        "--show", choices=SHOWN, default="hidden", help="what the heat map shows: outputs, cells or a gate"
    )
    parser.add_argument(
        "--units", type=int, default=40, help="units of each layer in the heat map, those that change most"
    )
    return parser.parse_args(argv)


def check(arguments: Namespace) -> None:
    """Refuse flags that make no sense before anything takes time."""
    for name in ("rows", "steps", "distances", "units"):
        if getattr(arguments, name) < 1:
            raise InputError(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if arguments.distances > arguments.steps:
        raise InputError(f"--distances {arguments.distances} must be at most --steps {arguments.steps}")
    if bool(arguments.heatmap) != bool(arguments.sentence):
        raise InputError("--heatmap PNG and --sentence TEXT go together")
    for name in ("json", "plot", "heatmap"):
        file = getattr(arguments, name)
        check_file(name, file)
        if file and name != "json" and Path(file).suffix.lower() not in PICTURES:
            raise InputError(f"--{name} must end in {' or '.join(PICTURES)}, got {file}")


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.loading import load_model
    from rnn_hf.plotting import new_figure

    check(arguments)
    disable_progress_bar()
    if arguments.plot or arguments.heatmap:
        new_figure(1, 1)  # which says if it cannot be had
    models = {name: load_model(name, device=arguments.device) for name in arguments.models}
    if arguments.heatmap:
        draw_units(models, arguments)
    if arguments.json or arguments.plot or not arguments.heatmap:
        inspect_all(models, arguments)
    return 0


def draw_units(models: dict[str, tuple[Any, Any]], arguments: Namespace) -> None:
    """The heat map: a panel a layer of each model, whose words must be the same."""
    import torch

    from rnn_hf.analysis import activations
    from rnn_hf.analysis_plots import plot_units
    from rnn_hf.data.tokenization import start_id
    from rnn_hf.scoring import score

    panels: dict[str, Any] = {}
    words: list[str] = []
    for name, (model, tokenizer) in models.items():
        (scored,) = score(model, tokenizer, arguments.sentence)
        start = start_id(tokenizer)
        marked = [
            word if known else f"{word} (unknown)" for word, known in zip(scored.words, scored.known, strict=True)
        ]
        if words and len(words) != len(marked) + 1:
            raise InputError(f"{name} cuts --sentence into other tokens: draw it by itself")
        words = [tokenizer.convert_ids_to_tokens(start), *marked]
        for index, values in enumerate(activations(model, torch.tensor([[start, *scored.token_ids]]))):
            if arguments.show not in values:
                raise InputError(f"{name} has no {arguments.show!r} to show, only {', '.join(values)}")
            panels[f"{name}, layer {index}"] = values[arguments.show][0].cpu().numpy()
    plot_units(panels, words, Path(arguments.heatmap), arguments.show, arguments.units)


def inspect_all(models: dict[str, tuple[Any, Any]], arguments: Namespace) -> None:
    """Print, write and draw `rnn_hf.analysis.inspect` of each model."""
    import torch

    from rnn_hf.analysis import inspect, pieces_of, training_norms
    from rnn_hf.analysis_plots import plot_inspection
    from rnn_hf.evaluation import check_token_ids, stream_for
    from rnn_hf.files import write_json
    from rnn_hf.runs import load_corpus_of

    corpus_arguments = {"validation_file": arguments.text, "ptb_dir": arguments.ptb_dir}
    texts = {}
    for name, (model, tokenizer) in models.items():
        corpus = load_corpus_of(name, **{flag: value for flag, value in corpus_arguments.items() if value})
        split = next(split for split in ("validation", "train", "test") if split in corpus)
        tokens = torch.from_numpy(stream_for(model, lines_of(corpus[split]), tokenizer)).long()
        texts[name] = pieces_of(tokens, arguments.rows, arguments.steps)
        check_token_ids(model, texts[name].flatten().numpy())
    inspections = {}
    for name, (model, _) in models.items():
        content = inspect(model, texts[name], arguments.distances, progress=True)
        training = training_norms(Path(name))
        inspections[name] = content | ({"training": training} if training else {})
        print_inspection(name if len(models) > 1 else "", content)
    if arguments.plot:
        text = Path(arguments.text).name if arguments.text else "the validation text of the run"
        plot_inspection(inspections, Path(arguments.plot), f"{arguments.rows} x {arguments.steps} tokens of {text}")
    if arguments.json:
        write_json(Path(arguments.json), inspections if len(models) > 1 else next(iter(inspections.values())))


def print_inspection(name: str, content: dict[str, Any]) -> None:
    if name:
        print(name)
    for index, norms in enumerate(content["gradient_norms"]):
        shown = ", ".join(f"{step}: {norms[step - 1]:.2e}" for step in (1, 5, 10, 20, 50) if step <= len(norms))
        print(f"layer {index}: gradient norm by steps back {shown}")
        print(f"  spectral radius {json.dumps(content['spectral_radius'][index])}")
        print(f"  saturation {json.dumps(content['saturation'][index])}")
