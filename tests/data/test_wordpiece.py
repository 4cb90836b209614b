"""The tokenizer for labelled text: nothing hides a word, offsets are exact, saved = loaded, order changes nothing."""

import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rnn_hf.data.wordpiece import CONTINUED, LONGEST_WORD, PAD, PIECES, UNKNOWN, UNKNOWN_CHARACTER, build_wordpiece
from rnn_hf.errors import InputError


TEXTS = [
    "the cats sat on the mat; the cats can't (won't) sit.",
    "He's re-reading: reread, unread, readable, reading!",
    "U.S. ## #x ##x é 日本 x\u0301 http://a.b/c?d=1",
]
WORDS = [text.split() for text in TEXTS]
SPECIAL = [PAD, UNKNOWN, UNKNOWN_CHARACTER, "##", "##x", "a##b", "\u00a0", "\u2028", "\x1c", "\u0130", "\U0001f600"]
pieces_of_text = st.one_of(st.sampled_from(SPECIAL + [word for words in WORDS for word in words]), st.text(max_size=5))
texts = st.lists(pieces_of_text, max_size=8).map("".join) | st.lists(pieces_of_text, max_size=8).map(" ".join)
words = st.lists(pieces_of_text.filter(str.strip), min_size=1, max_size=8)


# Many words that occur once, so that pieces are learned, and more than there is room for.
LETTERS = random.Random(0)
RARE = ["".join(LETTERS.choices("abcdef", k=LETTERS.randrange(2, 9))) for _ in range(3_000)]


@pytest.fixture(scope="module")
def tokenizers():
    """One for each way to spell, for text and for words."""
    return [
        build_wordpiece(data, pieces=pieces, lowercase=lowercase)
        for data in (TEXTS, WORDS)
        for pieces in PIECES
        for lowercase in (False, True)
    ]


def spelled(tokenizers):
    return [tokenizer for tokenizer in tokenizers if CONTINUED + "a" in tokenizer.get_vocab()]


@settings(max_examples=200)
@given(text=texts)
@example(text="[PAD] ##x ## a##b can't \u0130x")
def test_offsets_give_back_all_of_the_text_but_its_spaces(tokenizers, text):
    for tokenizer in tokenizers:
        spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        assert all(start < end for start, end in spans)
        # A letter that becomes two in lower case has two pieces with one span.
        covered = {position for span in spans for position in range(*span)}
        assert not "".join(character for i, character in enumerate(text) if i not in covered).strip()
        assert [start for start, _ in spans] == sorted(start for start, _ in spans)


@settings(max_examples=200)
@given(text=texts)
@example(text="[PAD] [UNK] \x85 \x1c")
def test_no_text_has_a_special_id_and_pieces_spell_it_but_for_unknown_characters(tokenizers, text):
    for tokenizer in spelled(tokenizers):
        encoding = tokenizer(text, return_offsets_mapping=True)
        assert not set(encoding["input_ids"]) & {tokenizer.pad_token_id, tokenizer.unk_token_id}
        if tokenizer.backend_tokenizer.normalizer.normalize_str("A") != "a":
            tokens = [token.removeprefix(CONTINUED) or token for token in encoding.tokens()]
            for token, (start, end) in zip(tokens, encoding["offset_mapping"], strict=True):
                assert token in (text[start:end], UNKNOWN_CHARACTER)


@settings(max_examples=200)
@given(words=words)
@example(words=["can't", "U.S.", "##x", "##", "[PAD]", "http://a.b/c?d=1", "x##y", "日語"])
def test_a_given_word_keeps_its_id_and_only_its_first_piece_begins_a_word(tokenizers, words):
    for tokenizer in tokenizers:
        encoding = tokenizer(words, is_split_into_words=True)
        assert set(encoding.word_ids()) == set(range(len(words)))
        is_for_words = "PAD" in str(tokenizer.backend_tokenizer.pre_tokenizer)
        for index, word in enumerate(words) if is_for_words else ():
            if any(token in word for token in ("##", PAD, UNKNOWN)) or any(character.isspace() for character in word):
                continue
            tokens = [token for token, i in zip(encoding.tokens(), encoding.word_ids(), strict=True) if i == index]
            continued = [token.startswith(CONTINUED) for token in tokens]
            assert continued == [False] + [True] * (len(tokens) - 1)


@pytest.mark.parametrize("pieces", PIECES)
def test_a_special_token_that_is_frequent_in_the_text_is_no_special_token(pieces):
    data = [[f"{before}{token}{after}" for token in (PAD, UNKNOWN) for before, after in ("  ", "ab", "bc", "cd")]]
    tokenizer = build_wordpiece(data * 3, pieces=pieces)
    ids = tokenizer(data, is_split_into_words=True)["input_ids"][0]
    assert PAD not in tokenizer.convert_ids_to_tokens(ids)
    assert pieces == "none" or UNKNOWN not in tokenizer.convert_ids_to_tokens(ids)


def test_the_mark_of_a_continued_piece_cannot_come_from_the_text():
    tokenizer = build_wordpiece([["##x", "##x", "x"]], pieces="characters")
    assert tokenizer.tokenize(["##x"], is_split_into_words=True) == ["#", "#x"]


def test_an_unknown_character_hides_no_word():
    tokenizer = build_wordpiece(WORDS, pieces="characters")
    assert tokenizer.tokenize("th\U0001f600e") == ["t", "##h", "##" + UNKNOWN_CHARACTER, "##e"]


