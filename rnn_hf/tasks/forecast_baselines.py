"""Forecasts that a network must beat: the last season, the last seasons as an ensemble, and DLinear."""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from rnn_hf.data.series import SeriesData
from rnn_hf.tasks.forecast_scores import Forecast, Forecaster, score_windows
from rnn_hf.tasks.forecast_windows import KnownSeries, Windows


SEASONS = 14  # of which an ensemble has a member each; two weeks of hours
TREND_WIDTH = 25  # steps that DLinear's trend is the mean of, as published
ROUNDS, STEPS, PATIENCE, RATE, ROWS = 10, 250, 3, 5e-4, 224  # DLinear's training, validated after each round of steps


def seasonal_members(batch: dict[str, Tensor], season: int) -> Tensor:
    """The same steps of each of the last seasons, `(B, seasons, H)`, the last one first.

    A value that is missing is the mean of its own steps of the other seasons, and 0, which is the mean of the training
    data, where these are missing too.

    Args:
        batch: Of `Windows`, with whole seasons of past.
        season: Steps of a season.
    """
    past, observed, horizon = batch["past_values"], batch["past_observed_mask"], batch["future_values"].shape[1]
    seasons = past.shape[1] // season
    values = past[:, -seasons * season :].unflatten(1, (seasons, season)).flip(1)
    there = observed[:, -seasons * season :].unflatten(1, (seasons, season)).flip(1)
    mean = torch.where(there, values, 0).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    values = torch.where(there, values, mean)
    return values[:, :, torch.arange(horizon, device=past.device) % season]


def last_season(season: int) -> Forecaster:
    """The forecast that everything is as it was a season ago (seasonal naive)."""

    def forecast(batch: dict[str, Tensor]) -> Forecast:
        members = seasonal_members(batch, season)[:, :1]
        return Forecast(members[:, 0], members[:, 0], members, are_drawn=False)

    return forecast


def ensemble_of_seasons(season: int) -> Forecaster:
    """The forecast that one of the last seasons comes again, each as likely as another."""

    def forecast(batch: dict[str, Tensor]) -> Forecast:
        members = seasonal_members(batch, season)
        return Forecast(members.mean(1), members.quantile(0.5, dim=1), members)

    return forecast


class DLinear(nn.Module):
    """A linear layer of the trend and one of the rest (Zeng et al., 2022, "Are Transformers effective for time series
    forecasting?"), the same for all series.

    Args:
        past_length: Steps to read.
        prediction_length: Steps to predict.
    """

    def __init__(self, past_length: int, prediction_length: int):
        super().__init__()
        self.trend, self.rest = nn.Linear(past_length, prediction_length), nn.Linear(past_length, prediction_length)
        for layer in (self.trend, self.rest):  # both begin as a mean, so that nothing is drawn
            nn.init.constant_(layer.weight, 1 / past_length)
            nn.init.zeros_(layer.bias)

    def forward(self, past: Tensor) -> Tensor:
        """`(B, past_length)` to `(B, prediction_length)`."""
        half = TREND_WIDTH // 2
        padded = F.pad(past[:, None], (half, half), mode="replicate")
        trend = F.avg_pool1d(padded, TREND_WIDTH, stride=1)[:, 0]
        return self.trend(trend) + self.rest(past - trend)


def train_dlinear(data: SeriesData, known: KnownSeries, past_length: int, prediction_length: int) -> Forecaster | None:
    """DLinear by squared error on windows of the training split, as it was when it was best on the validation split.

    The same data gives the same numbers at each call.

    Returns:
        `None` where the data lacks one of the two splits.
    """
    if not {"train", "validation"} <= set(data.splits):
        return None
    train, validation = (
        Windows(data, known, split, past_length, prediction_length) for split in ("train", "validation")
    )
    model = DLinear(past_length, prediction_length)
    optimizer = Adam(model.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(0)
    best, best_error, since = deepcopy(model), float("inf"), 0
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            batch = train.batch(torch.randint(len(train), (ROWS,), generator=generator).numpy())
            error = (model(batch["past_values"]) - batch["future_values"])[batch["future_observed_mask"]]
            optimizer.zero_grad()
            error.square().mean().backward()
            optimizer.step()
        error_now = score_windows(_forecaster(model), validation, 4 * ROWS)["mse"]
        since = 0 if error_now < best_error else since + 1
        if not since:
            best, best_error = deepcopy(model), error_now
        if since == PATIENCE:
            break
    return _forecaster(best)


def _forecaster(model: Callable[[Tensor], Tensor]) -> Forecaster:
    @torch.no_grad()
    def forecast(batch: dict[str, Tensor]) -> Forecast:
        points = model(batch["past_values"])
        return Forecast(points, points)

    return forecast


def score_baselines(
    data: SeriesData, known: KnownSeries, split: str, prediction_length: int, stride: int, with_dlinear: bool = True
) -> dict[str, dict[str, float]]:
    """The scores of all of them on the windows of a split.

    Args:
        data: Series and their splits.
        known: Of the model.
        split: To score.
        prediction_length: Of the model.
        stride: Steps from window to window of those whose errors are scored: 1, or a season. Distributions are scored
            of one window a season.
        with_dlinear: Whether to train DLinear, which takes seconds.

    Returns:
        By name of the method the means of its scores.
    """
    season = data.frequency.season_length
    past = SEASONS * season
    windows, of_seasons = (
        Windows(data, known, split, past, prediction_length, stride=each) for each in (stride, season)
    )
    methods: dict[str, Forecaster | None] = {
        "last season": last_season(season), f"ensemble of {SEASONS} seasons": ensemble_of_seasons(season),
        "DLinear": train_dlinear(data, known, past, prediction_length) if with_dlinear else None,
    }  # fmt: skip
    scores = {}
    for name, forecaster in methods.items():
        if forecaster is not None:
            errors = score_windows(forecaster, windows, 1024)
            own = score_windows(forecaster, of_seasons, 1024)
            scores[name] = {key: value for key, value in errors.items() if key in ("mse", "mae", "mase")}
            # The CRPS of a point is its absolute error.
            scores[name] |= {"crps": own.get("crps", own["mae"])}
            if name.startswith("ensemble"):
                scores[name] |= {"coverage": own["coverage"]}
    return scores
