"""Runs compared by their files: what each was, how far it came, and the spread over seeds."""

import json
import math
from statistics import mean, stdev

import pytest

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.comparison import compare, describe_run, table_rows
from rnn_hf.evaluation import finite_perplexity
from rnn_hf.runs import describe_weights
from rnn_hf.tables import aligned


def write_run(directory, loss=4.0, seed=1, test=None, tokenizer="word", result=None, **training):
    directory.mkdir()
    finished = {"best_validation_loss": loss, "epochs": 3.0, "is_complete": True, "minutes": 1.5}
    finished["best_validation_perplexity"] = finite_perplexity(loss)
    run = {
        "arguments": {
            "model": {"cell_type": "gru", "num_hidden_layers": 2, "hidden_size": 8},
            "data": {"tokenizer": tokenizer, "train_file": str(directory)},
            "training": {"seed": seed, "num_train_epochs": 3, "output_dir": str(directory), **training},
            "recipe": "rnn_hf/recipes/small.yaml",
        },
        "data": {"train_sha1": "a", "vocab_size": 9},
        "parameters": 1234,
        "result": finished if result is None else result,
    }
    (directory / "run.json").write_text(json.dumps(run))
    if test is not None:
        (directory / "evaluation.json").write_text(json.dumps({"scores": {"test": {"perplexity": test}}}))
    return directory


def test_runs_that_differ_in_the_seed_alone_are_a_group(tmp_path):
    losses, tests = [4.0, 4.1, 4.3], [60.0, 61.0, 65.0]
    runs = [
        write_run(tmp_path / f"seed{seed}", loss, seed, test)
        for seed, (loss, test) in enumerate(zip(losses, tests, strict=True))
    ]
    runs.append(write_run(tmp_path / "other", 4.0, 5, 60.0, learning_rate=2))
    runs.append(
        write_run(tmp_path / "shorter", 4.0, 6, 60.0, result={"best_validation_perplexity": 54.6, "epochs": 1.0})
    )
    comparison = compare(runs)
    assert [row["run"] for row in comparison["runs"]] == ["seed0", "seed1", "seed2", "other", "shorter"]
    (group,) = comparison["groups"]
    perplexities = [math.exp(loss) for loss in losses]
    assert (group["runs"], group["seeds"]) == (["seed0", "seed1", "seed2"], [0, 1, 2])
    assert group["validation"]["mean"] == pytest.approx(mean(perplexities))
    assert group["validation"]["deviation"] == pytest.approx(stdev(perplexities))
    assert group["test"] == {"mean": mean(tests), "deviation": stdev(tests)} and "bits_per_character" not in group
    rows = table_rows(comparison)
    assert rows[0] == {
        "run": "seed0", "recipe": "small", "cell": "gru", "size": "2 x 8", "parameters": "1,234", "epochs": "3",
        "seed": "0", "minutes": "1.5", "validation": "54.60", "test": "60.00",
    }  # fmt: skip
    assert rows[4]["epochs"] == "1 of 3" and rows[5]["run"] == "mean of seed0, seed1, seed2"
    assert rows[5]["test"] == "62.00 ± 2.65" and rows[5]["cell"] == ""
    assert len(aligned(rows)) == 7
    assert not compare([runs[0], runs[0]])["groups"]


def test_a_test_score_of_a_group_needs_one_of_each_run(tmp_path):
    (group,) = compare([write_run(tmp_path / "a", seed=1, test=9.0), write_run(tmp_path / "b", seed=2)])["groups"]
    assert "test" not in group and group["validation"]["deviation"] == 0


def test_of_characters_bits_are_told_and_a_run_under_way_by_what_it_has_logged(tmp_path):
    run = write_run(tmp_path / "run", tokenizer="char", result={})
    rows = [
        {"step": step, "epoch": step / 2, "validation_loss": loss, "validation_perplexity": math.exp(loss)}
        for step, loss in ((1, 3.0), (2, 2.0))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = describe_run(run)
    assert (row["epochs"], row["is_complete"], row["minutes"], row["test"]) == (1.0, False, None, None)
    assert row["validation"] == pytest.approx(math.exp(2.0))
    assert row["bits_per_character"] == pytest.approx(2.0 / math.log(2))
    (run / "metrics.jsonl").unlink()
    assert describe_run(run)["validation"] is None


def test_scores_of_other_weights_are_not_told(tmp_path):
    run = write_run(tmp_path / "run")
    RNNForCausalLM(RNNConfig(vocab_size=9, hidden_size=4)).save_pretrained(run)
    evaluation = {"scores": {"test": {"perplexity": 5.0}}, "weights": describe_weights(run)}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    assert describe_run(run)["test"] == 5.0
    RNNForCausalLM(RNNConfig(vocab_size=9, hidden_size=5)).save_pretrained(run)
    assert describe_run(run)["test"] is None


def test_a_folder_of_runs_is_told_from_a_run(tmp_path):
    write_run(tmp_path / "one")
    with pytest.raises(ValueError, match="no run.json of a training run; there are runs in it: one"):
        compare([tmp_path])
    with pytest.raises(ValueError, match="nowhere has no run.json of a training run$"):
        compare([tmp_path / "nowhere"])


def test_a_run_that_went_astray_does_not_hide_the_others(tmp_path):
    runs = [write_run(tmp_path / "a", loss=800.0, seed=1), write_run(tmp_path / "b", seed=2)]
    comparison = compare(runs)
    assert comparison["runs"][0]["validation"] == math.inf and "validation" not in comparison["groups"][0]
    assert table_rows(comparison)[0]["validation"] == "inf"
