"""The ONNX graph of a classifier: PyTorch's numbers at every position, any padding, of one's own row alone."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rnn_hf import RNNConfig, RNNForCausalLM, RNNForSequenceClassification, RNNForTokenClassification, RNNModel
from rnn_hf.data.wordpiece import build_wordpiece
from rnn_hf.models.cache_rnn import identity_of
from rnn_hf.models.words_rnn import Spelling
from rnn_hf.onnx.classifier_graph import build_classifier_graph


POOLINGS = ["last", "mean", "max", "concat"]
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
# 1 at real tokens: padding at the right, the left, between, everywhere; a row without any.
MASKS = [
    [[1]],
    [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 1],
        [0, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 0, 0, 0],
    ],
    [[0, 0, 0], [1, 1, 0]],
    [[0, 0]],
    [[1] * 40, [0] * 39 + [1]],
]
TOKENIZER = build_wordpiece(
    [["the", "cat", "sat", "unforgettable"], ["the", "cats"]], min_frequency=1, pieces="characters"
)
SPELLING = Spelling.of(TOKENIZER)


def make(kind, seed=0, **fields):
    """A tiny float32 classifier with every parameter random."""
    sizes = {"vocab_size": 11, "embedding_size": 3, "hidden_size": 5, "num_hidden_layers": 2, "num_labels": 3}
    torch.manual_seed(seed)
    model = kind(RNNConfig(**{**sizes, "tie_word_embeddings": False, **fields})).eval()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.8, 0.8)
    if model.model.words is not None:
        model.model.words.set_spelling(SPELLING)
    return model


def make_of_words(kind, **fields):
    """One that reads the characters of words."""
    sizes = {"character_embedding_size": 4, "character_hidden_size": 3, "bidirectional": True, **SPELLING.sizes}
    return make(kind, **{**sizes, **fields})


def session_of(model):
    proto = build_classifier_graph(model)
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def by_onnx(session, ids, mask):
    return session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]


@torch.no_grad()
def by_torch(model, ids, mask):
    return model(input_ids=ids, attention_mask=mask).logits.numpy()


def batches(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for rows in MASKS:
        mask = torch.tensor(rows)
        yield torch.randint(model.config.vocab_size, mask.shape, generator=generator), mask


def assert_near(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)


def assert_same(model):
    session = session_of(model)
    for ids, mask in batches(model):
        assert_near(by_onnx(session, ids, mask), by_torch(model, ids, mask))


@DIRECTIONS
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_classifier_of_texts_has_pytorchs_logits_any_padding(cell, bidirectional, pooling):
    assert_same(make(RNNForSequenceClassification, bidirectional=bidirectional, pooling=pooling, **cell))


@DIRECTIONS
def test_a_classifier_of_tokens_has_pytorchs_logits_at_padding_too(cell, bidirectional):
    assert_same(make(RNNForTokenClassification, bidirectional=bidirectional, **cell))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.usual_cells("lstm")
def test_a_classifier_that_reads_backward_has_pytorchs_logits_any_padding(cell, pooling):
    assert_same(make(RNNForSequenceClassification, reads_backward=True, pooling=pooling, **cell))
    assert_same(make(RNNForTokenClassification, reads_backward=True, **cell))


@DIRECTIONS
@pytest.mark.parametrize("limit", [32, 5, 2])
@pytest.mark.usual_cells("lstm")
def test_words_are_put_together_and_spelled_as_in_pytorch(cell, bidirectional, limit):
    fields = {"num_hidden_layers": 1, "bidirectional": bidirectional, "max_word_characters": limit, **cell}
    assert_same(make_of_words(RNNForTokenClassification, **fields))
    assert_same(make_of_words(RNNForSequenceClassification, pooling="concat", **fields))


@pytest.mark.parametrize("build", [make, make_of_words], ids=["tokens", "words"])
@pytest.mark.parametrize("kind", [RNNForSequenceClassification, RNNForTokenClassification])
def test_a_row_has_the_logits_of_its_text_alone(build, kind):
    model = build(kind, bidirectional=True, pooling="concat")
    session = session_of(model)
    for ids, mask in batches(model):
        logits = by_onnx(session, ids, mask)
        for row, real in enumerate(mask.bool()):
            if real.any():
                alone = ids[row, real][None]
                expected = by_onnx(session, alone, torch.ones_like(alone))[0]
                assert_near(logits[row][real.numpy()] if kind is RNNForTokenClassification else logits[row], expected)


def test_text_by_the_tokenizer_has_pytorchs_logits():
    model = make_of_words(RNNForTokenClassification)
    texts = [["the", "unforgettable", "Cats", "sat"], ["cat"], ["[UNK]", "zzz", "unforgettablecatsatcats" * 3]]
    inputs = TOKENIZER(texts, is_split_into_words=True, padding=True, return_tensors="pt")
    logits = by_onnx(session_of(model), inputs.input_ids, inputs.attention_mask)
    assert_near(logits, by_torch(model, **{"ids": inputs.input_ids, "mask": inputs.attention_mask}))
    assert len(np.unique(logits.round(4))) > 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_every_type_are_float32_in_the_file(dtype):
    for build in (make, make_of_words):
        model = build(RNNForTokenClassification).to(dtype)
        weights, expected = (build_classifier_graph(each).graph.initializer for each in (model, model.float()))
        assert {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}.isdisjoint(
            weight.data_type for weight in weights
        )
        assert [weight.SerializeToString() for weight in weights] == [w.SerializeToString() for w in expected]


@pytest.mark.parametrize("kind", [RNNForSequenceClassification, RNNForTokenClassification])
def test_names_shapes_and_types_in_the_metadata_are_the_sessions_own(kind):
    model = make(kind)
    session = session_of(model)
    metadata = session.get_modelmeta().custom_metadata_map
    types = {"tensor(int64)": "int64", "tensor(float)": "float32"}
    real = {
        side: [{"name": value.name, "shape": value.shape, "dtype": types[value.type]} for value in values]
        for side, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs()))
    }
    assert json.loads(metadata["interface"]) == real and metadata["identity"] == identity_of(model)
    assert [value["name"] for value in real["inputs"]] == ["input_ids", "attention_mask"]
    is_of_tokens = kind is RNNForTokenClassification
    assert real["outputs"][0]["shape"] == (["batch", "sequence", 3] if is_of_tokens else ["batch", 3])
    assert metadata["task"] == ("token-classification" if is_of_tokens else "text-classification")


def test_spellings_take_little_more_than_in_pytorch():
    model = make_of_words(RNNForTokenClassification)
    content = {weight.name: len(weight.raw_data) for weight in build_classifier_graph(model).graph.initializer}
    tables = {name: size for name, size in content.items() if name.startswith("words.") and "layer" not in name}
    buffers = sum(buffer.nbytes for buffer in model.model.words.buffers())
    assert sum(tables.values()) <= buffers + 4 * model.config.vocab_size + tables["words.embed_characters.weight"] + 9


@pytest.mark.parametrize("kind", [RNNForCausalLM, RNNModel])
def test_what_is_no_classifier_is_refused(kind):
    with pytest.raises(ValueError, match=f"`model` must be a classifier of this package, not {kind.__name__}"):
        build_classifier_graph(kind(RNNConfig(vocab_size=11, hidden_size=4)))
