"""Files of a run: written beside and moved into place, so a half-written one is never taken for a whole one."""

import pytest

from rnn_hf.training.checkpoint import checkpoints, find_checkpoint, write_into


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


def test_only_whole_checkpoints_are_found_and_the_last_is_the_one_of_most_steps(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", ".checkpoint-11.writing", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert find_checkpoint("last", tmp_path).name == "checkpoint-10"


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        find_checkpoint(str(tmp_path), tmp_path)
