"""The loss of CTC against the sum over every path, one by one."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf.models.ctc_rnn import ctc_loss, steps_needed


CLOSE = {"rtol": 1e-12, "atol": 1e-12}
VOCAB = 4
TARGETS = [(), (1,), (1, 2), (1, 1), (2, 1, 2), (3, 3, 1), (1, 1, 1), (1, 2, 3, 3)]


def some_logits(batch: int, steps: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return 2 * torch.randn(batch, steps, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def padded(targets, value: int = -100) -> torch.Tensor:
    width = max(map(len, targets))
    return torch.tensor([[*target, *[value] * (width - len(target))] for target in targets])


def collapsed(path, blank: int) -> tuple:
    """Repeats as one, then without blanks."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def log_likelihoods(logits: torch.Tensor, blank: int = 0) -> dict[tuple, torch.Tensor]:
    """Of every label sequence that `(T, V)` logits can give, by all of its paths."""
    log_probs, sums = logits.log_softmax(dim=-1), {}
    for path in itertools.product(range(VOCAB), repeat=len(logits)):
        of_path = log_probs[range(len(path)), path].sum()
        sums.setdefault(collapsed(path, blank), []).append(of_path)
    return {target: torch.stack(parts).logsumexp(0) for target, parts in sums.items()}


def by_all_paths(logits, targets, lengths) -> list[torch.Tensor]:
    """Log-likelihoods of the targets."""
    rows = zip(logits, targets, lengths, strict=True)
    return [log_likelihoods(row[:length])[target] for row, target, length in rows]


def loss_of(logits, targets, lengths=None, blank=0, **options) -> torch.Tensor:
    lengths = torch.full((len(logits),), logits.shape[1]) if lengths is None else torch.tensor(lengths)
    return ctc_loss(logits, lengths, padded(targets), blank, **options)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_the_loss_is_the_sum_over_all_paths(steps, blank):
    logits = some_logits(1, steps)
    expected = log_likelihoods(logits[0], blank)
    assert () in expected and torch.stack(list(expected.values())).logsumexp(0).abs() < 1e-12
    longest_and_repeated = sorted(expected, key=lambda target: (len(target), collapsed(target, blank) != target))
    for target in longest_and_repeated[:20] + longest_and_repeated[-20:]:
        loss = loss_of(logits, [target], blank=blank, num_items_in_batch=1)
        torch.testing.assert_close(loss, -expected[target], **CLOSE)


def test_rows_of_a_batch_have_their_own_lengths_and_labels():
    targets, lengths = TARGETS, [3, 1, 5, 3, 4, 5, 5, 5]
    logits = some_logits(len(targets), 5)
    rows = by_all_paths(logits, targets, lengths)
    count = sum(map(len, targets))
    torch.testing.assert_close(loss_of(logits, targets, lengths), -sum(rows) / count, **CLOSE)


def test_what_stands_behind_the_end_of_a_row_says_nothing_and_has_no_gradient():
    targets, lengths = [(1, 2), ()], [3, 2]
    logits = some_logits(2, 5).requires_grad_()
    other = torch.cat([logits[:, :2], some_logits(2, 3, seed=1)], dim=1).detach()
    other[0, 2] = logits[0, 2]
    loss = loss_of(logits, targets, lengths)
    torch.testing.assert_close(loss_of(other, targets, lengths), loss, rtol=0, atol=0)
    loss.backward()
    behind = torch.arange(5) >= torch.tensor(lengths)[:, None]
    assert (logits.grad[behind] == 0).all() and (logits.grad[~behind] != 0).all()


def test_the_gradient_is_that_of_the_sum_over_all_paths():
    targets, lengths = [(1, 1), (), (3, 2, 3), (1,)], [4, 3, 5, 1]
    logits = some_logits(4, 5).requires_grad_()
    rows = by_all_paths(logits, targets, lengths)
    (expected,) = torch.autograd.grad(-sum(rows) / 6, logits)
    (gradient,) = torch.autograd.grad(loss_of(logits, targets, lengths), logits)
    torch.testing.assert_close(gradient, expected, **CLOSE)
    assert torch.autograd.gradcheck(lambda given: loss_of(given, targets, lengths), logits)


@given(st.data())
def test_minus_100_may_stand_anywhere(data):
    targets = data.draw(st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4))
    rows = []
    for target in targets:
        places = sorted(data.draw(st.permutations(range(6)))[: len(target)])
        row = torch.full((6,), -100)
        row[places] = torch.tensor(target, dtype=torch.long)
        rows.append(row)
    logits, lengths, labels = some_logits(len(targets), 6), torch.full((len(targets),), 6), torch.stack(rows)
    expected = loss_of(logits, targets)
    torch.testing.assert_close(ctc_loss(logits, lengths, labels, 0), expected, rtol=0, atol=0)
    assert steps_needed(labels).tolist() == steps_needed(padded(targets)).tolist()


