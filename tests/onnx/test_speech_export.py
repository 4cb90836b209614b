"""Exported recognizers: what the folder has, files that are wrong, 8 bits, the card and the command."""

import json
import re

import numpy as np
import onnxruntime
import pytest
import torch
from classifiers import TEXTS
from recognizers import BANDS, make_recognizer, some_speech, text_of
from speech_files import PATTERN, encoded, write_archive
from test_export import changed
from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer

from rnn_hf import RNNFeatureExtractor, RNNForCTC
from rnn_hf.files import read_json, sha256_of
from rnn_hf.hub.repository import build_repository
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.onnx import export, quantization
from rnn_hf.onnx.export import SIZES, TOLERANCE, ExportError, check_folder, export_onnx
from rnn_hf.onnx.model import RNNONNXForCausalLM
from rnn_hf.onnx.quantization import hear_alone, hear_by_steps, quantize_recognizer
from rnn_hf.onnx.session import RNNONNXRecognizer, open_session
from rnn_hf.tasks import SPEECH_RECOGNITION


FILES = {"config.json", "export.json", "mel_filters.json", "model.onnx", "preprocessor_config.json",
         "tokenizer_config.json", "vocab.json"}  # fmt: skip
NEAR = 0.05  # of the range of the logits; those of 8 bits here are off by 0.02 at most
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])


