"""Training on labelled examples: resumed equals uninterrupted, what a run leaves behind is whole, loads and scores."""

import csv
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
import transformers
from hub_server import HubServer
from run_files import history
from safetensors.torch import load_file

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.commands import train as command
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.errors import MissingPackageError
from rnn_hf.hub import client as hub
from rnn_hf.hub.client import HubError
from rnn_hf.models.kernels_rnn import CHOICES
from rnn_hf.tasks import TASKS, text_runs
from rnn_hf.training import labelled_run
from rnn_hf.training.labelled_run import LabelledRun, closing_lines, train
from rnn_hf.training.loop import train as train_language_model
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.reporting import run_lines
from rnn_hf.training.trainer import LabelledTrainer


WORDS = ["a", "b", "c", "d", "e", "f"]
STEPS = 6  # an epoch has
# What a test trains on: its task, and what its files are called.
KINDS = {
    "texts": ("text-classification", {"train_file": "train.csv", "validation_file": "validation.csv"}),
    "numbers": ("text-classification", {"label_column": "number"}),
    "several": ("text-classification", {"label_column": "has_a,has_b"}),
    "words": ("token-classification", {"train_file": "train.tsv", "validation_file": "validation.tsv"}),
}
WITHOUT_DROPOUT = dict.fromkeys(("embedding_dropout", "hidden_dropout", "classifier_dropout"), 0)


def tag_of(word, before):
    return f"{'after_a' if before == 'a' else 'other'}_{word in 'abc'}"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Texts with a class, a number and two labels, and sentences with a tag for each word; all can be learned."""
    directory, generator = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for split, number in (("train", 4 * STEPS - 1), ("validation", 20), ("more", 150)):
        texts = [generator.choice(WORDS, generator.integers(2, 9)).tolist() for _ in range(number)]
        with (directory / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "number", "has_a", "has_b", "label"])
            for words in texts:
                counts = [words.count("a"), words.count("b")]
                marks = [int(count > 0) for count in counts]
                writer.writerow([" ".join(words), counts[0] / 2, *marks, "yes" if marks[0] else "no"])
        sentences = [
            "".join(f"{word}\t{tag_of(word, before)}\n" for word, before in zip(words, ["", *words], strict=False))
            for words in texts
        ]
        (directory / f"{split}.tsv").write_text("\n".join(sentences))
    return directory


@pytest.fixture
def arguments_of(data, tmp_path):
    """The arguments of a run with dropout on tiny data, into a directory by name."""

    def arguments_of(name, kind="texts", **flags):
        task, files = KINDS[kind]
        files = {key: data / value if key.endswith("file") else value for key, value in
                 {**KINDS["texts"][1], **files}.items()}  # fmt: skip
        values = {
            **files, "output_dir": tmp_path / name, "min_frequency": 1, "hidden_size": 6, "num_hidden_layers": 2,
            **dict.fromkeys(WITHOUT_DROPOUT, 0.2), "per_device_train_batch_size": 4, "learning_rate": 0.03,
            "num_train_epochs": 3, "logging_steps": 4, "disable_tqdm": True, "use_cpu": True,
            "measure_kernels": False, **flags,
        }  # fmt: skip
        argv = [part for key, value in values.items() for part in (f"--{key}", str(value))]
        return parse_arguments(["--task", task, *argv])

    return arguments_of


@pytest.fixture
def run(arguments_of):
    """Train; returns the content of run.json."""
    return lambda name, kind="texts", **flags: train(arguments_of(name, kind, **flags))


def names(directory):
    return sorted(path.name for path in directory.glob("*checkpoint-*"))


def weights(directory):
    return load_file(directory / "model.safetensors")


def progress_of(checkpoint):
    progress = json.loads((checkpoint / "progress.json").read_text())["progress"]
    return {name: value for name, value in progress.items() if "seconds" not in name}


def state_of(checkpoint):
    """All that the next step depends on."""
    files = {name: torch.load(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt", "average.pt")}
    # Of Python's and NumPy's generators nothing here draws.
    generator = torch.load(checkpoint / "rng_state.pth", weights_only=False)["cpu"]
    return {**files, "rng": generator, "weights": weights(checkpoint), "progress": progress_of(checkpoint)}


def assert_equal(a, b):
    """Equal bit for bit, nested as they are."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_equal(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def assert_same_end(whole, parts):
    """Two directories hold the same model, checkpoint and history."""
    last = f"checkpoint-{3 * STEPS}"
    assert names(whole) == names(parts) == [last]
    assert_equal(state_of(whole / last), state_of(parts / last))
    assert_equal(weights(whole), weights(parts))
    assert history(whole) == history(parts)
    validations = [row["step"] for row in history(whole) if "validation_loss" in row]
    assert len(set(validations)) == len(validations) >= 3


