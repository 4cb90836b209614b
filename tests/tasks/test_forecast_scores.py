"""Scores of forecasts against what they are by definition."""

import numpy as np
import pytest
import torch
from series_files import some_series

from rnn_hf.data.series import split_series
from rnn_hf.tasks import forecast_baselines
from rnn_hf.tasks.forecast_baselines import DLinear, ensemble_of_seasons, last_season, score_baselines, train_dlinear
from rnn_hf.tasks.forecast_scores import (
    Forecast,
    ForecastScores,
    crps,
    describe,
    is_covered,
    members_of_quantiles,
    score_windows,
)
from rnn_hf.tasks.forecast_windows import KnownSeries, Windows


def members_and_truth(count=7):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(4, count, 5, generator=generator, dtype=torch.float64),
            torch.randn(4, 5, generator=generator, dtype=torch.float64))  # fmt: skip


def test_crps_is_the_integral_over_thresholds():
    members, truth = members_and_truth()
    grid = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    score = crps(members, truth, are_drawn=False)
    for row, step in [(0, 0), (1, 3), (3, 4)]:
        below = (members[row, :, step, None] <= grid).double().mean(0)
        integral = torch.trapezoid((below - (truth[row, step] <= grid).double()) ** 2, grid)
        assert float(score[row, step]) == pytest.approx(float(integral), abs=2e-4)


def test_crps_of_samples_is_that_of_pairs_and_of_one_member_the_absolute_error():
    members, truth = members_and_truth()
    pairs = (members[:, :, None] - members[:, None]).abs().sum((1, 2)) / (2 * 7 * 6)
    expected = (members - truth[:, None]).abs().mean(1) - pairs
    torch.testing.assert_close(crps(members, truth), expected)
    torch.testing.assert_close(crps(members[:, :1], truth, are_drawn=False), (members[:, 0] - truth).abs())


