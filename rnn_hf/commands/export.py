"""Write a model as an ONNX file, checked against PyTorch before it is kept.

    rnn-hf export MODEL OUT [--last_logits_only] [--int8] [--ptb_dir DIR or another corpus]

OUT is a new directory, or that of an export, which is replaced. A language model has its state as inputs and outputs;
a classifier takes padded batches; of a recognizer of speech there is a file of either kind. A network that forecasts
takes windows with marks of what is missing or, if it is autoregressive, lags and its state. One that translates has a
file for its encoder and one for steps of its decoder. `--int8` adds files in 8
bits, but for forecasts, and compares the two on the validation split of the model's own data or of the one that is
named.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rnn_hf.commands import Parser, add_corpus_flags, add_model_argument, corpus_of
from rnn_hf.data.corpora import lines_of
from rnn_hf.errors import InputError
from rnn_hf.onnx import INT8_FILE, MODEL_FILE, SECOND_FILES


# By task what a model is, and which of the flags that are not for all say something to it.
KINDS = {
    "language-modeling": ("language model", ("last_logits_only", "ptb_dir")),
    "text-classification": ("classifier", ("dataset_dir", "label_column")),
    "token-classification": ("classifier", ("dataset_dir", "label_column")),
    "automatic-speech-recognition": ("recognizer of speech", ("dataset_dir",)),
    "time-series-forecasting": ("network that forecasts", ()),
    "translation": ("network that translates", ("dataset_dir",)),
}


OTHERS = ("logits", "keys", "values")  # outputs that are no forecasts


def parse(argv: Sequence[str] | None = None) -> Namespace:
    parser = Parser(__doc__, "export")
    add_model_argument(parser)
    parser.add_argument("out", metavar="OUT", help="directory to write to")
    parser.add_argument("--last_logits_only", action="store_true", help="a language model gives the last logits alone")
    parser.add_argument("--int8", action="store_true", help=f"also write {INT8_FILE}, and compare the two")
    add_corpus_flags(parser)
    parser.add_argument("--dataset_dir", metavar="DIR", help="with the files of mr, ewt_pos or fsdd")
    parser.add_argument("--label_column", metavar="COLUMN", help="column of labels, for a classifier")
    return parser.parse_args(argv)


def run(arguments: Namespace) -> int:
    from transformers.utils.logging import disable_progress_bar

    from rnn_hf.loading import config_of
    from rnn_hf.onnx.export import ExportError, export_onnx
    from rnn_hf.tasks import task_of_model

    disable_progress_bar()
    config: Any = config_of(arguments.model)
    task = task_of_model(config.architectures)
    kind, own = KINDS[task.name]
    for name in dict.fromkeys(flag for _, flags in KINDS.values() for flag in flags):
        if getattr(arguments, name) and name not in own:
            raise InputError(f"--{name} does not go with {arguments.model}, which is a {kind}")
    quantize = None
    if arguments.int8 and kind == "network that forecasts":
        raise InputError(f"--int8 does not go with {arguments.model}, which is a {kind}")
    if arguments.int8:
        quantizers = {
            "language model": text_quantizer,
            "network that translates": translation_quantizer,
            "recognizer of speech": speech_quantizer,
        }
        quantize = quantizers.get(kind, classifier_quantizer)(arguments, task)
    try:
        report = export_onnx(arguments.model, arguments.out, last_logits_only=arguments.last_logits_only)
        int8 = quantize() if quantize else None
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show_file(Path(arguments.out) / MODEL_FILE, report, report["opset"])
    for file, name in SECOND_FILES.items():
        if name in report:
            show_file(Path(arguments.out) / file, report[name], report["opset"])
    if int8:
        show_int8(int8)
    return 0


def show_file(path: Path, about: dict[str, Any], opset: int) -> None:
    """Print what was checked of a file."""
    names = [value["name"] for value in about["interface"]["outputs"]]
    groups = {
        "logits": [name for name in names if name == "logits"],
        "forecasts": [name for name in names if name not in OTHERS and not name.startswith("present.")],
        "keys and values": [name for name in names if name in ("keys", "values")],
        "state": [name for name in names if name.startswith("present.")],
    }
    groups = {name: members for name, members in groups.items() if members}
    print(f"batch  sequence  largest difference to PyTorch: {', '.join(groups)}")
    for check in about["checked"]:
        found = check["largest_difference"]
        differences = [f"{max(found[name] for name in members):.1e}" for members in groups.values()]
        print(f"{check['batch']:>5}  {check['sequence']:>8}  {', '.join(differences)}")
    print(f"{path}: {about['bytes']:,} bytes, opset {opset}")


def text_quantizer(arguments: Namespace, task: Any) -> Callable[[], dict[str, Any]]:
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

    data = load_data_of(task.name, arguments.model, data_of(arguments, task))
    if "validation" not in data.splits:
        raise InputError("--int8 needs labelled text for validation: add --validation_file FILE")
    examples = encode_rows(data.splits["validation"], AutoTokenizer.from_pretrained(arguments.model))

    def score(model: Any) -> dict[str, float]:
        scores = task.module.score(model, data, "validation", examples, progress=True)
        return {**scores.values, "loss": scores.loss, scores.unit: scores.count}

    texts = [example["input_ids"] for example in examples]
    return lambda: quantize_classifier(arguments.out, texts, score)


def speech_quantizer(arguments: Namespace, task: Any) -> Callable[[], dict[str, Any]]:
    """What writes the 8 bits of a recognizer, whose recordings are loaded here."""
    from transformers import AutoTokenizer

    from rnn_hf.onnx.export import load_extractor
    from rnn_hf.onnx.quantization import quantize_recognizer
    from rnn_hf.tasks.speech_rows import rows_to_score

    given = task.module.arguments_of_data(arguments.model, data_of(arguments, task))
    data = task.module.load_data(**given)
    if "validation" not in data:
        raise InputError("--int8 needs recordings for validation: add --validation_file FILE")
    tokenizer, extractor = AutoTokenizer.from_pretrained(arguments.model), load_extractor(arguments.model)
    rows = rows_to_score(data["validation"], extractor, task.module.joined_for_scores(given))

    def score(model: Any) -> dict[str, float]:
        scores = task.module.score(model, tokenizer, rows, progress=True)
        return {**scores.values, "loss": scores.loss, scores.unit: scores.count}

    return lambda: quantize_recognizer(arguments.out, [row.features for row in rows], score)


def translation_quantizer(arguments: Namespace, task: Any) -> Callable[[], dict[str, Any]]:
    """What writes the 8 bits of a network that translates, whose pairs are loaded here."""
    from transformers import AutoTokenizer

    from rnn_hf.onnx.quantization import quantize_translator
    from rnn_hf.runs import data_arguments
    from rnn_hf.tasks.translation_scores import translation_values

    given = data_arguments(arguments.model, data_of(arguments, task))
    data = task.module.load_data(**given)
    if "validation" not in data.splits:
        raise InputError("--int8 needs pairs for validation: add --validation_file FILE")
    pairs, tokenizer = data.splits["validation"], AutoTokenizer.from_pretrained(arguments.model)

    def score(written: list[list[int]]) -> dict[str, float]:
        answers = tokenizer.batch_decode(written, skip_special_tokens=True)
        values, _ = translation_values(answers, [pair.target for pair in pairs], task.module.tokenize_of(given))
        return {**values, "texts": len(pairs)}

    return lambda: quantize_translator(arguments.out, [tokenizer(pair.source).input_ids for pair in pairs], score)


def data_of(arguments: Namespace, task: Any) -> dict[str, str]:
    """The flags that name data, of those that were given."""
    _, own = KINDS[task.name]
    return corpus_of(arguments) | {name: value for name in own if (value := getattr(arguments, name))}


def show_int8(int8: dict[str, Any]) -> None:
    """Print what 8 bits cost and gain."""
    from rnn_hf.tasks import METRICS

    for name in ("float32", "int8"):
        if "scores" in int8:
            scores = int8["scores"][name]
            unit = next(unit for unit in ("texts", "words") if unit in scores)
            metric = METRICS[next(iter(scores))]
            score = f"{metric.label(scores[metric.name])} over {scores[unit]:,} {unit}"
            each = "recording" if "steps" in int8 else "text"
        else:
            score, each = f"perplexity {int8['perplexity'][name]:.2f} over {int8['tokens']:,} tokens", "token"
        print(f"{name}: {int8['bytes'][name]:,} bytes, {score}, {int8['milliseconds'][name]:.3f} ms a {each}")
    print(f"int8 is {int8['speedup']:.2f} times as fast, on one thread")
    if "steps" in int8:
        show_steps(int8)
    if "encoder" in int8:
        sizes = int8["encoder"]["bytes"]
        print(f"encoder: {sizes['float32']:,} bytes, in 8 bits {sizes['int8']:,}")
        print(f"{100 * int8['equal_texts']:.1f} % of the translations are the same")
    if "stream" in int8:
        sizes, times = int8["stream"]["bytes"], int8["stream"]["milliseconds"]
        for name in ("float32", "int8"):
            print(f"{name}, streaming: {sizes[name]:,} bytes, {times[name]:.3f} ms a step")
        show_steps(int8["stream"])
    if int8["float_operators"]:
        print(f"{', '.join(int8['float_operators'])}: ONNX Runtime has no int8 form, so the recurrence gains nothing")


def show_steps(about: dict[str, Any]) -> None:
    """Print how near 8 bits are, step by step of a recognizer."""
    share = f"{100 * about['equal_steps']:.2f} % of {about['steps']:,} steps have the same label"
    print(f"{share}, logits differ by {about['largest_difference']:.2g} at most")