CASES = {
    "plain": {},
    "everything": {
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "average_decay": 0.8, "eval_steps": 4,
        "save_steps": 3, "unfreeze_epochs": 0.5, "layer_decay": 0.5, "label_smoothing_factor": 0.1,
        "warmup_steps": 5, "lr_scheduler_type": "cosine", "weight_decay": 0.1, "logging_steps": 5,
    },
    "words": {"kind": "words", "bidirectional": True, "save_steps": 2, "logging_steps": 7},
    "numbers": {"kind": "numbers", "pooling": "concat", "group_by_length": False, "eval_steps": 5},
}  # fmt: skip


@pytest.mark.parametrize(
    "case", ["everything", "words", *(pytest.param(case, marks=pytest.mark.slow) for case in ("plain", "numbers"))]
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run, tmp_path, case):
    """Stopped within an epoch, and at the end of one."""
    flags = CASES[case]
    assert run("whole", **flags)["steps_per_epoch"] == STEPS
    for stop_at in (4, STEPS):
        name = f"parts-{stop_at}"
        stopped = run(name, max_steps=stop_at, **flags)
        assert stopped["result"]["steps"] == stop_at and not stopped["result"]["is_complete"]
        assert history(tmp_path / name)[-1]["step"] == stop_at and "validation_loss" in history(tmp_path / name)[-1]
        resumed = run(name, resume_from_checkpoint="last", **flags)
        assert resumed["first_step"] == stop_at and resumed["result"]["is_complete"]
        assert_same_end(tmp_path / "whole", tmp_path / name)


@pytest.mark.parametrize("flags", [{}, {"gradient_accumulation_steps": 3}, {"group_by_length": False}])
def test_an_epoch_sees_each_example_once_and_each_epoch_has_an_order_of_its_own(run, arguments_of, monkeypatch, flags):
    examples = LabelledRun(arguments_of("a", **flags)).prepared.examples["train"]
    original, seen = LabelledTrainer.training_step, []

    def training_step(self, model, inputs, *rest):
        masks = inputs["attention_mask"].bool()
        seen.extend(tuple(ids[mask].tolist()) for ids, mask in zip(inputs["input_ids"], masks, strict=True))
        return original(self, model, inputs, *rest)

    monkeypatch.setattr(LabelledTrainer, "training_step", training_step)
    run("a", **flags)
    size = len(examples)
    epochs = [seen[start : start + size] for start in range(0, len(seen), size)]
    assert len(epochs) == 3 and len({tuple(epoch) for epoch in epochs}) == 3
    for epoch in epochs:
        assert sorted(epoch) == sorted(tuple(example["input_ids"]) for example in examples)


@pytest.fixture
def at_step(monkeypatch):
    """`at_step(number, act)`: `act()` is called once, within the step of that number."""

    def at_step(number, act):
        original, done = LabelledTrainer.training_step, []

        def training_step(self, *arguments, **keywords):
            loss = original(self, *arguments, **keywords)
            if self.state.global_step == number - 1 and not done:
                done.append(True)
                act(self)
            return loss

        monkeypatch.setattr(LabelledTrainer, "training_step", training_step)

    return at_step


@pytest.mark.parametrize("step", [4, STEPS])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint_that_goes_on(run, tmp_path, at_step, step):
    run("whole", **CASES["everything"])
    before = signal.getsignal(signal.SIGTERM)
    at_step(step, lambda trainer: signal.raise_signal(signal.SIGTERM))
    stopped = run("parts", **CASES["everything"])
    assert stopped["result"]["steps"] == step and stopped["result"]["stopped_by"] == "SIGTERM"
    assert names(tmp_path / "parts") == [f"checkpoint-{step}"] and signal.getsignal(signal.SIGTERM) is before
    assert closing_lines(stopped)[-1].startswith(f"stopped by SIGTERM at step {step} of {3 * STEPS}; go on by")
    assert run("parts", resume_from_checkpoint="last", **CASES["everything"])["result"]["stopped_by"] is None
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_command_ends_by_the_code_of_its_signal(arguments_of, run, at_step, capsys, number, code):
    at_step(2, lambda trainer: signal.raise_signal(number))
    assert command.run(arguments_of("a")) == code
    assert f"stopped by {number.name} at step 2 of {3 * STEPS}; go on by the same command" in capsys.readouterr().out


