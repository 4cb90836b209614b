"""Labels of words on pieces and back, and rows that transformers' Trainer and collators take as they are."""

import copy
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from rnn_hf.data.alignment import IGNORED, encode_rows, first_pieces, labels_of_pieces, labels_of_words
from rnn_hf.data.wordpiece import build_wordpiece
from rnn_hf.errors import InputError


SENTENCES = [["The", "cat", "can't", "sit"], ["U.S.", "##x", "http://a.b/c?d=1"], ["the", "the", "x\u00a0y", "[PAD]"]]
word = st.one_of(
    st.sampled_from([word for words in SENTENCES for word in words]), st.text(max_size=9).filter(str.strip)
)


@pytest.fixture(scope="module")
def tokenizers():
    return [build_wordpiece(SENTENCES * 2), build_wordpiece(SENTENCES, pieces="characters"), build_wordpiece(TEXTS)]


TEXTS = [" ".join(words) for words in SENTENCES]


@given(st.lists(st.tuples(word, st.integers(0, 9)), min_size=1))
def test_each_word_keeps_its_label_at_its_first_piece(tokenizers, pairs):
    words, labels = zip(*pairs, strict=True)
    for tokenizer in tokenizers:
        word_ids = tokenizer(list(words), is_split_into_words=True).word_ids()
        aligned = labels_of_pieces(word_ids, labels)
        assert len(aligned) == len(word_ids)
        assert labels_of_words(word_ids, aligned, len(words)) == list(labels)
        assert [label for label in aligned if label != IGNORED] == list(labels)
        for position, label in enumerate(aligned):
            assert (label != IGNORED) == (position == 0 or word_ids[position] != word_ids[position - 1])


@given(st.lists(st.integers(0, 3), min_size=1).map(sorted), st.integers(0, 3), st.integers(0, 2))
def test_special_tokens_and_words_without_a_piece_have_no_label(words, missing, num_special):
    word_ids = [None] * num_special + [word for word in words if word != missing] + [None]
    predictions = [10 + (word if word is not None else 90) for word in word_ids]
    expected = [10 + word if word in words and word != missing else None for word in range(4)]
    assert labels_of_words(word_ids, predictions, 4) == expected
    assert labels_of_pieces(word_ids, range(4)).count(IGNORED) == len(word_ids) - len(first_pieces(word_ids))


def rows_of_words():
    return [{"words": words, "labels": list(range(len(words)))} for words in SENTENCES]


def test_rows_are_encoded_alone_as_among_others(tokenizers):
    rows = rows_of_words()
    for tokenizer in tokenizers:
        together = encode_rows(rows, tokenizer)
        assert together == [encode_rows([row], tokenizer)[0] for row in rows]
        assert encode_rows(rows[::-1], tokenizer) == together[::-1]
        assert [set(row) for row in together] == [{"input_ids", "labels"}] * 3
    texts = [{"text": text, "labels": [0.0, 1.0]} for text in TEXTS]
    assert [row["labels"] for row in encode_rows(texts, tokenizers[-1])] == [[0.0, 1.0]] * 3
    assert list(encode_rows([{"text": "the"}], tokenizers[-1])[0]) == ["input_ids"]
    assert encode_rows([], tokenizers[-1]) == []


def test_long_texts_are_cut_and_counted(tokenizers):
    tokenizer = tokenizers[1]
    rows = rows_of_words()
    whole = encode_rows(rows, tokenizer)
    longest = max(len(row["input_ids"]) for row in whole)
    before = tokenizer.backend_tokenizer.to_str()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode_rows(rows, tokenizer, longest) == whole
    with pytest.warns(UserWarning, match="3 of 3 texts have more than 2 tokens and were cut; .* words") as caught:
        cut = encode_rows(rows, tokenizer, 2)
    assert [row["input_ids"] for row in cut] == [row["input_ids"][:2] for row in whole]
    assert [row["labels"] for row in cut] == [row["labels"][:2] for row in whole]
    lost = sum(label != IGNORED for row in whole for label in row["labels"][2:])
    assert f"; {lost} words have no token" in str(caught[0].message)
    with pytest.warns(UserWarning, match="3 of 3 texts have more than 1 tokens and were cut$"):
        encode_rows([{"text": text, "labels": 0} for text in TEXTS], tokenizer, 1)
    assert tokenizer.backend_tokenizer.to_str() == before  # the limit is not saved


def test_a_word_that_a_tokenizer_drops_is_counted(tokenizers):
    tokenizer = copy.deepcopy(tokenizers[0])
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("cat", "")
    with pytest.warns(UserWarning, match="^1 words have no token, so their labels do not count"):
        encoded = encode_rows(rows_of_words()[:1], tokenizer)
    assert [label for label in encoded[0]["labels"] if label != IGNORED] == [0, 2, 3]


def test_what_cannot_be_encoded_is_refused(tokenizers):
    with pytest.raises(InputError, match="`max_length` must be at least 1, got 0"):
        encode_rows(rows_of_words(), tokenizers[0], 0)

    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="`tokenizer` must be a fast one"):
        encode_rows(rows_of_words(), Slow())


class Model(torch.nn.Module):
    """Takes what Trainer may pass; the columns of a data set that it has no argument for are dropped."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        raise NotImplementedError


def loader(tmp_path, rows, tokenizer, collator, is_training=True):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        train_sampling_strategy="group_by_length",
        use_cpu=True,
        report_to="none",
    )
    trainer = Trainer(
        Model(), arguments, data_collator=collator, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer
    )
    return list(trainer.get_train_dataloader() if is_training else trainer.get_eval_dataloader())


@pytest.mark.parametrize("is_training", [True, False])
def test_trainer_groups_rows_of_words_by_length_and_pads_them(tmp_path, tokenizers, is_training):
    tokenizer = tokenizers[0]
    rows = encode_rows([{"words": ["the"] * n, "labels": [n] * n} for n in range(1, 65)], tokenizer)
    batches = loader(tmp_path, rows, tokenizer, DataCollatorForTokenClassification(tokenizer), is_training)
    seen = []
    for batch in batches:
        assert {*batch} == {"input_ids", "attention_mask", "labels"}
        assert torch.equal(batch["labels"] == IGNORED, batch["attention_mask"] == 0)
        assert torch.equal(batch["input_ids"] == tokenizer.pad_token_id, batch["attention_mask"] == 0)
        seen += batch["labels"][:, 0].tolist()
    assert sorted(seen) == list(range(1, 65)) and seen != sorted(seen)
    real, places = (sum(float(f(batch["attention_mask"])) for batch in batches) for f in (torch.sum, torch.numel))
    assert real / places > 0.8  # in random batches of four about 0.62


@pytest.mark.parametrize("labels, dtype", [(1, torch.int64), (0.5, torch.float32), ([0.0, 1.0], torch.float32)])
def test_trainer_takes_rows_of_texts_with_each_kind_of_label(tmp_path, tokenizers, labels, dtype):
    rows = encode_rows([{"text": "the cat " * n, "labels": labels} for n in range(1, 9)], tokenizers[-1])
    for batch in loader(tmp_path, rows, tokenizers[-1], DataCollatorWithPadding(tokenizers[-1])):
        assert {*batch} == {"input_ids", "attention_mask", "labels"} and batch["labels"].dtype == dtype
        assert batch["labels"].tolist() == [labels] * 4
