"""Checkpoints: only whole ones are found, they belong to one run, and a broken one is named with what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from rnn_hf.files import read_json_lines
from rnn_hf.training import checkpoint
from rnn_hf.training.checkpoint import checkpoints, find_checkpoint, remove


def names(directory):
    return sorted(path.name for path in directory.glob("*checkpoint-*"))


def steps(directory):
    return [row["step"] for row in read_json_lines(directory / "metrics.jsonl")]


def is_equal(one, other):
    a, b = (load_file(directory / "model.safetensors") for directory in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def test_only_whole_checkpoints_are_found_and_the_last_is_the_one_of_most_steps(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", ".checkpoint-11.writing", "checkpoint-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "progress.json").write_text("{}")
    (tmp_path / "checkpoint-12").mkdir()  # of another program
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert find_checkpoint("last", tmp_path).name == "checkpoint-10"


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        find_checkpoint(str(tmp_path), tmp_path)


def test_of_a_linked_checkpoint_only_the_link_is_removed(tmp_path):
    (tmp_path / "disk" / "kept").mkdir(parents=True)
    (tmp_path / "checkpoint-1").symlink_to(tmp_path / "disk")
    remove(tmp_path / "checkpoint-1")
    assert not (tmp_path / "checkpoint-1").is_symlink() and (tmp_path / "disk" / "kept").is_dir()


def test_a_run_goes_on_past_a_linked_checkpoint_and_leaves_what_it_leads_to(run, tmp_path):
    for name, flags in (("a", {"resume_from_checkpoint": "last"}), ("b", {"overwrite_output_dir": True})):
        run(name, max_steps=2)
        elsewhere = tmp_path / f"disk-{name}"
        shutil.move(tmp_path / name / "checkpoint-2", elsewhere)
        (tmp_path / name / "checkpoint-2").symlink_to(elsewhere)
        run(name, max_steps=4, **flags)
        assert names(tmp_path / name) == ["checkpoint-4"] and (elsewhere / "progress.json").is_file()


@pytest.mark.parametrize("limit", [1, 3])
def test_a_run_that_goes_on_from_an_older_checkpoint_leaves_the_branch_behind_it(run, tmp_path, limit):
    """With evaluations at steps 2, 4 and 6, of which the last is the best."""
    flags = {"save_steps": 2, "eval_steps": 2, "logging_steps": 1}
    run("a", max_steps=6, save_total_limit=9, **flags)
    shutil.copytree(tmp_path / "a", tmp_path / "before")
    result = run("a", max_steps=3, resume_from_checkpoint=tmp_path / "a/checkpoint-2", save_total_limit=limit, **flags)
    assert names(tmp_path / "a") == ["checkpoint-2", "checkpoint-3"][-limit:]
    assert find_checkpoint("last", tmp_path / "a").name == "checkpoint-3"
    assert max(steps(tmp_path / "a")) == 3 and steps(tmp_path / "a").count(1) == 1
    best = result["result"]["best_step"]
    assert is_equal(tmp_path / "a", tmp_path / {2: "before/checkpoint-2", 3: "a/checkpoint-3"}[best])
    run("a", max_steps=6, resume_from_checkpoint="last", save_total_limit=limit, **flags)
    assert is_equal(tmp_path / "a/checkpoint-6", tmp_path / "before/checkpoint-6")


def lower_best_loss(path):
    """As if no later validation were as good as the one at this step."""
    saved = json.loads((path / "progress.json").read_text())
    saved["progress"]["best_loss"] = 0.0
    (path / "progress.json").write_text(json.dumps(saved))


@pytest.mark.parametrize("older", [False, True])
def test_going_on_in_another_directory_takes_the_best_model_and_the_history_along(run, tmp_path, older):
    """A checkpoint of an older version, without the best model, finds that in the directory of the run."""
    flags = {"save_steps": 2, "eval_steps": 2, "logging_steps": 1, "save_total_limit": 9}
    run("a", max_steps=2, **flags)
    lower_best_loss(tmp_path / "a/checkpoint-2")
    if older:
        (tmp_path / "a/checkpoint-2/best.safetensors").unlink()
    result = run("b", max_steps=5, resume_from_checkpoint=tmp_path / "a/checkpoint-2", **flags)["result"]
    assert result["best_step"] == 2 and is_equal(tmp_path / "a", tmp_path / "b")
    assert sorted(set(steps(tmp_path / "b"))) == [1, 2, 3, 4, 5]
    assert (tmp_path / "b/tokenizer.json").is_file() and names(tmp_path / "a") == ["checkpoint-2"]
    with pytest.raises(FileExistsError, match="holds another run than .*choose another directory, or replace"):
        run("b", max_steps=6, resume_from_checkpoint=tmp_path / "a/checkpoint-2", **flags)
    assert max(steps(tmp_path / "b")) == 5
    again = {"overwrite_output_dir": True, "resume_from_checkpoint": tmp_path / "a/checkpoint-2"}
    run("b", max_steps=3, **flags, **again)
    assert names(tmp_path / "b") == ["checkpoint-3"] and is_equal(tmp_path / "a", tmp_path / "b")


def test_the_best_model_of_an_older_checkpoint_comes_back_with_it(run, tmp_path):
    flags = {"save_steps": 2, "eval_steps": 2, "save_total_limit": 9, "learning_rate": 0.5}  # each step is better
    run("a", max_steps=2, **flags)
    shutil.copytree(tmp_path / "a", tmp_path / "two")
    run("a", max_steps=4, resume_from_checkpoint="last", **flags)
    assert not is_equal(tmp_path / "a", tmp_path / "two")
    lower_best_loss(tmp_path / "a/checkpoint-2")
    result = run("a", max_steps=3, resume_from_checkpoint=tmp_path / "a/checkpoint-2", **flags)["result"]
    assert result["best_step"] == 2 and is_equal(tmp_path / "a", tmp_path / "two")


@pytest.mark.parametrize("name", ["progress.json", "optimizer.pt", "process-0.pt", "model.safetensors"])
def test_a_broken_file_of_a_checkpoint_is_named_with_the_one_to_go_on_from(run, tmp_path, name):
    flags = {"save_steps": 1, "save_total_limit": 9}
    run("a", max_steps=2, **flags)
    broken = tmp_path / "a/checkpoint-2" / name
    whole = broken.read_bytes()
    message = rf"checkpoint-2/{name} is broken or missing .*go on with `resume_from_checkpoint` .*a/checkpoint-1$"
    for content in (b"", b"half", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            run("a", resume_from_checkpoint="last", **flags)
    run("a", max_steps=3, resume_from_checkpoint=tmp_path / "a/checkpoint-1", **flags)
    assert names(tmp_path / "a") == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    for step in (1, 2):
        shutil.rmtree(tmp_path / f"a/checkpoint-{step}")
    (tmp_path / "a/checkpoint-3" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="put a whole copy in its place, or start again"):
        run("a", resume_from_checkpoint="last", **flags)


def test_only_an_error_of_writing_gets_advice_about_the_disk(run, tmp_path, monkeypatch):
    def fail(state):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(checkpoint, "_process_state", fail)
    with pytest.raises(RuntimeError, match="^CUDA error"):
        run("a", max_steps=1)


def test_what_stands_in_the_place_of_a_checkpoint_is_refused_by_name_and_left_alone(run, tmp_path):
    (tmp_path / "a/checkpoint-2").mkdir(parents=True)
    (tmp_path / "a/checkpoint-2/trainer_state.json").write_text("{}")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/checkpoint-2").symlink_to(tmp_path / "a disk that is away")
    for name in "ab":
        for flags in ({}, {"resume_from_checkpoint": "last"}, {"overwrite_output_dir": True}):
            with pytest.raises(FileExistsError, match="checkpoint-2 stands where checkpoints go.*move it away"):
                run(name, max_steps=1, **flags)
    assert (tmp_path / "a/checkpoint-2/trainer_state.json").is_file()