def test_crps_of_samples_is_right_on_the_mean_for_any_number_of_them():
    """Of a normal distribution, whose score has a closed form (Gneiting and Raftery, 2007)."""
    truth = torch.tensor([[0.7]], dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    right = 0.7 * (2 * normal.cdf(truth) - 1) + 2 * normal.log_prob(truth).exp() - np.pi**-0.5
    for count in (2, 5, 50):
        members = torch.randn(40_000, count, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values = crps(members, truth.expand(40_000, 1))
        assert abs(float(values.mean() - right)) < 5 * float(values.std()) / 200


def test_a_distribution_by_quantiles_is_straight_between_them_and_flat_outside():
    levels = [0.1, 0.25, 0.5, 0.9]
    quantiles = torch.randn(3, 4, 4, dtype=torch.float64).sort(dim=-1).values
    members = members_of_quantiles(quantiles, levels)
    wanted = (np.arange(members.shape[1]) + 0.5) / members.shape[1]
    for row, step in np.ndindex(3, 4):
        expected = np.interp(wanted, levels, quantiles[row, step])
        np.testing.assert_allclose(members[row, :, step], expected, atol=1e-12)


def test_the_interval_holds_what_it_should():
    members = torch.arange(101.0).reshape(1, 101, 1).expand(1, 101, 4)
    truth = torch.tensor([[4.9, 5.0, 95.0, 95.1]])
    assert is_covered(members, truth, are_drawn=False).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("count, share", [(19, 0.9), (20, 0.9), (100, 0.9), (14, 13 / 15)])
def test_samples_cover_as_much_whatever_their_number(count, share):
    members = torch.randn(20_000, count, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(is_covered(members, truth).double().mean()) == pytest.approx(share, abs=0.01)


@pytest.fixture
def windows():
    data = split_series(some_series(400, missing=(290, 300, 301)), "240,80,80")
    return Windows(data, KnownSeries.of(data, True), "validation", 48, 6)


def test_scores_are_means_over_observed_steps_whatever_the_batch(windows):
    def forecast(batch):
        points = batch["past_values"][:, -6:]
        members = torch.stack([points - 0.1, points + 0.3], dim=1)
        return Forecast(points + 0.1, points, members, loss=float(len(points)))

    scores = score_windows(forecast, windows, 1000)
    for size in (1, 7):
        again = score_windows(forecast, windows, size)
        assert {name: again[name] for name in again if name != "loss"} == pytest.approx(
            {name: scores[name] for name in scores if name != "loss"}
        )
    batch = windows.batch(range(len(windows)))
    truth, observed = batch["future_values"].double().numpy(), batch["future_observed_mask"].numpy()
    points = batch["past_values"][:, -6:].double().numpy()
    scale = np.array(windows.known.seasonal_error)[windows.places][:, None]
    errors = np.abs(points - truth)
    assert scores["mae"] == pytest.approx(errors[observed].mean())
    assert scores["mse"] == pytest.approx(((points + 0.1 - truth) ** 2)[observed].mean(), rel=1e-6)
    assert scores["mase"] == pytest.approx((errors / scale)[observed].mean())
    assert 0 <= scores["coverage"] <= 1 and not observed.all()


def test_the_last_season_is_what_was_a_season_before_also_beyond_one(windows):
    data = split_series(some_series(400), "240,80,80")
    long = Windows(data, windows.known, "test", 48, 40)
    batch = long.batch(range(len(long)))
    forecast = last_season(24)(batch)
    whole = torch.cat([batch["past_values"], forecast.mean], dim=1)
    torch.testing.assert_close(whole[:, 48:], whole[:, 24:-24])


def test_the_ensemble_has_the_same_step_of_each_season_and_fills_what_is_missing(windows):
    batch = windows.batch([0, 30])
    members = ensemble_of_seasons(24)(batch).members
    past, observed = batch["past_values"], batch["past_observed_mask"]
    for member, season in enumerate((past[:, 24:30], past[:, :6])):
        there = (observed[:, 24:30], observed[:, :6])[member]
        assert torch.equal(members[:, member][there], season[there])
    batch["past_observed_mask"] = torch.zeros_like(observed)
    assert not ensemble_of_seasons(24)(batch).members.any()


def test_dlinear_is_a_line_of_the_trend_and_one_of_the_rest():
    model, past = DLinear(30, 4).double(), torch.randn(2, 30, dtype=torch.float64)
    for layer in (model.trend, model.rest):
        torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([past[:, :1].expand(-1, 12), past, past[:, -1:].expand(-1, 12)], dim=1)
    trend = torch.stack([padded[:, step : step + 25].mean(1) for step in range(30)], dim=1)
    expected = trend @ model.trend.weight.T + (past - trend) @ model.rest.weight.T
    torch.testing.assert_close(model(past), expected)


def test_dlinear_learns_the_same_at_each_call_and_beats_the_last_season(windows, monkeypatch):
    monkeypatch.setattr(forecast_baselines, "STEPS", 60)
    data, known = windows.data, windows.known
    torch.manual_seed(3)
    first, second = (train_dlinear(data, known, 48, 6) for _ in range(2))
    test = Windows(data, known, "test", 48, 6)
    scores = [score_windows(each, test, 99)["mse"] for each in (first, second, last_season(24))]
    assert scores[0] == scores[1] < scores[2]
    assert train_dlinear(split_series(some_series(100), "80,0,20"), known, 48, 6) is None


def test_the_table_has_every_method_and_a_points_crps_is_its_absolute_error(windows):
    baselines = score_baselines(windows.data, windows.known, "test", 6, 24, with_dlinear=False)
    assert list(baselines) == ["last season", "ensemble of 14 seasons"]
    assert baselines["last season"]["crps"] == pytest.approx(baselines["last season"]["mae"])
    score = ForecastScores({"mse": 0.5, "mae": 0.25}, 0.1, 3, 2, 6, 3, baselines, 24)
    lines = describe(score).splitlines()
    assert lines[0].startswith("3 windows of each of 2 series (6 in all), loss 0.1000; CRPS and coverage of 3 windows")
    assert len(lines) == 5 and "ensemble of 14 seasons" in lines[4]
    assert score.to_dict()["baselines"] == baselines and score.count == 6