def test_a_signal_before_the_first_step_ends_the_program(arguments_of, run, tmp_path, monkeypatch):
    """Reading and tokenizing may take minutes, and nothing of them can be kept."""
    original = text_runs.prepare

    def prepare(*given):
        signal.raise_signal(signal.SIGINT)
        return original(*given)

    monkeypatch.setattr(text_runs, "prepare", prepare)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run("a")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "a").exists()


def test_a_copy_of_the_directory_goes_on_as_the_original_would(run, tmp_path):
    run("whole", save_steps=4)
    run("original", max_steps=5, save_steps=4)
    shutil.move(tmp_path / "original", tmp_path / "copy")
    run("copy", resume_from_checkpoint="last", save_steps=4)
    assert_same_end(tmp_path / "whole", tmp_path / "copy")
    assert not (tmp_path / "original").exists()


def test_going_on_in_another_directory_takes_the_best_model_and_the_history_along(run, tmp_path):
    run("whole")
    run("a", max_steps=STEPS + 2)
    checkpoint = tmp_path / f"a/checkpoint-{STEPS + 2}"
    record = run("b", resume_from_checkpoint=checkpoint, max_steps=STEPS + 3)
    assert [row["step"] for row in history(tmp_path / "b")] == [4, STEPS, STEPS + 2, STEPS + 3]
    if record["result"]["best_step"] == STEPS:
        assert_equal(weights(tmp_path / "b"), load_file(checkpoint / "best.safetensors"))
    run("b", resume_from_checkpoint="last")
    assert_same_end(tmp_path / "whole", tmp_path / "b")


class Killed(BaseException):
    """What nothing in a run catches, as nothing catches SIGKILL."""


def die(*_, **__):
    raise Killed


@pytest.mark.parametrize(
    "when",
    ["within a checkpoint", "within the best model",
     *(pytest.param(when, marks=pytest.mark.slow) for when in ("within a step", "before it is moved"))],
)  # fmt: skip
def test_a_killed_run_goes_on_by_the_same_command_to_the_same_end(run, tmp_path, monkeypatch, at_step, when):
    flags = {"resume_from_checkpoint": "last", "eval_steps": 4, "save_steps": 2}
    run("whole", **flags)
    with monkeypatch.context() as patch:
        if when == "within a step":
            at_step(8, die)
        else:
            target, name = {
                "within a checkpoint": (LabelledTrainer, "_save_optimizer_and_scheduler"),
                "before it is moved": (labelled_run, "put_in_place"),
                "within the best model": (LabelledRun, "_write_model"),
            }[when]  # fmt: skip
            original, calls = getattr(target, name), []

            def fail(*arguments):
                calls.append(1)
                return die() if len(calls) == (1 if when == "within the best model" else 3) else original(*arguments)

            patch.setattr(target, name, fail)
        with pytest.raises(Killed):
            run("parts", **flags)
    left = names(tmp_path / "parts")
    assert left == {"within a step": ["checkpoint-6"], "within the best model": ["checkpoint-2"]}.get(
        when, ["checkpoint-4"]
    )
    drafts = tmp_path / "parts/.drafts"
    assert drafts.exists() == (when in ("within a checkpoint", "before it is moved"))
    resumed = run("parts", **flags)
    assert resumed["first_step"] == int(left[0].partition("-")[2]) and not drafts.exists()
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


