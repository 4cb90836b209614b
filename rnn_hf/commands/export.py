"""Write a model as an ONNX file, checked against PyTorch before it is kept.

    rnn-hf export MODEL OUT [--last_logits_only] [--int8] [--ptb_dir DIR or another corpus]

OUT is a new directory, or that of an export, which is replaced. A language model has its state as inputs and outputs;
a classifier takes padded batches. `--int8` adds a file in 8 bits, and compares the two on the validation split of the
model's own data or of the one that is named.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rnn_hf.commands import Parser, add_corpus_flags, add_model_argument, corpus_of
from rnn_hf.data.corpora import lines_of
from rnn_hf.errors import InputError
from rnn_hf.onnx import INT8_FILE, MODEL_FILE


# Flags that say nothing to the models of the other kind.
OF_LANGUAGE_MODELS = ("last_logits_only", "ptb_dir")
OF_CLASSIFIERS = ("dataset_dir", "label_column")


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "export")
    add_model_argument(parser)
    parser.add_argument("out", metavar="OUT", help="directory to write to")
    parser.add_argument("--last_logits_only", action="store_true", help="a language model gives the last logits alone")
    parser.add_argument("--int8", action="store_true", help=f"also write {INT8_FILE}, and compare the two")
    add_corpus_flags(parser)
    parser.add_argument("--dataset_dir", metavar="DIR", help="directory with the files of mr or ewt_pos")
    parser.add_argument("--label_column", metavar="COLUMN", help="column of labels, for a classifier")
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.loading import config_of
    from rnn_hf.onnx.export import ExportError, export_onnx
    from rnn_hf.tasks import LANGUAGE_MODELING, task_of_model

    disable_progress_bar()
    config: Any = config_of(arguments.model)
    task = task_of_model(config.architectures)
    is_language_model = task is LANGUAGE_MODELING
    for name in OF_CLASSIFIERS if is_language_model else OF_LANGUAGE_MODELS:
        if getattr(arguments, name):
            kind = "language model" if is_language_model else "classifier"
            raise InputError(f"--{name} does not go with {arguments.model}, which is a {kind}")
    quantize = None
    if arguments.int8:
        quantize = text_quantizer(arguments) if is_language_model else classifier_quantizer(arguments, task)
    try:
        report = export_onnx(arguments.model, arguments.out, last_logits_only=arguments.last_logits_only)
        int8 = quantize() if quantize else None
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"batch  sequence  largest difference to PyTorch: logits{', state' * is_language_model}")
    for check in report["checked"]:
        logits, *states = check["largest_difference"].values()
        state = f", {max(states):.1e}" if states else ""
        print(f"{check['batch']:>5}  {check['sequence']:>8}  {logits:.1e}{state}")
    print(f"{Path(arguments.out) / MODEL_FILE}: {report['bytes']:,} bytes, opset {report['opset']}")
    if int8:
        show_int8(int8)
    return 0


def text_quantizer(arguments: Namespace) -> Callable[[], dict[str, Any]]:
    """What writes the 8 bits of a language model, whose text is loaded here."""
    from rnn_hf.onnx.quantization import quantize
    from rnn_hf.runs import load_corpus_of

    corpus = load_corpus_of(arguments.model, **corpus_of(arguments))
    if "validation" not in corpus:
        raise InputError("--int8 needs a validation text: add --validation_file FILE")
    return lambda: quantize(arguments.out, lines_of(corpus["validation"]), progress=True)


def classifier_quantizer(arguments: Namespace, task: Any) -> Callable[[], dict[str, Any]]:
    """What writes the 8 bits of a classifier, whose labelled text is loaded here."""
    from transformers import AutoTokenizer

    from rnn_hf.data.alignment import encode_rows
    from rnn_hf.onnx.quantization import quantize_classifier
    from rnn_hf.tasks.labelled import load_data_of

    given = corpus_of(arguments)
    given |= {name: value for name in OF_CLASSIFIERS if (value := getattr(arguments, name))}
    data = load_data_of(task.name, arguments.model, given)
    if "validation" not in data.splits:
        raise InputError("--int8 needs labelled text for validation: add --validation_file FILE")
    examples = encode_rows(data.splits["validation"], AutoTokenizer.from_pretrained(arguments.model))

    def score(model: Any) -> dict[str, float]:
        scores = task.module.score(model, data, "validation", examples, progress=True)
        return {**scores.values, "loss": scores.loss, scores.unit: scores.count}

    texts = [example["input_ids"] for example in examples]
    return lambda: quantize_classifier(arguments.out, texts, score)


def show_int8(int8: dict[str, Any]) -> None:
    """Print what 8 bits cost and gain."""
    from rnn_hf.tasks import METRICS

    for name in ("float32", "int8"):
        if "scores" in int8:
            scores = int8["scores"][name]
            unit = next(unit for unit in ("texts", "words") if unit in scores)
            metric = METRICS[next(iter(scores))]
            score, each = f"{metric.label(scores[metric.name])} over {scores[unit]:,} {unit}", "text"
        else:
            score, each = f"perplexity {int8['perplexity'][name]:.2f} over {int8['tokens']:,} tokens", "token"
        print(f"{name}: {int8['bytes'][name]:,} bytes, {score}, {int8['milliseconds'][name]:.3f} ms a {each}")
    print(f"int8 is {int8['speedup']:.2f} times as fast, on one thread")
    if int8["float_operators"]:
        print(f"{', '.join(int8['float_operators'])}: ONNX Runtime has no int8 form, so the recurrence gains nothing")
