"""The card of an exported folder."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from transformers import AutoTokenizer

from rnn_hf.data.tokenization import unknown_id
from rnn_hf.files import read_json, write_text
from rnn_hf.hub.cards import CELL_NAMES, MARK, license_of, read_card
from rnn_hf.onnx import REPORT_FILE
from rnn_hf.onnx.forecast_graph import FORECASTING
from rnn_hf.onnx.speech_graph import SPEECH
from rnn_hf.onnx.translation_graph import TRANSLATION


CARD = """\
{mark}

# {name}

A language model ({cell}) as an ONNX file with its state as inputs and outputs, made of {source} by rnn_hf \
{versions[rnn_hf]}. ONNX Runtime {versions[onnxruntime]} ran it at {sizes} sizes of batch and sequence from random \
states; its logits and states differ from PyTorch's by {largest:.1e} at most, relative to values above 1.

## Use

```python
from transformers import AutoTokenizer
from rnn_hf import RNNONNXForCausalLM  # pip install 'rnn_hf[onnx]'

tokenizer = AutoTokenizer.from_pretrained("{model_id}")
model = RNNONNXForCausalLM.from_pretrained("{model_id}")
inputs = tokenizer("The", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20{without_unknown})[0]))
```

## Interface

{interface}

Zeros are the state before the first token; each `present` is the next call's `past`. There is no attention mask: the \
rows of a batch are of one length.

The model says what its training text makes likely, with that text's gaps and prejudices.
"""

CLASSIFIER_CARD = """\
{mark}

# {name}

A classifier of {units} ({cell}) as an ONNX file, made of {source} by rnn_hf {versions[rnn_hf]}. ONNX Runtime \
{versions[onnxruntime]} ran it at {sizes} sizes of batch and sequence with padding anywhere; its logits differ from \
PyTorch's by {largest:.1e} at most, relative to values above 1.

## Use

```python
import json

import onnxruntime
from transformers import AutoTokenizer
from transformers.utils import cached_file

with open(cached_file("{model_id}", "config.json"), encoding="utf-8") as file:
    labels = json.load(file)["id2label"]
tokenizer = AutoTokenizer.from_pretrained("{model_id}")
session = onnxruntime.InferenceSession(cached_file("{model_id}", "model.onnx"))
{example}
```

## Interface

{interface}

Padding, where the mask is 0, may stand anywhere. {about_logits}

The model gives an answer to any text, also to one that is unlike those of its training.
"""
SPEECH_CARD = """\
{mark}

# {name}

A recognizer of speech ({cell}{directions}) as {files}, made of {source} by rnn_hf {versions[rnn_hf]}. ONNX Runtime \
{versions[onnxruntime]} ran each at {sizes} sizes of batch and sequence; {outputs} differ from PyTorch's by \
{largest:.1e} at most, relative to values above 1.

## Use

```python
import onnxruntime
import soundfile
from transformers.utils import cached_file

from rnn_hf import RNNCTCTokenizer, RNNFeatureExtractor  # pip install 'rnn_hf[onnx,speech]'

extractor = RNNFeatureExtractor.from_pretrained("{model_id}")
tokenizer = RNNCTCTokenizer.from_pretrained("{model_id}")
session = onnxruntime.InferenceSession(cached_file("{model_id}", "model.onnx"))
samples, rate = soundfile.read("recording.wav", dtype="float32")  # one channel, {sampling_rate} samples a second
inputs = extractor(samples, sampling_rate=rate, return_tensors="np")
mask = inputs["attention_mask"].astype("int64")
(logits,) = session.run(["logits"], {{"input_features": inputs["input_features"], "attention_mask": mask}})
print(tokenizer.batch_decode(logits.argmax(axis=2)))
```

Programs that need onnxruntime and NumPy alone are in the docs of rnn_hf: {clients}. `preprocessor_config.json` and \
`mel_filters.json` say how features are made, and `vocab.json` has the labels.

## Interface of model.onnx

{interface}

Padding, where the mask is 0, stands on the right. `steps` is `frames` // {frame_stack}: {frame_stack} frames of \
{milliseconds:g} ms are a step, which gives a label or the blank, {blank}. At padding it is the blank.
{stream}
The model writes what it has labels for, whatever it hears.
"""
STREAM = """\

