"""Recordings with transcripts: each way to name them gives the same rows; splits are drawn once; errors name files."""

from dataclasses import replace

import numpy as np
import pytest
from speech_files import PATTERN, RATE, SPEAKERS, TONES, encoded, tone, write_archive, write_folder

from rnn_hf.data.audio import AudioFile
from rnn_hf.data.named_corpora import CORPORA, DIGITS
from rnn_hf.data.speech import Recording, choose_splits, load_speech, sampling_rate_of
from rnn_hf.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("speech") / "all", range(2))


def content(rows):
    """What rows say, and their samples."""
    return [(row.file.name, row.text, row.speaker, row.file.samples(RATE)[0].sum()) for row in rows]


def table(path, rows):
    path.write_text("".join("\t".join(cells) + "\n" for cells in rows), encoding="utf-8")
    return str(path)


def test_names_of_files_in_a_folder_or_an_archive_and_a_table_give_the_same_rows(folder, tmp_path):
    archive = write_archive(tmp_path / "all.zip", range(2))
    (rows,) = load_speech(train_file=folder, transcript_pattern=PATTERN).values()
    assert (
        len(rows) == 12 and {row.text for row in rows} == set(TONES) and {row.speaker for row in rows} == {*SPEAKERS}
    )
    names = [(row.file.name, row.text, row.speaker) for row in rows]
    plain = table(tmp_path / "plain.tsv", names)
    header = [("id", "text", "speaker", "file"), *((str(n), t, s, f) for n, (f, t, s) in enumerate(names))]
    cases = [
        {"train_file": archive, "transcript_pattern": PATTERN},
        {"train_file": plain, "audio_dir": folder},
        {"train_file": plain, "audio_dir": archive},
        {"train_file": table(tmp_path / "header.tsv", header), "audio_dir": archive},
    ]
    for case in cases:
        assert content(load_speech(**case)["train"]) == content(rows)


def test_a_pattern_with_a_slash_is_for_the_whole_path(tmp_path):
    for word in TONES:
        (tmp_path / word).mkdir()
        (tmp_path / word / "ann.1.wav").write_bytes(encoded(tone(word, "ann", 1)))
    rows = load_speech(train_file=str(tmp_path), transcript_pattern=r"(?P<text>\w+)/.*")["train"]
    assert [(row.file.name, row.text) for row in rows] == [(f"{word}/ann.1.wav", word) for word in sorted(TONES)]


