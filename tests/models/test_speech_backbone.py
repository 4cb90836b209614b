"""The network over features in place of tokens: `input_size`."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st
from networks import assert_same_gradients, gradients_of
from safetensors.torch import load_file
from transformers import AutoModel

from rnn_hf import (
    RNNCache,
    RNNConfig,
    RNNForCausalLM,
    RNNForSequenceClassification,
    RNNForTokenClassification,
    RNNModel,
)


CLOSE = {"rtol": 1e-12, "atol": 1e-12}
WIDTH = 4

both_directions = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "two directions"])


@pytest.fixture(scope="session")
def make_backbone(make_model):
    """`make_backbone(cell, **fields)`: as `make_model`, over features."""

    def make(cell, **fields):
        return make_model(cell, model_class=RNNModel, **{"input_size": WIDTH, **fields})

    return make


def some_features(batch: int = 2, time: int = 7, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, time, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@st.composite
def masks(draw):
    """At least one real step a row."""
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    row = st.lists(st.booleans(), min_size=time, max_size=time).filter(any)
    return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))


@both_directions
def test_features_are_read_as_embeddings_that_a_linear_layer_made_of_them(
    make_backbone, make_model, cell, bidirectional
):
    model = make_backbone(cell, bidirectional=bidirectional)
    of_tokens = make_model(cell, model_class=RNNModel, bidirectional=bidirectional, tie_word_embeddings=False)
    of_tokens.layers.load_state_dict(model.layers.state_dict())
    features, mask = some_features(), torch.tensor([[1] * 7, [0, 0, 1, 1, 0, 1, 1]])
    embeds = features @ model.input_projection.weight.T + model.input_projection.bias
    for given_mask in (None, mask):
        got = model(inputs_embeds=features, attention_mask=given_mask).last_hidden_state
        expected = of_tokens(inputs_embeds=embeds, attention_mask=given_mask).last_hidden_state
        torch.testing.assert_close(got, expected, **CLOSE)


@both_directions
@given(mask=masks())
def test_a_row_in_a_batch_is_read_as_alone_whatever_stands_at_padding(make_backbone, cell, bidirectional, mask):
    model = make_backbone(cell, bidirectional=bidirectional)
    features = some_features(*mask.shape).masked_fill(~mask[..., None], float("nan"))
    outputs = model(inputs_embeds=features, attention_mask=mask, output_hidden_states=True)
    for row in range(len(mask)):
        real = mask[row]
        alone = model(inputs_embeds=features[row, real][None], output_hidden_states=True)
        for got, expected in zip(outputs.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(got[row, real], expected[0], **CLOSE)


@both_directions
@pytest.mark.parametrize("shows", [False, True], ids=["outputs alone", "hidden states"])
def test_gradients_of_a_batch_are_those_of_its_rows(make_backbone, cell, bidirectional, shows):
    model = make_backbone(cell, bidirectional=bidirectional)
    mask = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]]).bool()
    features = some_features(3, 4).masked_fill(~mask[..., None], float("nan"))
    outputs = model(inputs_embeds=features, attention_mask=mask, output_hidden_states=shows).last_hidden_state
    outputs[mask].square().sum().backward()
    expected = gradients_of(model)
    for row in range(3):
        model(inputs_embeds=features[row, mask[row]][None]).last_hidden_state.square().sum().backward()
    assert_same_gradients(gradients_of(model), expected, rtol=1e-10, atol=1e-10)
    assert all((gradient != 0).any() for gradient in expected.values())


@given(cuts=st.lists(st.integers(1, 6), max_size=3, unique=True).map(sorted))
def test_features_in_parts_are_read_as_the_whole(make_backbone, cell, cuts):
    model, features = make_backbone(cell), some_features()
    whole, state = model(inputs_embeds=features, use_cache=True), RNNCache(model.config)
    parts = features.tensor_split(cuts, dim=1)
    outputs = [model(inputs_embeds=part, cache=state).last_hidden_state for part in parts]
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole.last_hidden_state, **CLOSE)
    for got, expected in zip(state, whole.cache, strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


def test_nothing_is_an_embedding_of_tokens(make_backbone, cell, tmp_path):
    model = make_backbone(cell, vocab_size=1000, tie_word_embeddings=True)
    assert model.embed_tokens is None and model.config.layer_sizes[-1][1] == model.config.hidden_size
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert not [name for name in saved if "embed_tokens" in name]
    assert saved["input_projection.weight"].shape == (model.config.embedding_size, WIDTH)
    again = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    features = some_features()
    got, expected = (each(inputs_embeds=features).last_hidden_state for each in (again, model))
    torch.testing.assert_close(got, expected, **CLOSE)


def test_a_fresh_projection_is_initialised_as_other_linear_layers():
    model = RNNModel(RNNConfig(input_size=50, hidden_size=40, initializer_range=0.25))
    weight = model.input_projection.weight
    assert weight.abs().max() <= 0.25 and abs(weight.std() - 0.25 / 3**0.5) < 0.01
    assert (model.input_projection.bias == 0).all()


def test_features_have_the_type_of_the_weights(make_backbone):
    model = make_backbone({}).float()
    outputs = model(inputs_embeds=some_features()).last_hidden_state
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, model(inputs_embeds=some_features().float()).last_hidden_state)


def test_ids_are_refused_and_features_of_another_width(make_backbone):
    model, features = make_backbone({}), some_features()
    ids = torch.ones(2, 7, dtype=torch.long)
    for inputs in ({"input_ids": ids}, {"input_ids": ids, "inputs_embeds": features}, {}):
        with pytest.raises(ValueError, match="`input_size` reads features.*no `input_ids`"):
            model(**inputs)
    with pytest.raises(ValueError, match=r"`inputs_embeds` must be `input_size` \(4\) wide"):
        model(inputs_embeds=features[..., :3])
    with pytest.raises(ValueError, match="`resize_token_embeddings` is not for a network with `input_size`"):
        model.resize_token_embeddings(5)


@pytest.mark.parametrize("kind", [RNNForCausalLM, RNNForSequenceClassification, RNNForTokenClassification])
def test_models_of_text_are_refused(kind):
    with pytest.raises(ValueError, match="is not for a network with `input_size`"):
        kind(RNNConfig(input_size=4))


@pytest.mark.parametrize(
    "fields",
    [
        {"embedding_dropout": 0.1},
        {"reads_backward": True},
        {
            "character_embedding_size": 2, "character_hidden_size": 2, "num_characters": 5,
            "num_spelled_characters": 9, "num_word_rows": 3,
        },
    ],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_fields_of_networks_that_read_tokens_are_refused(fields):
    RNNConfig(**fields)
    with pytest.raises(StrictDataclassError, match=f"`{next(iter(fields))}` does not go with `input_size`"):
        RNNConfig(input_size=4, **fields)
    with pytest.raises(StrictDataclassError, match="`input_size` must be at least 1"):
        RNNConfig(input_size=0)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(make_backbone, cell, use_reentrant):
    model, features = make_backbone(cell).train(), some_features()
    model(inputs_embeds=features).last_hidden_state.square().sum().backward()
    expected = gradients_of(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    model(inputs_embeds=features).last_hidden_state.square().sum().backward()
    assert_same_gradients(gradients_of(model), expected)


def test_autocast_reads_features_with_layers_in_the_type_of_their_weights(make_backbone, cell):
    model, features = make_backbone(cell).float(), some_features()
    mask = torch.tensor([[1] * 7, [1, 0] * 3 + [1]])
    expected = model(inputs_embeds=features, attention_mask=mask).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(inputs_embeds=features, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(outputs.float(), expected, rtol=0.05, atol=0.05)
