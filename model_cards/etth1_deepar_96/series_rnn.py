"""Values of time series: their scale, lags, distributions, and the losses of forecasts.

Shapes in comments: B batch, T time, S samples, Q quantiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Chi2, Distribution, NegativeBinomial, Normal, StudentT
from transformers.time_series_utils import NegativeBinomialOutput, NormalOutput, StudentTOutput
from transformers.utils import ModelOutput

from .cache_rnn import RNNCache
from .heads_rnn import at_least_float32


# From any numbers to parameters of the distribution.
DOMAINS = {
    "student_t": StudentTOutput.domain_map,
    "normal": NormalOutput.domain_map,
    "negative_binomial": NegativeBinomialOutput.domain_map,
}
Parameters = tuple[Tensor, ...]


@dataclass
class RNNTimeSeriesOutput(ModelOutput):
    """What [`RNNForTimeSeriesPrediction`] returns.

    Attributes:
        loss: See `forward`.
        prediction_outputs: `(B, H)`, of a direct head: the median for `loss` `"mae"` and `"quantile"`, the mean for
            `"mse"` and `"nll"`.
        quantile_outputs: `(B, H, Q)`, for `loss="quantile"`, ascending.
        params: Parameters of the distributions of scaled values: `(B, H)` each of a direct head, else `(B, C)`, or
            `(B, C + H)` where the future was given.
        loc, scale: `(B, 1)`, what was subtracted from each row and what it was divided by.
        cache: The state of an autoregressive network after the last step.
    """

    loss: Tensor | None = None
    prediction_outputs: Tensor | None = None
    quantile_outputs: Tensor | None = None
    params: Parameters | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None
    cache: RNNCache | None = None

    @property
    def past_key_values(self) -> RNNCache | None:
        """The name of `cache` before transformers 5.24."""
        return self.cache


class UncheckedStudentT(StudentT):
    """Student's t of any parameters: those of a network that diverged give a loss of NaN and no error.

    torch's own checks the degrees of freedom whatever it is told, and waits for a GPU to do so.
    """

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = False):
        self.df, self.loc, self.scale = torch.broadcast_tensors(df, loc, scale)
        self._chi2 = Chi2(self.df, validate_args=False)
        Distribution.__init__(self, self.df.shape, validate_args=False)


def scale_of(values: Tensor, observed: Tensor, kind: str | None, floor: float) -> tuple[Tensor, Tensor]:
    """What is subtracted from each row and what it is divided by, `(B, 1)` each.

    Args:
        values: `(B, T)`, 0 where one is missing.
        observed: `(B, T)`.
        kind, floor: `scaling` and `scale_floor` of [`RNNTimeSeriesConfig`].
    """
    count = observed.sum(dim=1, keepdim=True).clamp(min=1)
    zeros = values.new_zeros(len(values), 1)
    if kind == "mean":
        return zeros, (values.abs().sum(dim=1, keepdim=True) / count).clamp(min=floor)
    if kind == "std":
        mean = values.sum(dim=1, keepdim=True) / count
        variance = torch.where(observed, values - mean, 0).square().sum(dim=1, keepdim=True) / count
        return mean, variance.sqrt().clamp(min=floor)
    if kind == "last":
        numbers = torch.arange(values.shape[1], device=values.device)
        last = torch.where(observed, numbers, 0).amax(dim=1, keepdim=True)
        return values.take_along_dim(last, dim=1), zeros + 1  # 0 where nothing is observed
    return zeros, zeros + 1


def lagged(sequence: Tensor, lags: Sequence[int], time: int) -> Tensor:
    """What lies so many steps before each of the last `time` steps of `(B, more)`: `(B, time, number of lags)`."""
    end = sequence.shape[1]
    return torch.stack([sequence[:, end - time - lag : end - lag] for lag in lags], dim=-1)


def parameters_of(kind: str, outputs: Tensor) -> Parameters:
    """The parameters, `(...)` each, of distributions of which a network says any numbers, `(..., parameters)`."""
    return DOMAINS[kind](*at_least_float32(outputs).split(1, dim=-1))


def distribution_of(kind: str, parameters: Parameters, loc: Tensor, scale: Tensor) -> Distribution:
    """The distribution of values, of which that of `(value - loc) / scale` has the parameters.

    It is the one of transformers' `DistributionOutput.distribution`, without changing the parameters in place. Of
    counts the mean is multiplied by the scale, and `loc` must be 0.
    """
    if kind == "negative_binomial":
        total, logits = parameters
        return NegativeBinomial(total, logits=logits + scale.log(), validate_args=False)
    *shape, center, width = parameters
    family: Any = UncheckedStudentT if kind == "student_t" else Normal
    return family(*shape, center * scale + loc, width * scale, validate_args=False)


def draw(
    kind: str, parameters: Parameters, loc: Tensor, scale: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """One sample of each `distribution_of` the same; torch's own way cannot be told which generator to use."""
    if kind == "negative_binomial":
        # Counts whose rate has a gamma distribution.
        total, logits = parameters
        return torch.poisson(torch._standard_gamma(total, generator) * logits.exp() * scale, generator)
    *shape, center, width = parameters
    like = {"generator": generator, "dtype": center.dtype, "device": center.device}
    if shape:
        # Student's t from two uniform numbers, exactly (Bailey, 1994).
        (freedom,), uniform = shape, torch.rand(2, *center.shape, **like)
        noise = (freedom * torch.expm1(-2 / freedom * torch.log1p(-uniform[0]))).sqrt()
        noise = noise * torch.cos(2 * math.pi * uniform[1])
    else:
        noise = torch.randn(center.shape, **like)
    return torch.addcmul(center, width, noise) * scale + loc


