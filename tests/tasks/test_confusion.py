"""The picture of what a classifier takes for what."""

import numpy as np
import pytest

from rnn_hf.tasks import confusion


@pytest.mark.parametrize("classes, numbers", [(3, 6), (30, 0)])
def test_the_picture_has_the_counts_unless_there_are_many(classes, numbers, tmp_path, monkeypatch):
    drawn = []
    figure_of = confusion.new_figure
    monkeypatch.setattr(confusion, "new_figure", lambda *size: drawn.append(figure_of(*size)) or drawn[-1])
    counts = np.arange(classes**2).reshape(classes, classes)
    counts[:, 1] = 0
    names = [f"class {index}" for index in range(classes)]
    confusion.plot_confusion(counts, names, "a title", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == names and axes.get_title() == "a title"
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1), [1] * classes)
    written = {(text.get_position()[1], text.get_position()[0]): int(text.get_text()) for text in axes.texts}
    expected = {(row, column): counts[row, column] for row, column in np.argwhere(counts)} if numbers else {}
    assert written == expected and len(written) <= 6
