"""Pushing while training: what arrives, and a Hub that refuses, goes away or hangs."""

import json
import threading

import pytest
from hub_server import HubServer

from rnn_hf.hub import client as hub
from rnn_hf.hub.client import HubError
from rnn_hf.training import loop


HELD_UP = 600  # seconds; only a run that waits for the Hub takes them, so that its test ends


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(hub, "WAIT_SECONDS", 0.01)
    with HubServer() as server:
        server.connect(monkeypatch)
        yield server


def is_equal(one, other):
    """Whether the weights of two runs are the same, bit for bit."""
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def checkpoints_in(server, name):
    return sorted({path.split("/")[0] for path in server.files(name) if path.startswith("checkpoint-")})


def test_the_best_model_is_pushed_at_the_end_and_training_is_what_it_is_without(run, server, tmp_path, capsys):
    plain = run("plain")
    pushed = run("pushed", push_to_hub=True, hub_private_repo=True)
    files = server.files("me/pushed")
    assert files["model.safetensors"] == (tmp_path / "plain" / "model.safetensors").read_bytes()
    assert f"{pushed['result']['best_validation_perplexity']:.2f}" in files["README.md"].decode()
    assert plain["result"]["best_validation_loss"] == pushed["result"]["best_validation_loss"]
    assert not checkpoints_in(server, "me/pushed") and len(server.commits("me/pushed")) == 2
    assert not (tmp_path / "pushed" / ".pushing").exists()
    assert "pushed: http" in capsys.readouterr().out
    assert str(tmp_path) not in files["run.json"].decode()


def test_kept_checkpoints_are_pushed_and_pruned_as_they_are_here_and_a_run_goes_on_from_them(run, server, tmp_path):
    options = {"push_to_hub": True, "hub_strategy": "all_checkpoints", "save_total_limit": 1}
    run("plain")
    run("whole", **options)
    assert is_equal(tmp_path / "plain", tmp_path / "whole")
    here = [path.name for path in (tmp_path / "whole").glob("checkpoint-*")]
    assert checkpoints_in(server, "me/whole") == here and len(here) == 1
    messages = [commit.message for commit in server.commits("me/whole")]
    assert messages[0].startswith("Trained for") and any(message.startswith("Step ") for message in messages)
    # Another machine: half of the run, what the Hub has of it, and the rest.
    steps = json.loads((tmp_path / "whole" / "run.json").read_text())["result"]["steps"]
    run("half", max_steps=steps // 2, hub_model_id="me/half", **options)
    for path, content in server.files("me/half").items():
        target = tmp_path / "elsewhere" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    run("elsewhere", resume_from_checkpoint="last")
    assert is_equal(tmp_path / "whole", tmp_path / "elsewhere")


@pytest.mark.parametrize("token", ["hf_read", "hf_nonsense"])
def test_the_right_to_write_is_checked_before_the_first_step(run, server, tmp_path, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match="access token"):
        run("refused", push_to_hub=True)
    assert not (tmp_path / "refused").exists()


def test_a_hub_that_goes_away_does_not_stop_the_run_and_the_model_can_be_pushed_later(run, server, tmp_path, capsys):
    server.fault("commit", 503, times=1000)
    with pytest.raises(HubError, match=r"complete in .*away but not pushed: .*By hand: rnn-hf push"):
        run("away", push_to_hub=True, hub_strategy="all_checkpoints", save_steps=20)
    assert "not pushed, the run goes on: the Hub could not be reached" in capsys.readouterr().out
    record = json.loads((tmp_path / "away" / "run.json").read_text())
    assert record["result"]["is_complete"]
    server.clear_faults()
    hub.push(tmp_path / "away", "me/away")
    assert server.files("me/away")["model.safetensors"] == (tmp_path / "away" / "model.safetensors").read_bytes()


def test_a_hub_that_hangs_does_not_hold_up_the_run(run, server, tmp_path, monkeypatch):
    """It answers no commit before the run has done its last step."""
    step, finish = loop.TrainingRun._step, loop.TrainingRun.finish
    is_asked, is_done, answered_in_time = threading.Event(), threading.Event(), []

    def hang():
        is_asked.set()
        answered_in_time.append(is_done.wait(HELD_UP))
        is_done.set()

    def step_beside_the_push(self, bar):
        if self.progress.step == 10:
            assert is_asked.wait(HELD_UP)
        step(self, bar)

    def finish_and_let_go(self, stop):
        record = finish(self)
        is_done.set()
        return record

    monkeypatch.setattr(loop.TrainingRun, "_step", step_beside_the_push)
    monkeypatch.setattr(loop.TrainingRun, "finish", finish_and_let_go)
    server.fault("commit", hang, times=1000)
    assert run("hanging", push_to_hub=True, hub_strategy="all_checkpoints", save_steps=5)["result"]["is_complete"]
    assert answered_in_time and all(answered_in_time)
    assert server.files("me/hanging")["model.safetensors"] == (tmp_path / "hanging/model.safetensors").read_bytes()
