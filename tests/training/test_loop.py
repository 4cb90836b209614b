"""The loop: it learns, resumed equals uninterrupted, what it leaves behind is whole and loads."""

import json
import math
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rnn_hf.data.streams import TokenStream
from rnn_hf.data.tokenization import encode_stream
from rnn_hf.evaluation import Score, evaluate
from rnn_hf.machine import cpu_model
from rnn_hf.models import kernels_rnn, loss_rnn
from rnn_hf.training import loop
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.readings import Readings
from rnn_hf.training.reporting import closing_lines, opening_lines


def weights(directory):
    return AutoModelForCausalLM.from_pretrained(directory).state_dict()


def assert_equal_weights(a, b):
    assert all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_the_best_model_stands_in_the_directory(run, tmp_path, text, curve):
    record = run("a", num_train_epochs=5)
    result, directory = record["result"], tmp_path / "a"
    assert result["best_validation_perplexity"] < record["data"]["unigram_validation_perplexity"] / 2
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    tokens = encode_stream((text / "validation.txt").read_text().splitlines(), tokenizer)
    score = evaluate(model, tokens, tokenizer.eos_token_id, columns=10)
    assert score.loss == pytest.approx(result["best_validation_loss"], abs=1e-5)
    assert result["is_complete"] and result["steps"] == 5 * record["steps_per_epoch"]
    assert record == json.loads((directory / "run.json").read_text())
    assert record["parameters"] == model.num_parameters() and record["cpu"] == cpu_model()
    assert record["arguments"]["training"]["seed"] == 42 and record["versions"]["torch"] == torch.__version__
    assert curve("a")
    steps = [row["step"] for row in rows(directory)]
    assert steps == sorted(steps) and any("train_loss" in row for row in rows(directory))
    assert [path.name for path in directory.glob("checkpoint-*")] == [f"checkpoint-{result['steps']}"]
    assert not [path for path in directory.rglob("*writing*")]


# In an epoch, within the second, at an epoch's end.
@pytest.mark.parametrize(
    "optim, stop_at",
    [("adamw", 7), ("sgd", 60), *(pytest.param(*case, marks=pytest.mark.slow)
                                  for case in (("sgd", 7), ("adamw", 52), ("sgd", 52), ("adamw", 60)))],
)  # fmt: skip
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run, tmp_path, optim, stop_at):
    common = {"optim": optim, "learning_rate": 0.01 if optim == "adamw" else 5, "momentum": 0.5, "eval_steps": 25}
    whole = run("whole", **common)
    assert whole["steps_per_epoch"] == 60
    run("parts", max_steps=stop_at, **common)
    resumed = run("parts", resume_from_checkpoint="last", **common)
    last = f"checkpoint-{whole['result']['steps']}"
    assert_equal_weights(weights(tmp_path / "whole" / last), weights(tmp_path / "parts" / last))
    evaluations = [[row for row in rows(tmp_path / name) if "validation_loss" in row and row["step"] % 25 == 0]
                   for name in ("whole", "parts")]  # fmt: skip
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 4
    assert resumed["result"]["steps"] == whole["result"]["steps"]


EVERYTHING = {
    "random_windows": True, "partial_shuffle": True, "activation_regularization": 2, "lr_scheduler_type": "constant",
    "temporal_activation_regularization": 1, "past_decode_regularization": 0.01, "label_smoothing_factor": 0.05,
    "num_softmaxes": 2, "nonmonotone_interval": 1, "eval_steps": 10, "learning_rate": 40,
}  # fmt: skip


@pytest.mark.parametrize("stop_at", [33, pytest.param(77, marks=pytest.mark.slow)])
def test_a_resumed_run_is_the_uninterrupted_one_with_averages_and_random_windows_too(
    run, tmp_path, monkeypatch, stop_at
):
    original = loop.TrainingRun._validate

    def validate(self, bar):
        """The averaging begins where a validation is worse than before, so the one at step 30 is."""
        return original(self, bar) + 1000 * (self.progress.step == 30)

    monkeypatch.setattr(loop.TrainingRun, "_validate", validate)
    whole = run("whole", **EVERYTHING)
    checkpoint = f"checkpoint-{whole['result']['steps']}"
    average = torch.load(tmp_path / "whole" / checkpoint / "optimizer.pt")["average"]
    assert average["count"] > whole["result"]["steps"] - 30
    run("parts", max_steps=stop_at, **EVERYTHING)
    run("parts", resume_from_checkpoint="last", **EVERYTHING)
    assert_equal_weights(weights(tmp_path / "whole" / checkpoint), weights(tmp_path / "parts" / checkpoint))
    again = torch.load(tmp_path / "parts" / checkpoint / "optimizer.pt")["average"]
    assert again["count"] == average["count"]
    assert all(torch.equal(a, b) for a, b in zip(again["mean"], average["mean"], strict=True))