def test_a_table_without_speakers_and_with_files_where_nobody_speaks(folder, tmp_path):
    rows = [("three_ann_0.wav", "  Three  times "), ("low_bob_1.wav", "")]
    read = load_speech(train_file=table(tmp_path / "a.tsv", rows), audio_dir=folder, lowercase=True)["train"]
    assert [(row.text, row.speaker) for row in read] == [("three times", None), ("", None)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "give either `train_file` and its like or `dataset_name`"),
        ({"dataset_name": "fsdd", "train_file": "a.tsv"}, "give either `train_file`"),
        ({"dataset_name": "ptb"}, "`dataset_name` ptb is for language-modeling, not for automatic-speech-recognition"),
        ({"dataset_name": "fsdd"}, "needs `dataset_dir`"),
        ({"train_file": "{folder}", "dataset_dir": "x"}, "`dataset_dir` goes with `dataset_name`, one of fsdd"),
        ({"train_file": "{folder}"}, "has no transcripts: give a .tsv file in its place, or `transcript_pattern`"),
        ({"train_file": "{folder}", "transcript_pattern": "("}, "`transcript_pattern` is no regular expression"),
        ({"train_file": "{folder}", "transcript_pattern": "(.*)"}, "needs a group"),
        ({"train_file": "{folder}", "transcript_pattern": r"(?P<text>\d)"}, "does not fit high_ann_0.wav in"),
        ({"dataset_name": "fsdd", "dataset_dir": "{folder}"}, "does not fit high_ann_0.wav"),
    ],
)
def test_arguments_that_name_no_data_are_told(folder, arguments, message):
    arguments = {name: value.replace("{folder}", folder) for name, value in arguments.items()}
    with pytest.raises(InputError, match=message):
        load_speech(**arguments)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "has no rows"),
        ([("nobody.wav", "three")], "line 1 names nobody.wav, which is not in .* set `audio_dir`"),
        ([("three_ann_0.wav",)], "line 1 must be a file and its text"),
        ([("file", "text"), ("three_ann_0.wav", "a", "b")], "line 2 has 3 fields, the header has 2"),
    ],
)
def test_a_wrong_row_of_a_table_is_named(folder, tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        load_speech(train_file=table(tmp_path / "a.tsv", rows), audio_dir=folder)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*a\.tsv"):
        load_speech(train_file=str(tmp_path / "a.tsv"))


def test_the_files_of_the_digits_go_to_the_official_splits(tmp_path):
    names = [f"{digit}_{speaker}_{index}.wav" for digit in (3, 7) for speaker in ("jo", "al") for index in range(50)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    splits = load_speech("fsdd", dataset_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 160, "validation": 20, "test": 20}
    assert {row.file.name.split("_")[2] for row in splits["test"]} == {f"{index}.wav" for index in range(5)}
    assert {(row.file.name[0], row.text) for row in splits["train"]} == {("3", "three"), ("7", "seven")}
    assert {row.speaker for row in splits["validation"]} == {"jo", "al"}
    assert CORPORA["fsdd"].spoken["9"] == DIGITS[9] == "nine"
    (tmp_path / "3_jo_50x.wav").write_bytes(b"")
    with pytest.raises(InputError, match="3_jo_50x.wav"):
        load_speech("fsdd", dataset_dir=str(tmp_path))


@pytest.fixture
def rows():
    file = AudioFile("a.wav", lambda: encoded(tone("low", "ann", 0)))
    return [Recording(replace(file, name=f"{index}.wav"), "low", "ann" if index % 3 else "bob") for index in range(60)]


def test_a_split_for_validation_is_drawn_by_the_seed_and_keeps_all(rows):
    one, again, other = (choose_splits({"train": rows}, 20, seed) for seed in (1, 1, 2))
    assert one == again != other and len(one["validation"]) == 12
    names = [row.file.name for split in one.values() for row in split]
    assert sorted(names) == sorted(row.file.name for row in rows)
    given = {"train": rows[:40], "validation": rows[40:]}
    assert choose_splits(given, 20, 1) == given
    assert choose_splits(given, 20, 1, most=7)["train"] == rows[:7]
    with pytest.raises(InputError, match="too few recordings to set some aside"):
        choose_splits({"train": rows[:4]}, 20, 1)


def test_a_speaker_is_held_out_of_training_and_alone_is_validated_and_tested_on(rows):
    splits = choose_splits({"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}, 10, 1, "bob")
    assert {row.speaker for row in splits["train"]} == {"ann"}
    assert {row.speaker for row in [*splits["validation"], *splits["test"]]} == {"bob"}
    assert splits["validation"] == [row for row in rows[:50] if row.speaker == "bob"]
    with pytest.raises(InputError, match="`held_out_speaker` must be one of ann, bob, got 'eve'"):
        choose_splits({"train": rows}, 10, 1, "eve")
    with pytest.raises(InputError, match="`held_out_speaker` bob is the only one"):
        choose_splits({"train": [row for row in rows if row.speaker == "bob"]}, 10, 1, "bob")


def test_the_sampling_rate_is_that_of_the_first_recording(rows):
    assert sampling_rate_of(rows) == RATE
    with pytest.raises(InputError, match="there is no recording"):
        sampling_rate_of([])


def test_a_data_set_of_the_hub_needs_no_decoder(tmp_path):
    """A folder of Parquet stands for it."""
    from datasets import Audio, ClassLabel, Dataset

    samples = {word: tone(word, "ann", 0) for word in TONES}
    columns = {
        "sound": [{"bytes": encoded(each), "path": None} for each in samples.values()],
        "word": list(range(len(TONES))),
        "who": [1, 2, 3],
    }
    data = Dataset.from_dict(columns).cast_column("word", ClassLabel(names=list(TONES)))
    (tmp_path / "hub/data").mkdir(parents=True)
    data.cast_column("sound", Audio(decode=False)).to_parquet(tmp_path / "hub/data/train-0.parquet")
    name = str(tmp_path / "hub")
    arguments = {"audio_column": "sound", "text_column": "word", "speaker_column": "who"}
    (rows,) = load_speech(name, **arguments).values()
    assert [(row.text, row.speaker) for row in rows] == list(zip(TONES, "123", strict=True))
    for row, expected in zip(rows, samples.values(), strict=True):
        assert np.abs(row.file.samples(RATE)[0] - expected).max() < 1e-4
    with pytest.raises(InputError, match="no column 'audio': set `audio_column` to one of sound, word, who"):
        load_speech(name)
    with pytest.raises(InputError, match="row 1 of train: `text_column` must hold text, got 1"):
        load_speech(name, **{**arguments, "text_column": "who"})
