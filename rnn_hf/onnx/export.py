"""Models as ONNX files: built, run against PyTorch at many sizes, and kept only if they agree."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from rnn_hf import __version__
from rnn_hf.errors import InputError
from rnn_hf.files import read_json, sha256_of, write_into, write_json, write_text
from rnn_hf.loading import config_of, load_model
from rnn_hf.models import (
    HEADS,
    RNNCache,
    RNNFeatureExtractor,
    RNNForCausalLM,
    RNNForConditionalGeneration,
    RNNForCTC,
    RNNForTimeSeriesPrediction,
    RNNModel,
)
from rnn_hf.onnx import (
    ENCODER_FILE,
    INT8_FILE,
    MEL_FILE,
    MODEL_FILE,
    REPORT_FILE,
    SECOND_FILES,
    SECOND_INT8_FILES,
    STREAM_FILE,
    TRTEXEC_FILE,
)
from rnn_hf.onnx.classifier_graph import build_classifier_graph
from rnn_hf.onnx.forecast_graph import build_forecast_graph, random_series, run_forecaster
from rnn_hf.onnx.graph import IR_VERSION, OPSET, build_graph, import_onnx
from rnn_hf.onnx.session import import_onnxruntime, open_session
from rnn_hf.onnx.speech_graph import build_speech_graph, build_stream_graph
from rnn_hf.onnx.translation_graph import (
    build_decoder_graph,
    build_encoder_graph,
    random_translation,
    run_translator,
)


SIZES = ((1, 1), (2, 7), (5, 3), (1, 64), (3, 130))  # (batch, sequence) at which a file is run before it is kept
REAL_SHARE = 0.7  # of the tokens that a classifier is run with then; the others are padding, anywhere
TOLERANCE = 1e-5  # largest difference to PyTorch, relative to the value where that is above 1
# A network that forgets little multiplies its rounding from step to step, and PyTorch in float32 is then far from
# PyTorch in float64 too. So a file may be off by this many times PyTorch's own error at that size, where that is more.
# Something wrong is off at one token too, where that error is nothing.
ROUNDING = 10

KINDS = {
    "AutoModelForCausalLM": "language model", "AutoModelForCTC": "recognizer of speech",
    "AutoModelForSeq2SeqLM": "network that translates", "AutoModelForTimeSeriesPrediction": "network that forecasts",
}  # others are classifiers  # fmt: skip
# What a file is run with, and what PyTorch makes of that, where neither is ids or features alone.
OWN_INPUTS: dict[type, tuple[Any, Any]] = {
    RNNForTimeSeriesPrediction: (random_series, run_forecaster),
    RNNForConditionalGeneration: (random_translation, run_translator),
}
# What not every export has.
SOME_FILES = (
    INT8_FILE, *SECOND_FILES, *SECOND_INT8_FILES, MEL_FILE, TRTEXEC_FILE, "generation_config.json",
    "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
)  # fmt: skip

# (batch, sequence) of the engine that TensorRT is to build: it takes any between the first and the last.
TRT_SIZES = {"min": (1, 1), "opt": (1, 1), "max": (32, 512)}
TRTEXEC = """\
#!/bin/sh
# Builds a TensorRT engine of model.onnx, for the sizes below: a state is zeros at first, then what came out.
# This command was written by rnn_hf's exporter and was not run: check what the engine says against model.onnx.
# It keeps float32. For half precision add --fp16, and look at the differences then.
cd "$(dirname "$0")" || exit
trtexec --onnx=model.onnx --saveEngine=model.plan \\
  {shapes}