def test_checkpoints_are_pruned_to_the_limit_and_none_are_left_with_zero(run, tmp_path):
    run("two", save_steps=2, save_total_limit=2, max_steps=7)
    assert names(tmp_path / "two") == ["checkpoint-6", "checkpoint-7"]
    record = run("none", save_total_limit=0, save_steps=2, max_steps=7)
    assert not names(tmp_path / "none") and not (tmp_path / "none/.drafts").exists()
    assert "--save_total_limit 0 left no checkpoint to go on from" in closing_lines(record)[-1]
    assert weights(tmp_path / "none")


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(run, tmp_path, data, text):
    run("a", max_steps=2)
    for name, value in {"hidden_size": 7, "seed": 5, "average_decay": 0.5, "pooling": "max"}.items():
        with pytest.raises(ValueError, match=f"checkpoint-2 is of another run: `{name}` was") as error:
            run("a", resume_from_checkpoint="last", **{name: value})
        is_of_training = name in ("seed", "average_decay")
        assert (f"`init_from` {tmp_path / 'a'} with another `output_dir`" in str(error.value)) == is_of_training
    with pytest.raises(ValueError, match="another run: `train_sha1` was"):
        run("a", resume_from_checkpoint="last", max_train_samples=20)
    with pytest.raises(ValueError, match="another run: `task` was 'text-classification', is 'token-classification'"):
        run("a", "words", resume_from_checkpoint="last")
    values = {"output_dir": tmp_path / "a", "train_file": text / "train.txt", "resume_from_checkpoint": "last"}
    argv = [str(part) for name, value in values.items() for part in (f"--{name}", value)]
    with pytest.raises(ValueError, match="another run: `task` was 'text-classification', is 'language-modeling'"):
        train_language_model(parse_arguments(argv))
    with pytest.raises(FileExistsError, match="holds a run: go on with"):
        run("a")
    path = tmp_path / "a/checkpoint-2/progress.json"
    saved = json.loads(path.read_text())
    del saved["identity"]["task"]  # as language models have it
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="another run: `task` was 'language-modeling', is 'text-classification'"):
        run("a", resume_from_checkpoint="last")
    assert history(tmp_path / "a")[-1]["step"] == 2


