"""`rnn-hf compare`: the same runs in every format."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

import rnn_hf_command
from rnn_hf import comparison
from rnn_hf.evaluation import finite_perplexity
from rnn_hf.plotting import save_figure


ROOT = Path(__file__).parents[2]


@pytest.fixture
def compare(capsys):
    def run(*argv):
        with pytest.raises(SystemExit) as stop:
            rnn_hf_command.main("compare", list(map(str, argv)))
        return stop.value.code, *capsys.readouterr()

    return run


def test_a_comparison_says_the_same_in_every_format(compare, tmp_path):
    for name, loss in (("one", 4.0), ("two", 800.0)):
        shutil.copytree(ROOT / "results" / "ptb_brief", tmp_path / name)
        run = json.loads((tmp_path / name / "run.json").read_text())
        run["result"] |= {"best_validation_loss": loss, "best_validation_perplexity": finite_perplexity(loss)}
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    names = [tmp_path / "one", tmp_path / "two"]
    status, printed, _ = compare(*names, "--format", "json")
    rows = json.loads(printed)["runs"]
    assert status == 0 and [row["run"] for row in rows] == ["one", "two"] and rows[1]["validation"] is None
    _, printed, _ = compare(*names, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(printed)))
    assert [row["validation"] for row in table] == ["54.60", "inf"]
    _, printed, _ = compare(*names)
    assert [line.split() for line in printed.splitlines()] == [list(table[0]), *(
        " ".join(row.values()).split() for row in table
    )]  # fmt: skip


def test_what_is_no_run_is_named(compare, tmp_path):
    assert compare(tmp_path) == (2, "", f"error: {tmp_path} has no run.json of a training run\n")


LOG = """| epoch   1 |   200/ 1327 batches | lr 20.00 | ms/batch 200.00 | loss  6.80 | ppl   900.00
| end of epoch   1 | time: 1800.00s | valid loss  5.20 | valid ppl   181.27
| end of epoch   2 | time: 900.00s | valid loss  5.00 | valid ppl   148.41
"""


def run_of(directory: Path, **result) -> Path:
    """A run on three threads that took 20 minutes for 40 steps, validated at steps 10, 20 and 40."""
    directory.mkdir()
    run = json.loads((ROOT / "results" / "ptb_brief" / "run.json").read_text())
    run |= {"threads": 3, "device": "cpu"}
    run["result"] |= {"minutes": 20, "steps": 40, **result}
    (directory / "run.json").write_text(json.dumps(run))
    rows = [{"step": 5, "train_loss": 7.0}] + [
        {"step": step, "validation_loss": 5.0, "validation_perplexity": value}
        for step, value in ((10, 200.0), (20, 150.0), (40, 120.0))
    ]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture
def drawn(monkeypatch):
    """The curves of the last picture, by name."""
    figures = []
    monkeypatch.setattr(
        comparison, "save_figure", lambda figure, png: figures.append(figure) or save_figure(figure, png)
    )
    return lambda: {line.get_label(): line.get_xydata().tolist() for line in figures[-1].axes[0].lines}


def test_the_picture_has_the_validations_over_hours_times_threads_and_those_of_other_projects(
    compare, tmp_path, drawn
):
    log, png = tmp_path / "word_language_model.log", tmp_path / "hours.png"
    log.write_text(LOG)
    status, printed, _ = compare(run_of(tmp_path / "one"), "--plot", png, "--logs", log)
    assert status == 0 and "one" in printed and png.read_bytes().startswith(b"\x89PNG")
    assert drawn() == {
        "one": [[0.25, 200.0], [0.5, 150.0], [1.0, 120.0]],
        "word_language_model": [[0.5, 181.27], [0.75, 148.41]],
    }


def test_two_runs_of_one_name_are_two_curves(compare, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(comparison, "save_figure", lambda figure, png: figures.append(figure))
    (tmp_path / "other").mkdir()
    status, _, _ = compare(run_of(tmp_path / "one"), run_of(tmp_path / "other/one"), "--plot", tmp_path / "hours.png")
    assert status == 0 and [line.get_label() for line in figures[0].axes[0].lines] == ["one", "one"]


def test_what_cannot_be_drawn_is_refused(compare, tmp_path):
    run, png, log = run_of(tmp_path / "one"), tmp_path / "hours.png", tmp_path / "log"
    log.write_text("nothing")
    other = shutil.copytree(ROOT / "model_cards" / "mr_lstm", tmp_path / "other")
    for argv, message in (
        ((run, "--logs", log), "--logs are drawn: give --plot PNG"),
        ((run, "--plot", png, "--logs", tmp_path / "none"), "--logs: there is no file"),
        ((run, "--plot", png, "--logs", log), "has no end of an epoch"),
        ((run, other, "--plot", png), "runs with accuracy and perplexity do not go into one picture"),
        ((other, "--plot", png, "--logs", log), "--logs have perplexities, and these runs have accuracy"),
    ):
        status, _, errors = compare(*argv)
        assert status == 2 and message in errors
    (run / "metrics.jsonl").write_text("")
    status, _, errors = compare(run, "--plot", png)
    assert status == 2 and "one was not validated yet" in errors and not png.exists()
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(content | {"result": None}))
    status, _, errors = compare(run, "--plot", png)
    assert status == 2 and "one goes on or was cut off" in errors
