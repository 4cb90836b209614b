"""What a run says before and after it, and metrics.jsonl."""

import math
import resource

import pytest

from rnn_hf.files import read_json_lines
from rnn_hf.training.reporting import Metrics, closing_lines, data_warnings, score_text


def test_metrics_begin_with_the_history_that_they_are_given(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in (5, 10, 15):
        metrics.write(step=step, train_loss=1.0)
    Metrics(path, read_json_lines(path)[:2]).write(step=12, train_loss=2.0)
    assert [row["step"] for row in read_json_lines(path)] == [5, 10, 12]
    Metrics(path)
    assert read_json_lines(path) == []


def test_a_line_that_the_disk_has_no_room_for_leaves_no_half(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.write(step=1, train_loss=1.0)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        with pytest.raises(OSError):
            metrics.write(step=2, train_loss=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    metrics.write(step=2, train_loss=1.0)
    assert [row["step"] for row in read_json_lines(path)] == [1, 2]


def record_of(**values):
    """A run.json, as far as the lines at a run's ends ask."""
    training = {"output_dir": "runs/a", "optim": "sgd", "max_steps": -1, "save_total_limit": 1}
    training |= {"early_stopping_patience": 3}
    data = {"min_frequency": 1, "vocab_size": None, "tokenizer": "word"}
    result = {"steps": 90, "is_complete": True, "stopped_by": None, "best_step": 60, "best_validation_loss": 3.0}
    for part in (training, data, result):
        part |= {name: value for name, value in values.items() if name in part}
    return {
        "arguments": {"training": training, "data": data},
        "data": {"unit": "token", "unigram_validation_perplexity": 30.0, "unknown": values.get("unknown", {})},
        "result": result | {"best_validation_perplexity": math.exp(result["best_validation_loss"])},
        "first_step": values.get("first_step", 0),
        "total_steps": 90,
    }


@pytest.mark.parametrize("optim", ["sgd", "adam"])
@pytest.mark.parametrize("perplexity", [29, 30.001, 1e300])
def test_a_run_that_is_no_better_than_counting_words_is_told_so_with_what_to_try(optim, perplexity):
    said = "\n".join(closing_lines(record_of(optim=optim, best_validation_loss=math.log(perplexity))))
    assert ("warning" in said) == (perplexity >= 30)
    assert ("--optim adam" in said) == (perplexity >= 30 and optim == "sgd")
    assert "unigram model has 30.00" in said and "runs/a" in said and max(map(len, said.splitlines())) < 200


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, []),
        ({"steps": 80}, ["stopped early: 3 validations without gain"]),
        ({"first_step": 90}, ["nothing was left to do: the run had ended at step 90", "--init_from runs/a"]),
        (
            {"is_complete": False, "steps": 7, "max_steps": 7},
            ["--max_steps 7 of 90 is reached", "and a higher"],
        ),
        (
            {"is_complete": False, "steps": 7, "max_steps": 7, "first_step": 7},
            ["nothing was left to do", "a higher --max_steps"],
        ),
        (
            {"is_complete": False, "steps": 7, "stopped_by": "SIGINT"},
            ["stopped by SIGINT at step 7 of 90", "--resume_from_checkpoint last"],
        ),
        (
            {"is_complete": False, "steps": 7, "stopped_by": "SIGTERM", "save_total_limit": 0},
            ["stopped by SIGTERM at step 7 of 90; --save_total_limit 0 left no checkpoint to go on from"],
        ),
    ],
)
def test_the_end_says_where_the_model_is_why_the_run_ended_and_how_to_go_on(values, said):
    lines = closing_lines(record_of(**values))
    assert "are in runs/a" in lines[1]
    last = "\n".join(lines[2:])
    assert bool(last) == bool(said) and all(part in last for part in said)


def test_a_run_without_a_validation_has_no_model_to_tell_of():
    lines = closing_lines(record_of(best_step=0, is_complete=False, steps=7, stopped_by="SIGINT"))
    assert len(lines) == 1 and "stopped by SIGINT" in lines[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"unknown": {}}, []),
        ({"unknown": {"train": 0.05, "validation": 0.05}}, []),
        (
            {"unknown": {"train": 0.02, "validation": 0.2}},
            ["2.0 % of the train tokens and 20.0 % of", "--tokenizer char"],
        ),
        ({"unknown": {"train": 0.0, "validation": 0.07}}, ["--min_frequency 2 puts it there"]),
        ({"unknown": {"train": 1.0, "validation": 1.0}, "min_frequency": 99}, ["100.0 %", "a lower --min_frequency"]),
        ({"unknown": {"train": 0.3, "validation": 0.3}, "vocab_size": 10}, ["a higher --vocab_size"]),
    ],
)
def test_many_unknown_words_are_told_once_with_what_makes_them_fewer(values, said):
    lines = data_warnings(record_of(**values))
    assert len(lines) == bool(said) and all(part in lines[0] for part in said)


@pytest.mark.parametrize("loss", [0.0, 1.5, 20.7, 21.0, 1e5, math.inf])
def test_a_perplexity_is_short_whatever_the_loss(loss):
    assert len(score_text(loss, "token")) < 30
