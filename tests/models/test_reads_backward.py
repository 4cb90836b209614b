"""Laws of networks that read from the end: they are the forward networks of reversed text."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st
from networks import assert_same_gradients, gradients_of, some_ids
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from rnn_hf import RNNConfig, RNNForSequenceClassification, RNNForTokenClassification


KINDS = {"texts": RNNForSequenceClassification, "tokens": RNNForTokenClassification}
AUTO = {"texts": AutoModelForSequenceClassification, "tokens": AutoModelForTokenClassification}
POOLINGS = ["last", "mean", "max", "concat"]
# Left, right and interior padding, a single token, padding alone, none.
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [0] * 5, [1] * 5])
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

all_heads = pytest.mark.parametrize(
    "kind, pooling", [("tokens", "last"), *(("texts", pooling) for pooling in POOLINGS)]
)


@pytest.fixture(scope="session")
def make_pair(make_model):
    """`make_pair(kind, cell, **fields)`: a classifier that reads backward, and a forward one of the same weights."""

    def make(kind, cell, **fields):
        fields = {"num_labels": 3, "model_class": KINDS[kind], **fields}
        return make_model(cell, reads_backward=True, **fields), make_model(cell, **fields)

    return make


@st.composite
def masks(draw):
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    row = st.lists(st.booleans(), min_size=time, max_size=time)
    return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))


# Classifiers


@all_heads
@given(mask=masks())
def test_it_is_the_forward_classifier_of_the_reversed_text(make_pair, cell, kind, pooling, mask):
    (backward, forward), ids = make_pair(kind, cell, pooling=pooling), some_ids(*mask.shape, seed=7)
    got = backward(ids, mask, output_hidden_states=True)
    for row in range(len(mask)):
        text = ids[row, mask[row]]
        if not len(text):
            continue
        expected = forward(text.flip(0)[None], output_hidden_states=True)
        if kind == "tokens":
            torch.testing.assert_close(got.logits[row, mask[row]], expected.logits[0].flip(0), **CLOSE)
        else:
            torch.testing.assert_close(got.logits[row], expected.logits[0], **CLOSE)
        for layer, of_reversed in zip(got.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(layer[row, mask[row]], of_reversed[0].flip(0), **CLOSE)


@all_heads
def test_a_text_without_a_mask_is_read_from_its_end(make_pair, cell, kind, pooling):
    (backward, forward), ids = make_pair(kind, cell, pooling=pooling), some_ids()
    expected = forward(ids.flip(1)).logits
    torch.testing.assert_close(backward(ids).logits, expected.flip(1) if kind == "tokens" else expected, **EXACT)
    by_embeddings = backward(inputs_embeds=backward.get_input_embeddings()(ids)).logits
    torch.testing.assert_close(by_embeddings, backward(ids).logits, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_its_last_output_is_at_the_first_token(make_pair, cell, kind):
    (model, _), ids = make_pair(kind, cell), some_ids(1, 5)
    (outputs,) = model(ids, output_hidden_states=True).hidden_states[-1]
    where = outputs if kind == "tokens" else outputs[0]
    torch.testing.assert_close(model(ids).logits[0], model.score(where), **CLOSE)


def test_padding_shows_the_real_token_after_it(make_pair, cell):
    (model, _), ids = make_pair("tokens", cell), some_ids(6, 5)
    logits = model(ids, MASK).logits
    for row, time in (MASK == 0).nonzero().tolist():
        after = MASK[row, time:].nonzero()
        expected = logits[row, time + after[0, 0]] if len(after) else model.score.bias
        torch.testing.assert_close(logits[row, time], expected, **CLOSE)


@all_heads
def test_gradients_are_those_of_the_forward_classifier(make_pair, cell, kind, pooling):
    (backward, forward), ids, labels = make_pair(kind, cell, pooling=pooling), some_ids(6, 5), some_ids(1, 6)[0] % 3
    if kind == "tokens":
        labels = torch.where(MASK == 1, some_ids(6, 5, seed=2) % 3, -100)
    backward(ids, MASK, labels=labels).loss.backward()
    is_flipped = kind == "tokens"
    forward(ids.flip(1), MASK.flip(1), labels=labels.flip(1) if is_flipped else labels).loss.backward()
    assert_same_gradients(gradients_of(backward), gradients_of(forward), **CLOSE)


def test_positions_and_a_longer_mask_are_those_of_the_text(make_pair):
    (model, _), ids = make_pair("texts", {}), some_ids(6, 5)
    positions = (MASK.cumsum(1) - 1).masked_fill(MASK == 0, 1)  # as pipelines make them
    expected = model(ids, MASK).logits
    torch.testing.assert_close(model(ids, MASK, position_ids=positions).logits, expected, **EXACT)
    longer = torch.cat([torch.ones(6, 2), MASK], dim=1)
    torch.testing.assert_close(model(ids, longer).logits, expected, **EXACT)
    with pytest.raises(ValueError, match="several texts"):
        model(ids, position_ids=torch.tensor([[0, 1, 2, 0, 1]]).expand(6, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_is_loaded(make_pair, cell, tmp_path, kind):
    (model, _), ids = make_pair(kind, cell), some_ids(6, 5)
    model.save_pretrained(tmp_path)
    loaded = AUTO[kind].from_pretrained(tmp_path, dtype="auto")
    assert loaded.config.reads_backward
    torch.testing.assert_close(loaded(ids, MASK).logits, model(ids, MASK).logits, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_takes_the_direction_of_the_language_model_that_it_starts_from(make_model, cell, tmp_path, kind):
    make_model(cell, reads_backward=True).save_pretrained(tmp_path)
    assert AUTO[kind].from_pretrained(tmp_path, num_labels=3).config.reads_backward


# Configurations


def test_an_older_configuration_reads_forward(tmp_path):
    RNNConfig(reads_backward=True).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    fields = json.loads(file.read_text())
    assert fields.pop("reads_backward") is True
    file.write_text(json.dumps(fields))
    assert RNNConfig.from_pretrained(tmp_path).reads_backward is False


@pytest.mark.parametrize("fields", [
    {"bidirectional": True},
    {"character_embedding_size": 2, "character_hidden_size": 2, "num_characters": 3, "num_spelled_characters": 4,
     "num_word_rows": 5},
])  # fmt: skip
def test_networks_of_whole_texts_do_not_read_backward(fields):
    with pytest.raises(StrictDataclassError) as caught:
        RNNConfig(reads_backward=True, **fields)
    assert "`reads_backward`" in str(caught.value.__cause__) and f"`{next(iter(fields))}`" in str(
        caught.value.__cause__
    )


# Language models


def test_a_language_model_reads_what_it_is_given(make_model, cell):
    backward, ids = make_model(cell, reads_backward=True), some_ids()
    forward = make_model(cell)
    torch.testing.assert_close(backward(ids, labels=ids).loss, forward(ids, labels=ids).loss, **EXACT)


def test_a_language_model_does_not_generate(make_model):
    model = make_model({}, reads_backward=True)
    with pytest.raises(ValueError, match="`reads_backward=True`"):
        model.generate(some_ids(), max_new_tokens=2)