def names_in(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def features_of(path, seed=0, seconds=1.0):
    extractor = RNNFeatureExtractor.from_pretrained(path)
    return extractor.normalize(extractor.log_mel(torch.from_numpy(some_speech(seconds, seed)))[0])[0]


@DIRECTIONS
def test_the_folder_has_what_hears_and_a_second_file_where_the_network_has_a_state(tmp_path, bidirectional):
    path, out = make_recognizer(tmp_path / "model", bidirectional=bidirectional), tmp_path / "onnx"
    report = export_onnx(path, out)
    assert names_in(out) == FILES | (set() if bidirectional else {"stream.onnx"})
    assert read_json(out / "export.json") == report and report["task"] == "automatic-speech-recognition"
    model = RNNForCTC.from_pretrained(path)
    parts = {"model.onnx": report} | ({} if bidirectional else {"stream.onnx": report["stream"]})
    for file, part in parts.items():
        assert part["sha256"] == sha256_of(out / file) and part["bytes"] == (out / file).stat().st_size
        assert part["identity"] == identity_of(model)
        assert [(check["batch"], check["sequence"]) for check in part["checked"]] == list(SIZES)
        outputs = [value.name for value in onnxruntime.InferenceSession(out / file).get_outputs()]
        for check in part["checked"]:
            assert list(check["largest_difference"]) == outputs
            assert max(check["largest_difference"].values()) <= TOLERANCE
    assert ("stream" in report) is not bidirectional
    assert check_folder(out)["inputs"][1]["name"] == "attention_mask"


def test_the_parts_that_are_not_the_network_load_as_they_were(tmp_path):
    path, out = make_recognizer(tmp_path / "model", unit="words"), tmp_path / "onnx"
    export_onnx(path, out)
    extractor, theirs = (AutoFeatureExtractor.from_pretrained(folder) for folder in (path, out))
    assert {**theirs.to_dict(), "auto_map": None} == {**extractor.to_dict(), "auto_map": None}
    tokenizer, same = (AutoTokenizer.from_pretrained(folder) for folder in (path, out))
    assert same.get_vocab() == tokenizer.get_vocab() and same.unit == "words"
    assert AutoConfig.from_pretrained(out).frame_stack == 3
    for file in ("config", "preprocessor_config", "tokenizer_config"):  # there is no code with the files
        assert not json.loads((out / f"{file}.json").read_text()).get("auto_map")
    assert np.array_equal(json.loads((out / "mel_filters.json").read_text()), np.asarray(extractor.mel_filters))


@pytest.mark.parametrize("name", ["build_speech_graph", "build_stream_graph"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_of_a_recognizer_with_a_file_that_is_wrong_nothing_is_left(tmp_path, monkeypatch, name, bidirectional):
    def build(model):
        proto = original(model)
        changed("layers.1.R", lambda weight: weight * 1.01)(proto.graph)
        return proto

    original = getattr(export, name)
    monkeypatch.setattr(export, name, build)
    path, out = make_recognizer(tmp_path / "model", bidirectional=bidirectional), tmp_path / "onnx"
    if bidirectional and name == "build_stream_graph":  # there is none that could be wrong
        export_onnx(path, out)
        return
    with pytest.raises(ExportError, match="its output logits differs from PyTorch by"):
        export_onnx(path, out)
    assert not names_in(out)


def test_the_lengths_of_rows_are_part_of_the_check(tmp_path, monkeypatch):
    def build(model):
        proto = original(model)
        for node in proto.graph.node:
            if node.op_type == "GRU":
                node.input[4] = ""
        return proto

    original = export.build_speech_graph
    monkeypatch.setattr(export, "build_speech_graph", build)
    with pytest.raises(ExportError, match="its output logits differs from PyTorch by"):
        export_onnx(make_recognizer(tmp_path / "model", bidirectional=True), tmp_path / "onnx")


def test_padding_is_seen_in_a_network_that_multiplies_rounding(tmp_path, monkeypatch):
    """Its logits are compared with float64, whose certain blank is another."""
    fields = {"cell_type": "rnn", "hidden_act": "tanh", "hidden_size": 40}
    path = make_recognizer(tmp_path / "model", **fields)
    checked = export_onnx(path, tmp_path / "onnx")["checked"]
    assert max(check["allowed"]["logits"] for check in checked) < 0.1
    assert any(check["largest_difference"]["logits"] > TOLERANCE for check in checked)

    def build(model):
        proto = original(model)
        changed("certain_blank", lambda weight: weight + 1)(proto.graph)
        return proto

    original = export.build_speech_graph
    monkeypatch.setattr(export, "build_speech_graph", build)
    with pytest.raises(ExportError, match="its output logits differs from PyTorch by"):
        export_onnx(path, tmp_path / "onnx")


def test_an_export_is_replaced_by_one_of_another_kind_as_a_whole(tmp_path, make_small):
    paths = {
        "stream": (make_recognizer(tmp_path / "stream"), FILES | {"stream.onnx"}),
        "both": (make_recognizer(tmp_path / "both", bidirectional=True), FILES),
        "texts": (
            make_small(TEXTS), {"config.json", "export.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}
        ),
    }  # fmt: skip
    for name in ("stream", "both", "stream", "texts", "both"):
        path, files = paths[name]
        export_onnx(path, tmp_path / "onnx")
        assert names_in(tmp_path / "onnx") == files


def test_a_recognizer_is_no_language_model_and_needs_its_extractor(tmp_path):
    path = make_recognizer(tmp_path / "model")
    export_onnx(path, tmp_path / "onnx")
    with pytest.raises(ValueError, match="model.onnx is a recognizer of speech and no language model"):
        RNNONNXForCausalLM.from_pretrained(tmp_path / "onnx")
    with pytest.raises(ValueError, match="`last_logits_only` is for a language model, and .*model is a recognizer"):
        export_onnx(path, tmp_path / "other", last_logits_only=True)
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="cannot load the feature extractor of .*model"):
        export_onnx(path, tmp_path / "other")
    assert not names_in(tmp_path / "other")


# 8 bits


@pytest.fixture
def given_times(monkeypatch):
    def in_turn(candidates, rounds):
        for run in candidates.values():
            run()
        return dict(zip(candidates, ([0.006], [0.004]), strict=True))

    monkeypatch.setattr(quantization, "in_turn", in_turn)


@pytest.mark.parametrize("cell_type", ["lstm", "gru"])
@DIRECTIONS
def test_both_files_in_8_bits_are_compared_with_those_in_float32(tmp_path, given_times, cell_type, bidirectional):
    sizes = {"hidden_size": 48, "embedding_size": 32, "cell_type": cell_type, "bidirectional": bidirectional}
    path, out = make_recognizer(tmp_path / "model", scale=0.25, **sizes), tmp_path / "onnx"
    export_onnx(path, out)
    recordings = [features_of(path, seed, seconds) for seed, seconds in ((0, 1.0), (1, 0.5), (2, 0.02))]
    asked = []

    def score(model):
        features = recordings[0][None]
        mask = torch.ones(features.shape[:2], dtype=torch.long)
        asked.append(model(input_features=features, attention_mask=mask).logits)
        return {"wer": float(len(asked))}

    int8 = quantize_recognizer(out, recordings, score)
    assert read_json(out / "export.json")["int8"] == int8 and check_folder(out)
    assert int8["scores"] == {"float32": {"wer": 1.0}, "int8": {"wer": 2.0}}
    assert int8["float_operators"] == ([] if cell_type == "lstm" else ["GRU"])
    float32, of_int8 = (logits[0].numpy() for logits in asked)
    with torch.no_grad():
        expected = RNNForCTC.from_pretrained(path).eval()(recordings[0][None]).logits[0].numpy()
    np.testing.assert_allclose(float32, expected, atol=1e-4)
    assert 0 < np.abs(of_int8 - float32).max() <= int8["largest_difference"] + 1e-5
    assert int8["largest_difference"] < NEAR * np.ptp(float32)
    assert int8["steps"] == sum(len(features) // 3 for features in recordings)
    assert 0.7 < int8["equal_steps"] <= 1
    parts = [(int8, "model")] + ([] if bidirectional else [(int8["stream"], "stream")])
    assert ("stream" in int8) is not bidirectional
    for about, name in parts:
        assert about["sha256"] == sha256_of(out / f"{name}_int8.onnx")
        float32, of_int8 = ((out / f"{name}{end}.onnx").stat().st_size for end in ("", "_int8"))
        assert about["bytes"] == {"float32": float32, "int8": of_int8} and of_int8 < float32
        assert about["speedup"] == 1.5 and about["steps"] == int8["steps"]


def test_by_steps_the_streaming_file_gives_what_the_whole_one_gives(tmp_path):
    path, out = make_recognizer(tmp_path / "model"), tmp_path / "onnx"
    export_onnx(path, out)
    recordings = [features_of(path, seed, seconds) for seed, seconds in ((0, 0.5), (1, 0.02), (2, 0.3))]
    by_steps = hear_by_steps(open_session(str(out / "stream.onnx"), "cpu", 1), recordings)
    whole = hear_alone(RNNONNXRecognizer(str(out / "model.onnx"), threads=1), recordings)
    np.testing.assert_allclose(by_steps, whole, atol=1e-5)


def test_steps_are_equal_where_the_likeliest_label_is():
    float32, int8 = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.5, 0.75], [0.0, 1.5]])
    assert quantization._differences(float32, int8) == {"largest_difference": 0.75, "equal_steps": 0.5, "steps": 2}


def test_a_streaming_file_in_8_bits_of_another_export_is_refused(tmp_path, given_times):
    path, out = make_recognizer(tmp_path / "model"), tmp_path / "onnx"
    export_onnx(path, out)
    quantize_recognizer(out, [features_of(path)], lambda model: {})
    (out / "stream_int8.onnx").write_bytes((out / "stream.onnx").read_bytes())
    with pytest.raises(OSError, match="stream_int8.onnx is not the file that export.json is about"):
        check_folder(out)
    export_onnx(path, out)
    assert names_in(out) == FILES | {"stream.onnx"}


# The card and the command


@DIRECTIONS
def test_the_example_of_the_card_writes_what_the_model_writes(tmp_path, capsys, monkeypatch, bidirectional):
    path = make_recognizer(tmp_path / "model", bidirectional=bidirectional)
    export_onnx(path, tmp_path / "onnx")
    build_repository(tmp_path / "onnx", tmp_path / "repository", str(tmp_path / "repository"))
    files = FILES | {"README.md"} | (set() if bidirectional else {"stream.onnx"})
    assert names_in(tmp_path / "repository") == files
    card = (tmp_path / "repository" / "README.md").read_text()
    assert "pipeline_tag: automatic-speech-recognition" in card and "30 ms" not in card
    assert f"| input | `input_features` | (batch, frames, {BANDS}) | float32 |" in card
    assert ("past.0.hidden" in card) is ("onnx_speech_stream_client" in card) is not bidirectional
    assert "{" not in card.replace('{"input_features"', "").replace('"attention_mask": mask}', "")
    (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    samples = some_speech()
    (tmp_path / "recording.wav").write_bytes(encoded(samples))
    exec(example, {})
    assert capsys.readouterr().out == f"{[text_of(path, samples)]}\n"


def test_the_command_writes_both_files_and_compares_8_bits_on_recordings(tmp_path, run_script, given_times):
    path, out = make_recognizer(tmp_path / "model", unit="words"), tmp_path / "onnx"
    recordings = write_archive(tmp_path / "validation.zip", range(2))
    data = {"validation_file": recordings, "transcript_pattern": PATTERN}
    run = {"arguments": {"model": {}, "data": data, "training": {"seed": 0}}, "task": SPEECH_RECOGNITION.name}
    (tmp_path / "model" / "run.json").write_text(json.dumps(run))
    status, printed, errors = run_script("export_onnx.py", path, out, "--int8")
    assert status == 0, errors
    assert names_in(out) == FILES | {"stream.onnx", "model_int8.onnx", "stream_int8.onnx"}
    report, lines = read_json(out / "export.json"), printed.splitlines()
    size = len(SIZES) + 2  # of each table
    assert lines[0].endswith("PyTorch: logits") and lines[size].endswith("PyTorch: logits, state")
    for line, part in ((lines[size - 1], report), (lines[2 * size - 1], report["stream"])):
        assert f"{part['bytes']:,} bytes, opset 17" in line
    int8 = report["int8"]
    expected = SPEECH_RECOGNITION.module.evaluate(path, ["validation"], {})["validation"]
    assert int8["scores"]["float32"] == {
        **expected.values, "loss": pytest.approx(expected.loss, abs=1e-4), "words": expected.count
    }  # fmt: skip
    rate = f"word error rate {100 * int8['scores']['int8']['wer']:.2f} % over {expected.count} words"
    assert f"int8: {int8['bytes']['int8']:,} bytes, {rate}, " in printed and " ms a recording" in printed
    for about in (int8, int8["stream"]):
        assert f"{100 * about['equal_steps']:.2f} % of {about['steps']:,} steps have the same label" in printed
    assert f"int8, streaming: {int8['stream']['bytes']['int8']:,} bytes" in printed


def test_the_command_refuses_what_does_not_go_with_a_recognizer_before_anything_is_written(tmp_path, run_script):
    path = make_recognizer(tmp_path / "model")
    for flags, message in (
        (["--last_logits_only"], "--last_logits_only does not go with .*, which is a recognizer of speech"),
        (["--ptb_dir", tmp_path], "--ptb_dir does not go with"),
        (["--label_column", "label"], "--label_column does not go with"),
        (["--int8"], "has no run.json of a training run: name data by"),
        (["--int8", "--test_file", write_archive(tmp_path / "a.zip", range(1))], "transcript"),
    ):
        status, printed, errors = run_script("export_onnx.py", path, tmp_path / "onnx", *flags)
        assert status == 2 and not printed and re.search(message, errors), errors
        assert not names_in(tmp_path / "onnx")