def quantile_at(quantiles: Tensor, levels: Sequence[float], at: Tensor) -> Tensor:
    """The piecewise linear function through the quantiles at other levels.

    Beyond the outermost quantiles it goes on as between the two next to the end.

    Args:
        quantiles: `(..., Q)`, ascending.
        levels: Of the quantiles, Q of them, ascending.
        at: `(...)`, from 0 to 1.
    """
    known = torch.tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    right = torch.searchsorted(known, at.contiguous()).clamp(1, len(known) - 1)
    share = (at - known[right - 1]) / (known[right] - known[right - 1])
    shape = torch.broadcast_shapes(at.shape, quantiles.shape[:-1])
    quantiles, right = quantiles.expand(*shape, -1), right.expand(shape)[..., None]
    low, high = (quantiles.take_along_dim(index, dim=-1)[..., 0] for index in (right - 1, right))
    return torch.lerp(low, high, share)


def pinball(quantiles: Tensor, levels: Sequence[float], targets: Tensor) -> Tensor:
    """The mean pinball loss of quantiles `(..., Q)`, `(...)`: half of the CRPS, where there are many even levels."""
    known = torch.tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    error = targets[..., None] - quantiles
    return torch.maximum(known * error, (known - 1) * error).mean(dim=-1)


def negative_log_likelihood(
    kind: str,
    parameters: Parameters,
    loc: Tensor,
    scale: Tensor,
    targets: Tensor,
    observed: Tensor,
    num_items_in_batch: int | Tensor | None,
) -> Tensor:
    """The mean negative log-likelihood, in nats, of the targets `(B, T)` that are observed; 0 where none is.

    Raises:
        ValueError: A count is negative or broken.
    """
    if kind == "negative_binomial" and ((targets < 0) | (targets != targets.round())).any():
        raise ValueError(
            "`distribution_output='negative_binomial'` is of counts, and `past_values` or `future_values` have others "
            "than whole numbers from 0 on"
        )
    targets = torch.where(observed, targets, loc)  # far from which a density may have no finite logarithm
    return observed_mean(
        -distribution_of(kind, parameters, loc, scale).log_prob(targets), observed, num_items_in_batch
    )


def observed_mean(losses: Tensor, observed: Tensor, num_items_in_batch: int | Tensor | None) -> Tensor:
    """The sum of losses `(B, T)` where something was observed, by their number or the one given."""
    total = torch.where(observed, losses, 0).sum()
    count = observed.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return total / count.clamp(min=1)


__all__ = [
    "Parameters",
    "RNNTimeSeriesOutput",
    "distribution_of",
    "draw",
    "lagged",
    "negative_log_likelihood",
    "observed_mean",
    "parameters_of",
    "pinball",
    "quantile_at",
    "scale_of",
]
