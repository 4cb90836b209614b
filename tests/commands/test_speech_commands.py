"""`rnn-hf evaluate` and `predict` of recognizers of speech: what they print, save and draw, and what they refuse."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from speech_files import PATTERN

from rnn_hf.data.audio import find_audio
from rnn_hf.runs import describe_weights
from rnn_hf.tasks import automatic_speech_recognition as task


@pytest.fixture(scope="module")
def sounds(recognizer, tmp_path_factory):
    """A folder with the recordings of validation."""
    folder = tmp_path_factory.mktemp("sounds")
    zipfile.ZipFile(Path(recognizer).parent / "validation.zip").extractall(folder)
    return folder


def test_what_is_printed_and_saved_are_the_scores(recognizer, run_script):
    expected = task.evaluate(recognizer, ["train", "validation"], {})
    flags = ["--split", "train", "validation"]
    status, printed, errors = run_script("evaluate.py", recognizer, *flags, "--save")
    assert status == 0, errors
    assert printed == "".join(f"{split}: {task.describe_score(score)}\n" for split, score in expected.items())
    assert "  speaker  word error rate, %  words\n  ann " in printed
    saved = json.loads((Path(recognizer) / "evaluation.json").read_text())
    assert saved["weights"] == describe_weights(Path(recognizer))
    assert saved["scores"] == {split: score.to_dict() for split, score in expected.items()}
    _, printed, _ = run_script("evaluate.py", recognizer, *flags, "--json", "--batch_size", 3)
    for line, (split, score) in zip(printed.splitlines(), expected.items(), strict=True):
        row = json.loads(line)
        assert (row.pop("model"), row.pop("split")) == (recognizer, split)
        assert row.pop("loss") == pytest.approx(score.loss, abs=1e-5)  # another batch rounds another way
        assert row == {key: value for key, value in score.to_dict().items() if key != "loss"}


def test_other_recordings_are_scored_without_a_floor(recognizer, sounds, run_script):
    flags = ["--split", "test", "--test_file", sounds, "--transcript_pattern", PATTERN, "--json"]
    status, printed, errors = run_script("evaluate.py", recognizer, *flags)
    assert status == 0, errors
    scores = json.loads(printed)
    own = task.evaluate(recognizer, ["validation"], {})["validation"].to_dict()
    assert "floor" not in scores and scores["wer"] == own["wer"] and scores["rows"] == own["rows"]


def test_the_alignment_is_a_picture(recognizer, tmp_path, run_script):
    status, _, errors = run_script("evaluate.py", recognizer, "--alignment", tmp_path / "a.png")
    assert status == 0, errors
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_files_folders_and_archives_are_heard_as_the_library_hears_them(recognizer, sounds, run_script):
    model, tokenizer, extractor = task.load_recognizer(recognizer)
    files = find_audio(str(sounds))
    expected = [answer["text"] for answer in task.predict(model, tokenizer, extractor, files)]
    archive = Path(recognizer).parent / "validation.zip"
    for place in (sounds, archive):
        _, printed, _ = run_script("predict.py", recognizer, place)
        lines = [f"{place}/{file.name}\t{text}" for file, text in zip(files, expected, strict=True)]
        assert printed.splitlines() == lines
    alone = [sounds / file.name for file in files[:3]]
    _, printed, _ = run_script("predict.py", recognizer, *alone, "--batch_size", 2, "--format", "json")
    rows = [{"file": str(path), "text": text} for path, text in zip(alone, expected[:3], strict=True)]
    assert [json.loads(line) for line in printed.splitlines()] == rows


def test_each_word_has_its_time_in_a_table(recognizer, sounds, run_script):
    model, tokenizer, extractor = task.load_recognizer(recognizer)
    files = find_audio(str(sounds))
    answers = task.predict(model, tokenizer, extractor, files, timestamps=True)
    words = [{"file": answer["file"], **word} for answer in answers for word in answer["words"]]
    _, printed, _ = run_script("predict.py", recognizer, sounds, "--timestamps", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(printed)))
    for row, word in zip(rows, words, strict=True):
        assert row["word"] == word["word"] and row["file"].endswith(word["file"])
        assert (float(row["start"]), float(row["end"])) == (word["start"], word["end"])
    _, printed, _ = run_script("predict.py", recognizer, sounds, "--timestamps")
    assert [line.split("\t")[1] for line in printed.splitlines()] == [word["word"] for word in words]


def test_what_does_not_fit_a_recognizer_is_named(recognizer, text_model, sounds, tmp_path, run_script):
    (sounds.parent / "empty").mkdir(exist_ok=True)
    cases = [
        ("evaluate.py", (recognizer, "--window", 3), f"--window does not go with {recognizer}, which is a recognizer"),
        ("evaluate.py", (recognizer, "--label_column", "x"), "--label_column does not go with"),
        ("evaluate.py", (recognizer, "--confusion_matrix", "x.png"), "--confusion_matrix does not go with"),
        (
            "evaluate.py",
            (text_model, "--alignment", "x.png"),
            f"--alignment does not go with {text_model}, which is a",
        ),
        ("evaluate.py", (text_model, "--audio_dir", "x"), "--audio_dir does not go with"),
        ("evaluate.py", (recognizer, recognizer), "several models are scored together if they are classifiers"),
        ("evaluate.py", (recognizer, "--alignment", "a.jpg"), "--alignment must name a file that ends in .png, got a"),
        ("evaluate.py", (recognizer, "--split", "test"), "the data has no split 'test', only train, validation"),
        ("predict.py", (recognizer,), "is a recognizer of speech: name files of audio, or folders of them"),
        ("predict.py", (recognizer, "--file", __file__), "--file is for a classifier, and"),
        ("predict.py", (recognizer, "a.wav", "--is_split_into_words"), "--is_split_into_words is for a classifier"),
        ("predict.py", (text_model, "a", "--timestamps"), "--timestamps is for a recognizer of speech, and"),
        ("predict.py", (recognizer, "nowhere.wav"), "there is no file or folder nowhere.wav"),
        ("predict.py", (recognizer, sounds.parent / "empty"), "empty has no audio"),
    ]
    for script, flags, message in cases:
        status, _, errors = run_script(script, *flags)
        assert status == 2 and message in errors.splitlines()[-1], errors