@pytest.mark.parametrize(
    "name",
    ["progress.json", "trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "average.pt",
     "rng_state.pth"],
)  # fmt: skip
def test_a_broken_file_of_a_checkpoint_is_named_with_the_one_to_go_on_from(run, tmp_path, name):
    flags = {"save_steps": 1, "save_total_limit": 9, "average_decay": 0.5}
    run("a", max_steps=2, **flags)
    broken = tmp_path / "a/checkpoint-2" / name
    whole = broken.read_bytes()
    message = rf"checkpoint-2/{name} is broken or missing .*go on with `resume_from_checkpoint` .*a/checkpoint-1$"
    for content in (b"", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            run("a", resume_from_checkpoint="last", **flags)
    if name != "progress.json":  # without which it would be no checkpoint
        broken.unlink()
        with pytest.raises(ValueError, match=message):
            run("a", resume_from_checkpoint="last", **flags)
        broken.write_bytes(whole)
    assert run("a", resume_from_checkpoint=tmp_path / "a/checkpoint-1", max_steps=3, **flags)["first_step"] == 1


@pytest.mark.parametrize("size, file", [(100_000, "model.safetensors"), (300_000, "optimizer.pt")])
def test_a_full_disk_stops_the_run_and_the_last_checkpoint_stays_whole(run, tmp_path, monkeypatch, size, file):
    """The limit lets pass what is written before the file."""
    original, limits = LabelledTrainer._save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self, *arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if self.state.global_step > 2 else limits[0], limits[1]))
        try:
            original(self, *arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(LabelledTrainer, "_save_checkpoint", full)
    with pytest.raises(OSError, match="cannot write .*checkpoint-4.*If the disk is full.*whole are checkpoint-2"):
        run("a", save_steps=2, hidden_size=60)
    assert names(tmp_path / "a") == ["checkpoint-2"] and not (tmp_path / "a/.drafts").exists()
    assert (tmp_path / "a/checkpoint-2" / file).stat().st_size > size


def test_a_resumed_run_takes_up_threads_and_kernels(run, tmp_path, capsys):
    """Both change the rounding."""
    run("a", max_steps=2)
    path = tmp_path / "a/checkpoint-2/progress.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"threads": 3, "kernels": {"some product": "some way"}}))
    try:
        record = run("a", resume_from_checkpoint="last", max_steps=3)
        assert torch.get_num_threads() == record["threads"] == 3
    finally:
        torch.set_num_threads(1)
        CHOICES.clear()
    assert record["kernels"]["some product"] == "some way"
    assert "resuming on 3 threads, as before, not 1" in capsys.readouterr().out


@pytest.mark.parametrize("kind, smoothing", [(kind, 0) for kind in KINDS] + [("texts", 0.2), ("words", 0.2)])
def test_accumulated_batches_train_as_the_whole_batch_does(run, tmp_path, kind, smoothing):
    """The norm of the gradient is compared as well: a step of Adam hardly depends on it."""
    flags = {**WITHOUT_DROPOUT, "label_smoothing_factor": smoothing, "logging_steps": 1, "max_steps": STEPS}
    run("whole", kind, per_device_train_batch_size=4, **flags)
    run("parts", kind, per_device_train_batch_size=1, gradient_accumulation_steps=4, **flags)
    for one, other in zip(history(tmp_path / "whole"), history(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(other, rel=2e-3)
    torch.testing.assert_close(weights(tmp_path / "whole"), weights(tmp_path / "parts"), atol=1e-4, rtol=1e-3)


PROBLEMS = {
    "texts": ("single_label_classification", "accuracy"),
    "numbers": ("regression", "mean_squared_error"),
    "several": ("multi_label_classification", "micro_f1"),
    "words": (None, "accuracy"),
}


@pytest.fixture
def best_of(run, data, tmp_path):
    """Train until something is learned; returns run.json and the best line of metrics.jsonl."""

    def best_of(kind, **flags):
        files = {"train_file": data / f"more.{'tsv' if kind == 'words' else 'csv'}"}
        pooling = {} if kind == "words" else {"pooling": "mean"}
        record = run("a", kind, **files, **pooling, **WITHOUT_DROPOUT, per_device_train_batch_size=8, **flags)
        validations = [row for row in history(tmp_path / "a") if "validation_loss" in row]
        choose = min if record["metric"] == "mean_squared_error" else max
        return record, choose(validations, key=lambda row: row[f"validation_{record['metric']}"])

    return best_of


@pytest.mark.parametrize(
    "kind", ["texts", "words", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("several", "numbers"))]
)
def test_the_best_model_stands_in_the_directory_and_scores_what_its_step_says(best_of, tmp_path, kind):
    averaged = {"average_decay": 0.9} if kind in ("texts", "words") else {}
    record, best = best_of(kind, num_train_epochs=6, eval_steps=30, learning_rate=0.05, **averaged)
    task, (problem_type, metric) = TASKS[KINDS[kind][0]], PROBLEMS[kind]
    result, score = record["result"], best[f"validation_{metric}"]
    assert result["best_step"] == best["step"] and record["metric"] == metric
    assert best["epoch"] == pytest.approx(best["step"] / record["steps_per_epoch"], abs=1e-4)
    assert result[f"best_validation_{metric}"] == score
    scores = task.module.evaluate(str(tmp_path / "a"), ["validation"], {})["validation"]
    told = {name.removeprefix("validation_"): value for name, value in best.items() if "validation" in name}
    assert {"loss": scores.loss, **scores.values} == {name: pytest.approx(value, abs=1e-5)
                                                     for name, value in told.items()}  # fmt: skip
    model = getattr(transformers, task.module.AUTO_CLASS).from_pretrained(tmp_path / "a")
    assert model.config.problem_type == problem_type and type(model).__name__ == task.architecture
    floor = record["data"]["floor"]
    assert score < 0.5 * floor if metric == "mean_squared_error" else score > 0.85
    assert json.loads((tmp_path / "a/run.json").read_text()) == record
    assert closing_lines(record)[-1] == f"model, run.json, metrics.jsonl and curve.png are in {tmp_path / 'a'}"


def test_a_run_in_bfloat16_learns_too(best_of):
    record, best = best_of("texts", bf16=True, num_train_epochs=4, learning_rate=0.05)
    assert best["validation_accuracy"] > record["data"]["floor"] + 0.1


@pytest.mark.parametrize("kind", ["texts", "words"])
def test_texts_that_are_cut_for_training_are_scored_as_wholes(run, tmp_path, kind):
    with pytest.warns(UserWarning, match="of 23 texts have more than 3 tokens and were cut"):
        run("a", kind, max_length=3, max_steps=2)
    scores = TASKS[KINDS[kind][0]].module.evaluate(str(tmp_path / "a"), ["validation"], {})["validation"]
    told = {name: value for name, value in history(tmp_path / "a")[-1].items() if "validation" in name}
    values = {f"validation_{name}": value for name, value in {"loss": scores.loss, **scores.values}.items()}
    assert values == {name: pytest.approx(value, abs=1e-5) for name, value in told.items()}


def test_the_curve_is_drawn_by_the_metric_that_decides(run, curve):
    run("a", max_steps=STEPS)
    assert curve("a")


def test_with_an_average_it_is_the_average_that_stands_in_the_directory(run, tmp_path):
    """The mean of another run's weights, which are saved one by one; the checkpoint has the weights themselves."""
    decay, flags = 0.75, {"max_steps": 6, "lr_scheduler_type": "constant", "eval_steps": 6}
    run("each", save_steps=1, save_total_limit=9, **flags)
    run("mean", average_decay=decay, **flags)
    steps = [weights(tmp_path / f"each/checkpoint-{step}") for step in range(1, 7)]
    for name, tensor in weights(tmp_path / "mean").items():
        mean = steps[0][name]
        for count, step in enumerate(steps[1:], 2):
            share = max(1 / count, 1 - decay)
            mean = (1 - share) * mean + share * step[name]
        torch.testing.assert_close(tensor, mean)
    assert_equal(weights(tmp_path / "mean/checkpoint-6"), steps[-1])


def worsening(monkeypatch):
    """Have each validation be worse than the one before."""
    original, calls = LabelledRun._score, []

    def score(self):
        calls.append(1)
        return original(self) | {"accuracy": 1 / len(calls)}

    monkeypatch.setattr(LabelledRun, "_score", score)


def test_early_stopping_ends_a_run_which_is_then_complete(run, tmp_path, monkeypatch, capsys):
    worsening(monkeypatch)
    flags = {"early_stopping_patience": 2, "eval_steps": 4}
    record = run("a", **flags)
    assert record["result"]["steps"] == 12 and record["result"]["is_complete"] and record["result"]["best_step"] == 4
    assert closing_lines(record)[-1] == "stopped early: 2 validations without gain"
    assert names(tmp_path / "a") == ["checkpoint-12"]
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    again = run("a", resume_from_checkpoint="last", **flags)
    assert "nothing was left to do: the run had ended at step 12" in closing_lines(again)[-1]
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    assert again["result"] == record["result"]


def test_a_second_start_of_a_finished_run_says_that_nothing_was_left_to_do(run, tmp_path):
    first = run("a")
    again = run("a", resume_from_checkpoint="last")
    assert again["result"] == first["result"]
    assert closing_lines(again)[-1].startswith(f"nothing was left to do: the run had ended at step {3 * STEPS}")
    run("b", max_steps=2)
    again = run("b", max_steps=2, resume_from_checkpoint="last")
    assert closing_lines(again)[-1].startswith(f"nothing was left to do: --max_steps 2 of {3 * STEPS} is reached")
    assert [row["step"] for row in history(tmp_path / "b")] == [2]


def test_layers_are_unfrozen_from_the_head_down_and_stay_bit_for_bit_until_then(run, arguments_of, tmp_path):
    flags = {"unfreeze_epochs": 1, "weight_decay": 0.1, "save_steps": 1, "save_total_limit": 99}
    start = LabelledRun(arguments_of("a", **flags)).model.state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}
    run("a", **flags)
    for step in (1, STEPS, STEPS + 1, 2 * STEPS, 2 * STEPS + 1, 3 * STEPS):
        now = weights(tmp_path / f"a/checkpoint-{step}")
        trained = ["score", "model.layers.1", "model.layers.0"][: 1 + (step - 1) // STEPS]
        for name, tensor in now.items():
            assert torch.equal(tensor, start[name]) != name.startswith(tuple(trained)), (step, name)


@pytest.fixture
def language_model(tmp_path):
    """`language_model(layers)`: a random one of the words of the data, its tokenizer, and where they are."""

    def language_model(layers):
        tokenizer, directory = build_tokenizer([" ".join(WORDS)], "word", None, 1, False), tmp_path / "language-model"
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        torch.manual_seed(0)
        model = RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=6, num_hidden_layers=layers, **ids))
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return model, tokenizer, directory

    return language_model


