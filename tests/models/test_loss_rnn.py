"""The loss in parts is the cross entropy of all logits, and so are its gradients, whatever the parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rnn_hf.models import loss_rnn
from rnn_hf.models.loss_rnn import linear_cross_entropy, parts_of


@pytest.fixture(autouse=True, params=[False, True], ids=["in passes", "at once"])
def way_to_normalise(request, monkeypatch):
    """A CPU takes the first and a GPU the second."""
    monkeypatch.setattr(loss_rnn, "normalises_at_once", lambda device: request.param)


def example(rows: int, words: int, width: int = 3, dtype=torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(rows * words)
    tensors = [
        torch.randn(size, dtype=dtype, requires_grad=True) for size in ((rows, width), (words, width), (words,))
    ]
    return [*tensors, torch.randint(words, (rows,))]


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 9), words=st.integers(2, 13), held=st.integers(1, 60), fewest=st.integers(1, 6),
       most=st.integers(1, 6), smoothing=st.sampled_from([0.0, 0.1]), ignored=st.integers(0, 9))  # fmt: skip
def test_parts_do_not_show(rows, words, held, fewest, most, smoothing, ignored):
    inputs, weight, bias, targets = example(rows, words)
    targets[:ignored] = -100
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LOGITS_ON_CPU", held), ("FEWEST_ROWS", fewest), ("MOST_ROWS", most)):
            patch.setattr(loss_rnn, name, value)
        loss = linear_cross_entropy(inputs, weight, bias, targets, smoothing)
    logits = F.linear(inputs, weight, bias)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(3 * loss, [inputs, weight, bias])
    for one, other in zip(found, torch.autograd.grad(3 * expected, [inputs, weight, bias]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows, words", [(1, 10), (700, 10_000), (700, 50_000), (40, 250_000), (10**6, 10**6)])
def test_no_part_is_larger_than_what_may_be_held(rows, words):
    """Whole rows are taken where enough of them fit."""
    held = 1 << 22
    tokens, part = parts_of(rows, words, held)
    assert min(tokens, rows) * min(part, words) <= held
    assert part == words or words * 256 > held


@pytest.mark.parametrize("threads", [1, 2])
def test_single_precision_is_as_near_as_torch(threads):
    inputs, weight, bias, targets = example(50, 400, 16, torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    loss = linear_cross_entropy(inputs, weight, bias, targets)
    torch.set_num_threads(before)
    exact = F.cross_entropy(F.linear(inputs.double(), weight.double(), bias.double()), targets, reduction="sum")
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    for one, other in zip(
        torch.autograd.grad(loss, [inputs, weight]), torch.autograd.grad(exact, [inputs, weight]), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_unlikely_words_have_a_finite_loss():
    """A probability that float32 cannot hold still has a logarithm."""
    inputs, weight = torch.full((1, 1), 300.0, requires_grad=True), torch.tensor([[1.0], [-1.0]])
    loss = linear_cross_entropy(inputs, weight, torch.zeros(2), torch.tensor([1]))
    assert loss.item() == 600.0
    loss.backward()
    assert inputs.grad.item() == 2.0


def test_under_autocast_products_alone_are_of_half_precision():
    inputs, weight, bias, targets = example(50, 400, 16, torch.float32)
    exact = linear_cross_entropy(inputs, weight, bias, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(inputs, weight, bias, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=0)
    gradients = [torch.autograd.grad(value, [inputs, weight, bias]) for value in (loss, exact)]
    for one, other in zip(*gradients, strict=True):
        assert one.dtype == torch.float32 and (one - other).norm() < 0.05 * other.norm()


@pytest.mark.parametrize("context, products", [(torch.enable_grad, 3), (torch.no_grad, 1), (torch.inference_mode, 1)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_products_for_gradients_are_computed_only_where_they_are_wanted(context, products, smoothing, monkeypatch):
    inputs, weight, bias, targets = example(5, 7)  # leaves, as parameters are
    calls = []
    ways = {name: lambda *given, way=way: calls.append(1) or way(*given) for name, way in loss_rnn.PRODUCTS.items()}
    monkeypatch.setattr(loss_rnn, "PRODUCTS", ways)
    with context():
        linear_cross_entropy(inputs, weight, bias, targets, smoothing)
    assert len(calls) == products
    calls.clear()
    linear_cross_entropy(*(tensor.detach() for tensor in (inputs, weight, bias)), targets)
    assert len(calls) == 1


@pytest.mark.parametrize("way", loss_rnn.PRODUCTS)
@pytest.mark.parametrize("words", [30, 9000])
def test_every_product_gives_the_loss_and_the_gradients(way, words, choose):
    choose(way)
    exact = example(20, words, 16)
    single = [tensor.detach().float().requires_grad_() for tensor in exact[:3]]
    loss, expected = linear_cross_entropy(*single, exact[3]), linear_cross_entropy(*exact)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    pairs = zip(torch.autograd.grad(loss, single), torch.autograd.grad(expected, exact[:3]), strict=True)
    for found, right in pairs:
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-6)


def test_gradients_are_given_once():
    inputs, weight, bias, targets = example(5, 7)
    loss = linear_cross_entropy(inputs, weight, bias, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="`skip_logits=False`"):
        loss.backward()


def test_second_derivatives_are_refused_and_not_wrong():
    inputs, weight, bias, targets = example(5, 7)
    loss = linear_cross_entropy(inputs * 1, weight, bias, targets)
    (gradient,) = torch.autograd.grad(loss.square(), [inputs], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("wrong", [7, -1])
def test_a_target_that_is_no_word_is_refused(wrong):
    inputs, weight, bias, targets = example(5, 7)
    targets[2] = wrong
    with pytest.raises(RuntimeError, match="out of bounds"):
        linear_cross_entropy(inputs, weight, bias, targets)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_has_gradients_in_it(dtype):
    exact = example(50, 400, 16, torch.float32)
    half = [tensor.detach().to(dtype).requires_grad_() for tensor in exact[:3]]
    exact = [tensor.detach().float().requires_grad_() for tensor in half] + [exact[3]]
    loss, expected = linear_cross_entropy(*half, exact[3]), linear_cross_entropy(*exact)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    found = torch.autograd.grad(loss, half)
    for one, other in zip(found, torch.autograd.grad(expected, exact[:3]), strict=True):
        assert one.dtype == dtype and (one.float() - other).norm() < 0.02 * other.norm()


def test_many_parts_are_summed_as_exactly_as_one_in_half_precision(monkeypatch):
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in example(2048, 30, 16, torch.float32)[:3]]
    targets = torch.randint(30, (2048,))
    exact = [tensor.detach().double().requires_grad_() for tensor in half]
    expected = torch.autograd.grad(linear_cross_entropy(*exact, targets), exact)
    errors = []
    for held in (2048 * 30, 32 * 30):  # one part, and 64
        monkeypatch.setattr(loss_rnn, "LOGITS_ON_CPU", held)
        monkeypatch.setattr(loss_rnn, "FEWEST_ROWS", 1)
        found = torch.autograd.grad(linear_cross_entropy(*half, targets), half)
        errors.append([(one.double() - right).norm() for one, right in zip(found, expected, strict=True)])
    for many, one in zip(errors[1], errors[0], strict=True):
        assert many <= 1.2 * one
