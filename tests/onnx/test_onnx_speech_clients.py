"""The manual's clients of recognizers hear with onnxruntime and NumPy alone, and write what PyTorch writes."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from recognizers import FEATURES, make_recognizer, some_speech, text_of
from speech_files import encoded
from test_onnx_client import BARE

from rnn_hf import RNNCTCTokenizer, RNNFeatureExtractor, RNNForCTC
from rnn_hf.onnx.export import export_onnx


ROOT = Path(__file__).parents[2]
WHOLE, STREAM = ROOT / "docs" / "onnx_speech_client.py", ROOT / "docs" / "onnx_speech_stream_client.py"
PROGRAMS = pytest.mark.parametrize("program", [WHOLE, STREAM], ids=["whole", "stream"])
CASES = {
    "characters": {"frame_stack": 1},
    "words": {"unit": "words", "cell_type": "lstm", "features": {**FEATURES, "mean": None, "std": None}},
    "no level": {"hop_length": 100, "features": {"hop_length": 100, "win_length": 100, "n_fft": 512}},
}  # fmt: skip


@pytest.fixture
def client(monkeypatch, capsys):
    """`client(program, folder, file)`: what a client prints, and the features `(T, F)` that it computes."""

    def run(program, folder, file):
        heard = []

        class Spy(onnxruntime.InferenceSession):
            def run(self, names, inputs):
                heard.append(inputs["input_features"][0])
                return super().run(names, inputs)

        with monkeypatch.context() as patch:
            patch.setattr(onnxruntime, "InferenceSession", Spy)
            patch.setattr(sys, "argv", [str(program), str(folder), str(file)])
            capsys.readouterr()
            runpy.run_path(str(program), run_name="__main__")
        return capsys.readouterr().out, np.concatenate(heard) if heard else None

    return run


def write(path, samples, **options):
    path.write_bytes(encoded(samples, **options))
    return path


def features_of(path, samples):
    extractor = RNNFeatureExtractor.from_pretrained(path)
    return extractor.features(torch.from_numpy(samples)).numpy()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_both_write_what_pytorch_writes_and_have_the_features_of_the_extractor(case, client, tmp_path):
    path, texts = make_recognizer(tmp_path / "model", **case), []
    export_onnx(path, tmp_path / "onnx")
    for number, length in enumerate((16000, 16239, 700)):
        samples = some_speech(2.1, seed=number)[:length]
        file, expected, wanted = write(tmp_path / "a.wav", samples), text_of(path, samples), features_of(path, samples)
        for program in (WHOLE, STREAM):
            printed, features = client(program, tmp_path / "onnx", file)
            assert printed == expected + "\n"
            unread = 0 if program is WHOLE else len(wanted) % case.get("frame_stack", 3)
            assert len(features) == len(wanted) - unread
            np.testing.assert_allclose(features, wanted[: len(features)], atol=2e-5)
        texts.append(expected)
    assert len(texts[0]) > 15 and len(set(texts)) == 3


def test_gaps_at_the_beginning_and_in_a_row_are_written_as_the_tokenizer_writes_them(client, tmp_path):
    path, samples = make_recognizer(tmp_path / "model", frame_stack=1), some_speech()
    model, tokenizer = RNNForCTC.from_pretrained(path).eval(), RNNCTCTokenizer.from_pretrained(path)
    with torch.no_grad():
        model.lm_head.bias[[tokenizer.pad_token_id, tokenizer.vocab["|"]]] += 1.5
    model.save_pretrained(path)
    export_onnx(path, tmp_path / "onnx")
    ids = model.generate(torch.from_numpy(features_of(path, samples))[None])[0].tolist()
    labels = [tokenizer.tokens[index] for index, *_ in tokenizer.collapse(ids)]
    assert labels[0] == "|" and ("|", "|") in set(zip(labels, labels[1:], strict=False))
    for program in (WHOLE, STREAM):
        printed, _ = client(program, tmp_path / "onnx", write(tmp_path / "a.wav", samples))
        assert printed == text_of(path, samples) + "\n"


def test_a_network_in_both_directions_hears_whole_recordings(client, tmp_path):
    path, samples = make_recognizer(tmp_path / "model", bidirectional=True), some_speech()
    export_onnx(path, tmp_path / "onnx")
    printed, _ = client(WHOLE, tmp_path / "onnx", write(tmp_path / "a.wav", samples))
    assert printed == text_of(path, samples) + "\n" and len(printed) > 10


@PROGRAMS
def test_of_less_than_a_step_and_of_nothing_an_empty_line_is_written(client, tmp_path, program):
    export_onnx(make_recognizer(tmp_path / "model", features=FEATURES | {"end_silence": 0}), tmp_path / "onnx")
    for length in (239, 79, 0):
        file = write(tmp_path / "short.wav", some_speech()[:length])
        assert client(program, tmp_path / "onnx", file)[0] == "\n"


@PROGRAMS
def test_a_process_without_torch_writes_the_same_and_refuses_a_file_of_another_kind(tmp_path, program):
    path, samples = make_recognizer(tmp_path / "model"), some_speech()
    export_onnx(path, tmp_path / "onnx")

    def run(file):
        command = [sys.executable, "-c", BARE, program, tmp_path / "onnx", file]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    said = run(write(tmp_path / "a.wav", samples))
    assert said.stdout == text_of(path, samples) + "\n" and not said.stderr
    refused = run(write(tmp_path / "b.wav", np.stack([samples] * 2, axis=1), rate=16000))
    assert refused.returncode == 2 and "must have 16 bits, one channel and 8000 samples a second" in refused.stderr


def test_the_page_shows_the_client_that_streams():
    assert STREAM.read_text(encoding="utf-8") in (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
