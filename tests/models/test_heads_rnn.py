"""Pooling over real tokens, and losses: against NumPy, and added up over parts of a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf.models.heads_rnn import POOLINGS, pool, pooled_size, text_loss, token_loss


CLOSE = {"rtol": 1e-12, "atol": 1e-12}
KINDS = [*POOLINGS, "concat"]


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pooled_by_hand(rows: np.ndarray, kind: str, num_directions: int) -> np.ndarray:
    """`(T, H)` of real tokens alone."""
    if not len(rows):
        return np.zeros(pooled_size(rows.shape[1], kind))
    size = rows.shape[1] // num_directions
    last = np.concatenate([rows[-1, :size], rows[0, size:]])
    parts = {"last": last, "max": rows.max(0), "mean": rows.mean(0)}
    return np.concatenate(list(parts.values())) if kind == "concat" else parts[kind]


@st.composite
def masks(draw):
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    row = st.lists(st.booleans(), min_size=time, max_size=time)
    return torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))


@pytest.mark.parametrize("num_directions", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@given(mask=masks(), seed=st.integers(0, 99))
def test_pooling_sees_real_tokens_alone_and_zeros_where_there_is_none(kind, num_directions, mask, seed):
    hidden = numbers(*mask.shape, 4, seed=seed)
    expected = [
        pooled_by_hand(row[real].numpy(), kind, num_directions) for row, real in zip(hidden, mask, strict=True)
    ]
    for other in (hidden, hidden.masked_fill(~mask[..., None], 1e6)):
        got = pool(other, mask, kind, num_directions)
        np.testing.assert_allclose(got.numpy(), np.stack(expected), rtol=1e-9, atol=1e-9)
    assert got.shape[1] == pooled_size(4, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_mask_all_tokens_are_real(kind):
    hidden = numbers(3, 5, 4)
    assert torch.equal(pool(hidden, None, kind, 2), pool(hidden, torch.ones(3, 5, dtype=torch.bool), kind, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_padding_and_all_are_finite(kind):
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]]).bool()
    hidden = numbers(3, 3, 4).requires_grad_()
    pool(hidden, mask, kind, 2).sum().backward()
    assert hidden.grad.isfinite().all() and not hidden.grad[~mask].any() and hidden.grad[mask].any()


# Losses


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_losses_equal_their_formulas():
    logits, rng = numbers(5, 3), np.random.default_rng(0)
    values, one = logits.numpy(), logits[:, :1]
    labels = torch.tensor([0, 2, -100, 1, 2])
    counted = [(row, int(label)) for row, label in enumerate(labels) if label >= 0]
    expected = -np.mean([log_softmax(values)[place] for place in counted])
    for dtype in (torch.long, torch.int32):
        np.testing.assert_allclose(text_loss(logits, labels.to(dtype), None), expected)
    np.testing.assert_allclose(token_loss(logits[None], labels[None]), expected)

    several = torch.tensor(rng.integers(0, 2, (5, 3)), dtype=torch.float64)
    probabilities = 1 / (1 + np.exp(-values))
    expected = -np.mean(np.where(several.numpy(), np.log(probabilities), np.log(1 - probabilities)))
    np.testing.assert_allclose(text_loss(logits, several, None), expected)
    np.testing.assert_allclose(text_loss(logits, several.long(), "multi_label_classification"), expected)

    targets = numbers(5, seed=1)
    expected = np.mean((one[:, 0].numpy() - targets.numpy()) ** 2)
    for form in (targets, targets[:, None]):
        np.testing.assert_allclose(text_loss(one, form, None), expected)
    whole = torch.arange(5)
    np.testing.assert_allclose(text_loss(one, whole, None), np.mean((one[:, 0].numpy() - whole.numpy()) ** 2))
    many = numbers(5, 3, seed=2)
    np.testing.assert_allclose(text_loss(logits, many, "regression"), np.mean((values - many.numpy()) ** 2))


LABELS = {
    "single_label_classification": torch.tensor([0, 2, -100, 1, 2, 0, 0, -100]),
    "multi_label_classification": (numbers(8, 3, seed=3) > 0).double(),
    "regression": numbers(8, 3, seed=4),
    "tokens": torch.where(numbers(8, 4, seed=5) > 1, -100, torch.arange(4) % 3),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("sizes", [[1] * 8, [3, 4, 1], [5, 3]], ids=str)
def test_parts_of_a_batch_add_up_to_the_loss_of_the_whole(kind, sizes):
    labels, is_tokens = LABELS[kind], kind == "tokens"
    logits = numbers(8, 4, 3) if is_tokens else numbers(8, 3)
    # As Trainer counts them, whatever the task: numbers that are not -100.
    count = labels.ne(-100).sum()

    def loss(part, of_part, **given):
        return token_loss(part, of_part, **given) if is_tokens else text_loss(part, of_part, kind, **given)

    parts = zip(logits.split(sizes), labels.split(sizes), strict=True)
    total = sum(loss(*pair, num_items_in_batch=count) for pair in parts)
    torch.testing.assert_close(total, loss(logits, labels), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_loss_is_summed_in_float32_at_least_and_exactly_in_float64(dtype):
    logits, wide = numbers(8, 3).to(dtype), torch.promote_types(dtype, torch.float32)
    for kind in ("single_label_classification", "multi_label_classification", "regression"):
        loss = text_loss(logits, LABELS[kind], kind)
        assert loss.dtype == wide
        expected = text_loss(logits.double(), LABELS[kind], kind)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6 if wide == torch.float32 else 1e-12, atol=0)
    assert token_loss(logits[None], LABELS["single_label_classification"][None]).dtype == wide


@pytest.mark.parametrize(
    "labels, problem_type",
    [
        (torch.tensor([1, 0]), None),
        (torch.tensor([1.0, 0, 1]), "single_label_classification"),
        (torch.ones(3, 3, dtype=torch.long), "single_label_classification"),
        (torch.ones(3), None),
        (torch.ones(3), "multi_label_classification"),
        (torch.ones(3, 2), "multi_label_classification"),
        (torch.ones(9), "regression"),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_name_with_what_would(labels, problem_type):
    with pytest.raises(ValueError, match=r"`labels` must .*(3 whole numbers|\(3, 3\)).*problem_type.*got"):
        text_loss(numbers(3, 3), labels, problem_type)


def test_labels_of_tokens_that_do_not_fit_are_refused():
    for shape in ((2, 4), (8,), (4, 2, 1)):
        with pytest.raises(ValueError, match=r"`labels` must .*\(4, 2\).*got"):
            token_loss(numbers(4, 2, 3), torch.zeros(shape, dtype=torch.long))
