"""`rnn-hf compare`: the same runs in every format."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

import rnn_hf_command
from rnn_hf.evaluation import finite_perplexity


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
