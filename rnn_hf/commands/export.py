"""Write a model as an ONNX file with its state as inputs and outputs, checked against PyTorch before it is kept.

    rnn-hf export MODEL OUT [--last_logits_only] [--int8] [--ptb_dir DIR or another corpus]

OUT is a new directory, or that of an export, which is replaced. `--int8` adds a file in 8 bits, and compares the two
on the validation text of the model's own corpus or of the one that is named.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rnn_hf.commands import Parser, add_corpus_flags, add_model_argument, corpus_of
from rnn_hf.data.corpora import lines_of
from rnn_hf.errors import InputError
from rnn_hf.onnx import INT8_FILE, MODEL_FILE


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "export")
    add_model_argument(parser)
    parser.add_argument("out", metavar="OUT", help="directory to write to")
    parser.add_argument("--last_logits_only", action="store_true", help="give the logits of the last position alone")
    parser.add_argument("--int8", action="store_true", help=f"also write {INT8_FILE}, and compare the two")
    add_corpus_flags(parser)
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.onnx.export import ExportError, export_onnx
    from rnn_hf.onnx.quantization import quantize
    from rnn_hf.runs import load_corpus_of

    disable_progress_bar()
    corpus = load_corpus_of(arguments.model, **corpus_of(arguments)) if arguments.int8 else {}
    if arguments.int8 and "validation" not in corpus:
        raise InputError("--int8 needs a validation text: add --validation_file FILE")
    try:
        report = export_onnx(arguments.model, arguments.out, last_logits_only=arguments.last_logits_only)
        int8 = quantize(arguments.out, lines_of(corpus["validation"]), progress=True) if arguments.int8 else None
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("batch  sequence  largest difference to PyTorch: logits, state")
    for check in report["checked"]:
        logits, *states = check["largest_difference"].values()
        print(f"{check['batch']:>5}  {check['sequence']:>8}  {logits:.1e}, {max(states):.1e}")
    print(f"{Path(arguments.out) / MODEL_FILE}: {report['bytes']:,} bytes, opset {report['opset']}")
    if int8:
        for name in ("float32", "int8"):
            print(f"{name}: {int8['bytes'][name]:,} bytes, perplexity {int8['perplexity'][name]:.2f} "
                  f"over {int8['tokens']:,} tokens, {int8['milliseconds'][name]:.3f} ms a token")  # fmt: skip
        print(f"int8 is {int8['speedup']:.2f} times as fast, on one thread")
        if int8["float_operators"]:
            print(
                f"{', '.join(int8['float_operators'])}: ONNX Runtime has no int8 form, so the recurrence gains nothing"
            )
    return 0
