"""Recorded steps go the way of steps that Python runs. What records is a stand-in here, which runs a step again on its
buffers; tests marked `gpu` have real graphs."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from rnn_hf.training import loop, recording
from rnn_hf.training.recording import RecordedSteps


def weights(directory):
    return AutoModelForCausalLM.from_pretrained(directory).state_dict()


@pytest.fixture
def replays(monkeypatch):
    """How often each graph was run, by the shapes of its windows; runs of training then record."""
    counts, made, run, recorded = {}, [], loop.TrainingRun.__init__, RecordedSteps.__init__

    def record(step, device, warm_ups, pool):
        steps, scalars = made[-1], (torch.zeros(()), torch.zeros(()))
        shapes = next(shapes for shapes in steps.seen if steps.seen[shapes] >= 3 and shapes not in steps.graphs)

        def replay():
            counts[shapes] = counts.get(shapes, 0) + 1
            (group,) = steps.optimizer.param_groups
            rate, group["lr"] = group["lr"], steps.rate
            for scalar, new in zip(scalars, step(), strict=True):
                scalar.copy_(new)
            group["lr"] = rate

        return replay, scalars

    def begin(self, arguments):
        run(self, arguments)
        self.compute = RecordedSteps(self._compute, self.optimizer)

    def begin_recording(self, *given):
        recorded(self, *given)
        made.append(self)

    monkeypatch.setattr(recording, "record", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(loop.TrainingRun, "__init__", begin)
    monkeypatch.setattr(RecordedSteps, "__init__", begin_recording)
    return counts


# The last window of an epoch is shorter, and is run by Python.
COMMON = {"window": 11, "num_train_epochs": 3, "save_total_limit": 0}
RECIPES = {
    "plain": {},
    "adam": {"optim": "adam", "learning_rate": 0.02, "lr_scheduler_type": "linear"},
    "two windows a step": {"gradient_accumulation_steps": 2},
    "random windows": {"random_windows": True, "window": 30, "average_start_step": 5},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.slow
def test_recorded_steps_are_those_of_python(run, tmp_path, request, recipe):
    flags = COMMON | RECIPES[recipe]
    before = run("python", **flags)
    replays = request.getfixturevalue("replays")
    after = run("graphs", **flags)
    assert sum(replays.values()) > before["result"]["steps"] / 2 or recipe == "random windows" and replays
    assert after["result"]["steps"] == before["result"]["steps"]
    recorded, expected = weights(tmp_path / "graphs"), weights(tmp_path / "python")
    for name, value in expected.items():
        torch.testing.assert_close(recorded[name], value, rtol=1e-3, atol=1e-4)


def test_what_is_returned_is_not_written_over_by_the_next_step(replays):
    weight = torch.nn.Parameter(torch.ones(2))

    def step(windows, state):
        ((inputs, _),) = windows
        after = recording.RNNCache([(state_of(state) + inputs.sum(), None)]) if state else recording.RNNCache(first)
        return inputs.sum().float(), inputs.sum().float() + 1, after

    def state_of(state):
        return next(iter(state))[0]

    first = [(torch.zeros(1, 2), None)]
    steps = RecordedSteps(step, torch.optim.SGD([weight], lr=0.1))
    seen, state = [], None
    for number in range(6):
        window = torch.full((1, 1), number)
        loss, norm, state = steps([(window, window)], state)
        seen.append((loss, norm))
    assert [(loss.item(), norm.item()) for loss, norm in seen] == [(n, n + 1) for n in range(6)]
    assert state_of(state).tolist() == [[15, 15]]
    _, _, state = steps([(window, window)], None)  # an epoch begins
    assert state_of(state).tolist() == [[5, 5]]


@pytest.mark.parametrize("failures", [1, 2, 10**6])
@pytest.mark.slow
def test_a_step_that_cannot_be_recorded_is_run_and_tried_again_twice(run, tmp_path, monkeypatch, request, failures):
    run("python", **COMMON)
    replays, calls = request.getfixturevalue("replays"), []
    original = recording.record

    def fail(*given):
        calls.append(given)
        if len(calls) <= failures:
            raise RuntimeError("not today")
        return original(*given)

    monkeypatch.setattr(recording, "record", fail)
    if failures > 2:
        with pytest.warns(UserWarning, match="training is slower.*not today") as said:
            run("graphs", **COMMON)
        assert len([warning for warning in said if "slower" in str(warning.message)]) == 1
        assert len(calls) == 3 and not replays
    else:
        run("graphs", **COMMON)
        assert replays
    recorded, expected = weights(tmp_path / "graphs"), weights(tmp_path / "python")
    for name, value in expected.items():
        torch.testing.assert_close(recorded[name], value, rtol=1e-3, atol=1e-4)
