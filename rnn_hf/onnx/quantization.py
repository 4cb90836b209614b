"""Exported models in 8 bits, compared with float32 in the same run."""

import logging
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from rnn_hf.data.tokenization import encode_stream, start_id
from rnn_hf.evaluation import evaluate
from rnn_hf.files import read_json, sha256_of, write_into, write_json
from rnn_hf.onnx import (
    ENCODER_FILE,
    ENCODER_INT8_FILE,
    INT8_FILE,
    MODEL_FILE,
    REPORT_FILE,
    SECOND_FILES,
    STREAM_FILE,
    STREAM_INT8_FILE,
)
from rnn_hf.onnx.export import check_folder
from rnn_hf.onnx.graph import OPERATORS, import_onnx, untie
from rnn_hf.onnx.model import RNNONNXForCausalLM
from rnn_hf.onnx.session import RNNONNXClassifier, RNNONNXRecognizer, RNNONNXTranslator, open_session
from rnn_hf.timing import in_turn, ratio


ROUNDS, STEPS = 9, 100  # of the timing: rounds, and steps of one token, or texts or recordings, in each


def quantize(folder: str | Path, lines: Iterable[str], progress: bool = False) -> dict[str, Any]:
    """Write `model_int8.onnx` next to `model.onnx`, and into `export.json` what it costs and gains.

    It is ONNX Runtime's dynamic quantisation: matrices of 8 bits, with one scale a column, and one for the whole
    embedding; what goes through the network is quantised as it comes, with one scale a call, so that the perplexity
    depends a little on the window (256 here). Of the recurrent operators it has the LSTM, projected or not; GRU and
    RNN stay in float32, and only the embedding and the output layer change.

    Args:
        folder: Of an export.
        lines: Text, of which both files' perplexity is measured.
        progress: Whether to show a progress bar.

    Returns:
        What `export.json` then says under `int8`: `bytes`, `perplexity` and `milliseconds` a token (median; one row,
        one thread) of `float32` and `int8`; `speedup` (median over rounds); `tokens` of the text; which recurrent
        operators are `float_operators`; and the checksum.

    Raises:
        OSError: `folder` is no export or not whole, or the disk is full.
        InputError: As `rnn_hf.evaluation.evaluate`.
        MissingPackageError: onnx or onnxruntime is not installed.
    """
    import_onnx()
    folder = Path(folder)
    check_folder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = encode_stream(lines, tokenizer)
    return _quantize(folder, lambda files: _compare(folder, files, tokens, start_id(tokenizer), progress))


def quantize_classifier(
    folder: str | Path, texts: Sequence[Sequence[int]], score: Callable[[RNNONNXClassifier], Mapping[str, float]]
) -> dict[str, Any]:
    """As `quantize`, for a classifier.

    Args:
        folder: Of an export.
        texts: Ids of texts, the first 100 of which are timed.
        score: What to compare of the two files, such as the metrics of `rnn_hf.tasks.text_classification.score`.

    Returns:
        What `export.json` then says under `int8`: as of `quantize`, with `scores` in place of `perplexity` and
        `tokens`, and `milliseconds` a text.

    Raises:
        OSError: `folder` is no export or not whole, or the disk is full.
        MissingPackageError: onnx or onnxruntime is not installed.
    """
    import_onnx()
    folder = Path(folder)
    check_folder(folder)
    timed = [ids for ids in texts if len(ids)][:STEPS]

    def compare(files: dict[str, str]) -> dict[str, Any]:
        models = {name: RNNONNXClassifier(str(folder / file), threads=1) for name, file in files.items()}
        scores = {name: dict(score(model)) for name, model in models.items()}
        ways = {name: partial(run_alone, model, timed) for name, model in models.items()}
        return {"scores": scores, **_times(ways, len(timed))}

    return _quantize(folder, compare)


