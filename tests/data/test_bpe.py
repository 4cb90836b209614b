"""The tokenizer of both languages: words come back, the end, unknown characters, the same each time; dropped joins."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallel_files import some_pairs
from transformers import AutoTokenizer

from rnn_hf.data.bpe import PieceDropout, build_bpe
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.errors import InputError


LINES = [text for pair in some_pairs(60) for text in pair]


@pytest.fixture(scope="module")
def tokenizer():
    return build_bpe(LINES, vocab_size=60)


def test_special_tokens_have_the_first_ids_and_the_end_stands_behind_each_text(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(4)) == ["<pad>", "<s>", "</s>", "<unk>"]
    ids = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert ids == [0, 1, 2, 3] and len(tokenizer) == 60
    assert tokenizer("").input_ids == tokenizer("  ").input_ids == [2]
    assert all(tokenizer(line).input_ids[-1] == 2 and 2 not in tokenizer(line).input_ids[:-1] for line in LINES)
    batch = tokenizer(["dog", "two small dog"], padding=True)
    assert batch.input_ids[0][-1] == 0 and batch.attention_mask[0][-1] == 0  # on the right


@given(st.lists(st.sampled_from(sorted({word for line in LINES for word in line.split()})), max_size=8), st.data())
def test_words_come_back_with_single_spaces(tokenizer, words, data):
    spaces = st.sampled_from([" ", "  ", "\t", "▁", "\u00a0 "])
    text = "".join(data.draw(spaces) + word for word in words) + data.draw(spaces)
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == " ".join(words)


def test_characters_that_were_not_there_are_unknown_and_known_ones_spell_other_words(tokenizer):
    assert tokenizer.decode(tokenizer("dot").input_ids, skip_special_tokens=True) == "dot"
    assert 3 in tokenizer("漢字 dog").input_ids
    assert tokenizer.decode(tokenizer("漢字 dog").input_ids, skip_special_tokens=True).split()[-1] == "dog"


def test_lower_case_is_kept_in_the_tokenizer():
    tokenizer = build_bpe(["Two Dogs", "two dogs"], 40, lowercase=True)
    assert tokenizer("TWO dogs").input_ids == tokenizer("two dogs").input_ids
    assert build_bpe(["Two Dogs", "two dogs"], 40)("Two").input_ids != tokenizer("two").input_ids


def test_it_is_the_same_each_time_and_once_it_was_saved(tokenizer, tmp_path):
    assert build_bpe(LINES, 60).get_vocab() == tokenizer.get_vocab()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert [again(line).input_ids for line in LINES] == [tokenizer(line).input_ids for line in LINES]
    assert again.padding_side == "right" and again.decode(again("two  dog").input_ids) == "two dog</s>"


def test_rare_pairs_are_not_joined():
    often, once = ["aa"] * 5, ["bb"]
    assert len(build_bpe(often + once, 40)("bb").input_ids) > len(build_bpe(often + once, 40)("aa").input_ids)
    assert len(build_bpe(often + once, 40, min_frequency=1)("bb").input_ids) == 2


def test_what_makes_no_vocabulary_is_refused():
    with pytest.raises(InputError, match="no text to build a vocabulary from"):
        build_bpe(["", "  "])
    with pytest.raises(InputError, match="`tokenizer_vocab_size` 6 is too small: the text has 4 characters"):
        build_bpe(["abc"], 6)
    assert len(build_bpe(["abc"], 8)) == 8


TEXTS = [*LINES, "漢字 dog", "", "  two   dot"]


def test_without_dropout_pieces_are_those_of_the_tokenizer(tokenizer):
    assert PieceDropout(tokenizer, TEXTS, 0.0).draw(random.Random(0)) == tokenizer(TEXTS).input_ids


@given(st.integers(0, 2**20), st.floats(0.01, 0.99))
def test_dropped_joins_give_other_pieces_of_the_same_words(tokenizer, seed, probability):
    dropout = PieceDropout(tokenizer, TEXTS, probability)
    rows = dropout.draw(random.Random(seed))
    assert rows == dropout.draw(random.Random(seed))
    for text, row in zip(TEXTS, rows, strict=True):
        assert row[-1] == 2 and len(row) >= len(tokenizer(text).input_ids)
        if "漢" not in text:
            assert tokenizer.decode(row, skip_special_tokens=True) == " ".join(text.split())


def test_the_share_of_dropped_joins_is_the_probability_and_each_draw_is_another_one(tokenizer):
    joined = build_bpe(["ab"] * 9, 20)  # two joins: the mark with a, that with b
    generator, dropout = random.Random(0), PieceDropout(joined, ["ab"], 0.25)
    lengths = [len(dropout.split("▁ab", generator.random)) for _ in range(4000)]
    whole = joined.convert_tokens_to_ids("▁ab") != joined.unk_token_id and lengths.count(1) / 4000
    # Of two joins one is next and then the other; each is left out a quarter of the times, or the first by the second.
    assert whole == pytest.approx(0.75 * 0.75, abs=0.03)
    draws = PieceDropout(tokenizer, LINES, 0.5)
    assert draws.draw(generator) != draws.draw(generator)


def test_only_tokenizers_that_are_built_here_have_joins_to_drop():
    with pytest.raises(InputError, match="`bpe_dropout` needs a tokenizer that is built here"):
        PieceDropout(build_tokenizer(["a b"]), ["a"], 0.1)
