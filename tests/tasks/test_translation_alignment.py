"""Where a network looked: weights between words, whatever their pieces and heads."""

import numpy as np
import pytest
import torch
from parallel_files import some_pairs
from seq2seq_models import make_translator

from rnn_hf.data.bpe import build_bpe
from rnn_hf.errors import InputError
from rnn_hf.tasks.translation_alignment import alignment_of, plot_alignment


TEXT, TRANSLATION = "two small  dog", "hund vogel zwei seed"


@pytest.mark.parametrize("fields", [{}, {"attention": "multihead", "attention_size": 6, "attention_heads": 3}])
def test_pieces_of_a_source_word_are_summed_and_of_a_target_word_averaged(fields):
    tokenizer = build_bpe([text for pair in some_pairs(60) for text in pair], 50)
    model = make_translator(vocab_size=len(tokenizer), **fields).train()
    alignment = alignment_of(model, tokenizer, TEXT, TRANSLATION)
    assert model.training
    assert alignment.source == ["two", "small", "dog", "</s>"]
    assert alignment.target == ["hund", "vogel", "zwei", "seed", "</s>"]
    assert np.allclose(alignment.weights.sum(axis=1), 1) and alignment.weights.shape == (5, 4)
    ids, labels = (torch.tensor([tokenizer(text).input_ids]) for text in (TEXT, TRANSLATION))
    weights = model.eval()(ids, labels=labels, output_attentions=True).cross_attentions[0][0].mean(0).detach().numpy()
    sides = [
        [len(tokenizer(word).input_ids) - 1 for word in text.split()] + [1] for text in (TRANSLATION, TEXT)
    ]  # fmt: skip
    assert max(sides[0]) > 1 and max(sides[1]) > 1  # some words have several pieces
    rows, columns = (np.cumsum([0, *side]) for side in sides)
    for row in range(5):
        for column in range(4):
            part = weights[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
            assert alignment.weights[row, column] == pytest.approx(part.sum(axis=1).mean())


def test_a_network_without_attention_has_nothing_to_show():
    tokenizer = build_bpe(["a b c"] * 3, 20)
    model = make_translator(vocab_size=20, attention=None, embedding_size=8)
    with pytest.raises(InputError, match="the model has no `attention`"):
        alignment_of(model, tokenizer, "a", "b")


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    tokenizer = build_bpe([text for pair in some_pairs(60) for text in pair], 50)
    model = make_translator(vocab_size=len(tokenizer))
    plot_alignment(alignment_of(model, tokenizer, TEXT, "hund"), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