def test_a_resumed_run_draws_the_same_words(run, tmp_path):
    sampled = {"sampled_softmax": 10, "average_decay": 0.9, "optim": "adam", "learning_rate": 0.01}
    whole = run("whole", **sampled)
    assert whole["result"]["best_validation_perplexity"] < whole["data"]["unigram_validation_perplexity"]
    run("parts", max_steps=33, **sampled)
    run("parts", resume_from_checkpoint="last", **sampled)
    assert_equal_weights(weights(tmp_path / "whole/checkpoint-120"), weights(tmp_path / "parts/checkpoint-120"))


def test_a_resumed_run_takes_up_the_number_of_threads_that_it_had(run, tmp_path, capsys):
    """Which sums are split differs by processor, so the weights may be equal on other numbers, by luck."""
    try:
        torch.set_num_threads(3)
        run("whole")
        run("parts", max_steps=40)
        torch.set_num_threads(1)
        capsys.readouterr()
        resumed = run("parts", resume_from_checkpoint="last")
        assert torch.get_num_threads() == resumed["threads"] == 3
    finally:
        torch.set_num_threads(1)
    assert "resuming on 3 threads, as before, not 1: their number changes rounding" in capsys.readouterr().out
    assert_equal_weights(weights(tmp_path / "whole/checkpoint-120"), weights(tmp_path / "parts/checkpoint-120"))


def test_a_resumed_run_takes_up_the_kernels_that_it_had(run, tmp_path, monkeypatch):
    """Each way rounds in its own manner; here one is off by enough to be seen everywhere."""
    ways = {"blas": loss_rnn.PRODUCTS["blas"], "onednn": lambda *inputs: 1.01 * loss_rnn.F.linear(*inputs)}
    monkeypatch.setattr(loss_rnn, "PRODUCTS", ways)
    monkeypatch.setattr(loss_rnn, "has_onednn", lambda tensor: True)
    monkeypatch.setattr(kernels_rnn, "_measure", lambda what, ways, margin: list(ways)[-1])
    run("whole", measure_kernels=True)
    first = run("parts", max_steps=40, measure_kernels=True)
    monkeypatch.setattr(kernels_rnn, "_measure", lambda what, ways, margin: list(ways)[0])
    resumed = run("parts", resume_from_checkpoint="last", measure_kernels=True)
    assert first["kernels"] == resumed["kernels"] and set(resumed["kernels"].values()) == {"onednn"}
    whole = weights(tmp_path / "whole/checkpoint-120")
    assert_equal_weights(whole, weights(tmp_path / "parts/checkpoint-120"))
    run("other")
    other = weights(tmp_path / "other/checkpoint-120")
    assert not all(torch.equal(other[name], whole[name]) for name in whole)


def test_without_measuring_every_machine_takes_the_same_kernels(run, monkeypatch):
    monkeypatch.setattr(kernels_rnn, "_measure", lambda *arguments: pytest.fail("something was measured"))
    assert set(run("fixed", measure_kernels=False, max_steps=2)["kernels"].values()) == {"blas"}


def test_a_checkpoint_of_before_the_number_of_threads_was_kept_loads(run, tmp_path, capsys):
    run("whole")
    run("parts", max_steps=40)
    path = tmp_path / "parts/checkpoint-40/process-0.pt"
    process = torch.load(path)
    del process["threads"]
    torch.save(process, path)
    run("parts", resume_from_checkpoint="last")
    assert "threads" not in capsys.readouterr().out
    assert_equal_weights(weights(tmp_path / "whole/checkpoint-120"), weights(tmp_path / "parts/checkpoint-120"))


