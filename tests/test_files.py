"""Files written beside and moved into place: a half-written one is never taken for a whole one."""

import json

import pytest

from rnn_hf.files import read_json, sha256_of, write_into, write_json


def fill(**files):
    def write(directory):
        for name, text in files.items():
            (directory / name.replace("__", ".")).write_text(text)

    return write


def test_a_model_replaces_the_one_before_it_file_by_file(tmp_path):
    (tmp_path / "run.json").write_text("stays")
    write_into(tmp_path, fill(config__json="old", model__safetensors="old"))
    write_into(tmp_path, fill(config__json="new", model__safetensors="new"))
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"run.json": "stays", "config.json": "new", "model.safetensors": "new"}


def test_a_writer_that_fails_leaves_the_model_before_it_whole(tmp_path):
    write_into(tmp_path, fill(config__json="old", model__safetensors="old"))

    def fail(directory):
        fill(config__json="new")(directory)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_into(tmp_path, fail)
    assert (tmp_path / "config.json").read_text() == (tmp_path / "model.safetensors").read_text() == "old"
    write_into(tmp_path, fill(config__json="newer"))  # what the failed one left does not get in
    assert not (tmp_path / ".writing").exists()


def test_json_is_replaced_in_one_piece(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_json_file_that_is_not_there_is_none(tmp_path):
    assert read_json(tmp_path / "run.json") is None


def test_the_checksum_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_text("abc")  # the first example of FIPS 180-4
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
