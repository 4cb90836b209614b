"""`rnn-hf transcribe`: the text of a recording, the same whole, in pieces of any length and from standard input."""

import numpy as np
import pytest
import soundfile
from speech_files import RATE, encoded, tone

from rnn_hf import RNNConfig, RNNForCausalLM, RNNForCTC, RNNSpeechConfig
from rnn_hf.tasks.automatic_speech_recognition import load_recognizer


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A file of three words."""
    samples = np.concatenate([tone(word, "ann", 8) for word in ("low", "three", "high")])
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    path.write_bytes(encoded(samples))
    return path


def test_a_recording_is_printed_whole_as_in_pieces(recognizer, sound, run_script):
    model, tokenizer, extractor = load_recognizer(recognizer)
    samples, _ = soundfile.read(sound, dtype="float32")
    inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    expected = tokenizer.decode(model.eval().generate(**inputs)[0])
    assert expected
    for flags in ([], ["--stream"], ["--stream", "--chunk_ms", 7], ["--stream", "--chunk_ms", 5000]):
        status, printed, errors = run_script("transcribe.py", recognizer, sound, *flags)
        assert (status, printed) == (0, f"{expected}\n"), errors
    _, printed, _ = run_script("transcribe.py", recognizer, "--stream", sound, sound)
    assert printed == f"{expected}\n{expected}\n"


def test_samples_come_from_standard_input(recognizer, sound, tmp_path, run_script):
    _, expected, _ = run_script("transcribe.py", recognizer, sound)
    samples, _ = soundfile.read(sound, dtype="int16")
    (tmp_path / "raw").write_bytes(samples.astype("<i2").tobytes())
    for flags in ([], ["--stream"], ["--stream", "--chunk_ms", 33]):
        with open(tmp_path / "raw", "rb") as source, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", type("Stdin", (), {"buffer": source}))
            assert run_script("transcribe.py", recognizer, "-", *flags)[:2] == (0, expected)


def test_what_cannot_be_heard_is_named(recognizer, sound, tmp_path, run_script):
    RNNForCausalLM(RNNConfig(vocab_size=5, hidden_size=4)).save_pretrained(tmp_path / "language_model")
    RNNForCTC(RNNSpeechConfig(vocab_size=5, hidden_size=4, bidirectional=True)).save_pretrained(tmp_path / "both")
    (tmp_path / "fast.wav").write_bytes(encoded(np.zeros(99), 16_000))
    cases = [
        ((recognizer, "nowhere.wav"), "no file nowhere.wav"),
        ((recognizer, sound, "--chunk_ms", 0), "--chunk_ms must be positive, got 0"),
        ((tmp_path / "language_model", sound), "is a model of another task: an RNNForCausalLM, not an RNNForCTC"),
        ((tmp_path / "both", sound, "--stream"), "--stream needs a model that hears in one direction"),
        ((recognizer, tmp_path / "fast.wav"), "has 16,000 samples a second, and 8,000 are needed"),
    ]
    for flags, message in cases:
        status, printed, errors = run_script("transcribe.py", *flags)
        assert status == 2 and not printed and message in errors.splitlines()[-1], errors