def test_averaging_from_the_start_scores_and_keeps_the_mean_of_the_weights(run, tmp_path):
    """The best model is the mean of the weights after each step, which another run saves one by one."""
    flags = {"max_steps": 4, "lr_scheduler_type": "constant"}
    run("each", save_steps=1, save_total_limit=9, **flags)
    run("mean", average_start_step=2, eval_steps=4, **flags)
    steps = [weights(tmp_path / f"each/checkpoint-{step}") for step in (2, 3, 4)]
    averaged = weights(tmp_path / "mean")
    for name in averaged:
        torch.testing.assert_close(averaged[name], torch.stack([step[name] for step in steps]).mean(0))
    raw = weights(tmp_path / "mean/checkpoint-4")
    assert_equal_weights(raw, steps[-1])
    run("forgets", average_decay=0.5, eval_steps=4, **flags)  # half of it is always the last step
    expected = weights(tmp_path / "each/checkpoint-1")
    for step in (2, 3, 4):
        last = weights(tmp_path / f"each/checkpoint-{step}")
        expected = {name: (tensor + last[name]) / 2 for name, tensor in expected.items()}
    torch.testing.assert_close(weights(tmp_path / "forgets"), expected)


def test_a_run_starts_from_given_weights(run, tmp_path):
    run("first", max_steps=5)
    run("second", init_from=tmp_path / "first", max_steps=1, learning_rate=1e-30, average_start_step=0)
    for name, tensor in weights(tmp_path / "second").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "first")[name])
    with pytest.raises(ValueError, match="`init_from` .*first: .* is .* there and must be"):
        run("third", init_from=tmp_path / "first", hidden_size=13)


KILLED = """
import os, signal, sys
import torch
from rnn_hf.training import checkpoint, loop
from rnn_hf.training.parsing import parse_arguments
when, count, saves, steps, moves = sys.argv.pop(1), int(sys.argv.pop(1)), [], [], []
def die():
    os.kill(os.getpid(), signal.SIGKILL)
write, step, replace = checkpoint._write_tensors, loop.TrainingRun._step, os.replace
def half(content, path):
    saves.append(path)
    if when == "save" and len(saves) == count:
        open(path, "wb").write(b"half")
        die()
    write(content, path)
def take(self, bar):
    step(self, bar)
    steps.append(1)
    if when == "step" and len(steps) == count:
        die()
def move(source, target):
    moves.extend([1] * (os.path.basename(target) == "model.safetensors"))
    if when == "best" and len(moves) == count:  # the rest of the best model is moved by now, its weights are not
        die()
    replace(source, target)
checkpoint._write_tensors, loop.TrainingRun._step, os.replace = half, take, move
torch.set_num_threads(1)  # as in the tests' own process
loop.train(parse_arguments())
"""


