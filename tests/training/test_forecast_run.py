"""Training to forecast: resumed equals uninterrupted, the best model loads and scores, waves are learned, the card's
example runs."""

import re

import pytest
import torch
from run_files import history, state_of
from safetensors.torch import load_file
from series_files import some_series, with_features, write_entries, write_table
from transformers import AutoModelForTimeSeriesPrediction

from rnn_hf.hub.cards import render_card
from rnn_hf.hub.repository import build_repository
from rnn_hf.tasks import forecast_baselines
from rnn_hf.tasks import time_series_forecasting as task
from rnn_hf.training.labelled_run import LabelledRun, closing_lines, train
from rnn_hf.training.parsing import parse_arguments
from rnn_hf.training.trainer import LabelledTrainer


STEPS = 8  # an epoch has: 2 series of 240 steps, 60 are read or predicted
HEADS = {
    "direct": {"prediction_head": "direct", "context_length": 48, "segment_length": 12, "loss": "mae",
               "scaling": "last"},
    "autoregressive": {"context_length": 24, "lags_sequence": "1-2,24", "validation_samples": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("series") / "a.csv", some_series(400, missing=(30, 31, 260)))


@pytest.fixture(autouse=True)
def _quick_baselines(monkeypatch):
    monkeypatch.setattr(forecast_baselines, "STEPS", 5)


@pytest.fixture
def arguments_of(file, tmp_path):
    """The arguments of a run, into a directory by name."""

    def arguments_of(name, head="direct", **flags):
        values = {
            "train_file": file, "splits": "240,80,80", "output_dir": tmp_path / name, "prediction_length": 12,
            "hidden_size": 8, "embedding_size": 8, "num_hidden_layers": 1, "cell_type": "gru",
            "classifier_dropout": 0.2, "per_device_train_batch_size": 46, "learning_rate": 0.01,
            "num_train_epochs": 3, "logging_steps": 4, "disable_tqdm": True, "use_cpu": True,
            "measure_kernels": False, **HEADS[head], **flags,
        }  # fmt: skip
        argv = [part for key, value in values.items() for part in (f"--{key}", str(value))]
        return parse_arguments(["--task", task.NAME, *argv])

    return arguments_of


@pytest.fixture
def run(arguments_of):
    """Train; returns the content of run.json."""
    return lambda name, head="direct", **flags: train(arguments_of(name, head, **flags))


@pytest.mark.parametrize(
    "head, flags",
    [("direct", {"average_decay": 0.8, "eval_steps": 3, "save_steps": 3, "logging_steps": 5}),
     pytest.param("autoregressive", {"gradient_accumulation_steps": 2}, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run, tmp_path, head, flags):
    """Stopped within an epoch, and at the end of one."""
    steps = run("whole", head, **flags)["steps_per_epoch"]
    for stop_at in (steps + 1, steps):
        name = f"parts-{stop_at}"
        assert not run(name, head, max_steps=stop_at, **flags)["result"]["is_complete"]
        resumed = run(name, head, resume_from_checkpoint="last", **flags)
        assert resumed["first_step"] == stop_at and resumed["result"]["is_complete"]
        assert state_of(tmp_path / "whole") == state_of(tmp_path / name)
        assert history(tmp_path / "whole") == history(tmp_path / name)


@pytest.mark.parametrize("head", ["direct", pytest.param("autoregressive", marks=pytest.mark.slow)])
def test_accumulated_batches_train_as_the_whole_batch_does(run, tmp_path, head):
    """Each value counts the same, however many of its row or of its part of the batch are missing."""
    file = write_table(tmp_path / "gaps.csv", some_series(400, missing=[*range(20, 46), *range(90, 140, 3)]))
    flags = {"train_file": file, "classifier_dropout": 0, "logging_steps": 1, "max_steps": STEPS}
    run("whole", head, per_device_train_batch_size=46, **flags)
    run("parts", head, per_device_train_batch_size=2, gradient_accumulation_steps=23, **flags)
    for one, other in zip(history(tmp_path / "whole"), history(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(other, rel=2e-3)


def test_each_epoch_sees_each_window_once_in_an_order_of_its_own(run, monkeypatch, arguments_of):
    original, seen = LabelledTrainer.training_step, []

    def training_step(self, model, inputs, *rest):
        seen.append(inputs["future_values"])
        return original(self, model, inputs, *rest)

    monkeypatch.setattr(LabelledTrainer, "training_step", training_step)
    run("a")
    windows = LabelledRun(arguments_of("b")).prepared.examples["train"]
    assert len(seen) == 3 * STEPS and len(windows) == 2 * (240 - 60 + 1)
    expected = windows.batch(range(len(windows)))["future_values"]
    for epoch in range(3):
        drawn = torch.cat(seen[epoch * STEPS : (epoch + 1) * STEPS])
        assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, expected.tolist()))
    assert not torch.equal(seen[0], seen[STEPS])


@pytest.fixture(scope="module", params=HEADS)
def trained(file, tmp_path_factory, request):
    """A run that learned the waves: its directory and the content of run.json."""
    directory = tmp_path_factory.mktemp(request.param) / "model"
    values = {
        "train_file": file, "splits": "240,80,80", "output_dir": directory, "prediction_length": 12,
        "hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 1, "cell_type": "gru",
        "num_train_epochs": 12, "per_device_train_batch_size": 32, "learning_rate": 0.01, "disable_tqdm": True,
        "use_cpu": True, **HEADS[request.param],
    }  # fmt: skip
    argv = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    return directory, train(parse_arguments(["--task", task.NAME, *argv]))


@pytest.mark.slow
def test_waves_are_learned_and_the_best_model_scores_what_its_step_says(trained):
    directory, record = trained
    metric = record["metric"]
    assert metric == ("mse" if "direct" in str(directory) else "crps")
    values = [row[f"validation_{metric}"] for row in history(directory) if f"validation_{metric}" in row]
    assert record["result"][f"best_validation_{metric}"] == min(values) < 0.8 * record["data"]["floor"]
    samples = record["arguments"]["training"]["validation_samples"]
    model, data = task.load_forecaster(str(directory)), task.load_data(**record["arguments"]["data"])
    scores = task.score(model, data, "validation", samples=samples, with_baselines=False)
    assert scores.values[metric] == pytest.approx(min(values), rel=1e-4)
    assert record["data"]["windows"]["validation"] == scores.windows
    assert "always what was a season before has" in closing_lines(record)[0]
    evaluated = task.evaluate(str(directory), ["validation", "test"], {})
    assert evaluated["validation"].values[metric] == pytest.approx(scores.values[metric], rel=0.2)
    assert evaluated["test"].baselines["last season"]["mse"] > evaluated["test"].values["mse"]


def test_the_example_of_the_card_runs_and_its_table_is_that_of_the_scores(trained, monkeypatch):
    from rnn_hf.runs import save_scores

    directory, _ = trained
    scores = task.evaluate(str(directory), ["validation"], {})
    save_scores(directory, scores)
    card = render_card(directory, model_id="USER/NAME")
    head = card.partition("\n---\n")[0]
    assert "pipeline_tag: time-series-forecasting" in head and "type: mse" in head
    for name, values in {"this model": scores["validation"].values, **scores["validation"].baselines}.items():
        (row,) = re.findall(rf"^\| {name} \| (.*) \|$", card, flags=re.MULTILINE)
        assert row.split(" | ")[:2] == [f"{values['mse']:.3f}", f"{values['mae']:.3f}"]
    (block,) = re.findall(r"^```python\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)
    namespace = {}
    exec(block.replace("USER/NAME", str(directory)), namespace)
    shape = (1, 12) if "direct" in str(directory) else (1, 100, 12)
    assert tuple(namespace.get("forecast", namespace.get("paths")).shape) == shape


@pytest.mark.parametrize("head", HEADS)
def test_entries_with_features_train_score_predict_and_have_a_card(run, head, tmp_path, capsys):
    file = write_entries(tmp_path / "a.jsonl", with_features(400, 412))
    record = run("a", head, train_file=file, max_steps=2, disable_tqdm=False)
    assert ("`feat_dynamic_real` are not read" in capsys.readouterr().out) == (head == "direct")
    directory = str(tmp_path / "a")
    evaluated = task.evaluate(directory, ["validation"], {})["validation"]
    metric = record["metric"]
    assert evaluated.values[metric] == pytest.approx(record["result"][f"best_validation_{metric}"], rel=0.3)
    model = task.load_forecaster(directory)
    assert [len(each.mean) for each in task.predict(model, task.read_known(model, file))] == [12, 12]
    (block,) = re.findall(r"^```python\n(.*?)^```$", render_card(tmp_path / "a", model_id="USER/NAME"), re.S | re.M)
    exec(block.replace("USER/NAME", directory), {})
    with pytest.raises(ValueError, match="another run: `train_sha1` was"):
        other = write_entries(tmp_path / "b.jsonl", with_features(400, 412, seed=1))
        run("a", head, train_file=other, resume_from_checkpoint="last")


def test_the_configuration_has_what_undoes_standardising_and_strangers_load_it(trained):
    directory, record = trained
    model = AutoModelForTimeSeriesPrediction.from_pretrained(directory)
    known = task.KnownSeries.of_config(model.config)
    assert known == task.KnownSeries.of(task.load_data(**record["arguments"]["data"]), True)
    assert model.config.scale_floor == pytest.approx(0.1)


def test_a_repository_has_the_model_its_series_its_card_and_no_path_of_this_machine(trained, tmp_path):
    directory, record = trained
    build_repository(directory, tmp_path / "repository", "USER/NAME")
    files = {path.name for path in (tmp_path / "repository").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "modeling_rnn_time_series.py", "run.json"} <= files
    for name in ("README.md", "run.json", "config.json"):
        assert str(directory.parent) not in (tmp_path / "repository" / name).read_text()
    one, other = (task.load_forecaster(str(path)) for path in (directory, tmp_path / "repository"))
    series = task.load_data(**record["arguments"]["data"]).series
    for first, second in zip(task.predict(one, series), task.predict(other, series), strict=True):
        assert (first.mean == second.mean).all()


def test_a_run_starts_from_the_model_of_another_one(trained, run, arguments_of, file):
    directory, record = trained
    head = "direct" if "direct" in str(directory) else "autoregressive"
    sizes = {"hidden_size": 32, "embedding_size": 32}
    started = LabelledRun(arguments_of("a", head, init_from=directory, **sizes))
    for name, tensor in load_file(directory / "model.safetensors").items():
        assert torch.equal(started.model.state_dict()[name], tensor)
    assert started.model.config.classifier_dropout == 0.2
    with pytest.raises(ValueError, match="`hidden_size` is 9, and the model of `init_from` has 32"):
        run("a", head, init_from=directory, **{**sizes, "hidden_size": 9})


def test_a_checkpoint_of_other_data_is_refused(run):
    run("a", max_steps=2)
    for name, value in {"splits": "230,80,80", "target_columns": "a"}.items():
        with pytest.raises(ValueError, match="another run: `train_sha1` was"):
            run("a", resume_from_checkpoint="last", **{name: value})


@pytest.mark.parametrize(
    "head, flags, message",
    [
        ("direct", {"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is for one class out of several, not"),
        ("direct", {"context_length": 47}, r"`context_length` \(47\) must be a multiple of `segment_length`"),
        ("direct", {"lags_sequence": "1,2"}, "`lags_sequence` is not for `prediction_head='direct'`"),
        ("autoregressive", {"lags_sequence": "x"}, "`lags_sequence` must be numbers with commas between, got 'x'"),
        ("autoregressive", {"loss": "mae"}, "`loss='mae'` is for `prediction_head='direct'`"),
        ("autoregressive", {"distribution_output": "negative_binomial"}, "is of counts: give `standardize=False`"),
        ("direct", {"splits": "390,5,5"}, "no series has the 12 steps for validation"),
        ("direct", {"splits": "0.9,0,0.1"}, "there are no series for validation: give `validation_file`"),
        ("direct", {"validation_samples": 1}, "`validation_samples` must be at least 2, got 1"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_no_directory(run, tmp_path, head, flags, message):
    with pytest.raises(ValueError, match=message):
        run("a", head, **flags)
    assert not (tmp_path / "a").exists()


def test_the_opening_lines_say_how_many_windows_there_are(run, capsys):
    run("a", max_steps=1, disable_tqdm=False)
    said = capsys.readouterr().out
    assert "train: 362 windows of 2 series, which have 480 steps of h" in said
    assert "validation: 138 windows of 2 series, which have 160 steps of h" in said
    assert "the values of a season before, MSE 0." in said
