"""Scales, lags, distributions, samples and losses of series, each against its definition."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.time_series_utils import NegativeBinomialOutput, NormalOutput, StudentTOutput

from rnn_hf.models.series_inputs_rnn import read_values
from rnn_hf.models.series_rnn import (
    distribution_of,
    draw,
    lagged,
    negative_log_likelihood,
    observed_mean,
    parameters_of,
    pinball,
    quantile_at,
    scale_of,
)


CLOSE = {"rtol": 1e-12, "atol": 1e-12}
OUTPUTS = {"student_t": StudentTOutput, "normal": NormalOutput, "negative_binomial": NegativeBinomialOutput}
NAN = float("nan")

kinds = pytest.mark.parametrize("kind", OUTPUTS)


def random(*shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_distribution(kind: str, *shape):
    """A distribution of each kind, with location and scale, and its arguments."""
    parameters = parameters_of(kind, random(*shape, 3 if kind == "student_t" else 2))
    loc, scale = random(shape[0], 1, seed=1), random(shape[0], 1, seed=2).exp()
    return (parameters, loc * (kind != "negative_binomial"), scale)


# Missing values and scales


def test_values_are_missing_by_the_mask_or_where_they_are_no_number():
    values = torch.tensor([[1.0, NAN, 3.0, NAN]], dtype=torch.float32)
    for dtype in (torch.int64, torch.float32, torch.bool):
        mask = torch.tensor([[1, 1, 0, 0]]).to(dtype)
        read, observed = read_values(values, mask, torch.float64, "past_values")
        assert read.tolist() == [[1, 0, 0, 0]] and observed.tolist() == [[True, False, False, False]]
        assert read.dtype == torch.float64
    read, observed = read_values(values, None, torch.bfloat16, "past_values")
    assert read.tolist() == [[1, 0, 3, 0]] and observed.tolist() == [[True, False, True, False]]
    assert read.dtype == torch.float32
    assert read_values(torch.tensor([[4]]), None, torch.float64, "past_values")[0].tolist() == [[4.0]]
    for wrong in (values[0], values[..., None], values[:, :0]):
        with pytest.raises(ValueError, match="`past_values` must be"):
            read_values(wrong, None, torch.float64, "past_values")
    with pytest.raises(ValueError, match="`future_observed_mask` must have the shape of `future_values`"):
        read_values(values, torch.ones(1, 3), torch.float64, "future_values")


@given(st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=6))
def test_scales_are_those_of_the_observed_values_alone(values):
    real = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
    row = torch.tensor([[NAN if value is None else value for value in values]], dtype=torch.float64)
    read, observed = read_values(row, None, torch.float64, "past_values")
    found = {kind: scale_of(read, observed, kind, 0.1) for kind in ("mean", "std", "last", None)}
    expected = {"mean": (0, 0.1), "std": (0, 0.1), "last": (0, 1), None: (0, 1)}
    if len(real):
        deviation = real.std(correction=0).item()
        expected["mean"] = (0, max(0.1, real.abs().mean().item()))
        expected["std"] = (real.mean().item(), max(0.1, deviation))
        expected["last"] = (real[-1].item(), 1)
    for kind, pair in expected.items():
        assert [part.shape for part in found[kind]] == [(1, 1)] * 2
        assert [part.item() for part in found[kind]] == pytest.approx(list(pair), abs=1e-9)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True), st.integers(1, 4))
def test_lags_lie_so_many_steps_back(lags, time):
    sequence = random(2, 5 + time)
    found = lagged(sequence, lags, time)
    assert found.shape == (2, time, len(lags))
    for at in range(time):
        for index, lag in enumerate(lags):
            torch.testing.assert_close(found[:, at, index], sequence[:, 5 + at - lag], rtol=0, atol=0)


# Distributions


@kinds
def test_distributions_are_those_of_transformers_and_stay_the_same_when_asked_again(kind):
    parameters, loc, scale = some_distribution(kind, 3, 4)
    before = tuple(part.clone() for part in parameters)
    values = distribution_of(kind, parameters, loc, scale).mean.round()
    found = [distribution_of(kind, parameters, loc, scale).log_prob(values) for _ in range(2)]
    torch.testing.assert_close(parameters, before, rtol=0, atol=0)
    theirs = OUTPUTS[kind]().distribution(before, loc, scale)
    for each in found:
        torch.testing.assert_close(each, theirs.log_prob(values), **CLOSE)
    torch.testing.assert_close(distribution_of(kind, parameters, loc, scale).mean, theirs.mean, **CLOSE)


@kinds
def test_a_network_that_diverged_has_a_loss_of_nan_and_no_error(kind):
    parameters, loc, scale = some_distribution(kind, 2, 2)
    broken = tuple(part * NAN for part in parameters)
    targets, observed = torch.ones(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.bool)
    assert negative_log_likelihood(kind, broken, loc, scale, targets, observed, None).isnan()
    assert distribution_of(kind, parameters, loc, scale).sample((3,)).shape == (3, 2, 2)


@kinds
def test_any_numbers_are_parameters_and_half_precision_is_widened(kind):
    numbers = torch.linspace(-60, 60, 30).reshape(10, 3)[:, : 3 if kind == "student_t" else 2]
    for dtype in (torch.bfloat16, torch.float32):
        parameters = parameters_of(kind, numbers.to(dtype))
        assert all(part.dtype == torch.float32 and part.shape == (10,) for part in parameters)
        log_prob = OUTPUTS[kind]().distribution(tuple(map(torch.clone, parameters))).log_prob(torch.tensor(1.0))
        assert log_prob.isfinite().all()


@kinds
def test_samples_are_of_the_distribution_and_the_generator_decides_them(kind):
    parameters, loc, scale = some_distribution(kind, 2, 2)
    many = 40_000
    spread = tuple(part.expand(many, 2, 2) for part in parameters)
    samples = draw(kind, spread, loc, scale, torch.Generator().manual_seed(7))
    assert samples.dtype == torch.float64 and samples.shape == (many, 2, 2)
    torch.testing.assert_close(
        samples, draw(kind, spread, loc, scale, torch.Generator().manual_seed(7)), rtol=0, atol=0
    )
    assert not torch.equal(samples, draw(kind, spread, loc, scale, torch.Generator().manual_seed(8)))
    # The largest distance of an empirical distribution function from its own (Dvoretzky, Kiefer and Wolfowitz, 1956).
    bound = math.sqrt(math.log(2 / 1e-6) / (2 * many))
    for row in range(2):
        for column in range(2):
            drawn = samples[:, row, column].sort().values
            at = drawn[:: many // 50].contiguous()
            of = distribution_of(kind, tuple(part[row, column] for part in parameters), loc[row, 0], scale[row, 0])
            share = torch.searchsorted(drawn, at, right=True) / many
            assert (share - cumulative(kind, of, at)).abs().max() < bound


def cumulative(kind: str, distribution, values: torch.Tensor) -> torch.Tensor:
    """The distribution function, by adding up the density where torch has none."""
    if kind == "normal":
        return distribution.cdf(values)
    if kind == "negative_binomial":
        counts = torch.arange(int(values.max()) + 1, dtype=torch.float64)
        return distribution.log_prob(counts).exp().cumsum(0)[values.long()]
    # Half, and the area from the center on by Simpson's rule.
    share = torch.linspace(0, 1, 4001, dtype=torch.float64)
    points = distribution.loc + share[:, None] * (values - distribution.loc)
    density = distribution.log_prob(points).exp()
    weights = torch.ones(4001, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return 0.5 + (weights[:, None] * density).sum(0) * (values - distribution.loc) / (3 * 4000)


# Losses


@kinds
def test_missing_targets_count_nothing_and_have_no_gradient(kind):
    numbers = random(3, 4, 3 if kind == "student_t" else 2).requires_grad_()
    loc, scale = torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    targets = torch.tensor([[1.0, 2, NAN, 4], [NAN] * 4, [0, 0, 0, 1e30]], dtype=torch.float64)
    mask = torch.ones(3, 4)
    mask[2, 3] = 0
    values, observed = read_values(targets, mask, torch.float64, "future_values")
    loss = negative_log_likelihood(kind, parameters_of(kind, numbers), loc, scale, values, observed, None)
    one_by_one = [
        -distribution_of(kind, parameters_of(kind, numbers[row, at]), loc[row, 0], scale[row, 0]).log_prob(
            targets[row, at]
        )
        for row, at in observed.nonzero().tolist()
    ]
    torch.testing.assert_close(loss, torch.stack(one_by_one).mean(), **CLOSE)
    (gradient,) = torch.autograd.grad(loss, numbers)
    assert gradient.isfinite().all() and (gradient[~observed] == 0).all() and (gradient[observed] != 0).any()
    half = negative_log_likelihood(kind, parameters_of(kind, numbers), loc, scale, values, observed, 12)
    torch.testing.assert_close(half, loss * 6 / 12, **CLOSE)


def test_a_missing_target_of_a_series_far_from_zero_leaves_gradients_finite():
    numbers = torch.zeros(1, 2, 2, requires_grad=True)
    loc, scale, targets = torch.full((1, 1), 1e30), torch.ones(1, 1), torch.tensor([[1e30, 0.0]])
    observed = torch.tensor([[True, False]])
    negative_log_likelihood("normal", parameters_of("normal", numbers), loc, scale, targets, observed, None).backward()
    assert numbers.grad.isfinite().all()


def test_a_loss_of_nothing_is_zero():
    assert observed_mean(random(2, 3), torch.zeros(2, 3, dtype=torch.bool), None) == 0


def test_counts_are_whole_and_not_negative():
    parameters, loc, scale = some_distribution("negative_binomial", 1, 2)
    for wrong in ([[0.5, 1]], [[-1.0, 1]]):
        values = torch.tensor(wrong, dtype=torch.float64)
        with pytest.raises(ValueError, match="counts"):
            negative_log_likelihood("negative_binomial", parameters, loc, scale, values, values == values, None)


def test_the_pinball_loss_of_many_even_levels_is_half_of_the_crps():
    levels = [(index + 0.5) / 2000 for index in range(2000)]
    normal = torch.distributions.Normal(torch.tensor(0.3, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64))
    quantiles = normal.icdf(torch.tensor(levels, dtype=torch.float64))
    for target in (-2.0, 0.3, 4.0):
        z = torch.tensor((target - 0.3) / 1.7, dtype=torch.float64)
        standard = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z))
        crps = 1.7 * (z * (2 * standard.cdf(z) - 1) + 2 * standard.log_prob(z).exp() - 1 / math.sqrt(math.pi))
        found = pinball(quantiles, levels, torch.tensor(target, dtype=torch.float64))
        assert 2 * found.item() == pytest.approx(crps.item(), rel=1e-3)


@given(st.floats(0, 1))
def test_quantiles_between_levels_lie_on_lines_and_go_on_beyond_the_ends(at):
    levels, quantiles = [0.1, 0.4, 0.5, 0.9], torch.tensor([[-1.0, 0.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]]).double()
    index = 0 if at <= 0.4 else 1 if at <= 0.5 else 2
    slope = (quantiles[0, index + 1] - quantiles[0, index]) / (levels[index + 1] - levels[index])
    found = quantile_at(quantiles, levels, torch.full((2,), at, dtype=torch.float64))
    assert found.tolist() == pytest.approx([(quantiles[0, index] + slope * (at - levels[index])).item(), 1])


def test_quantiles_at_their_levels_are_themselves():
    levels, quantiles = [0.1, 0.4, 0.5, 0.9], random(2, 3, 4).sort(dim=-1).values
    for index, level in enumerate(levels):
        found = quantile_at(quantiles, levels, torch.full((2, 3), level, dtype=torch.float64))
        torch.testing.assert_close(found, quantiles[..., index], **CLOSE)