def best_steps(directory):
    """The steps of the validations that were better than all before them, which differ by processor."""
    best, steps = math.inf, []
    for row in rows(directory):
        if row.get("validation_loss", math.inf) < best:
            best = row["validation_loss"]
            steps.append(row["step"])
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("when", ["step", "save", "best"])
def test_a_run_that_is_killed_goes_on_by_the_same_command_to_the_same_end(run, tmp_path, text, when):
    flags = {**EVERYTHING, "save_steps": 20, "resume_from_checkpoint": "last"}
    whole = run("whole", **flags)
    run("parts", overwrite_output_dir=True, max_steps=1, save_total_limit=0, **flags)  # for its flags
    arguments = json.loads((tmp_path / "parts/run.json").read_text())["arguments"]
    argv = [part for kind in ("model", "data", "training") for name, value in arguments[kind].items()
            if value is not None for part in (f"--{name}", str(value))]  # fmt: skip
    argv += ["--max_steps", "-1", "--save_total_limit", "1", "--overwrite_output_dir", "false"]
    steps = best_steps(tmp_path / "whole")
    saved = (steps[-1] - 1) // 20 * 20  # the last checkpoint before the last best model
    count, left = {
        "step": (47, ["checkpoint-40"]),
        "save": (4, [".checkpoint-40.writing", "checkpoint-20"]),  # the second file of the second checkpoint
        "best": (len(steps), [f"checkpoint-{saved}"] if saved else []),
    }[when]
    done = subprocess.run([sys.executable, "-c", KILLED, when, str(count), *argv], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.name for path in (tmp_path / "parts").glob("*checkpoint-*")) == left
    run("parts", **flags)
    checkpoint = f"checkpoint-{whole['result']['steps']}"
    assert [path.name for path in (tmp_path / "parts").glob("*checkpoint-*")] == [checkpoint]
    assert_equal_weights(weights(tmp_path / "whole" / checkpoint), weights(tmp_path / "parts" / checkpoint))
    assert_equal_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    scores = [[row for row in rows(tmp_path / name) if "validation_loss" in row] for name in ("whole", "parts")]
    assert scores[0] == scores[1]


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_stays_whole(run, tmp_path, monkeypatch):
    original = loop.save_checkpoint

    def full(output_dir, accelerator, model, optimizer, scheduler, average, progress, *rest):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if progress.step > 10:
            resource.setrlimit(resource.RLIMIT_FSIZE, (900, limits[1]))
        try:
            original(output_dir, accelerator, model, optimizer, scheduler, average, progress, *rest)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(loop, "save_checkpoint", full)
    with pytest.raises(OSError, match="cannot write .*checkpoint-20.*disk is full.*whole are checkpoint-10"):
        run("a", save_steps=10)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "a").glob("*checkpoint-*")] == ["checkpoint-10"]
    run("a", save_steps=10, resume_from_checkpoint="last")
    run("whole", save_steps=10)
    assert_equal_weights(weights(tmp_path / "a/checkpoint-120"), weights(tmp_path / "whole/checkpoint-120"))


def test_a_signal_leaves_a_checkpoint_that_goes_on_to_the_same_end(run, tmp_path, monkeypatch):
    original, calls, before = loop.TrainingRun._step, [], signal.getsignal(signal.SIGINT)

    def step(self, bar):
        original(self, bar)
        calls.append(1)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGINT)

    run("whole")
    monkeypatch.setattr(loop.TrainingRun, "_step", step)
    stopped = run("parts")
    assert stopped["result"]["steps"] == 9 and not stopped["result"]["is_complete"]
    assert stopped["result"]["best_validation_loss"] is None  # it was stopped before the first validation
    assert stopped["result"]["stopped_by"] == "SIGINT"
    assert run("parts", resume_from_checkpoint="last")["result"]["stopped_by"] is None
    assert_equal_weights(weights(tmp_path / "whole/checkpoint-120"), weights(tmp_path / "parts/checkpoint-120"))
    assert signal.getsignal(signal.SIGINT) is before


def test_the_seed_decides_the_run(run, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(name, seed=seed, max_steps=3)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert_equal_weights(a, b)
    assert not torch.equal(a["lm_head.weight"], c["lm_head.weight"])


def test_accumulated_windows_average_their_gradients(run, tmp_path):
    """One step over two windows moves the weights by the mean of what the windows say with the state carried."""
    plain = {"embedding_dropout": 0, "hidden_dropout": 0, "recurrent_dropout": 0, "max_grad_norm": 0}
    plain |= {"lr_scheduler_type": "constant", "max_steps": 1, "learning_rate": 1}
    run("start", **{**plain, "learning_rate": 1e-30})
    run("two", gradient_accumulation_steps=2, **plain)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "start").train()
    arguments = parse_arguments(["--train_file", "unused"]).training
    corpus = loop.prepare_corpus(parse_arguments(_data_flags(tmp_path / "start")).data)
    stream = loop.TokenStream(corpus.streams["train"], 0, 6, 10)
    state = None
    for window in range(2):
        inputs, targets = stream[window]
        outputs = model(inputs, cache=state, shift_labels=targets)
        (outputs.loss / 2).backward()
        state = outputs.cache.detach()
    assert arguments.gradient_accumulation_steps == 1
    moved = weights(tmp_path / "two")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(moved[name], parameter.detach() - parameter.grad, atol=1e-6, rtol=1e-5)


def _data_flags(directory: Path):
    data = json.loads((directory / "run.json").read_text())["arguments"]["data"]
    return [part for name, value in data.items() if value is not None for part in (f"--{name}", str(value))]