"""


class ExportError(OSError):
    """The ONNX file does not do what the model does; the message says where. Nothing was written."""


def export_onnx(name: str | Path, out_dir: str | Path, *, last_logits_only: bool = False) -> dict[str, Any]:
    """Write a model as an ONNX file, with configuration, tokenizer and a report of what was checked.

    The file was run by ONNX Runtime at each of `SIZES` and agrees with PyTorch, or nothing is written: with random
    states, padding or gaps. What it takes and gives is said in [`rnn_hf.onnx.graph.build_graph`],
    [`rnn_hf.onnx.classifier_graph.build_classifier_graph`], [`rnn_hf.onnx.speech_graph.build_speech_graph`],
    [`rnn_hf.onnx.forecast_graph.build_forecast_graph`] and in its metadata.

    Of a translator `model.onnx` is the decoder and `encoder.onnx` the encoder, see `rnn_hf.onnx.translation_graph`.
    A recognizer in one direction has a second file, `stream.onnx`, with its state as inputs and outputs, checked from
    random states. `preprocessor_config.json` and `mel_filters.json` say how its features are made.

    Args:
        name: Directory of the model, or its name on the Hub.
        out_dir: Directory to write to: a new one, or that of an export, which is replaced when all is written.
        last_logits_only: For a language model: whether the file gives the logits of the last position alone,
            `(batch, 1, vocab_size)`.

    Returns:
        The content of `export.json`: size and checksum of the file, sizes tried, largest differences, versions; of
        a second file under `stream` or `encoder`.

    Raises:
        InputError: `out_dir` is in use for something else; there is no such model, it has no head, or a recognizer
            no feature extractor; `last_logits_only` of what is no language model; or as the builders of graphs.
        ExportError: The file differs from PyTorch.
        MissingPackageError: onnx or onnxruntime is not installed.
    """
    name, out_dir = str(name), Path(out_dir)
    check_target(out_dir)
    onnx = import_onnx()
    modules = (onnx, import_onnxruntime(), torch, transformers)
    auto_class = auto_class_of(name)
    if last_logits_only and (kind := KINDS.get(auto_class, "classifier")) != "language model":
        raise InputError(f"`last_logits_only` is for a language model, and {name} is a {kind}")
    model: Any
    model, tokenizer = load_model(name, auto_class=auto_class)
    extractor = load_extractor(name) if isinstance(model, RNNForCTC) else None
    graphs = build_graphs(model, last_logits_only)
    files = {file: checked_file(onnx, graph, model, last_logits_only) for file, graph in graphs.items()}
    report: dict[str, Any] = files[MODEL_FILE][1] | {
        "ir_version": IR_VERSION,
        "opset": OPSET,
        "source": Path(name).resolve().name if Path(name).is_dir() else name,
        "tolerance": TOLERANCE,
        "versions": {"rnn_hf": __version__} | {module.__name__: str(module.__version__) for module in modules},
    }
    report |= {name: files[file][1] for file, name in SECOND_FILES.items() if file in files}

    def write(folder: Path) -> None:
        for file, (content, _) in files.items():
            (folder / file).write_bytes(content)
            about = report[SECOND_FILES[file]] if file in SECOND_FILES else report
            about.update(bytes=len(content), sha256=sha256_of(folder / file))
        write_rest(folder, model, tokenizer, extractor, report["interface"])
        write_json(folder / REPORT_FILE, report)
        remove_stale(out_dir, folder)

    write_into(out_dir, write)
    return report


def build_graphs(model: Any, last_logits_only: bool) -> dict[str, Any]:
    """The graphs of a model, by the names of their files."""
    if isinstance(model, RNNForCTC):
        graphs = {MODEL_FILE: build_speech_graph(model)}
        return graphs if model.config.bidirectional else graphs | {STREAM_FILE: build_stream_graph(model)}
    if isinstance(model, RNNForTimeSeriesPrediction):
        return {MODEL_FILE: build_forecast_graph(model)}
    if isinstance(model, RNNForConditionalGeneration):
        return {MODEL_FILE: build_decoder_graph(model), ENCODER_FILE: build_encoder_graph(model)}
    is_language_model = isinstance(model, RNNForCausalLM)
    return {MODEL_FILE: build_graph(model, last_logits_only) if is_language_model else build_classifier_graph(model)}


def checked_file(onnx: Any, graph: Any, model: Any, last_logits_only: bool) -> tuple[bytes, dict[str, Any]]:
    """The content of the file of a graph, and what a report says of it; errors as of `verify`."""
    onnx.checker.check_model(graph, full_check=True)
    content, metadata = graph.SerializeToString(), {prop.key: prop.value for prop in graph.metadata_props}
    interface = json.loads(metadata["interface"])
    about = {key: metadata[key] for key in ("identity", "logits", "task") if key in metadata}
    checked = verify(content, model, interface, last_logits_only)
    return content, {"checked": checked, "interface": interface, **about}


def load_extractor(name: str) -> RNNFeatureExtractor:
    """The feature extractor of a recognizer.

    Raises:
        InputError: There is none, or it does not load.
    """
    try:
        return RNNFeatureExtractor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the feature extractor of {name}: {' '.join(str(error).split())}") from error


def remove_stale(out_dir: Path, folder: Path) -> None:
    """Remove what was made of a file that goes now, and what the new export, in a folder, comes without."""
    for name in SOME_FILES:
        if not (folder / name).is_file():
            (out_dir / name).unlink(missing_ok=True)


def write_rest(
    folder: Path, model: Any, tokenizer: Any, extractor: RNNFeatureExtractor | None, interface: dict[str, Any]
) -> None:
    """Configuration and tokenizer, and what goes with a language model or a recognizer."""
    config = copy.deepcopy(model.config)
    config.dtype, config.auto_map = torch.float32, {}
    # Not save_pretrained: it may also write code, half of which would be missing.
    config.to_json_file(folder / "config.json")
    if extractor is not None:
        tokenizer._auto_class = None  # neither is the code of its tokenizer of use without PyTorch
        tokenizer.init_kwargs.pop("auto_map", None)
        settings = {name: value for name, value in extractor.to_dict().items() if name != "auto_map"}
        write_json(folder / "preprocessor_config.json", settings)
        write_text(folder / MEL_FILE, json.dumps(extractor.mel_filters.tolist()) + "\n")
    if tokenizer is None:  # numbers need none
        return
    tokenizer.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)  # generation_config.json
    if isinstance(model, RNNForCausalLM):
        write_text(folder / TRTEXEC_FILE, trtexec_command(interface))
    elif (
        extractor is None and not model.can_generate()
    ):  # transformers leaves out the names that it gives to two labels without any
        labels = {"id2label": {str(index): label for index, label in config.id2label.items()}}
        write_json(folder / "config.json", read_json(folder / "config.json") | labels)


def auto_class_of(name: str) -> str:
    """Which of `rnn_hf.models.HEADS` loads a model, by the architecture in its configuration.

    Raises:
        InputError: It has no head, or as `rnn_hf.loading.config_of`.
    """
    architecture = (config_of(name).architectures or [""])[0]
    if architecture == RNNModel.__name__:
        raise InputError(
            f"{name} is a network without a head: an ONNX file is of a language model, a classifier or a recognizer"
        )
    names = {head.__name__: auto_class for auto_class, head in HEADS.items()}
    return names.get(architecture, "AutoModelForCausalLM")


def check_target(out_dir: Path) -> None:
    """Refuse a directory that is in use for something else.

    Raises:
        InputError: It is a file, or has content and no export.json.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise InputError(f"`out_dir` must be a directory, and {out_dir} is a file")
    content = {path.name for path in out_dir.iterdir()} - {".writing"} if out_dir.is_dir() else set()
    if content and REPORT_FILE not in content:
        raise InputError(
            f"`out_dir` {out_dir} holds something that is no export (it has no {REPORT_FILE}): name a new directory"
        )


