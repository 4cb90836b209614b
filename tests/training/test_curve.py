"""The picture of a run."""

import builtins
import math

import pytest

from rnn_hf.files import write_json
from rnn_hf.plotting import log_ticks
from rnn_hf.training.curve import plot_curve
from rnn_hf.training.reporting import Metrics


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1, "train_perplexity": 9.0, "grad_norm": 0.0}, {"step": 2, "validation_perplexity": 8.0}],
        [{"step": 1, "train_perplexity": 1e304, "grad_norm": 1e30}, {"step": 2, "validation_perplexity": math.inf}],
    ],
)
@pytest.mark.parametrize("task", ["language-modeling", "text-classification"])
@pytest.mark.filterwarnings("error")
def test_the_curve_is_a_picture_even_of_nothing(tmp_path, rows, task):
    write_json(tmp_path / "run.json", {"task": task})
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


def test_the_title_has_the_run_its_best_perplexity_and_how_it_was_measured(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("rnn_hf.training.curve.save_figure", lambda figure, png: figures.append(figure))
    Metrics(tmp_path / "metrics.jsonl").write(step=40, validation_perplexity=8.25)
    for perplexity in (8.25, 1e300):
        result = {"best_step": 40, "best_validation_perplexity": perplexity}
        run = {"result": result, "arguments": {"training": {"per_device_eval_batch_size": 7}}}
        write_json(tmp_path / "run.json", run)
        plot_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png")
    titles = [figure.axes[0].get_title() for figure in figures]
    assert all(title.startswith(tmp_path.name) and "validation, 7 columns" in title for title in titles)
    assert "8.25 at step 40" in titles[0] and len(titles[1]) < 120


@pytest.mark.parametrize("low", [0.02, 0.7, 1.0, 6.0, 77.0, 9_000.0])
@pytest.mark.parametrize("ratio", [1.003, 1.05, 1.3, 2, 5, 30, 1e3, 1e6])
def test_an_axis_has_some_round_numbers_whatever_its_range(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 9 and all(low <= tick <= low * ratio for tick in ticks) and ticks == sorted(set(ticks))
