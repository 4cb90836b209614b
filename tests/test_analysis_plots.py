"""Figures of inspections: every model and number is in the picture, whose labels say what the numbers are."""

import numpy as np
import pytest

from rnn_hf import analysis_plots
from rnn_hf.analysis_plots import ENDS, plot_inspection, plot_units


def inspection(kind, layers=2):
    gates = ("reset", "update") if kind == "gru" else ("hidden",)
    return {
        "kind": kind,
        "gradient_norms": [[1.0, 0.1 * (index + 1)] for index in range(layers)],
        "spectral_radius": [{gate: 0.5 + index for gate in gates} for index in range(layers)],
        "saturation": [{gate: {"closed": 0.1, "open": 0.3} for gate in gates} for _ in range(layers)],
    }


@pytest.fixture
def figure(monkeypatch):
    """The figures that are saved, on which can be looked up what was drawn."""
    figures = []
    save = analysis_plots.save_figure
    monkeypatch.setattr(analysis_plots, "save_figure", lambda figure, png: (save(figure, png), figures.append(figure)))
    return figures


def legends(panel):
    return [text.get_text() for text in panel.get_legend().get_texts()] if panel.get_legend() else []


def test_models_stand_side_by_side_on_one_scale(tmp_path, figure):
    training = {"steps": [1, 2], "norms": [0.2, 3.0], "clipped_at": 0.25}
    models = {"one": inspection("tanh"), "two": inspection("gru") | {"training": training}}
    models["two"]["gradient_norms"][0][1] = 1e-9
    plot_inspection(models, tmp_path / "a.png", "a text")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (drawn,) = figure
    panels = np.array(drawn.axes[:8]).reshape(2, 4)
    assert drawn.get_suptitle() == "Over a text"
    assert [row[0].get_title(loc="left") for row in panels] == ["one", "two"]
    assert panels[0, 0].get_ylim() == panels[1, 0].get_ylim() and panels[0, 0].get_ylim()[0] < 1e-9
    assert legends(panels[0, 1]) == ["1: below it gradients fade"] and "single gates" in panels[1, 1].get_title()
    assert [legends(row[2]) for row in panels] == [list(ENDS["tanh"]), list(ENDS["gru"])]
    assert [bar.get_width() for bar in panels[1, 1].patches] == [0.5, 0.5, 1.5, 1.5]
    assert list(panels[1, 3].lines[0].get_ydata()) == [0.2, 3.0] and legends(panels[1, 3]) == ["clipped above this"]
    assert not panels[0, 3].lines and panels[0, 3].texts[0].get_text() == "not recorded by its run"


def test_no_legend_covers_a_bar(tmp_path, figure):
    plot_inspection({"one": inspection("gru", layers=4)}, tmp_path / "a.png")
    (drawn,) = figure
    assert len(drawn.axes) == 3
    for panel in drawn.axes[1:]:
        if panel.get_legend():
            assert panel.get_legend().get_window_extent().y0 >= panel.get_window_extent().y1


def test_units_that_change_most_are_shown_in_the_order_of_the_words(tmp_path, figure):
    values = np.zeros((3, 5))
    values[2, 1], values[0, 3], values[1, 4] = 0.9, 0.8, -0.7
    values[:, 2] = 0.5  # high, and never changes
    plot_units({"layer 0": values}, ["a", " ", "b"], tmp_path / "a.png", units=3, title="a model")
    (drawn,) = figure
    panel = drawn.axes[0]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["3", "4", "1"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["a", " ", "b"]
    np.testing.assert_array_equal(panel.images[0].get_array(), values[:, [3, 4, 1]].T)
    assert panel.images[0].get_clim() == (-0.9, 0.9)
    plot_units({"layer 0": np.abs(values)}, ["a", " ", "b"], tmp_path / "a.png", "forget")
    assert figure[1].axes[0].images[0].get_clim() == (0, 1)


def test_what_cannot_be_read_is_refused(tmp_path):
    for words, units, message in (
        (["a"], 0, "`units` must be at least 1"),
        (["a"] * 121, 1, "1 to 120 tokens, not 121"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_units({"": np.zeros((len(words), 2))}, words, tmp_path / "a.png", units=units)