def test_a_run_stops_after_so_many_validations_without_gain_and_keeps_the_best_model(run, tmp_path, monkeypatch):
    losses = [5.0, 6.0, 4.0, 4.0, 4.5, 3.0]
    scores = iter(losses)
    monkeypatch.setattr(loop.TrainingRun, "_score", lambda self, steps=None: None if steps else Score(next(scores), 1))
    record = run("a", eval_steps=4, save_steps=4, save_total_limit=9, early_stopping_patience=2)["result"]
    assert record["is_complete"] and record["steps"] == 4 * 5
    assert record["best_step"] == 4 * 3 and record["best_validation_loss"] == 4.0
    assert [row["validation_loss"] for row in rows(tmp_path / "a") if "validation_loss" in row] == losses[:5]
    assert_equal_weights(weights(tmp_path / "a"), weights(tmp_path / "a/checkpoint-12"))


def test_a_run_says_what_it_works_on_before_the_first_step_and_what_its_record_says(run, tmp_path, capsys):
    record = run("a", max_steps=3, disable_tqdm=False)
    said = capsys.readouterr().out
    lines = opening_lines(record)
    assert said.index("reading the corpus") < said.index("\n".join(lines)) < said.index("epoch 0.05  step 3")
    numbers = (*record["data"]["tokens"].values(), record["data"]["vocab_size"], record["parameters"], 60, 120)
    assert all(f"{number:,}" in "\n".join(lines) for number in numbers)
    run("b", max_steps=3)
    assert "corpus" not in capsys.readouterr().out
    resumed = run("a", max_steps=4, resume_from_checkpoint="last")
    assert resumed["first_step"] == 3 and "going on at step 3" in "\n".join(opening_lines(resumed))


@pytest.mark.parametrize("steps", [3, -1])
def test_a_run_with_nothing_left_to_do_says_so_and_leaves_all_as_it_is(run, tmp_path, steps):
    first = run("a", max_steps=steps)
    shutil.copytree(tmp_path / "a", tmp_path / "before")
    again = run("a", max_steps=steps, resume_from_checkpoint="last")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "before")
    assert again["result"] == first["result"] and first["first_step"] == 0
    assert closing_lines(again)[:2] == closing_lines(first)[:2]
    assert "nothing was left to do" in closing_lines(again)[-1] and "was left" not in closing_lines(first)[-1]