def test_frequent_words_are_whole_and_others_are_spelled():
    data = ["sing sing singing ringing bringing"]
    expected = {
        "characters": ["sing", "r", "##i", "##n", "##g", "##i", "##n", "##g"],
        "none": ["sing", UNKNOWN],
        "learned": ["sing", "r", "##inging"],
    }
    for pieces, tokens in expected.items():
        assert build_wordpiece(data, pieces=pieces).tokenize("sing ringing") == tokens


def test_words_that_differ_in_case_alone_are_whole_in_each_case_if_they_are_frequent_together():
    texts = [["The", "the", "cat", "ACT", "HE"]]
    words = ["the", "The", "THE", "tHe", "cat", "Cat"]
    plain, variants = (build_wordpiece(texts, pieces="characters", case_variants=is_on) for is_on in (False, True))
    assert [len(variants.tokenize(word)) for word in words] == [1, 1, 1, 3, 3, 3]
    assert len(plain.tokenize("the")) == 3  # each form occurs once
    rare = build_wordpiece(texts, min_frequency=1, pieces="characters", case_variants=True)
    assert [len(rare.tokenize(word)) for word in ("Cat", "cat", "CAT", "Act")] == [1, 1, 1, 1]


def test_case_is_lost_before_characters_are_looked_up():
    tokenizer = build_wordpiece(["the cat"], lowercase=True)
    assert tokenizer("THE Cats")["input_ids"] == tokenizer("the cats")["input_ids"]


def test_a_long_url_is_spelled_and_a_blob_is_unknown():
    tokenizer = build_wordpiece([["a"]])
    for length in (140, LONGEST_WORD):
        assert tokenizer.tokenize("a" * length) == ["a"] + ["##a"] * (length - 1)
    assert tokenizer.tokenize("a" * (LONGEST_WORD + 1)) == [UNKNOWN]


@pytest.mark.parametrize("pieces", PIECES)
def test_the_order_of_the_texts_changes_nothing(pieces):
    for data in (TEXTS, WORDS, [" ".join(RARE)], [RARE[:1_500], RARE[1_500:]]):
        one, other = build_wordpiece(data, pieces=pieces), build_wordpiece(data[::-1], pieces=pieces)
        assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


@pytest.mark.parametrize("pieces", PIECES)
def test_a_vocabulary_has_at_most_its_size_and_the_most_frequent_words(pieces):
    data = ["a b c ab ab abc abc abc cab cab bca"]
    for size in range(12, 20):
        vocabulary = build_wordpiece(data, vocab_size=size, pieces=pieces, min_frequency=1).get_vocab()
        assert len(vocabulary) <= size and vocabulary[PAD] == 0 and vocabulary[UNKNOWN] == 1
        assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    for size in (100, 500, 3_000):
        assert len(build_wordpiece([RARE, RARE[:600]], vocab_size=size, pieces=pieces)) <= size
    assert len(build_wordpiece(data, vocab_size=12, pieces="characters", min_frequency=1)) == 12
    assert {"abc", "ab"} <= build_wordpiece(data, vocab_size=12, pieces="characters").get_vocab().keys()


def test_a_saved_tokenizer_is_loaded_whole(tokenizers, tmp_path):
    batch = ["Can't [PAD] ##x", "the cats \U0001f600 sat on"]
    for index, tokenizer in enumerate(tokenizers):
        tokenizer.save_pretrained(tmp_path / str(index))
        loaded = AutoTokenizer.from_pretrained(tmp_path / str(index))
        assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
        for some in (loaded, tokenizer):
            assert (some.pad_token, some.unk_token, some.padding_side) == (PAD, UNKNOWN, "right")
            assert set(some.all_special_ids) == {0, 1}
        expected = dict(tokenizer(batch, padding=True))
        assert list(expected) == ["input_ids", "attention_mask"]
        assert dict(loaded(batch, padding=True)) == expected
        assert [len(set(map(len, value))) for value in expected.values()] == [1, 1]
        config = json.loads((tmp_path / str(index) / "tokenizer_config.json").read_text())
        assert not config.get("auto_map")  # a stranger runs no code


def test_a_batch_changes_nothing(tokenizers):
    for tokenizer in tokenizers:
        for text, ids, mask in zip(TEXTS, *tokenizer(TEXTS, padding=True).values(), strict=True):
            alone = tokenizer(text)["input_ids"]
            assert ids == alone + [tokenizer.pad_token_id] * (len(ids) - len(alone)) and sum(mask) == len(alone)


def test_decoding_joins_pieces(tokenizers):
    for tokenizer in spelled(tokenizers):
        assert tokenizer.decode(tokenizer("the cats readable")["input_ids"]) == "the cats readable"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"texts": ["a"], "pieces": "bytes"}, "`pieces` must be one of learned, characters, none, got 'bytes'"),
        ({"texts": []}, "`texts` has no word"),
        ({"texts": [" ", ""]}, "`texts` has no word"),
        ({"texts": ["a", ["b"]]}, "either all strings or all lists"),
        (
            {"texts": ["ab"], "vocab_size": 7},
            r"`vocab_size` must be at least 9: \[PAD\], .* and one word; got 7",
        ),
        ({"texts": ["ab"], "vocab_size": 2, "pieces": "none"}, "`vocab_size` must be at least 3"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        build_wordpiece(**arguments)