def quantize_recognizer(
    folder: str | Path,
    recordings: Sequence[torch.Tensor],
    score: Callable[[RNNONNXRecognizer], Mapping[str, float]],
) -> dict[str, Any]:
    """As `quantize_classifier`, for a recognizer, whose streaming file is quantised too.

    Args:
        folder: Of an export.
        recordings: Features of recordings, `(T, bands)` each, the first 100 of which are timed.
        score: What to compare of the two files, such as the metrics of
            `rnn_hf.tasks.automatic_speech_recognition.score`.

    Returns:
        What `export.json` then says under `int8`: as of `quantize_classifier`, with `milliseconds` a recording, and
        `largest_difference` of logits and the share of `steps` with the same likeliest label, `equal_steps`, over all
        recordings. Under `stream` the same of the streaming files, without scores: the timed recordings, a step of the
        network at a time, with `milliseconds` a step.

    Raises:
        OSError: `folder` is no export or not whole, or the disk is full.
        MissingPackageError: onnx or onnxruntime is not installed.
    """
    import_onnx()
    folder = Path(folder)
    check_folder(folder)
    timed = recordings[:STEPS]

    def compare(files: dict[str, str]) -> dict[str, Any]:
        models = {name: RNNONNXRecognizer(str(folder / file), threads=1) for name, file in files.items()}
        scores = {name: dict(score(model)) for name, model in models.items()}
        ways = {name: partial(hear_alone, model, timed) for name, model in models.items()}
        logits = [hear_alone(model, recordings) for model in models.values()]
        return {"scores": scores, **_differences(*logits), **_times(ways, len(timed))}

    def compare_streams(files: dict[str, str]) -> dict[str, Any]:
        sessions = {name: open_session(str(folder / file), "cpu", 1) for name, file in files.items()}
        ways = {name: partial(hear_by_steps, session, timed) for name, session in sessions.items()}
        logits = [way() for way in ways.values()]
        return {**_differences(*logits), **_times(ways, len(logits[0]))}

    streams = (STREAM_FILE, STREAM_INT8_FILE, compare_streams)
    return _quantize(folder, compare, streams if (folder / STREAM_FILE).is_file() else None)


def quantize_translator(
    folder: str | Path, sources: Sequence[Sequence[int]], score: Callable[[list[list[int]]], Mapping[str, float]]
) -> dict[str, Any]:
    """As `quantize_classifier`, for a network that translates, both of whose files are quantised.

    Args:
        folder: Of an export.
        sources: Ids of texts, which greedy search translates one by one; the first 100 are timed.
        score: What to compare of the translations of all, ids without the start token.

    Returns:
        What `export.json` then says under `int8`: as of `quantize_classifier`, with `milliseconds` a translation and
        the share of translations that are the same, `equal_texts`; sizes of the encoder under `encoder`.

    Raises:
        OSError: `folder` is no export or not whole, or the disk is full.
        MissingPackageError: onnx or onnxruntime is not installed.
    """
    import_onnx()
    folder = Path(folder)
    check_folder(folder)
    config, generation = (read_json(folder / f"{name}.json") or {} for name in ("config", "generation_config"))

    def compare(files: dict[str, str]) -> dict[str, Any]:
        encoders = {name: file.replace("model", "encoder") for name, file in files.items()}
        most = generation.get("max_length") or 100
        models = {
            name: RNNONNXTranslator(str(folder / encoders[name]), str(folder / file), config, most)
            for name, file in files.items()
        }
        written = {name: [model(ids) for ids in sources] for name, model in models.items()}
        equal = [one == other for one, other in zip(*written.values(), strict=True)]
        ways = {name: partial(translate_alone, model, sources[:STEPS]) for name, model in models.items()}
        scores = {name: dict(score(texts)) for name, texts in written.items()}
        share = round(sum(equal) / len(equal), 5)
        return {"scores": scores, "equal_texts": share, **_times(ways, len(sources[:STEPS]))}

    return _quantize(folder, compare, (ENCODER_FILE, ENCODER_INT8_FILE, lambda files: {}))


