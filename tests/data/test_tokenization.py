"""Tokenizers: the fast path equals the saved tokenizer, pieces join with the right spaces, nothing needs code."""

from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rnn_hf.data.tokenization import END, KINDS, UNKNOWN, build_tokenizer, encode_stream, load_tokenizer, unknown_id


LINES = [
    "the cat sat on the mat",
    "the <unk> said : no , it 's N % of the cat",
    "My fellow-Americans, we can't (and won't) pay $5.00; it's “ours”.",
]
SPECIAL = [
    UNKNOWN,
    END,
    "▁",
    "▁the",
    "\x1c",
    "\t",
    "  ",
    " ",
    "the",
    "cat",
    "CAT",
    "x<unk>y",
    ",",
    "é",
    "²",
    "़",
    "日本",
]
texts = st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=5)), max_size=8).map("".join)
spaced_texts = st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=5)), max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: build_tokenizer(LINES, kind) for kind in KINDS}


@settings(max_examples=200)
@given(lines=st.lists(st.one_of(texts, spaced_texts), min_size=1, max_size=4))
@example(lines=["a<eos>b <unk>the▁cat\x1csat"])
def test_the_stream_is_what_the_tokenizer_gives_line_by_line(tokenizers, lines):
    for tokenizer in tokenizers.values():
        expected = list(chain.from_iterable([*ids, tokenizer.eos_token_id] for ids in tokenizer(lines)["input_ids"]))
        assert encode_stream(lines, tokenizer).tolist() == expected


def test_the_fast_path_is_taken_by_whitespace_tokenizers_alone(tokenizers, monkeypatch, tmp_path):
    lowercase = build_tokenizer(LINES, lowercase=True)
    monkeypatch.setattr(type(lowercase), "__call__", lambda *a, **k: pytest.fail("the tokenizer was called"))
    assert encode_stream(["the cat"], tokenizers["whitespace"]).size == 3
    tokenizers["whitespace"].save_pretrained(tmp_path)
    assert encode_stream(["the cat"], AutoTokenizer.from_pretrained(tmp_path)).size == 3
    for slow in (lowercase, tokenizers["word"], tokenizers["char"]):
        with pytest.raises(pytest.fail.Exception, match="was called"):
            encode_stream(["the cat"], slow)


@given(a=st.lists(st.integers(0, 20)), b=st.lists(st.integers(0, 20)))
def test_pieces_decode_to_what_the_whole_decodes_to(tokenizers, a, b):
    for tokenizer in tokenizers.values():
        assert tokenizer.decode(a) + tokenizer.decode(b) == tokenizer.decode(a + b)


@pytest.mark.parametrize("line", LINES)
def test_word_level_text_comes_back_with_its_own_spaces(tokenizers, line):
    for kind in ("whitespace", "word"):
        assert tokenizers[kind].decode(tokenizers[kind](line)["input_ids"]) == " " + line
    assert tokenizers["char"].decode(tokenizers["char"](line)["input_ids"]) == line


def test_unknown_words_stay_in_text_that_skips_special_tokens_before_and_after_saving(tokenizers, tmp_path):
    tokenizers["whitespace"].save_pretrained(tmp_path)
    for tokenizer in (tokenizers["whitespace"], AutoTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer("the gnu sat")["input_ids"] + [tokenizer.eos_token_id]
        assert tokenizer.decode(ids, skip_special_tokens=True) == " the <unk> sat"
        assert tokenizer.decode(ids) == " the <unk> sat <eos>"


def test_the_vocabulary_is_the_most_frequent_types_after_the_two_named_ones():
    lines = ["b a b", "c b a d", "<unk> <eos> <unk>"]
    tokenizer = build_tokenizer(lines, vocab_size=4)
    assert tokenizer.get_vocab() == {END: 0, UNKNOWN: 1, "▁b": 2, "▁a": 3}
    assert len(build_tokenizer(lines)) == 6
    assert set(build_tokenizer(lines, min_frequency=2).get_vocab()) == {END, UNKNOWN, "▁b", "▁a"}
    assert encode_stream(["c <unk> a"], tokenizer).tolist() == [1, 1, 3, 0]


def test_a_saved_tokenizer_loads_without_code_and_pads_on_the_left(tokenizers, tmp_path):
    for kind, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(tmp_path / kind)
        assert not list((tmp_path / kind).glob("*.py"))
        loaded = AutoTokenizer.from_pretrained(tmp_path / kind)
        batch = loaded(["the cat sat", "the"], padding=True)
        assert batch["input_ids"] == tokenizer(["the cat sat", "the"], padding=True)["input_ids"]
        assert batch["attention_mask"][1][0] == 0 and batch["attention_mask"][1][-1] == 1
        assert set(batch) == {"input_ids", "attention_mask"}
        assert loaded.bos_token == loaded.eos_token == loaded.pad_token == END
        assert unknown_id(loaded) == unknown_id(tokenizer) == 1
        assert loaded.get_vocab() == tokenizer.get_vocab()


def test_an_existing_tokenizer_loads_by_path_and_closes_its_lines(tokenizers, tmp_path):
    tokenizers["word"].save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    stream = encode_stream(["the cat", "the mat"], loaded)
    assert (stream == loaded.eos_token_id).sum() == 2


def test_wrong_arguments_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="whitespace, word, char"):
        build_tokenizer(LINES, "bpe")
    with pytest.raises(ValueError, match="`vocab_size`"):
        build_tokenizer(LINES, vocab_size=2)
    with pytest.raises(ValueError, match="no text"):
        build_tokenizer(["   "])
    with pytest.raises(FileNotFoundError, match="there is no .*nothing"):
        load_tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no tokenizer 'words'; did you mean 'word'"):
        load_tokenizer("words")
