"""Labels of spans: what is predicted is the likeliest sequence in which every span begins."""

from itertools import product

import numpy as np
import pytest

from rnn_hf.tasks.spans import likeliest_labels, may_follow


NAMES = ["I-PER", "O", "B-LOC", "B-PER", "I-LOC"]


def is_legal(labels):
    """Whether each `I-` goes on with what stands before it."""
    before = ["O", *labels]
    return all(
        not label.startswith("I-") or label[2:] == previous[2:]
        for previous, label in zip(before, labels, strict=False)
    )


@pytest.mark.parametrize("words", [0, 1, 2, 5])
def test_no_legal_sequence_is_likelier(words):
    generator = np.random.default_rng(words)
    for _ in range(30):
        logits = generator.normal(size=(words, len(NAMES))) * 2
        found = likeliest_labels(logits, NAMES)
        assert found.shape == (words,) and is_legal([NAMES[label] for label in found])
        legal = (
            path for path in product(range(len(NAMES)), repeat=words) if is_legal([NAMES[label] for label in path])
        )
        scores = {path: logits[np.arange(words), list(path)].sum() for path in legal}
        assert scores[tuple(found.tolist())] == pytest.approx(max(scores.values()), abs=1e-12)


def test_labels_that_mark_no_spans_are_the_likeliest_word_by_word():
    logits = np.random.default_rng(0).normal(size=(50, 3))
    assert likeliest_labels(logits, ["NOUN", "VERB", "I-LIKE"]).tolist() == logits.argmax(axis=1).tolist()


def test_inside_follows_its_own_kind():
    follows = dict(zip(product(NAMES, NAMES), may_follow(NAMES).flatten().tolist(), strict=True))
    assert follows["B-PER", "I-PER"] and follows["I-PER", "I-PER"] and follows["I-LOC", "B-LOC"]
    assert not follows["B-LOC", "I-PER"] and not follows["O", "I-PER"]