def _quantize(
    folder: Path,
    compare: Callable[[dict[str, str]], dict[str, Any]],
    second: tuple[str, str, Callable[[dict[str, str]], dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Write the files in 8 bits and the report, with what is said of both files of a kind, by name in the folder.

    A second file is named as it is and in 8 bits, and written first.
    """
    comparison: dict[str, Any] = {}

    def write(draft: Path) -> None:
        others = {}
        if second is not None:
            source, file, compare_second = second
            others[SECOND_FILES[source]] = _write_and_compare(folder, source, draft / file, compare_second)
        comparison.update(_write_and_compare(folder, MODEL_FILE, draft / INT8_FILE, compare) | others)
        write_json(draft / REPORT_FILE, read_json(folder / REPORT_FILE) | {"int8": comparison})

    write_into(folder, write)
    return comparison


def _write_and_compare(
    folder: Path, source: str, target: Path, compare: Callable[[dict[str, str]], dict[str, Any]]
) -> dict[str, Any]:
    operators = write_int8(folder / source, target)
    files = {"float32": source, "int8": target.relative_to(folder).as_posix()}
    return compare(files) | {
        "bytes": {name: (folder / file).stat().st_size for name, file in files.items()},
        "float_operators": sorted(operators & set(OPERATORS.values())),
        "sha256": sha256_of(target),
    }


def write_int8(source: Path, target: Path) -> set[str]:
    """Write the graph of an exported file in 8 bits, its metadata kept; returns the operators that it has."""
    onnx = import_onnx()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = onnx.load(source)
    metadata = {prop.key: prop.value for prop in proto.metadata_props}
    untie(proto)
    before = logging.root.manager.disable  # what the application silenced
    logging.disable(max(before, logging.WARNING))  # it advises a step before, which changes nothing in these graphs
    try:
        # The steps of a projected LSTM are a graph within the graph.
        options: dict[str, Any] = {"weight_type": QuantType.QInt8, "extra_options": {"EnableSubgraph": True}}
        # Weights of 7 bits: CPUs without VNNI add two products in 16 bits, where those of 8 bits do not fit.
        quantize_dynamic(proto, target, per_channel=True, reduce_range=True, **options)
    finally:
        logging.disable(before)
    quantized = onnx.load(target)
    onnx.helper.set_model_props(quantized, metadata)
    target.write_bytes(quantized.SerializeToString())
    return {node.op_type for node in quantized.graph.node}


def _compare(folder: Path, files: dict[str, str], tokens: np.ndarray, start: int, progress: bool) -> dict[str, Any]:
    """Perplexity and time of each file, on one thread; `tokens` and `start` as in `evaluate`."""
    models: dict[str, Any] = {
        name: RNNONNXForCausalLM.from_pretrained(folder, file_name=file, threads=1) for name, file in files.items()
    }
    perplexities = {
        name: round(evaluate(model, tokens, start, window=256, progress=progress).perplexity, 3)
        for name, model in models.items()
    }
    times = _times({name: steps_of(model) for name, model in models.items()}, STEPS)
    return {"perplexity": perplexities, "tokens": len(tokens), **times}


def _differences(float32: np.ndarray, int8: np.ndarray) -> dict[str, Any]:
    """How far logits `(T', labels)` are from each other, and how often they have the same likeliest label."""
    is_equal = float32.argmax(axis=1) == int8.argmax(axis=1)
    difference = round(float(np.abs(float32 - int8).max()), 5)
    return {"largest_difference": difference, "equal_steps": round(float(is_equal.mean()), 5), "steps": len(is_equal)}


def _times(ways: Mapping[str, Callable[[], object]], number: int) -> dict[str, Any]:
    """Milliseconds of one of the `number` things that each way does, and how many times as fast 8 bits are."""
    times = in_turn(ways, ROUNDS)
    return {
        "milliseconds": {name: round(1000 * statistics.median(times[name]) / number, 4) for name in ways},
        "speedup": round(ratio(times, "float32", "int8"), 2),
    }


def run_alone(model: RNNONNXClassifier, texts: Sequence[Sequence[int]]) -> None:
    """Each text by itself."""
    for ids in texts:
        row = torch.tensor([ids], dtype=torch.long, device="cpu")
        model(row, torch.ones_like(row))


def translate_alone(model: RNNONNXTranslator, sources: Sequence[Sequence[int]]) -> None:
    """Each source by itself."""
    for ids in sources:
        model(ids)


def hear_alone(model: RNNONNXRecognizer, recordings: Sequence[torch.Tensor]) -> np.ndarray:
    """Each recording `(T, bands)` by itself; the logits of all, `(T', labels)`."""
    masks = [torch.ones(1, len(features), dtype=torch.long, device="cpu") for features in recordings]
    pairs = zip(recordings, masks, strict=True)
    return np.concatenate([model(features[None], mask).logits[0].numpy() for features, mask in pairs])


def hear_by_steps(session: Any, recordings: Sequence[torch.Tensor]) -> np.ndarray:
    """As `hear_alone`, a step of the network at a time, with the state carried."""
    size = int(session.get_modelmeta().custom_metadata_map["frame_stack"])
    start = {value.name: np.zeros((1, value.shape[1]), np.float32) for value in session.get_inputs()[1:]}
    logits = []
    for features in recordings:
        state = start
        for first in range(0, len(features) - size + 1, size):
            piece = features[None, first : first + size].numpy()
            heard, *after = session.run(None, {"input_features": piece, **state})
            state = dict(zip(state, after, strict=True))
            logits.append(heard[0])
    return np.concatenate(logits)


def steps_of(model: Any) -> Callable[[], object]:
    """`STEPS` steps of one token each, the state carried."""
    token = torch.zeros(1, 1, dtype=torch.long, device="cpu")

    def run() -> None:
        state = None
        for _ in range(STEPS):
            state = model(token, cache=state, use_cache=True).cache

    return run
