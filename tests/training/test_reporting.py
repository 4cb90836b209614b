"""metrics.jsonl, run.json and the curve."""

import builtins
import resource

import pytest

from rnn_hf.files import read_json_lines
from rnn_hf.training.reporting import Metrics, plot_curve


def test_metrics_begin_with_the_history_that_they_are_given(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in (5, 10, 15):
        metrics.write(step=step, train_loss=1.0)
    Metrics(path, read_json_lines(path)[:2]).write(step=12, train_loss=2.0)
    assert [row["step"] for row in read_json_lines(path)] == [5, 10, 12]
    Metrics(path)
    assert read_json_lines(path) == []


def test_a_line_that_the_disk_has_no_room_for_leaves_no_half(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.write(step=1, train_loss=1.0)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        with pytest.raises(OSError):
            metrics.write(step=2, train_loss=1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    metrics.write(step=2, train_loss=1.0)
    assert [row["step"] for row in read_json_lines(path)] == [1, 2]


@pytest.mark.parametrize(
    "rows", [[], [{"step": 1, "train_perplexity": 9.0}, {"step": 2, "validation_perplexity": 8.0}]]
)
def test_the_curve_is_a_picture_even_of_nothing(tmp_path, rows):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for row in rows:
        metrics.write(**row)
    plot_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_curve_names_the_extra(tmp_path, monkeypatch):
    original = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(ImportError, match=r"rnn_hf\[plot\]"):
        plot_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