def test_unknown_words_of_the_validation_text_are_told_before_the_first_step(run, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("0 1 2 3 never seen\n" * 40)
    run("a", max_steps=1, validation_file=tmp_path / "other.txt")
    said = capsys.readouterr().out
    assert "0.0 % of the train tokens and 28.6 % of the validation tokens" in said.partition("epoch")[0]
    assert said.count("warning") == 1


@pytest.mark.parametrize("kind", ["char", "word"])
def test_of_characters_the_bits_of_each_are_told(run, kind, capsys):
    result = run("a", tokenizer=kind, max_steps=1)["result"]
    bits = result["best_validation_loss"] / math.log(2)
    assert result.get("best_validation_bits_per_character") == (bits if kind == "char" else None)
    assert (f"({bits:.3f} bits per character)" in capsys.readouterr().out) == (kind == "char")


def test_a_perplexity_beyond_all_numbers_is_a_number_in_the_files_and_short_on_the_screen(
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop.TrainingRun, "_score", lambda self, steps=None: Score(1e4, 1))
    record = run("a", max_steps=1)
    assert math.isfinite(record["result"]["best_validation_perplexity"])
    assert math.isfinite(rows(tmp_path / "a")[-1]["validation_perplexity"])
    assert max(map(len, capsys.readouterr().out.splitlines())) < 100


def test_checkpoints_are_pruned_to_the_limit(run, tmp_path):
    run("a", save_steps=3, save_total_limit=2, max_steps=10)
    assert sorted(path.name for path in (tmp_path / "a").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-9"]
    run("b", save_total_limit=0, max_steps=2)
    assert not list((tmp_path / "b").glob("checkpoint-*"))


def test_another_run_is_not_overwritten_nor_resumed(run, tmp_path, text):
    run("a", max_steps=2)
    with pytest.raises(FileExistsError, match="`overwrite_output_dir=True`"):
        run("a", max_steps=2)
    for flag, value in (("hidden_size", 13), ("learning_rate", 4), ("seed", 5), ("window", 9)):
        with pytest.raises(ValueError, match=f"another run: `{flag}` was") as error:
            run("a", resume_from_checkpoint="last", **{flag: value})
        # Weights of another shape cannot be trained on.
        assert (f"`init_from` {tmp_path / 'a'} with another `output_dir`" in str(error.value)) == (
            flag != "hidden_size"
        )
    with pytest.raises(ValueError, match="train_sha1"):
        run("a", resume_from_checkpoint="last", train_file=text / "validation.txt")
    assert run("new", resume_from_checkpoint="last", max_steps=1)["result"]["steps"] == 1  # there is none yet
    run("none", max_steps=1, save_total_limit=0)
    for flags in ({"seed": 5}, {"train_file": text / "validation.txt"}):
        with pytest.raises(FileExistsError, match="holds another run than `resume_from_checkpoint` last"):
            run("none", resume_from_checkpoint="last", **flags)
    run("none", max_steps=1, resume_from_checkpoint="last", save_total_limit=0)
    (tmp_path / "none/run.json").write_text('{"project": "x"}')
    for flag, match in ({}, "holds a run"), ({"resume_from_checkpoint": "last"}, "holds another run"):
        with pytest.raises(FileExistsError, match=match):
            run("none", **flag)
    run("a", max_steps=1, overwrite_output_dir=True)
    assert [path.name for path in (tmp_path / "a").glob("checkpoint-*")] == ["checkpoint-1"]


def test_no_model_of_the_run_before_stands_beside_the_run_json_of_the_one_that_replaced_it(run, tmp_path, monkeypatch):
    run("a", max_steps=1)
    monkeypatch.setattr(loop.TrainingRun, "_evaluate", lambda self, bar: None)  # as if it was stopped before
    run("a", max_steps=2, overwrite_output_dir=True)
    left = {path.name for path in (tmp_path / "a").iterdir()}
    assert not left & {"model.safetensors", "config.json"} and "checkpoint-2" in left


def test_a_directory_with_checkpoints_alone_is_a_run_too(run, tmp_path):
    run("a", max_steps=2)
    (tmp_path / "a/run.json").unlink()
    with pytest.raises(FileExistsError, match='go on with `resume_from_checkpoint="last"`'):
        run("a")


SLOW_KINDS = ["linear", "cosine", "step", "reduce_lr_on_plateau"]


@pytest.mark.parametrize(
    "kind", ["constant", "one_cycle", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW_KINDS)]
)
def test_every_schedule_ends_with_the_last_of_random_windows(run, tmp_path, kind):
    """Where twice the mean of two epochs' steps is less than they are, as it is rounded down."""
    stream, seeds = TokenStream(np.zeros(1500, np.int64), 0, 6, 10), range(1000)
    counts = {seed: [len(stream.for_epoch(seed, epoch, random_windows=True)) for epoch in (0, 1)] for seed in seeds}
    seed = next(seed for seed in seeds if sum(counts[seed]) % 4 == 1)
    flags = {
        "random_windows": True, "lr_scheduler_type": kind, "seed": seed, "max_train_tokens": 1500, "logging_steps": 1,
        "learning_rate": 0.1, "warmup_steps": 0 if kind in ("one_cycle", "step") else 2,
    }  # fmt: skip
    result = run("a", **flags)["result"]
    assert result["is_complete"] and result["steps"] == sum(counts[seed])
    rates = [row["learning_rate"] for row in rows(tmp_path / "a") if "train_loss" in row]
    assert len(rates) == result["steps"] and rates[-1] > 0
    if kind in ("linear", "cosine", "one_cycle"):
        assert rates[-1] == min(rates[result["steps"] // 2 :]) < 0.01


def test_a_run_that_died_of_a_schedule_too_short_goes_on_to_its_end(run, tmp_path):
    """Older versions wrote the number of steps, wrong with random windows, into the checkpoint."""
    flags = {"lr_scheduler_type": "one_cycle", "max_train_tokens": 1500}
    steps = run("a", **flags, max_steps=4)["steps_per_epoch"] * 2
    path = tmp_path / "a/checkpoint-4/optimizer.pt"
    parts = torch.load(path)
    parts["scheduler"]["total_steps"] = steps - 1
    torch.save(parts, path)
    assert run("a", **flags, resume_from_checkpoint="last")["result"]["steps"] == steps


def test_a_run_in_another_thread_is_the_same_run(run, tmp_path):
    run("main", max_steps=3)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(run, "other", max_steps=3).result()["result"]["steps"] == 3
    assert_equal_weights(weights(tmp_path / "main"), weights(tmp_path / "other"))


def files_of(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_run_that_fails_at_its_first_step_changes_nothing_and_does_not_block_the_next_try(
    run, tmp_path, monkeypatch
):
    def fail(self, *arguments):
        raise FloatingPointError("not finite")

    run("a", max_steps=2)
    shutil.copytree(tmp_path / "a", tmp_path / "before")
    for name, flags in (("new", {}), ("a", {"overwrite_output_dir": True}), ("a", {"resume_from_checkpoint": "last"})):
        with monkeypatch.context() as patch, pytest.raises(FloatingPointError):
            patch.setattr(Readings, "check_finite", fail)
            run(name, **flags)
        assert not (tmp_path / "new").exists()
        assert files_of(tmp_path / "a") == files_of(tmp_path / "before")
    assert run("new", max_steps=1)["result"]["steps"] == 1


@pytest.mark.parametrize("torn", ['{"step": 3, "los', "\n"])
def test_a_run_goes_on_past_a_last_line_of_metrics_that_is_cut(run, tmp_path, torn):
    run("a", max_steps=2, logging_steps=1)
    path = tmp_path / "a/metrics.jsonl"
    lines = path.read_text()
    path.write_text(lines + torn)
    run("a", max_steps=4, logging_steps=1, resume_from_checkpoint="last")
    assert path.read_text().startswith(lines) and rows(tmp_path / "a")[-1]["step"] == 4
    path.write_text(lines.replace("\n", "\n{\n", 1))
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is no JSON object"):
        run("a", resume_from_checkpoint="last")


@pytest.mark.parametrize("content", ["", '{"argum'])
def test_a_broken_run_json_is_named(run, tmp_path, content):
    run("a", max_steps=2, save_total_limit=0)
    (tmp_path / "a/run.json").write_text(content)
    with pytest.raises(ValueError, match=r"a/run\.json is broken"):
        run("a", resume_from_checkpoint="last")


@pytest.mark.parametrize("size, file", [(100_000, "model.safetensors"), (1, "metrics.jsonl")])
def test_a_full_disk_at_the_best_model_or_a_line_of_metrics_is_named(run, tmp_path, monkeypatch, size, file):
    """The best model is not there yet; the limit lets pass its code and not its weights."""
    original, limits = loop.TrainingRun._validate, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self, bar):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            return original(self, bar)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(loop.TrainingRun, "_validate", full)
    with pytest.raises(OSError, match=rf"cannot write .*{file}.*If the disk is full.*whole are no checkpoints yet"):
        run("a", eval_steps=1, hidden_size=100)
    assert not (tmp_path / "a/model.safetensors").exists() and not list((tmp_path / "a").glob("*writing*"))


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(run, tmp_path):
    with pytest.raises(FloatingPointError, match="norm of the gradient .* at step .*lower `learning_rate`"):
        run("a", learning_rate=1e38, max_grad_norm=0, lr_scheduler_type="constant")


@pytest.mark.parametrize("flags", [{"bf16": True}, {"optim": "adam", "learning_rate": 0.02}])
def test_other_ways_to_train_learn_too(run, flags):
    record = run("a", num_train_epochs=4, **flags)
    assert record["result"]["best_validation_perplexity"] < record["data"]["unigram_validation_perplexity"]


def test_trackers_get_the_metrics(run, tmp_path):
    run("a", report_to="tensorboard", max_steps=8)
    assert list((tmp_path / "a").rglob("events.out.tfevents*"))


def test_a_corpus_without_validation_sets_some_lines_aside(run, text, tmp_path):
    argv = ["--train_file", str(text / "train.txt"), "--validation_split_percentage", "10"]
    corpus = loop.prepare_corpus(parse_arguments(argv).data)
    assert len(corpus.streams["validation"]) == pytest.approx(0.1 * 400 * 9)
    assert math.isclose(len(corpus.streams["train"]), 0.9 * 400 * 9)
