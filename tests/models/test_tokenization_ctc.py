"""Labels of CTC: text to labels and back, paths collapsed as by brute force, offsets, saved and loaded."""

import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rnn_hf import RNNCTCTokenizer, RNNForCTC, RNNSpeechConfig


TEXTS = ["three zoo", "two", "zero zero"]
UNITS = pytest.mark.parametrize("unit", ["characters", "words"])


def path_of(ids: list[int], lengths: list[int], blanks: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """A path of labels, each so many steps long, after so many blanks; where each label stands."""
    path, places = [], []
    for previous, index, length, gap in zip([None, *ids], ids, lengths, blanks, strict=False):
        path += [0] * max(gap, index == previous)
        places.append((len(path), len(path) + length))
        path += [index] * length
    return path, places


@UNITS
def test_the_vocabulary_is_what_occurs_after_the_blank_and_the_unknown(unit):
    tokenizer = RNNCTCTokenizer.build(TEXTS, unit)
    found = ["|", *"ehortwz"] if unit == "characters" else ["three", "two", "zero", "zoo"]
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(["<pad>", "<unk>", *found])}
    assert len(tokenizer) == tokenizer.vocab_size == len(found) + 2
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)


@UNITS
@given(words=st.lists(st.sampled_from(["three", "zoo", "two", "zero"])), data=st.data())
def test_a_text_comes_back_from_its_labels_and_from_any_path_of_them(unit, words, data):
    tokenizer, text = RNNCTCTokenizer.build(TEXTS, unit), " ".join(words)
    ids = tokenizer("  " + "   ".join(words) + "\n").input_ids
    assert len(ids) == (len(text) if unit == "characters" else len(words))
    assert tokenizer.decode(ids, group_tokens=False) == text
    sizes = st.lists(st.integers(0, 3), min_size=len(ids), max_size=len(ids))
    path, _ = path_of(ids, [1 + size for size in data.draw(sizes)], data.draw(sizes))
    assert tokenizer.decode(path + [0, 0]) == text


def test_double_letters_need_a_blank_between_them():
    tokenizer = RNNCTCTokenizer.build(TEXTS)
    t, h, r, e = tokenizer("thre").input_ids
    assert tokenizer.decode([t, h, r, e, e]) == "thre"
    assert tokenizer.decode([t, t, h, r, e, 0, e]) == "three"
    assert tokenizer.decode([t, t, h, r, e, 0, e], skip_special_tokens=True) == "three"
    assert tokenizer.decode(tokenizer("three").input_ids, group_tokens=False) == "three"


@UNITS
def test_every_path_is_collapsed_and_then_loses_its_blanks(unit):
    tokenizer = RNNCTCTokenizer.build(["a b"], unit)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    for path in itertools.product(range(len(tokens)), repeat=5):
        merged = [index for index, _ in itertools.groupby(path)]
        kept = [tokens[index] for index in merged if index != 0]
        text = "".join(kept).replace("|", " ") if unit == "characters" else " ".join(kept)
        assert tokenizer.decode(list(path)) == " ".join(text.split())
        # The same from any two halves, as a stream reads them.
        for cut in range(6):
            first, second = path[:cut], path[cut:]
            labels = tokenizer.collapse(first)
            text, gap = tokenizer.join(label for label, _, _ in labels)
            labels = tokenizer.collapse(second, first[-1] if first else None)
            text += tokenizer.join((label for label, _, _ in labels), gap)[0]
            assert text == tokenizer.decode(list(path))


@UNITS
def test_offsets_are_steps_of_labels_and_words(unit):
    tokenizer = RNNCTCTokenizer.build(TEXTS, unit)
    ids = tokenizer("three zoo").input_ids
    lengths, blanks = [1 + index % 3 for index in range(len(ids))], [index % 2 for index in range(len(ids))]
    path, places = path_of(ids, lengths, blanks)
    output = tokenizer.decode(path, output_char_offsets=True, output_word_offsets=True)
    assert output.text == "three zoo"
    labels = list("three zoo") if unit == "characters" else ["three", "zoo"]
    expected = [
        {"char": label, "start_offset": start, "end_offset": end}
        for label, (start, end) in zip(labels, places, strict=True)
    ]
    assert output["char_offsets"] == expected
    ends = [(0, 4), (6, 8)] if unit == "characters" else [(0, 0), (1, 1)]
    assert output["word_offsets"] == [
        {"word": word, "start_offset": places[first][0], "end_offset": places[last][1]}
        for word, (first, last) in zip(["three", "zoo"], ends, strict=True)
    ]
    json.dumps(output["word_offsets"])  # numbers of Python
    assert tokenizer.decode(path, output_word_offsets=True).char_offsets is None
    empty = tokenizer.decode([0, 0], output_char_offsets=True, output_word_offsets=True)
    assert (empty.text, empty.char_offsets, empty.word_offsets) == ("", [], [])