## Interface of stream.onnx

{interface}

`frames` is a multiple of {frame_stack}. Zeros are the state before the first frame; each `present` is the next \
call's `past`. All rows of a batch are of one length.
"""
FORECAST_CARD = """\
{mark}

# {name}

A network that forecasts time series ({cell}) as an ONNX file, made of {source} by rnn_hf {versions[rnn_hf]}. ONNX \
Runtime {versions[onnxruntime]} ran it at {sizes} sizes of batch and sequence with missing values; what it gives \
differs from PyTorch's by {largest:.1e} at most, relative to values above 1.

## Use

The docs of rnn_hf have a program that forecasts with onnxruntime and NumPy alone, `{client}`:

```bash
python {client} FOLDER series.csv
```

## Interface

{interface}

{about}

A forecast goes on as the series of its training did; what has not happened there, it does not foresee.
"""
TRANSLATION_CARD = """\
{mark}

# {name}

A network that writes a text from another one ({cell}) as two ONNX files, made of {source} by rnn_hf \
{versions[rnn_hf]}: `encoder.onnx` reads, and `model.onnx` is a step of the decoder with its state as inputs and \
outputs. ONNX Runtime {versions[onnxruntime]} ran each at {sizes} sizes of batch and sequence with padding anywhere; \
what they give differs from PyTorch's by {largest:.1e} at most, relative to values above 1.

## Use

The docs of rnn_hf have a program that searches with beams by onnxruntime, tokenizers and NumPy alone, \
`onnx_translation_client.py`, for sentences a line:

```bash
python onnx_translation_client.py FOLDER sentences.txt --num_beams 5
```

## Interface of encoder.onnx

{encoder}

## Interface of model.onnx

{interface}

The first `past` is what the encoder gives as `present`; each `present` of a step is the next step's `past`. Beams of \
one source are rows with the same `keys`, `values` and mask. The first token is {start}.

