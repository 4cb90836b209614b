"""Scores of forecasts: errors of points, CRPS and coverage of distributions, in a table next to baselines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from rnn_hf.tables import aligned
from rnn_hf.tasks import METRICS
from rnn_hf.tasks.forecast_windows import Windows


COVERAGE = 0.9  # share of values that the interval should hold
LEVELS = 100  # members that a distribution by its quantiles is scored as


@dataclass(frozen=True)
class Forecast:
    """What is predicted of B rows, H steps each.

    Attributes:
        mean: `(B, H)`, by which squared errors are scored.
        median: `(B, H)`, by which absolute errors are.
        members: `(B, S, H)`, values that are equally likely; `None` of a point.
        are_drawn: Whether the members are samples of the distribution, rather than the distribution itself.
        loss: Of a model, the mean over the batch.
    """

    mean: torch.Tensor
    median: torch.Tensor
    members: torch.Tensor | None = None
    are_drawn: bool = True
    loss: float | None = None


Forecaster = Callable[[dict[str, torch.Tensor]], Forecast]


@dataclass(frozen=True)
class ForecastScores:
    """The scores of a model on a split, in units of the training data's standard deviation.

    Attributes:
        values: By name of the metric, the one that decides first.
        loss: That of training.
        windows: Windows whose errors were scored, of each series; `series` and `rows` are how many series there are,
            and windows of all of them.
        series: See `windows`.
        rows: See `windows`.
        season_windows: Those whose distributions were scored: one a season.
        baselines: What needs no network or is small: values by name, each by the name of the method.
        season_length: Steps of a season.
    """

    values: dict[str, float]
    loss: float
    windows: int
    series: int
    rows: int
    season_windows: int
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    season_length: int = 1
    unit = "windows"

    @property
    def count(self) -> int:
        """Windows of all series."""
        return self.rows

    def to_dict(self) -> dict[str, Any]:
        """What evaluation.json says of a split."""
        counts = {name: getattr(self, name) for name in ("windows", "series", "rows", "season_windows")}
        return {**self.values, "loss": self.loss, **counts, "baselines": self.baselines}


def crps(members: torch.Tensor, truth: torch.Tensor, are_drawn: bool = True) -> torch.Tensor:
    """The continuous ranked probability score of members that are equally likely, lower is better.

    Samples stand for a distribution that they were drawn of, whose score is estimated without bias (Ferro, 2014);
    otherwise the members are the distribution.

    Args:
        members: `(B, S, H)`.
        truth: `(B, H)`.
        are_drawn: Whether they are samples.

    Returns:
        `(B, H)`.

    Example:

    >>> crps(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0]]), are_drawn=False).item()
    0.5
    """
    count = members.shape[1]
    ordered = members.sort(dim=1).values
    # The sum of all differences, of sorted members: each is the larger one of those below it.
    weights = 2 * torch.arange(count, dtype=members.dtype, device=members.device) - count + 1
    spread = torch.einsum("s,bsh->bh", weights, ordered) * 2
    pairs = count * (count - 1 if are_drawn else count)
    return (members - truth[:, None]).abs().mean(1) - spread / (2 * max(1, pairs))


def is_covered(members: torch.Tensor, truth: torch.Tensor, are_drawn: bool = True) -> torch.Tensor:
    """Whether truth `(B, H)` is in the central interval of members `(B, S, H)` that should hold `COVERAGE` of it.

    Of S samples one more draw is below the k-th smallest in k of S + 1 cases: edges are placed by that, so that few
    samples cover no less than many. Fewer than 19 cannot reach so far out; then the edges are the outermost ones.
    """
    levels, count = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=torch.float64), members.shape[1]
    if are_drawn and count > 1:
        levels = (((count + 1) * levels - 1) / (count - 1)).clamp(0, 1)
    low, high = members.quantile(levels.to(members), dim=1)
    return (low <= truth) & (truth <= high)


def members_of_quantiles(quantiles: torch.Tensor, levels: Sequence[float]) -> torch.Tensor:
    """A distribution by quantiles `(B, H, Q)` as `(B, LEVELS, H)` members, straight between levels and flat outside.

    Args:
        quantiles: Ascending.
        levels: Q of them.
    """
    wanted = (np.arange(LEVELS) + 0.5) / LEVELS
    at = np.interp(wanted, levels, np.arange(len(levels)))
    below = np.minimum(at.astype(int), len(levels) - 2)
    share = torch.as_tensor(at - below, dtype=quantiles.dtype, device=quantiles.device)
    low, high = quantiles[..., below], quantiles[..., below + 1]
    return torch.lerp(low, high, share).transpose(1, 2)


class Sums:
    """Sums of scores over steps that are observed.

    Args:
        windows: Whose rows are scored.
    """

    def __init__(self, windows: Windows):
        self.windows = windows
        self.totals = dict.fromkeys(("mse", "mae", "mase", "crps", "coverage", "loss"), 0.0)
        self.counts = dict.fromkeys(self.totals, 0.0)

    def add(self, indices: Sequence[int], batch: Mapping[str, torch.Tensor], forecast: Forecast) -> None:
        """Score a batch."""
        truth, observed = batch["future_values"].double(), batch["future_observed_mask"]
        error = (forecast.median.double() - truth).abs()
        scores = {"mse": (forecast.mean.double() - truth).square(), "mae": error}
        known = self.windows.known
        of_rows = [known.seasonal_error[each] for each in self.windows.in_known[self.windows.places[list(indices)]]]
        scale = torch.tensor(of_rows, dtype=torch.float64)[:, None]
        for name, values in scores.items():
            self._add(name, values[observed])
        has_scale = observed & (scale > 0)
        self._add("mase", (error / scale)[has_scale])
        if forecast.members is not None:
            members = forecast.members.double()
            self._add("crps", crps(members, truth, forecast.are_drawn)[observed])
            self._add("coverage", is_covered(members, truth, forecast.are_drawn)[observed].double())
        if forecast.loss is not None:
            self.totals["loss"] += forecast.loss * len(truth)
            self.counts["loss"] += len(truth)

    def _add(self, name: str, values: torch.Tensor) -> None:
        self.totals[name] += float(values.sum())
        self.counts[name] += values.numel()

    def means(self) -> dict[str, float]:
        """Those that there are."""
        return {name: total / self.counts[name] for name, total in self.totals.items() if self.counts[name]}


def score_windows(
    forecaster: Forecaster, windows: Windows, batch_size: int, progress: bool = False, what: str = "forecasting"
) -> dict[str, float]:
    """The means of all scores over all windows.

    Args:
        forecaster: Makes the forecast of a batch.
        windows: To score.
        batch_size: Rows a batch; a matter of memory and speed only.
        progress: Whether to show a progress bar.
        what: Over which it says so.
    """
    sums = Sums(windows)
    starts = range(0, len(windows), batch_size)
    for start in tqdm(starts, desc=what, leave=False, mininterval=1, disable=not progress):
        indices = range(start, min(start + batch_size, len(windows)))
        batch = windows.batch(indices)
        sums.add(indices, batch, forecaster(batch))
    return sums.means()


def describe(score: ForecastScores) -> str:
    """Scores as lines for people: what was scored, and a table of the model and what needs no network.

    >>> print(describe(ForecastScores({"mse": 0.25, "mae": 0.5}, 0.5, 10, 2, 20, 3, {"last season": {"mse": 0.5}}, 4)))
    10 windows of each of 2 series (20 in all), loss 0.5000; CRPS and coverage of 3 windows, one each 4 steps
      forecast       MSE    MAE
      the model    0.250  0.500
      last season  0.500
    """
    of_all = f"{score.windows:,} windows of each of {score.series:,} series ({score.rows:,} in all)"
    if score.rows != score.windows * score.series:
        of_all = f"{score.rows:,} windows of {score.series:,} series"
    line = f"{of_all}, loss {score.loss:.4f}"
    if score.season_windows:
        line += f"; CRPS and coverage of {score.season_windows:,} windows, one each {score.season_length} steps"
    return "\n".join(
        [line, *(f"  {row}" for row in aligned(score_table({"the model": score.values, **score.baselines})))]
    )


def score_table(methods: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """The scores of methods as cells of text."""
    names = [name for name in METRICS if any(name in values for values in methods.values())]
    return [
        {"forecast": method} | {METRICS[name].column: METRICS[name].text(values[name]) if name in values else ""
                                for name in names}
        for method, values in methods.items()
    ]  # fmt: skip
