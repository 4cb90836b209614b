"""Minimal pairs: read from files as people write them, and judged by the probability of each text."""

import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.minimal_pairs import Accuracy, Pair, pair_rows, read_pairs, score_pairs
from rnn_hf.scoring import score
from rnn_hf.tables import table_lines


TOKENIZER = build_tokenizer(["the key keys is are here"])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = RNNForCausalLM(RNNConfig(vocab_size=len(TOKENIZER), hidden_size=4)).eval()
    model.lm_head.bias.data[TOKENIZER("is")["input_ids"]] = 20.0
    return model


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", "a b\tc\n\nd\te", [("1", "a b", "c"), ("2", "d", "e")]),
        ("a.tsv", "x\ta \"b\tc\r\n", [("x", 'a "b', "c")]),
        ("a.txt", "\ufeffbad\titem\tname\tgood\nc\t7\tx\ta\n", [("x", "a", "c")]),
        ("a.csv", 'sentence_good,sentence_bad\n"a, b",c\n"d ""e""","f\ng"\n',
         [("1", "a, b", "c"), ("2", 'd "e"', "f\ng")]),
    ],
)  # fmt: skip
def test_pairs_are_read_from_files_of_every_form(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    assert list(read_pairs(str(tmp_path / name))) == [Pair(*pair) for pair in expected]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tb\na b\n", "line 2: expected two texts parted by a tab, got \\['a b'\\]"),
        (b"x\ta\tb\n\ny\t \tb\n", "line 3: expected a name and two texts parted by a tab"),
        (b"a\tb\nc\tcaf\xe9\n", "a.tsv, line 2, is not UTF-8"),
        (b"good\tbad\na\tb\tc\n", "line 2: expected two texts"),
        (b"\n", "a.tsv has no pair"),
    ],
)
def test_a_line_that_is_no_pair_is_named(content, message, tmp_path):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_pairs(str(tmp_path / "a.tsv")))


def test_the_likelier_text_is_that_of_the_smaller_surprisal(model):
    pairs = [Pair("right", "the key is here", "the key are here"), Pair("wrong", "the keys are", "the keys is")]
    accuracy = Accuracy()
    scores = list(accuracy.count(score_pairs(model, TOKENIZER, pairs, unit="nats", batch_size=3, with_end=True)))
    assert [scored.likelier for scored in scores] == ["good", "bad"]
    assert (accuracy.pairs, accuracy.comparable, accuracy.right, accuracy.accuracy) == (2, 2, 1, 0.5)
    for pair, scored, row in zip(pairs, scores, pair_rows(scores), strict=True):
        good, bad = score(model, TOKENIZER, [pair.good, pair.bad], "nats", with_end=True)
        assert row["good_nats"] == scored.good.total == pytest.approx(good.total)
        assert row["difference"] == pytest.approx(bad.total - good.total)
    assert [line.split("\t")[4] for line in table_lines(pair_rows(scores))] == ["likelier", "good", "bad"]


@pytest.mark.parametrize(
    ("good", "bad", "is_comparable"),
    [
        ("the author laughs", "the author laugh", False),  # one row of numbers
        ("the key is", "the key was", False),  # a word against all rare ones
        ("the author is", "the author are", True),  # both share the unknown one
        ("the The is", "The the is", True),  # the same words in another order
        ("the key", "the  key", False),
        ("the the are", "the are are", True),
    ],
)
def test_texts_that_differ_in_unknown_words_are_not_compared(good, bad, is_comparable, model):
    accuracy = Accuracy()
    (scored,) = accuracy.count(score_pairs(model, TOKENIZER, [Pair("", good, bad)]))
    assert scored.is_comparable == is_comparable and (scored.likelier == "not comparable") != is_comparable
    assert accuracy.comparable == is_comparable and (accuracy.accuracy is None) != is_comparable


def test_texts_of_the_same_probability_are_no_success(model):
    model = RNNForCausalLM(RNNConfig(vocab_size=len(TOKENIZER), hidden_size=4)).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    accuracy = Accuracy()
    (scored,) = accuracy.count(score_pairs(model, TOKENIZER, [Pair("", "key", "keys")]))
    assert scored.likelier == "neither" and accuracy.accuracy == 0.0
