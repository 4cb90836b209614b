"""Scores of translations: BLEU against its definition, signatures, ranges of lengths."""

import math
import sys
from collections import Counter

import pytest
from parallel_files import some_pairs

from rnn_hf.errors import InputError, MissingPackageError
from rnn_hf.tasks import BLEU
from rnn_hf.tasks.translation_scores import (
    TranslationScores,
    bleu_of,
    by_length,
    describe,
    translation_values,
)


SOURCES, REFERENCES = zip(*some_pairs(30, longest=20), strict=True)
# Each differs from its reference: words dropped, doubled and turned.
ANSWERS = [
    " ".join(text.split()[index % 3 :][:: -1 if index % 5 == 0 else 1] + ["hund"] * (index % 2))
    for index, text in enumerate(REFERENCES)
]


def bleu_by_definition(answers, references):
    """Of Papineni et al. (2002), over words between spaces, where each order has a match."""
    matches, totals = Counter(), Counter()
    for answer, reference in zip(answers, references, strict=True):
        for order in range(1, 5):
            own, truth = (
                Counter(tuple(text.split()[i : i + order]) for i in range(len(text.split()) - order + 1))
                for text in (answer, reference)
            )
            matches[order] += sum((own & truth).values())
            totals[order] += sum(own.values())
    lengths = [sum(len(text.split()) for text in texts) for texts in (answers, references)]
    brevity = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    return 100 * brevity * math.exp(sum(math.log(matches[order] / totals[order]) for order in range(1, 5)) / 4)


def test_bleu_of_words_between_spaces_is_that_of_its_definition():
    assert bleu_of(ANSWERS, REFERENCES, "none") == pytest.approx(bleu_by_definition(ANSWERS, REFERENCES), rel=1e-9)
    assert bleu_of(REFERENCES, REFERENCES, "none") == pytest.approx(100)
    joined, split = ["ein hund, eine katze."], ["ein hund , eine katze ."]
    assert bleu_of(joined, split, "none") < 50 < bleu_of(joined, split, "13a")
    with pytest.raises(InputError, match="`bleu_tokenize` must be one of none, 13a, intl, char, got 'zh'"):
        bleu_of(ANSWERS, REFERENCES, "zh")


def test_values_have_the_signatures_of_how_they_were_counted():
    values, signatures = translation_values(ANSWERS, REFERENCES, "none")
    assert values["bleu"] == bleu_of(ANSWERS, REFERENCES, "none") and 0 < values["chrf"] < 100
    assert "tok:none" in signatures["bleu"] and "nc:6" in signatures["chrf"]


def test_ranges_of_lengths_share_the_sentences_out():
    rows = by_length(["", *SOURCES], ["", *ANSWERS], ["leer", *REFERENCES], "none")
    assert list(rows) == ["1 to 8", "9 to 12", "13 to 16", "17 to 24"]
    assert sum(row["sentences"] for row in rows.values()) == 31
    chosen = [index for index, text in enumerate(SOURCES) if 13 <= len(text.split()) <= 16]
    own, truth = ([texts[index] for index in chosen] for texts in (ANSWERS, REFERENCES))
    assert rows["13 to 16"] == {"bleu": bleu_of(own, truth, "none"), "sentences": len(chosen)}
    assert list(by_length(["a " * 30], ["x"], ["x"], "none")) == ["over 24"]


def test_several_models_have_no_loss_and_one_has(capsys):
    alone = TranslationScores({"bleu": 30.0}, 2.0, 50, 5, 1, floor=1.5)
    assert alone.to_dict()["loss"] == 2.0 and alone.to_dict()["floor"] == 1.5
    assert describe(alone) == (
        "BLEU 30.00, greedy, loss 2.0000, over 5 sentences of 50 pieces (the source as its own translation: BLEU 1.50)"
    )
    together = TranslationScores({"bleu": 30.0}, None, 50, 5, 5)
    assert "loss" not in together.to_dict() and "loss" not in describe(together)
    assert BLEU.is_better(31, 30)


def test_the_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'rnn_hf\[translation\]'"):
        bleu_of(["a"], ["a"], "none")