A translation may be fluent and wrong.
"""
# By the kind of head: the program, and what its graph takes.
OF_HEADS = {
    "direct": (
        "onnx_forecast_client.py",
        "A row is one series, in the units of the training: `series` in `config.json` has mean and deviation of each. "
        "A value does not count where the mask is 0 or where it is NaN.",
    ),
    "autoregressive": (
        "onnx_forecast_paths_client.py",
        "A row is one series, in the units of the training: `series` in `config.json` has mean and deviation of each. "
        "`lags` are its values so many steps before each step, by `lags_sequence`, and count where `lags_observed` is "
        "1; `loc` and `scale` are those of the context, by `scaling`. What is predicted is the distribution of "
        "`(value - loc) / scale` at each step; of counts the mean is to be multiplied by `scale`. Zeros are the state "
        "before the first step; each `present` is the next call's `past`.",
    ),
}
# What differs between a recognizer in both directions, which has one file, and one that streams.
OF_WHOLE = {
    "directions": ", in both directions",
    "files": "an ONNX file",
    "outputs": "its logits",
    "clients": "`onnx_speech_client.py`",
}
OF_STREAMING = {
    "directions": "",
    "files": "two ONNX files, for whole recordings and, with the state as inputs and outputs, for speech as it comes",
    "outputs": "logits and states",
    "clients": "`onnx_speech_client.py` and, for speech as it comes, `onnx_speech_stream_client.py`",
}
EXAMPLE = """\
inputs = tokenizer({texts}, padding=True, return_tensors="np")
(logits,) = session.run(["logits"], {{name: inputs[name] for name in ("input_ids", "attention_mask")}})
print({answers})"""
# By problem type, or task: texts, and what is made of the logits.
TEXTS = '["A warm, funny film.", "Dull"]'
ANSWERS = {
    "token-classification": (
        '[["The", "cat", "sat"], ["Stop"]], is_split_into_words=True',
        "[[labels[str(index)] for index in row] for row in logits.argmax(axis=2)]",
    ),
    "text-classification": (TEXTS, "[labels[str(index)] for index in logits.argmax(axis=1)]"),
    "multi_label_classification": (
        TEXTS,
        "[[labels[str(index)] for index in row.nonzero()[0]] for row in logits > 0]",
    ),
    "regression": (TEXTS, "logits"),
}
ABOUT_LOGITS = {
    "token-classification": "`logits` are those of each token: the label of a word is that of its first one.",
    "text-classification": "`logits` become probabilities by a softmax.",
    "multi_label_classification": "`logits` become probabilities by a sigmoid, each for itself.",
    "regression": "`logits` are the numbers themselves.",
}


def write_onnx_card(folder: Path, interface: dict[str, Any], model_id: str, license: str | None = None) -> None:
    """Render README.md of an exported folder; one that was written by hand stays.

    Args:
        folder: With `config.json` and `export.json`.
        interface: Of the file in it.
        model_id: Name under which the card's example loads it.
        license: Of the weights, as the Hub spells it; `None` keeps that of the card there is.
    """
    before = read_card(folder)
    if before is not None and MARK not in before:
        return
    report, config = read_json(folder / REPORT_FILE), read_json(folder / "config.json")
    values = {
        "cell": CELL_NAMES[config["cell_type"]],
        "interface": table(interface),
        "largest": largest_of(report),
        "mark": MARK,
        "model_id": model_id,
        "name": model_id.rpartition("/")[2],
        "sizes": len(report["checked"]),
        "source": report["source"],
        "versions": report["versions"],
    }
    if report.get("task") == SPEECH:
        text = _speech_card(values, report, config, read_json(folder / "preprocessor_config.json"))
    elif report.get("task") == FORECASTING:
        client, about = OF_HEADS[config["prediction_head"]]
        text = FORECAST_CARD.format(client=client, about=about, **values)
    elif report.get("task") == TRANSLATION:
        values["largest"] = max(values["largest"], largest_of(report["encoder"]))
        encoder, start = table(report["encoder"]["interface"]), config["decoder_start_token_id"]
        text = TRANSLATION_CARD.format(encoder=encoder, start=start, **values)
    elif "task" in report:
        text = _classifier_card(values, report["task"], config.get("problem_type"))
    else:
        unknown = unknown_id(AutoTokenizer.from_pretrained(folder))
        without_unknown = "" if unknown is None else f", bad_words_ids=[[{unknown}]]"
        text = CARD.format(without_unknown=without_unknown, **values)
    license, task = license or license_of(folder), report.get("task", "text-generation")
    metadata = ModelCardData(license=license, library_name="onnx", pipeline_tag=task, tags=["rnn_hf"])
    write_text(folder / "README.md", f"---\n{metadata.to_yaml()}\n---\n{text}")


def table(interface: dict[str, Any]) -> str:
    """Inputs and outputs of a file."""
    rows = ["| | name | shape | type |", "|---|---|---|---|"]
    rows += [
        f"| {side[:-1]} | `{value['name']}` | ({', '.join(map(str, value['shape']))}) | {value['dtype']} |"
        for side in ("inputs", "outputs")
        for value in interface[side]
    ]
    return "\n".join(rows)


def largest_of(report: dict[str, Any]) -> float:
    """The largest difference to PyTorch that was found in a file."""
    return max(max(check["largest_difference"].values()) for check in report["checked"])


def _speech_card(
    values: dict[str, Any], report: dict[str, Any], config: dict[str, Any], features: dict[str, Any]
) -> str:
    stream, stack = report.get("stream"), config["frame_stack"]
    rate, hop = features["sampling_rate"], features["hop_length"]
    values = values | {"blank": config["pad_token_id"], "frame_stack": stack, "stream": ""}
    values |= {"milliseconds": 1000 * hop / rate, "sampling_rate": rate}
    if stream is None:
        return SPEECH_CARD.format(**values, **OF_WHOLE)
    values["largest"] = max(values["largest"], largest_of(stream))
    values["stream"] = STREAM.format(interface=table(stream["interface"]), frame_stack=stack)
    return SPEECH_CARD.format(**values, **OF_STREAMING)


def _classifier_card(values: dict[str, Any], task: str, problem_type: str | None) -> str:
    kind = problem_type if task == "text-classification" and problem_type in ANSWERS else task
    texts, answers = ANSWERS[kind]
    units = "words" if task == "token-classification" else "texts"
    example = EXAMPLE.format(texts=texts, answers=answers)
    return CLASSIFIER_CARD.format(about_logits=ABOUT_LOGITS[kind], example=example, units=units, **values)