@pytest.mark.parametrize("kind", ["texts", "words"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_classifier_starts_from_a_language_model(run, arguments_of, language_model, tmp_path, kind, bidirectional):
    layers = 1 if bidirectional else 2
    model, tokenizer, directory = language_model(layers)
    flags = {"init_from": directory, "bidirectional": bidirectional, "num_hidden_layers": layers}
    started = LabelledRun(arguments_of("a", kind, **flags))
    own = started.model.model.state_dict()
    assert {name for name in own if "reverse" not in name} == set(model.model.state_dict())
    assert any("reverse" in name for name in own) == bidirectional
    assert all(torch.equal(own[name], tensor) for name, tensor in model.model.state_dict().items())
    assert started.prepared.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert not (tmp_path / "a").exists()
    record = run("a", kind, **flags, max_steps=3)
    assert record["result"]["best_step"] == 3
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    assert loaded("a b c")["input_ids"] == tokenizer("a b c")["input_ids"]


def test_a_shape_other_than_that_of_the_model_to_start_from_is_refused(run, language_model, tmp_path):
    _, _, directory = language_model(2)
    for name, value in {"hidden_size": 7, "cell_type": "gru", "num_hidden_layers": 1}.items():
        with pytest.raises(ValueError, match=f"`{name}` is {value}, and the model of `init_from` has"):
            run("a", init_from=directory, **{name: value})
    with pytest.raises(ValueError, match="`bidirectional` starts from a model of one layer, and that .* has 2"):
        run("a", init_from=directory, bidirectional=True)
    assert not (tmp_path / "a").exists()


def test_a_classifier_goes_on_from_the_head_of_another_one(run, arguments_of, tmp_path):
    run("a", max_steps=4)
    started = LabelledRun(arguments_of("b", init_from=tmp_path / "a")).model
    assert_equal(dict(started.state_dict()), weights(tmp_path / "a"))


def break_gradients(trainer):
    for parameter in trainer.model.parameters():
        parameter.grad.fill_(math.nan)


@pytest.mark.parametrize("kind, logging_steps", [("texts", 1), ("texts", 100), ("numbers", 100), ("words", 100)])
def test_weights_that_are_no_numbers_end_the_run_and_are_not_kept(run, tmp_path, at_step, kind, logging_steps):
    # What comes first after step 6 is a line of metrics, a checkpoint, or a validation.
    flags = {"save_steps": 2, "eval_steps": 8 if kind == "texts" else 2, "logging_steps": logging_steps}
    run("a", kind, max_steps=4, **flags)
    before = {path: path.read_bytes() for path in (tmp_path / "a").glob("**/*.safetensors")}
    at_step(6, break_gradients)
    with pytest.raises(FloatingPointError, match="lower `learning_rate`"):
        run("a", kind, resume_from_checkpoint="last", **flags)
    assert names(tmp_path / "a") == ["checkpoint-4"]
    assert {path: path.read_bytes() for path in (tmp_path / "a").glob("**/*.safetensors")} == before


@pytest.mark.parametrize("kind", ["texts", "numbers"])
def test_a_rate_beyond_all_measure_is_told_as_such(run, tmp_path, kind):
    with pytest.raises(FloatingPointError, match="lower `learning_rate`"):
        run("a", kind, learning_rate=1e38, max_grad_norm=0)


@pytest.mark.parametrize("package, kind", [("sklearn", "texts"), ("sklearn", "words"), ("seqeval", "spans")])
def test_a_package_that_scores_is_missed_before_the_first_step(arguments_of, tmp_path, monkeypatch, package, kind):
    files = {}
    if kind == "spans":
        for name in ("train", "validation"):
            files[f"{name}_file"] = tmp_path / f"{name}.tsv"
            files[f"{name}_file"].write_text("a\tB-X\nb\tI-X\nc\tO\n")
    arguments = arguments_of("a", "words" if files else kind, **files)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=f"pip install {package.replace('sk', 'scikit-')}"):
        LabelledRun(arguments)
    assert not (tmp_path / "a").exists()


def test_a_run_that_fails_at_its_first_step_changes_nothing(run, tmp_path, at_step):
    run("a", max_steps=2)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    for name, flags in {"a": {"overwrite_output_dir": True}, "new": {}}.items():
        at_step(1, break_gradients)
        with pytest.raises(FloatingPointError):
            run(name, **flags)
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_what_is_refused_leaves_no_directory(run, tmp_path, data):
    run("other", max_steps=1)
    cases = [
        ("numbers", {"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is for one class out of several"),
        ("several", {"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is for one class out of several"),
        ("texts", {"resume_from_checkpoint": tmp_path / "nowhere"}, "not a checkpoint of a run"),
        ("texts", {"resume_from_checkpoint": tmp_path / "other/checkpoint-1", "seed": 9}, "another run: `seed` was"),
        ("texts", {"init_from": "./nowhere"}, "there is no ./nowhere"),
        ("texts", {"report_to": "nobody"}, "`report_to` nobody: there is no such tracker"),
        ("texts", {"label_column": "mood"}, "mood"),
        ("texts", {"fp16": True}, "`fp16` needs a GPU"),
        ("texts", {"projection_size": 99}, "`projection_size`"),
    ]
    for kind, flags, message in cases:
        with pytest.raises((ValueError, OSError), match=message):
            run("a", kind, **flags)
        assert not (tmp_path / "a").exists(), flags


def test_the_opening_lines_say_what_is_about_to_run(run, capsys):
    record = run("a", max_steps=1, disable_tqdm=False)
    said = capsys.readouterr().out
    assert all(line in said for line in run_lines(record))
    assert f"train: {4 * STEPS - 1} texts" in said


def test_trackers_get_training_loss_and_validation_metrics(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("a", report_to="tensorboard", max_steps=STEPS)
    (directory,) = {path.parent for path in (tmp_path / "a").rglob("events.out.tfevents*")}
    events = EventAccumulator(str(directory)).Reload()
    for name, key in (("train/loss", "train_loss"), ("eval/loss", "validation_loss"),
                      ("eval/accuracy", "validation_accuracy")):  # fmt: skip
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert told == [(row["step"], pytest.approx(row[key])) for row in history(tmp_path / "a") if key in row]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(hub, "WAIT_SECONDS", 0.01)
    with HubServer() as server:
        server.connect(monkeypatch)
        yield server


def test_the_best_model_and_its_checkpoints_are_pushed_and_a_run_goes_on_from_them(run, server, tmp_path):
    options = {"push_to_hub": True, "hub_strategy": "all_checkpoints"}
    run("whole")
    run("half", max_steps=STEPS + 1, **options)
    files = server.files("me/half")
    assert files["model.safetensors"] == (tmp_path / "half/model.safetensors").read_bytes()
    assert str(tmp_path).encode() not in b"".join(files.values())
    for path, content in files.items():
        target = tmp_path / "elsewhere" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    run("elsewhere", resume_from_checkpoint="last")
    assert_same_end(tmp_path / "whole", tmp_path / "elsewhere")


def test_the_right_to_write_is_checked_before_the_first_step(run, server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(HubError, match="access token"):
        run("refused", push_to_hub=True)
    assert not (tmp_path / "refused").exists()


IN_PROCESSES = """
import os, signal, sys
import torch
from rnn_hf.training import labelled_run
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.trainer import LabelledTrainer
torch.set_num_threads(1)
original = LabelledTrainer.training_step
def told_to_stop(self, *arguments, **keywords):
    if self.state.global_step == 6 and os.environ["RANK"] == "1":  # the other one learns of it
        signal.raise_signal(signal.SIGTERM)
    return original(self, *arguments, **keywords)
argv, (whole, parts) = sys.argv[3:], sys.argv[1:3]
labelled_run.train(parse_arguments([*argv, "--output_dir", whole]))
LabelledTrainer.training_step = told_to_stop
stopped = labelled_run.train(parse_arguments([*argv, "--output_dir", parts]))
LabelledTrainer.training_step = original
assert stopped["result"]["steps"] == 7, stopped["result"]
labelled_run.train(parse_arguments([*argv, "--output_dir", parts, "--resume_from_checkpoint", "last"]))
"""
PATIENCE = 300  # seconds, of which only processes that wait for each other for ever need all


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_write_each_file_once(arguments_of, run, data, tmp_path):
    """One is told to stop, and both go on. Rows fill all batches: of those that do not, some are used twice."""
    flags = {
        **WITHOUT_DROPOUT, "max_train_samples": 20, "label_smoothing_factor": 0.1, "average_decay": 0.8,
        "unfreeze_epochs": 0.4, "logging_steps": 2, "eval_steps": 3,
    }  # fmt: skip
    one = run("one", "words", per_device_train_batch_size=4, **flags)
    arguments = asdict(arguments_of("two", "words", per_device_train_batch_size=2, **flags))
    argv = ["--task", "token-classification"] + [
        part for kind in ("model", "data", "training") for name, value in arguments[kind].items()
        if value is not None and name != "output_dir" for part in (f"--{name}", str(value))
    ]  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", IN_PROCESSES, tmp_path / "two", tmp_path / "parts", *argv], stderr=subprocess.PIPE,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=PATIENCE)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], told
    two = json.loads((tmp_path / "two/run.json").read_text())
    assert two["processes"] == 2 and one["steps_per_epoch"] == two["steps_per_epoch"] == 5
    for a, b in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"), atol=1e-4, rtol=1e-3)
    assert_equal(weights(tmp_path / "two/checkpoint-15"), weights(tmp_path / "parts/checkpoint-15"))
    assert history(tmp_path / "two") == history(tmp_path / "parts")