@pytest.mark.parametrize("target", TARGETS)
def test_steps_needed_are_those_of_the_shortest_path(target):
    shortest = next(
        steps
        for steps in itertools.count()
        if any(collapsed(path, 0) == target for path in itertools.product(range(VOCAB), repeat=steps))
    )
    assert steps_needed(torch.tensor([target], dtype=torch.long)).tolist() == [shortest]
    if shortest:
        assert loss_of(some_logits(1, shortest), [target]).isfinite()


def test_rows_that_are_too_short_are_named_or_count_as_0():
    targets = [(1, 2), (1, 1), (3,), (1, 2, 3)]
    logits, lengths = some_logits(4, 3).requires_grad_(), [2, 2, 3, 2]
    with pytest.raises(ValueError, match="row 1 has 2 of 3, row 3 has 2 of 3. Leave.*`ctc_zero_infinity=True`"):
        loss_of(logits, targets, lengths)
    loss = loss_of(logits, targets, lengths, zero_infinity=True)
    whole = log_likelihoods(logits[0, :2])[1, 2] + log_likelihoods(logits[2])[3,]
    torch.testing.assert_close(loss, -whole / 8, **CLOSE)
    loss.backward()
    assert (logits.grad[[1, 3]] == 0).all() and logits.grad.isfinite().all()
    with pytest.raises(ValueError, match="row 7 has 2 of 3 and 3 rows more. Leave"):
        loss_of(some_logits(11, 2), [(1, 1)] * 11)


def test_parts_of_a_batch_add_up_to_the_whole():
    targets, lengths = [(1, 1), (), (3, 2, 3), (1,)], [4, 3, 5, 1]
    logits, count = some_logits(4, 5).requires_grad_(), torch.tensor(6)
    (expected,) = torch.autograd.grad(loss_of(logits, targets, lengths), logits)
    parts = [
        loss_of(logits[rows], targets[rows], lengths[rows], num_items_in_batch=count)
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(parts), loss_of(logits, targets, lengths), **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(sum(parts), logits)[0], expected, **CLOSE)


def test_silence_alone_is_learned_from():
    logits = some_logits(3, 4).requires_grad_()
    silent = torch.full((3, 0), -100), torch.full((3, 2), -100)
    expected = -sum(log_likelihoods(row)[()] for row in logits)
    for labels in silent:
        for count in (None, 0, torch.tensor(0)):
            loss = ctc_loss(logits, torch.full((3,), 4), labels, 0, count)
            torch.testing.assert_close(loss, expected, **CLOSE)
    nothing = ctc_loss(logits[:, :0], torch.zeros(3, dtype=torch.long), silent[0], 0)
    nothing.backward()
    assert nothing == 0 and (logits.grad == 0).all()
    with pytest.raises(ValueError, match="row 1 has 0 of 1"):
        loss_of(logits[:, :0], [(), (2,), ()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_logits_have_a_loss_in_float32(dtype):
    logits = some_logits(3, 5).to(dtype)
    loss = loss_of(logits, [(1,), (2, 2), ()])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(logits.double(), [(1,), (2, 2), ()]).float(), rtol=1e-5, atol=0)


def test_large_logits_have_finite_gradients():
    logits = (1e4 * some_logits(2, 6, dtype=torch.float32)).requires_grad_()
    loss = loss_of(logits, [(1, 2), (3, 3)])
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "labels, said",
    [
        (torch.tensor([[1, 0]]), r"not 0, the blank.*got \[0\]"),
        (torch.tensor([[VOCAB, -1]]), r"below `vocab_size` \(4\).*got \[-1, 4\]"),
        (torch.tensor([1]), r"shape \(1, number of labels\).*\(1,\)"),
        (torch.tensor([[1], [2]]), r"shape \(1, number of labels\).*\(2, 1\)"),
        (torch.tensor([[1.0]]), "whole numbers.*float32"),
    ],
)
def test_labels_that_are_none_are_refused(labels, said):
    for zero_infinity in (False, True):
        with pytest.raises(ValueError, match=f"`labels` must be.*{said}"):
            ctc_loss(some_logits(1, 5), torch.tensor([5]), labels, 0, zero_infinity=zero_infinity)


def test_labels_of_any_whole_type_are_taken():
    logits, labels = some_logits(2, 4), padded([(1, 3), (2,)])
    expected = ctc_loss(logits, torch.tensor([4, 3]), labels, 0)
    got = ctc_loss(logits, torch.tensor([4, 3], dtype=torch.int32), labels.int(), 0)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
