"""Training on a GPU: the run of the CPU, in every type, without a wait between two lines of the log."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from rnn_hf.data.tokenization import encode_stream
from rnn_hf.evaluation import evaluate
from rnn_hf.training import loop, recording


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
# With a projection the output is narrower than the embedding, so the matrices are not tied here.
COMMON = {
    "use_cpu": DEVICE == "cpu", "tie_word_embeddings": False, "optim": "adam", "learning_rate": 0.02,
    "measure_kernels": True,
}  # fmt: skip
PLAIN = {"embedding_dropout": 0, "hidden_dropout": 0, "recurrent_dropout": 0, "lr_scheduler_type": "constant"}
TYPES = {"tf32": {"tf32": True}, "float32": {"tf32": False}, "bf16": {"bf16": True}, "fp16": {"fp16": True}}
FULL = {**COMMON, **TYPES["float32"]}
# How far the way of the weights may be from that of the CPU, in norm.
DIGITS = {"float32": 1e-3, "bf16": 0.15, "fp16": 0.05}


@pytest.fixture(autouse=True)
def around_each_test():
    """A run sets the precision of the process, which other tests must not see."""
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False  # as torch begins


@pytest.fixture
def run(run):
    """Runs of one test may be of several types and on several devices, of which Accelerate keeps one a process."""

    def fresh(name, **flags):
        AcceleratorState._reset_state(reset_partial_state=True)
        return run(name, **flags)

    return fresh


def weights(directory):
    return torch.cat(
        [value.flatten() for value in AutoModelForCausalLM.from_pretrained(directory).state_dict().values()]
    )


def assert_near(found, right, digits: float):
    assert (found - right).norm() <= digits * right.norm(), f"{(found - right).norm() / right.norm():.1e} off"


def test_every_cell_learns_and_its_score_is_that_of_the_cpu(run, tmp_path, text, cell):
    cell = {**cell, "projection_size": 6} if "projection_size" in cell else cell
    record = run("a", num_train_epochs=4, **FULL, **cell)
    assert record["device"].startswith(DEVICE)
    result = record["result"]
    assert result["best_validation_perplexity"] < record["data"]["unigram_validation_perplexity"] / 2
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "a"),
        AutoTokenizer.from_pretrained(tmp_path / "a"),
    )
    tokens = encode_stream((text / "validation.txt").read_text().splitlines(), tokenizer)
    score = evaluate(model, tokens, tokenizer.eos_token_id, columns=10)
    assert score.loss == pytest.approx(result["best_validation_loss"], abs=1e-4)


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_learns_with_weights_in_single_precision(run, tmp_path, kind):
    record = run("a", num_train_epochs=4, **COMMON, **TYPES[kind])
    assert record["result"]["best_validation_perplexity"] < record["data"]["unigram_validation_perplexity"] / 2
    assert weights(tmp_path / "a").dtype == torch.float32
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (kind != "float32")


@pytest.fixture
def start(run, tmp_path):
    """Weights before the first step, and the flags of a run from there that differs by rounding alone."""

    def start(**flags):
        common = {**PLAIN, "tie_word_embeddings": False, "logging_steps": 4, "save_total_limit": 0, **flags}
        run("start", use_cpu=True, max_steps=1, **{**common, "learning_rate": 1e-30})
        return weights(tmp_path / "start"), {**common, "learning_rate": 1, "max_steps": 8}

    return start


def test_the_run_is_that_of_the_cpu(run, tmp_path, cell, start):
    begin, flags = start(**cell)
    run("cpu", use_cpu=True, **flags)
    moved = weights(tmp_path / "cpu") - begin
    for kind in ("float32", "bf16", "fp16"):
        run(kind, use_cpu=COMMON["use_cpu"], **flags, **TYPES[kind])
        assert_near(weights(tmp_path / kind) - begin, moved, DIGITS[kind])


MOVING = {"random_windows": True, "partial_shuffle": True, "average_start_step": 5}


@pytest.mark.parametrize("kind, more", [("float32", {}), ("float32", MOVING), ("fp16", {})], ids=str)
def test_a_resumed_run_is_the_uninterrupted_one(run, tmp_path, kind, more):
    """Not bit for bit, as some kernels of a GPU add up in the order in which numbers come."""
    flags = {**COMMON, **TYPES[kind], **more, "hidden_dropout": 0.5, "max_steps": 30, "save_total_limit": 0}
    run("start", **{**flags, "max_steps": 1, "learning_rate": 1e-30})
    run("whole", **flags)
    flags["save_total_limit"] = 1
    run("parts", **{**flags, "max_steps": 13})
    run("parts", **flags, resume_from_checkpoint="last")
    begin = weights(tmp_path / "start")
    assert_near(weights(tmp_path / "parts") - begin, weights(tmp_path / "whole") - begin, 10 * DIGITS["float32"])


def test_a_checkpoint_goes_on_on_another_device(run, tmp_path):
    run("a", max_steps=3, **FULL)
    run("a", max_steps=6, resume_from_checkpoint="last", **{**FULL, "use_cpu": True})
    record = run("a", max_steps=9, resume_from_checkpoint="last", **FULL)
    assert record["result"]["steps"] == 9 and record["device"].startswith(DEVICE)


def test_the_mean_of_the_weights_is_scored_and_kept(run, tmp_path):
    flags = {**FULL, **PLAIN, "max_steps": 4}
    run("each", save_steps=1, save_total_limit=9, **flags)
    run("mean", average_start_step=2, eval_steps=4, **flags)
    steps = [weights(tmp_path / f"each/checkpoint-{step}") for step in (2, 3, 4)]
    torch.testing.assert_close(weights(tmp_path / "mean"), torch.stack(steps).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights(tmp_path / "mean/checkpoint-4"), steps[-1], rtol=1e-4, atol=1e-5)


# Steps, one by one


@pytest.fixture
def stepping(run, monkeypatch):
    """`stepping(function, **flags)`: a run whose loop is `function(run, step)`; `step()` is one step."""

    def stepping(function, **flags):
        def train(self, stop):
            self.wrapped.train()
            function(self, lambda: self._step(tqdm(disable=True)))

        with monkeypatch.context() as patch:
            patch.setattr(loop.TrainingRun, "train", train)
            return run("a", **{**COMMON, "logging_steps": 1000, **flags})

    return stepping


def values_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_weights_of_the_step_before(
    stepping, monkeypatch, kind, cuda_graphs
):
    original, factor = loop.Objective.forward, torch.ones((), device=DEVICE)  # where a graph reads it

    def forward(self, *arguments):
        total, loss, state = original(self, *arguments)
        return total * factor, loss * factor, state

    def steps(training, step):
        for _ in range(6):  # in float16 the scale may be too large for the first ones; then one is recorded
            step()
        moved = values_of(training.model)
        step()
        before = values_of(training.model)
        assert not torch.equal(moved, before)
        factor.fill_(float("inf"))
        for _ in range(3):
            step()
        assert torch.equal(values_of(training.model), before)
        training.readings.read()

    monkeypatch.setattr(loop.Objective, "forward", forward)
    with pytest.raises(FloatingPointError, match="at step 8 "):
        stepping(steps, cuda_graphs=cuda_graphs, **TYPES[kind])


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_gradient_that_float16_cannot_hold_is_left_out_with_a_smaller_scale(stepping, monkeypatch, cuda_graphs):
    original, factor = loop.Objective.forward, torch.ones((), device=DEVICE)

    def forward(self, *arguments):
        total, *others = original(self, *arguments)
        return total * factor, *others

    def steps(training, step):
        for _ in range(6):  # for whose first ones the scale may be too large
            step()
        before, scale = values_of(training.model), training.accelerator.scaler.get_scale()
        factor.fill_(float("inf"))
        step()
        assert torch.equal(values_of(training.model), before)
        assert training.accelerator.scaler.get_scale() == scale / 2
        factor.fill_(1.0)
        step()
        training.readings.read()
        assert not torch.equal(values_of(training.model), before)

    monkeypatch.setattr(loop.Objective, "forward", forward)
    stepping(steps, fp16=True, cuda_graphs=cuda_graphs)


@pytest.mark.parametrize("kind", TYPES)
def test_sampled_words_are_drawn_on_the_device(run, kind):
    """No such step can be recorded, as samples differ in size."""
    record = run("a", sampled_softmax=10, **COMMON, **TYPES[kind])
    assert record["result"]["best_validation_perplexity"] < record["data"]["unigram_validation_perplexity"]


EVERYTHING = {
    "random_windows": True, "partial_shuffle": True, "activation_regularization": 2, "label_smoothing_factor": 0.05,
    "temporal_activation_regularization": 1, "past_decode_regularization": 0.01, "num_softmaxes": 2,
    "average_start_step": 2, "gradient_accumulation_steps": 2, "optim": "adamw", "learning_rate": 0.01,
}  # fmt: skip


def check_waits(stepping, **flags):
    def steps(training, step):
        for _ in range(6):
            step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(4):
                step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    stepping(steps, **flags)


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(stepping, cell, kind, cuda_graphs):
    check_waits(stepping, cuda_graphs=cuda_graphs, **TYPES[kind], **cell)


@pytest.mark.parametrize("kind", ["float32", "fp16"])
@pytest.mark.parametrize("more", [{"optim": "sgd", "momentum": 0.9}, EVERYTHING], ids=["sgd", "everything"])
def test_a_step_of_another_recipe_waits_for_nothing(stepping, kind, more):
    check_waits(stepping, cuda_graphs=False, **TYPES[kind], **more)


# Recorded steps

RECIPES = {
    "dropout": {"hidden_dropout": 0.5, "embedding_dropout": 0.2, "recurrent_dropout": 0.3},
    "momentum": {"optim": "sgd", "learning_rate": 1, "momentum": 0.9, "lr_scheduler_type": "cosine"},
    "random windows": MOVING,
    "everything": {**EVERYTHING, "random_windows": False},  # two of which make hundreds of kinds of a step
}


@pytest.fixture
def recordings(monkeypatch):
    """What was recorded, one entry a graph."""
    made, original = [], recording.record
    monkeypatch.setattr(recording, "record", lambda *given: made.append(original(*given)) or made[-1])
    return made


def assert_same_way(run, tmp_path, **flags):
    """Runs with and without graphs go the same way, across the end of an epoch, whose last window is shorter."""
    flags = {
        **COMMON,
        **PLAIN,
        "window": 11,
        "per_device_train_batch_size": 12,
        "max_steps": 40,
        "save_total_limit": 0,
        **flags,
    }
    run("start", **{**flags, "max_steps": 1, "learning_rate": 1e-30})
    for name, cuda_graphs in (("python", False), ("graphs", True)):
        run(name, cuda_graphs=cuda_graphs, **flags)
    begin = weights(tmp_path / "start")
    assert_near(weights(tmp_path / "graphs") - begin, weights(tmp_path / "python") - begin, 0.03)


@pytest.mark.parametrize("kind", ["float32", "fp16"])
def test_recorded_steps_of_every_cell_are_those_of_python(run, tmp_path, cell, kind, recordings):
    assert_same_way(run, tmp_path, **TYPES[kind], **cell)
    assert recordings


@pytest.mark.parametrize("more", RECIPES.values(), ids=RECIPES)
def test_recorded_steps_of_every_recipe_are_those_of_python(run, tmp_path, more, recordings):
    assert_same_way(run, tmp_path, **{**TYPES["float32"], **more})
    assert recordings


def test_a_step_that_cannot_be_recorded_is_run(run, tmp_path, monkeypatch):
    def fail(*given):
        raise RuntimeError("not today")

    monkeypatch.setattr(recording, "record", fail)
    with pytest.warns(UserWarning, match="training is slower.*not today"):
        assert_same_way(run, tmp_path, **TYPES["float32"])


def test_the_log_says_what_it_says_on_the_cpu(run, tmp_path, start):
    _, flags = start()
    rows = {}
    for name, on_cpu in (("cpu", True), ("gpu", COMMON["use_cpu"])):
        run(name, use_cpu=on_cpu, tf32=False, **flags)
        rows[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    for mine, theirs in zip(rows["gpu"], rows["cpu"], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"seconds", "time", "tokens_per_second"}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3), name