@torch.no_grad()
def verify(
    content: bytes, model: Any, interface: dict[str, list[dict[str, Any]]], last_logits_only: bool
) -> list[dict[str, Any]]:
    """Run a file in ONNX Runtime, as `random_inputs` says, at each of `SIZES`, and compare each output with PyTorch's.

    Returns:
        For each size `batch`, `sequence` and, by output, `largest_difference` and what was `allowed`.

    Raises:
        ExportError: An output differs by more than `TOLERANCE` and more than rounding explains, or the file fails.
    """
    session = open_session(content, "cpu", torch.get_num_threads())
    model = copy.deepcopy(model).cpu().float().eval()
    generator = torch.Generator().manual_seed(0)
    checked = []
    for batch, sequence in SIZES:
        inputs = random_inputs(model, interface, batch, sequence, generator)
        expected = run(model, inputs, last_logits_only)
        actual = run_session(session, inputs, list(expected))
        differences = {name: difference(actual[name], expected[name]) for name in expected}
        allowed = dict.fromkeys(expected, TOLERANCE)
        if not max(differences.values()) <= TOLERANCE:
            exact = run(copy.deepcopy(model).double(), inputs, last_logits_only)
            own = {name: difference(expected[name], exact[name]) for name in expected}
            allowed = {name: max(TOLERANCE, ROUNDING * error) for name, error in own.items()}
        for name, value in differences.items():
            if not value <= allowed[name]:  # written so that NaN fails
                raise ExportError(
                    f"the ONNX file is not kept: at batch {batch} and sequence {sequence} its output {name} differs "
                    f"from PyTorch by {value:.2g}, and {allowed[name]:.2g} is allowed"
                )
        checked.append({"batch": batch, "sequence": sequence, "largest_difference": differences, "allowed": allowed})
    return checked


