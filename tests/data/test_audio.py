"""Recordings: what is written is read, whatever the container; folders and archives are alike; errors name files."""

import io
import sys
import zipfile

import numpy as np
import pytest
import soundfile

from rnn_hf.data.audio import decode_audio, find_audio
from rnn_hf.errors import InputError, MissingPackageError


TONE = (0.5 * np.sin(np.arange(800) / 5)).astype("float32")


def encoded(samples, rate=8000, format="WAV", subtype=None):
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=format, subtype=subtype)
    return content.getvalue()


@pytest.mark.parametrize(
    "format, subtype, error",
    [("WAV", "PCM_16", 4e-5), ("WAV", "FLOAT", 0), ("FLAC", "PCM_16", 4e-5), ("OGG", "VORBIS", 0.1)],
)
def test_what_is_written_is_read_as_float32(format, subtype, error):
    samples, rate = decode_audio(encoded(TONE, 11_025, format, subtype), "a", 11_025)
    assert rate == 11_025 and samples.dtype == np.float32 and samples.shape == TONE.shape
    assert np.abs(samples - TONE).max() <= error


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no sound", "a.wav is no audio that can be read"),
        (b"", "a.wav is no audio that can be read"),
        (encoded(np.zeros((9, 2))), "a.wav has 2 channels"),
        (encoded(TONE, 16_000), "a.wav has 16,000 samples a second, and 8,000 are needed"),
        (encoded(np.zeros(0)), "a.wav has no samples"),
        (encoded(np.full(9, np.nan), subtype="FLOAT"), "a.wav has samples that are no finite numbers"),
    ],
)
def test_what_cannot_be_used_is_named(content, message):
    with pytest.raises(InputError, match=message):
        decode_audio(content, "a.wav", 8000)


def test_without_soundfile_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'rnn_hf\[speech\]'"):
        decode_audio(encoded(TONE), "a")


@pytest.fixture
def folder(tmp_path):
    """Two files of audio, one of them in a folder below, among others."""
    (tmp_path / "all/one").mkdir(parents=True)
    for number, name in enumerate(["b.wav", "one/a.FLAC", ".hidden.wav"], 1):
        (tmp_path / "all" / name).write_bytes(encoded(TONE * number / 3, format=name.rpartition(".")[2].upper()))
    (tmp_path / "all/notes.txt").write_text("no audio")
    return tmp_path / "all"


def test_a_folder_and_its_archive_hold_the_same(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
        archive.writestr("__MACOSX/b.wav", "a resource fork")
    in_folder, in_archive = find_audio(str(folder)), find_audio(str(tmp_path / "all.zip"))
    assert [file.name for file in in_folder] == [file.name for file in in_archive] == ["b.wav", "one/a.FLAC"]
    for one, other in zip(in_folder, in_archive, strict=True):
        assert np.array_equal(one.samples(8000)[0], other.samples(8000)[0])
    (alone,) = find_audio(str(folder / "b.wav"))
    assert alone.name == "b.wav" and np.array_equal(alone.samples()[0], in_folder[0].samples()[0])


def test_a_place_without_audio_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    for name, error, message in (
        ("nowhere", FileNotFoundError, "there is no file or folder"),
        ("empty", InputError, "empty has no audio"),
        ("broken.zip", InputError, "broken.zip is no zip archive"),
        ("all/notes.txt", InputError, "is no folder, no zip archive and no audio"),
    ):
        with pytest.raises(error, match=message):
            find_audio(str(tmp_path / name))


def test_a_damaged_member_of_an_archive_is_named(tmp_path):
    content = encoded(TONE)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.wav", content)
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(whole.replace(content[100:110], b"x" * 10))
    (file,) = find_audio(str(tmp_path / "a.zip"))
    with pytest.raises(InputError, match="a.wav in .*a.zip is damaged"):
        file.samples()
