"""Products and steps on a CPU: each way gives the same numbers, and the choice of one is kept."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf import RNNConfig
from rnn_hf.models import RNNLayer, kernels_rnn
from rnn_hf.models.kernels_rnn import CHOICES, InPlaceProduct, fastest, in_parts, packed, size_class, step, tanh


@given(
    batch=st.integers(1, 40), rows=st.integers(1, 13), width=st.integers(1, 9), seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_every_product_is_the_linear_layer(batch, rows, width, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    weight, bias, inputs = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((rows, width), (rows,), (batch, width))
    )
    expected = torch.nn.functional.linear(inputs, weight, bias)
    torch.testing.assert_close(in_parts(weight, bias)(inputs), expected)
    if dtype == torch.float32 and kernels_rnn.has_onednn(weight):
        torch.testing.assert_close(packed(weight, bias, batch)(inputs), expected)
    product = InPlaceProduct(weight, inputs[0], bias=bias)
    twice = InPlaceProduct(weight, inputs[0], onto=product.outputs)
    for _ in range(2):
        product()
        torch.testing.assert_close(product.outputs, expected[0])
        twice()
        torch.testing.assert_close(twice.outputs, 2 * expected[0] - bias)


@pytest.mark.parametrize("way", ["linear", "parts", "packed", "vector"])
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 7, 100])
@torch.no_grad()
def test_a_step_is_the_fused_module_in_single_precision_too(cell, batch, packs, way, choose):
    torch.manual_seed(0)
    config = RNNConfig(hidden_size=32, num_hidden_layers=1, tie_word_embeddings=False, **cell)
    layer = RNNLayer(config, 0).eval()
    choose("step", way)
    products = layer.step_products(batch, packs)
    if products is None:
        assert config.projection_size
        return
    inputs, hidden = torch.randn(batch, 1, 32), torch.randn(batch, 32).sigmoid()
    cell_state = torch.randn(batch, 32) if config.cell_type == "lstm" else None
    stepped = step(layer.kind, inputs[:, 0], hidden, cell_state, products)
    layer.steps_directly = False
    _, *fused = layer(inputs, hidden, cell_state)
    for mine, theirs in zip(stepped, fused, strict=True):
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)
            assert mine.is_contiguous()


@pytest.mark.parametrize("way", ["linear", "parts", "vector"])
def test_gradients_of_single_tokens_add_up_whatever_a_step_is_computed_with(cell, way, choose):
    torch.manual_seed(0)
    config = RNNConfig(hidden_size=8, num_hidden_layers=1, tie_word_embeddings=False, **cell)
    layer, inputs = RNNLayer(config, 0).double().eval(), torch.randn(1, 1, 8, dtype=torch.float64)
    choose("step", way)
    once = torch.autograd.grad(layer(inputs)[0].square().sum(), list(layer.parameters()))
    for _ in range(2):
        layer(inputs)[0].square().sum().backward()
    for parameter, gradient in zip(layer.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=0, atol=1e-14)


@pytest.mark.parametrize("way", ["whole", "parts", "numpy"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@torch.no_grad()
def test_steps_of_one_row_on_buffers_are_the_fused_module(cell, dtype, tolerance, way, choose):
    torch.manual_seed(0)
    layer = RNNLayer(RNNConfig(hidden_size=33, num_hidden_layers=1, tie_word_embeddings=False, **cell), 0)
    layer = layer.to(dtype).eval()
    inputs, hidden = torch.randn(1, 6, 33, dtype=dtype), torch.randn(1, 33, dtype=dtype).sigmoid()
    cell_state = torch.randn(1, 33, dtype=dtype) if layer.kind == "lstm" else None
    choose(way)
    steps = layer.one_row(hidden, cell_state)
    if steps is None:
        assert cell.get("projection_size")
        return
    given = (hidden.clone(), None if cell_state is None else cell_state.clone())
    expected, _, expected_cell = layer(inputs, hidden, cell_state)
    for time in range(6):
        steps.inputs[:] = inputs[0, time].numpy()
        steps.step()
        np.testing.assert_allclose(steps.hidden, expected[0, time].numpy(), rtol=0, atol=tolerance)
    if cell_state is not None:
        np.testing.assert_allclose(steps.cell, expected_cell[0].numpy(), rtol=0, atol=4 * tolerance)
        assert torch.equal(cell_state, given[1])
    assert torch.equal(hidden, given[0])


@given(st.floats(-30, 30, width=32))
def test_tanh_is_torchs_to_the_seventh_digit(x):
    x = torch.tensor(x)
    assert abs(tanh(x) - torch.tanh(x)) < 2e-7


# Choosing


@pytest.fixture
def choices(monkeypatch):
    """An empty table of choices, and a clock that goes on by what a way says it takes."""
    monkeypatch.setattr(kernels_rnn, "CHOICES", type(CHOICES)())
    clock = [0.0]
    monkeypatch.setattr(kernels_rnn.time, "perf_counter", lambda: clock[0])
    return kernels_rnn.CHOICES, lambda seconds: lambda: clock.__setitem__(0, clock[0] + seconds)


def test_the_fastest_way_is_chosen_once_for_each_number_of_threads(choices):
    table, takes = choices
    assert fastest("work", {"slow": takes(2), "fast": takes(1)}) == "fast"
    assert fastest("work", {"slow": takes(1), "fast": takes(2)}) == "fast"
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert fastest("work", {"slow": takes(1), "fast": takes(2)}) == "slow"
    finally:
        torch.set_num_threads(threads)
    assert table == {f"work, threads {threads}": "fast", f"work, threads {threads + 1}": "slow"}


def test_a_little_faster_is_not_enough_and_what_was_put_in_the_table_is_taken(choices):
    table, takes = choices
    assert fastest("work", {"first": takes(1), "second": takes(0.99)}) == "first"
    table[f"other, threads {torch.get_num_threads()}"] = "second"
    assert fastest("other", {"first": takes(1), "second": takes(9)}) == "second"


def test_a_way_that_fails_is_left_out_and_an_error_names_all_where_none_is_left(choices):
    _, takes = choices

    def fails():
        raise AttributeError("no such operator")

    assert fastest("work", {"private": fails, "public": takes(1)}) == "public"
    with pytest.raises(RuntimeError, match="other.*private: no such operator"):
        fastest("other", {"private": fails, "too": fails})


def test_without_measuring_the_first_way_is_taken_and_kept(choices):
    table, takes = choices
    table.measures = False
    assert fastest("work", {"first": takes(2), "second": takes(1)}) == "first"
    table.measures = True
    assert fastest("work", {"first": takes(2), "second": takes(1)}) == "first"


def test_shapes_of_one_class_lie_within_a_factor_of_two():
    assert size_class(1, 200, 256, 257) == "1x256x256x512"
