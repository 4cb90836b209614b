"""Pushing while training: what arrives, and a Hub that refuses, goes away or hangs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import HubServer

from rnn_hf import hub
from rnn_hf.hub import HubError


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
    with pytest.raises(HubError, match=r"complete in .*away but not pushed: .*By hand: python scripts/push_to_hub.py"):
        run("away", push_to_hub=True, hub_strategy="all_checkpoints", save_steps=20)
    assert "not pushed, the run goes on: the Hub could not be reached" in capsys.readouterr().out
    record = json.loads((tmp_path / "away" / "run.json").read_text())
    assert record["result"]["is_complete"]
    server.clear_faults()
    hub.push(tmp_path / "away", "me/away")
    assert server.files("me/away")["model.safetensors"] == (tmp_path / "away" / "model.safetensors").read_bytes()


def test_a_hub_that_hangs_does_not_hold_up_the_run(text, tmp_path, server):
    server.fault("commit", "hang", times=1000)
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    flags = ["--train_file", text / "train.txt", "--hidden_size", 12, "--per_device_train_batch_size", 6, "--use_cpu",
             True, "--output_dir", tmp_path / "run", "--push_to_hub", True, "--hub_strategy", "all_checkpoints",
             "--save_steps", 5, "--num_train_epochs", 2]  # fmt: skip
    environment = server.environment(tmp_path / "home", "hf_write") | {"PYTHONPATH": str(script.parents[1])}
    process = subprocess.Popen([sys.executable, script, *map(str, flags)], env=environment, stderr=subprocess.DEVNULL)
    try:
        started = time.monotonic()
        is_complete = is_hanging = False
        while not (is_complete and is_hanging):
            assert process.poll() is None and time.monotonic() - started < 100
            time.sleep(0.2)
            is_complete = json.loads(read(tmp_path / "run" / "run.json")).get("result", {}).get("is_complete")
            is_hanging = any("/commit/" in path for _, path in server.requests)
    finally:
        process.kill()
        process.wait()


def read(path):
    return path.read_text() if path.is_file() else "{}"
