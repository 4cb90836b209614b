"""Which directories are checkpoints to go on from."""

import pytest

from rnn_hf.training.checkpoint import checkpoints, find_checkpoint


def test_only_whole_checkpoints_are_found_and_the_last_is_the_one_of_most_steps(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", ".checkpoint-11.writing", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert find_checkpoint("last", tmp_path).name == "checkpoint-10"


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        find_checkpoint(str(tmp_path), tmp_path)