def test_offsets_leave_gaps_at_the_ends_and_in_a_row_out_of_words():
    tokenizer = RNNCTCTokenizer.build(["a b"])
    gap, a, b = tokenizer.convert_tokens_to_ids(["|", "a", "b"])
    output = tokenizer.decode([gap, a, gap, 0, gap, b, gap], output_word_offsets=True)
    assert output.text == "a b" and [each["word"] for each in output.word_offsets] == ["a", "b"]
    assert [(each["start_offset"], each["end_offset"]) for each in output.word_offsets] == [(1, 2), (5, 6)]


@UNITS
def test_what_is_not_in_the_vocabulary_is_unknown_and_no_text_is_a_blank(unit):
    tokenizer = RNNCTCTokenizer.build(TEXTS, unit)
    ids = tokenizer("two <pad> four").input_ids
    assert 0 not in ids and 1 in ids
    if unit == "words":
        assert ids == [tokenizer.convert_tokens_to_ids("two"), 1, 1]
        assert tokenizer("threezoo").input_ids == [1]
    assert tokenizer.decode([99]) == "<unk>"
    assert tokenizer.decode([1, 0, 1], skip_special_tokens=True) == ""


@UNITS
def test_batches_of_arrays_tensors_and_lists_are_decoded_alike(unit):
    tokenizer = RNNCTCTokenizer.build(TEXTS, unit)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert batch.input_ids.shape[0] == 3 and (batch.input_ids[batch.attention_mask == 0] == 0).all()
    for ids in (batch.input_ids, batch.input_ids.numpy(), batch.input_ids.tolist()):
        assert tokenizer.batch_decode(ids, group_tokens=False) == TEXTS
        assert tokenizer.decode(ids[0], group_tokens=False) == TEXTS[0]
    assert tokenizer.decode(2) == ("" if unit == "characters" else "three")
    assert tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens([3, 3, 0, 3])) == tokenizer.decode(
        np.array([3, 0, 3])
    )


@UNITS
def test_saved_is_loaded(unit, tmp_path):
    texts = [*TEXTS, "Grüße"]
    tokenizer = RNNCTCTokenizer.build(texts, unit)
    tokenizer.save_pretrained(tmp_path)
    RNNForCTC(RNNSpeechConfig(vocab_size=len(tokenizer), hidden_size=4)).save_pretrained(tmp_path)
    others = [kind.from_pretrained(tmp_path) for kind in (RNNCTCTokenizer, AutoTokenizer)]
    for loaded in [*others, pickle.loads(pickle.dumps(tokenizer))]:
        assert type(loaded) is RNNCTCTokenizer and loaded.unit == unit
        assert loaded.get_vocab() == tokenizer.get_vocab() and len(loaded) == len(tokenizer)
        assert loaded(texts).input_ids == tokenizer(texts).input_ids
        assert loaded.decode(torch.tensor([3, 3, 0, 3, 4])) == tokenizer.decode([3, 3, 0, 3, 4])
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "a": 3}))
    with pytest.raises(ValueError, match="without gaps"):
        RNNCTCTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "vocabulary, unit, message",
    [
        ({"<pad>": 0, "<unk>": 1}, "syllables", "`unit` must be"),
        ({"<unk>": 0, "<pad>": 1}, "words", "as 0, the blank"),
        ({"<pad>": 0, "a": 1}, "characters", "'<unk>'"),
        ({"<pad>": 0, "<unk>": 2}, "characters", "without gaps"),
    ],
)
def test_vocabularies_that_cannot_be_are_refused_by_name(vocabulary, unit, message):
    with pytest.raises(ValueError, match=message):
        RNNCTCTokenizer(vocabulary, unit=unit)


def test_transcripts_without_a_word_are_refused():
    for texts in ([], ["", " \n"], ["|"]):
        with pytest.raises(ValueError, match="`texts` must have at least one word"):
            RNNCTCTokenizer.build(texts)
