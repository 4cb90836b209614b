"""Networks of two directions, their heads and words from characters on a GPU: the numbers and gradients of a CPU."""

import copy

import pytest
import torch
from networks import assert_same_gradients, gradients_of, some_ids

from rnn_hf import RNNForSequenceClassification, RNNForTokenClassification
from rnn_hf.data.wordpiece import build_wordpiece
from rnn_hf.models.words_rnn import Spelling


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
# Left, right and interior padding, and a row of padding alone.
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0] * 5, [1] * 5])


def check(model, ids, labels):
    elsewhere = copy.deepcopy(model).to(DEVICE)
    for mask in (None, MASK):
        expected = model(ids, mask, labels=labels)
        output = elsewhere(
            *(part if part is None else part.to(DEVICE) for part in (ids, mask)), labels=labels.to(DEVICE)
        )
        torch.testing.assert_close(output.logits.cpu(), expected.logits, **CLOSE)
        torch.testing.assert_close(output.loss.cpu(), expected.loss, **CLOSE)
        expected.loss.backward()
        output.loss.backward()
        got = {name: gradient.cpu() for name, gradient in gradients_of(elsewhere).items()}
        assert_same_gradients(got, gradients_of(model), **CLOSE)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "concat"])
def test_texts_are_classified_as_on_a_cpu(make_model, cell, bidirectional, pooling):
    fields = {"bidirectional": bidirectional, "pooling": pooling, "num_labels": 3}
    model = make_model(cell, model_class=RNNForSequenceClassification, **fields).train()
    check(model, some_ids(5, 5), torch.tensor([0, 2, 1, 1, 0]))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_tokens_are_classified_as_on_a_cpu(make_model, cell, bidirectional):
    fields = {"bidirectional": bidirectional, "num_labels": 3}
    model = make_model(cell, model_class=RNNForTokenClassification, **fields).train()
    check(model, some_ids(5, 5), some_ids(5, 5, seed=1) % 3)


def test_words_are_read_by_characters_as_on_a_cpu(make_model, cell):
    tokenizer = build_wordpiece([["the", "cat", "sat", "the", "cat", "."]], pieces="characters")
    spelling = Spelling.of(tokenizer)
    fields = {"bidirectional": True, "character_embedding_size": 3, "character_hidden_size": 2, "num_labels": 3}
    model = make_model(cell, model_class=RNNForTokenClassification, **fields, **spelling.sizes).train()
    model.model.words.set_spelling(spelling)
    ids = torch.randint(1, len(tokenizer), (5, 5), generator=torch.Generator().manual_seed(0))
    check(model, ids, some_ids(5, 5, seed=1) % 3)
