"""Scores of speech: against edit distances counted by hand, over all words and not the mean of rows."""

import sys
from itertools import product

import pytest

from rnn_hf.errors import MissingPackageError
from rnn_hf.tasks.speech_scores import (
    Heard,
    by_speaker,
    floor_of,
    most_frequent_word,
    speech_values,
    words_missed,
)


def distance(one, other):
    """Fewest substitutions, deletions and insertions, by definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        distance(one[1:], other[1:]) + (one[0] != other[0]), distance(one[1:], other) + 1, distance(one, other[1:]) + 1
    )


TEXTS = [" ".join(words) for length in range(4) for words in product(("a", "bb"), repeat=length)]


def test_error_rates_are_edit_distances_over_all_that_was_said():
    rows = [Heard(text, answer) for text in TEXTS for answer in TEXTS]
    values = speech_values(rows)
    for name, parts in (("wer", str.split), ("cer", list)):
        errors = sum(distance(parts(row.text), parts(row.answer)) for row in rows)
        assert values[name] == pytest.approx(errors / sum(len(parts(row.text)) for row in rows))
    assert values["string_accuracy"] == len(TEXTS) / len(rows)


def test_words_where_nobody_speaks_are_errors():
    assert speech_values([Heard("three", "three"), Heard("", "three"), Heard("", "")])["wer"] == 1


def test_strings_and_single_recordings_have_scores_of_their_own():
    rows = [
        Heard("one", "one"), Heard("two", "one"), Heard("three", "three"),
        Heard("one two three", "two three", recordings=3), Heard("two two", "two two two", recordings=2),
    ]  # fmt: skip
    values = speech_values(rows)
    assert values["wer"] == pytest.approx(3 / 8) and values["string_wer"] == pytest.approx(2 / 5)
    assert values["isolated_accuracy"] == pytest.approx(2 / 3) and values["string_accuracy"] == 0
    assert values["first_word_error"] == 0.5 and values["later_word_error"] == 0
    assert list(values)[0] == "wer"
    assert speech_values(rows[:3]) == {
        "wer": pytest.approx(1 / 3), "cer": pytest.approx(3 / 11), "string_accuracy": pytest.approx(2 / 3)
    }  # fmt: skip


def test_a_word_is_missed_where_the_alignment_has_another_or_none():
    rows = [Heard("a b c", "a x c"), Heard("a b c", "b c"), Heard("a b", "a b b"), Heard("", "a")]
    assert words_missed(rows) == [[False, True, False], [True, False, False], [False, False], []]


def test_speakers_have_their_own_errors_and_unknown_ones_none():
    rows = [Heard("a b", "a b", "ann"), Heard("a", "b", "bob"), Heard("a a a", "a a b", "bob"), Heard("a", "")]
    assert by_speaker(rows) == {"ann": {"wer": 0, "words": 2}, "bob": {"wer": 0.5, "words": 4}}
    assert by_speaker([Heard("", "a", "eve")]) == {}


def test_the_floor_is_the_error_rate_of_one_word_for_all():
    texts = ["a b", "b", "c c b", ""]
    word = most_frequent_word(texts)
    assert word == "b" and most_frequent_word(["b a"]) == "a" and most_frequent_word(["", " "]) is None
    answers = [" ".join([word] * len(text.split())) for text in texts]
    rows = [Heard(text, answer) for text, answer in zip(texts, answers, strict=True)]
    assert floor_of(texts, word) == pytest.approx(speech_values(rows)["wer"])
    assert floor_of(texts, None) is None and floor_of([""], "b") is None


def test_without_jiwer_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'rnn_hf\[speech\]'"):
        speech_values([Heard("a", "a")])
