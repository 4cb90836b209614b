"""The package computes the equations: logits, states, loss and every gradient agree with a NumPy reference."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf import RNNCache, RNNForTokenClassification, RNNModel


TOLERANCE = 1e-9


def network_of(model) -> reference.Network:
    """The reference with the parameters of a package model."""
    arrays = {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}
    return reference.from_parameters(arrays, model.config.cell_type, model.config.hidden_act)


def random_state(model, batch: int, rng: np.random.Generator) -> list[tuple]:
    states = []
    for _, hidden_size in model.config.layer_sizes:
        hidden = rng.uniform(-1, 1, (batch, model.config.projection_size or hidden_size))
        memory = rng.uniform(-1, 1, (batch, hidden_size)) if model.config.cell_type == "lstm" else None
        states.append((hidden, memory))
    return states


def cache_of(model, states: list[tuple]) -> RNNCache:
    """A package state with the given numbers, as leaves that collect gradients."""
    cache = RNNCache(model.config)
    for layer, parts in zip(cache.layers, states, strict=True):
        layer.update(*(None if part is None else torch.tensor(part, requires_grad=True) for part in parts), 0)
    return cache


def assert_equal(got, expected: np.ndarray, what: str = ""):
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


@st.composite
def problems(draw):
    """Sizes that all differ where they may, tied or not, with an output projection or not, with a state or not."""
    sizes = {
        "vocab_size": draw(st.integers(2, 8)),
        "embedding_size": draw(st.integers(2, 4)),
        "hidden_size": draw(st.integers(5, 7)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "tie_word_embeddings": draw(st.booleans()),
        "output_projection_size": draw(st.sampled_from([None, 4])),
    }
    batch, time = draw(st.integers(1, 4)), draw(st.integers(2, 7))
    return sizes, batch, time, draw(st.booleans()), draw(st.integers(0, 2**16))


def pose(make_model, cell: dict, problem) -> tuple:
    sizes, batch, time, has_state, seed = problem
    if cell.get("projection_size") and sizes["tie_word_embeddings"]:
        sizes = {**sizes, "embedding_size": cell["projection_size"]}
    if sizes["output_projection_size"] and sizes["tie_word_embeddings"]:
        sizes = {**sizes, "output_projection_size": sizes["embedding_size"]}
    model = make_model(cell, seed=seed, **sizes)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, sizes["vocab_size"], (batch, time))
    labels = np.where(rng.random((batch, time)) < 0.3, -100, ids)
    labels[0, 1] = ids[0, 1]  # shifting drops the first label: one at least must count
    return model, ids, labels, random_state(model, batch, rng) if has_state else None


@given(problem=problems())
def test_logits_and_states_equal_the_reference(make_model, cell, problem):
    model, ids, _, states = pose(make_model, cell, problem)
    cache = None if states is None else cache_of(model, states)
    output = model(torch.tensor(ids), cache=cache)

    logits, after = network_of(model).forward(ids, states)
    assert_equal(output.logits, logits)
    for layer, (hidden, memory) in zip(output.cache.layers, after, strict=True):
        assert_equal(layer.keys, hidden)
        assert (layer.values is None) == (memory is None)
        if memory is not None:
            assert_equal(layer.values, memory)


@pytest.mark.parametrize("way", ["labels", "shift_labels", "skip_logits"])
@given(problem=problems())
def test_loss_and_every_gradient_equal_the_reference(make_model, cell, way, problem):
    model, ids, labels, states = pose(make_model, cell, problem)
    shifted = np.concatenate([labels[:, 1:], np.full((len(labels), 1), -100)], axis=1)
    arguments = {
        "labels": {"labels": torch.tensor(labels)},
        "shift_labels": {"shift_labels": torch.tensor(shifted)},
        "skip_logits": {"shift_labels": torch.tensor(shifted), "skip_logits": True},
    }[way]
    cache = None if states is None else cache_of(model, states)
    before = [] if cache is None else [(layer.keys, layer.values) for layer in cache.layers]
    output = model(torch.tensor(ids), cache=cache, **arguments)
    output.loss.backward()
    assert (output.logits is None) == (way == "skip_logits")

    network = network_of(model)
    loss, dlogits = reference.cross_entropy(network.forward(ids, states)[0], shifted)
    gradients = network.backward(dlogits)
    assert_equal(output.loss, loss)
    expected = reference.by_parameter(gradients)
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert_equal(parameter.grad, expected[name], name)
    for parts, of_parts in zip(before, gradients["states"], strict=False):
        for part, of_part in zip(parts, of_parts, strict=True):
            assert part is None or np.allclose(part.grad.numpy(), of_part, TOLERANCE, TOLERANCE)


def bidirectional_network(make_model, cell: dict, **fields) -> tuple:
    """A backbone of two directions, and the reference: its outputs stand where that has logits."""
    model = make_model(cell, model_class=RNNModel, bidirectional=True, **fields)
    arrays = {f"model.{name}": parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}
    size = model.config.output_size
    arrays |= {"lm_head.weight": np.eye(size), "lm_head.bias": np.zeros(size)}
    return model, reference.from_parameters(arrays, model.config.cell_type, model.config.hidden_act)


@given(batch=st.integers(1, 3), time=st.integers(1, 6), num_layers=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_outputs_and_every_gradient_of_both_directions_equal_the_reference(
    make_model, cell, batch, time, num_layers, seed
):
    model, network = bidirectional_network(make_model, cell, seed=seed, num_hidden_layers=num_layers)
    rng = np.random.default_rng(seed)
    ids, weights = rng.integers(0, 11, (batch, time)), rng.normal(size=(batch, time, model.config.output_size))
    outputs = model(torch.tensor(ids)).last_hidden_state
    (outputs * torch.tensor(weights)).sum().backward()

    assert_equal(outputs, network.forward(ids)[0])
    expected = reference.by_parameter(network.backward(weights))
    for name, parameter in model.named_parameters():
        assert_equal(parameter.grad, expected.pop(f"model.{name}"), name)
    assert expected.keys() == {"lm_head.weight", "lm_head.bias"}


@pytest.mark.parametrize("bidirectional", [False, True])
@given(problem=problems())
def test_loss_and_every_gradient_of_a_classifier_of_tokens_equal_the_reference(
    make_model, cell, bidirectional, problem
):
    sizes, batch, time, _, seed = problem
    fields = {**sizes, "tie_word_embeddings": False, "bidirectional": bidirectional, "num_labels": 3}
    model = make_model(cell, seed=seed, model_class=RNNForTokenClassification, **fields)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, sizes["vocab_size"], (batch, time))
    labels = np.where(rng.random((batch, time)) < 0.3, -100, rng.integers(0, 3, (batch, time)))
    labels[0, 0] = 1  # one at least must count
    output = model(torch.tensor(ids), labels=torch.tensor(labels))
    output.loss.backward()

    arrays = {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}
    network = reference.from_parameters(arrays, model.config.cell_type, model.config.hidden_act, head="score")
    loss, dlogits = reference.cross_entropy(network.forward(ids)[0], labels)
    assert_equal(output.loss, loss)
    expected = reference.by_parameter(network.backward(dlogits), head="score")
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert_equal(parameter.grad, expected[name], name)


def test_reference_gradients_equal_finite_differences(make_model, cell):
    # Without this the two could agree on a wrong derivative; nothing of the package takes part but the numbers.
    rng = np.random.default_rng(1)
    model = make_model(cell, num_hidden_layers=2, tie_word_embeddings=False, vocab_size=4, output_projection_size=2)
    check_gradients(network_of(model), random_state(model, 2, rng), rng)


@pytest.mark.slow
def test_reference_gradients_of_both_directions_equal_finite_differences(make_model, cell):
    _, network = bidirectional_network(make_model, cell, vocab_size=4, hidden_size=4)
    check_gradients(network, network.zero_states(2), np.random.default_rng(1))


def check_gradients(network: reference.Network, states: list[tuple], rng: np.random.Generator):
    ids, targets = rng.integers(0, 4, (2, 4)), rng.integers(0, 4, (2, 4))
    targets[0, 2] = -100

    def loss() -> float:
        return reference.cross_entropy(network.forward(ids, states)[0], targets)[0]

    gradients = network.backward(reference.cross_entropy(network.forward(ids, states)[0], targets)[1])
    pairs = [(network.embedding, gradients["embedding"]), (network.output_weight, gradients["output_weight"])]
    pairs += [(network.output_bias, gradients["output_bias"])]
    for name, of_name in (gradients["output_projection"] or {}).items():
        pairs.append((network.output_projection[name], of_name))
    for p, of_p in zip(network.reverse or [], gradients["reverse"], strict=True):
        pairs += [(p[name], of_p[name]) for name in p]
    for p, of_p, parts, of_parts in zip(network.layers, gradients["layers"], states, gradients["states"], strict=True):
        pairs += [(p[name], of_p[name]) for name in p]
        pairs += [pair for pair in zip(parts, of_parts, strict=True) if pair[0] is not None]
    step = 1e-6
    for values, of_values in pairs:
        for place in np.ndindex(values.shape):
            kept = values[place]
            values[place] = kept + step
            above = loss()
            values[place] = kept - step
            below = loss()
            values[place] = kept
            assert abs((above - below) / (2 * step) - of_values[place]) < 1e-7


def test_reference_ties_the_output_to_the_embedding():
    """A tied gradient is the sum of the two untied ones."""
    rng = np.random.default_rng(2)
    embedding = rng.normal(size=(5, 3))
    shapes = {"weight_ih": (3, 3), "weight_hh": (3, 3), "bias_ih": (3,), "bias_hh": (3,)}
    layers = [{name: rng.normal(size=shape) for name, shape in shapes.items()}]
    ids, targets = rng.integers(0, 5, (2, 4)), rng.integers(0, 5, (2, 4))
    of_tied, of_untied = (
        network.backward(reference.cross_entropy(network.forward(ids)[0], targets)[1])
        for network in (
            reference.Network(reference.Elman(), embedding, layers, np.zeros(5)),
            reference.Network(reference.Elman(), embedding, layers, np.zeros(5), embedding.copy()),
        )
    )
    np.testing.assert_allclose(of_tied["embedding"], of_untied["embedding"] + of_untied["output_weight"])