def random_inputs(
    model: Any, interface: dict[str, list[dict[str, Any]]], batch: int, sequence: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Ids or features, and states or a mask: for a classifier with padding anywhere, for a recognizer on the right.

    The first row of several has none. Without a mask features are so many steps, with it so many frames. Of series and
    translations as `random_series` and `random_translation` say.
    """
    if type(model) in OWN_INPUTS:
        return OWN_INPUTS[type(model)][0](model.config, interface, batch, sequence, generator)
    names = [value["name"] for value in interface["inputs"]]
    inputs: dict[str, torch.Tensor] = {}
    for value in interface["inputs"]:
        if value["name"] == "input_ids":
            tensor = torch.randint(model.config.vocab_size, (batch, sequence), generator=generator)
        elif value["name"] == "input_features":
            frames = sequence * (1 if "attention_mask" in names else model.config.frame_stack)
            tensor = torch.randn(batch, frames, value["shape"][2], generator=generator)
        elif value["name"] == "attention_mask":
            if "input_ids" in inputs:
                mask = torch.rand(batch, sequence, generator=generator) < REAL_SHARE
            else:
                mask = torch.arange(sequence) < torch.randint(sequence + 1, (batch, 1), generator=generator)
            mask[0] |= batch > 1
            tensor = mask.long()
        else:
            tensor = 2 * torch.rand(batch, value["shape"][1], generator=generator) - 1
        inputs[value["name"]] = tensor
    return inputs


def run_session(session: Any, inputs: dict[str, torch.Tensor], names: list[str]) -> dict[str, np.ndarray]:
    """The outputs of these names.

    Raises:
        ExportError: It fails.
    """
    try:
        outputs = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    except Exception as error:
        shape = tuple(next(iter(inputs.values())).shape[:2])
        reason = " ".join(str(error).split())
        raise ExportError(f"the ONNX file is not kept: it fails at batch and sequence {shape}: {reason}") from error
    return dict(zip(names, outputs, strict=True))


def run(model: Any, inputs: dict[str, torch.Tensor], last_logits_only: bool) -> dict[str, np.ndarray]:
    """What PyTorch makes of the inputs of an ONNX file, by the names of its outputs."""
    if type(model) in OWN_INPUTS:
        return {name: tensor.numpy() for name, tensor in OWN_INPUTS[type(model)][1](model, inputs).items()}
    if "attention_mask" in inputs:
        # At padding a recognizer has the least number there is, which float32 has not from float64.
        return {"logits": model(**inputs).logits.clamp(min=torch.finfo(torch.float32).min).numpy()}
    state = RNNCache(model.config)
    for index, layer in enumerate(state.layers):
        layer.lazy_initialization(inputs[f"past.{index}.hidden"], inputs.get(f"past.{index}.cell"))
    state.to(model.dtype)
    options = {"logits_to_keep": int(last_logits_only)} if "input_ids" in inputs else {}
    outputs = model(next(iter(inputs.values())), cache=state, use_cache=True, **options)
    tensors = {"logits": outputs.logits}
    for index, layer in enumerate(outputs.cache.layers):
        tensors |= {f"present.{index}.hidden": layer.keys, f"present.{index}.cell": layer.values}
    return {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays, relative to values above 1; infinite where the shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    return float((np.abs(actual - expected) / np.maximum(1, np.abs(expected))).max(initial=0))


def trtexec_command(interface: dict[str, Any]) -> str:
    """A shell script that builds a TensorRT engine for a file of this interface."""
    flags = []
    for kind, (batch, sequence) in TRT_SIZES.items():
        sizes = {"batch": batch, "sequence": sequence}
        shapes = [
            (v["name"], "x".join(str(sizes.get(size, size)) for size in v["shape"])) for v in interface["inputs"]
        ]
        flags.append(f"--{kind}Shapes=" + ",".join(f"{name}:{shape}" for name, shape in shapes))
    return TRTEXEC.format(shapes=" \\\n  ".join(flags))


def check_folder(folder: Path) -> dict[str, Any]:
    """Make sure that an exported folder is whole: the file is the one that was checked, and each file loads.

    Returns:
        The interface, see `rnn_hf.onnx.graph.interface_of`.

    Raises:
        OSError: It is not.
        MissingPackageError: onnxruntime is not installed.
    """
    report = read_json(folder / REPORT_FILE)
    path = folder / MODEL_FILE
    if report is None or not path.is_file():
        raise FileNotFoundError(f"no export in {folder}: it needs {MODEL_FILE} and {REPORT_FILE}")
    int8 = report.get("int8", {})
    reports = {MODEL_FILE: report, INT8_FILE: int8}
    reports |= {file: report.get(name, {}) for file, name in SECOND_FILES.items()}
    reports |= {file: int8.get(name, {}) for file, name in SECOND_INT8_FILES.items()}
    files = [file for file in reports if (folder / file).is_file()]
    for file in files:
        if sha256_of(folder / file) != reports[file].get("sha256"):
            raise OSError(f"{folder / file} is not the file that {REPORT_FILE} is about: export the model again")
    session, *_ = [open_session(str(folder / file), "cpu", 1) for file in files]
    return json.loads(session.get_modelmeta().custom_metadata_map["interface"])
