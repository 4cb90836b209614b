"""What a network that forecasts is called with: read, and checked.

Shapes in comments: B batch, T time, F time features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .configuration_rnn_time_series import RNNTimeSeriesConfig


def read_values(values: Tensor, mask: Tensor | None, dtype: torch.dtype, name: str) -> tuple[Tensor, Tensor]:
    """Values `(B, T)` with 0 where one is missing, and where they are observed, `(B, T)`.

    Args:
        values: NaN is missing, whatever the mask says.
        mask: `(B, T)`, 0 where a value is missing; `None` where all are there that are not NaN.
        dtype: Type of the result, if it is not narrower than float32.
        name: Of the values, `past_values`, `future_values` or `values`.

    Raises:
        ValueError: Values or mask have another shape.
    """
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(
            f"`{name}` must be (batch, time), one series a row (several columns are so many rows) with a value at "
            f"least, got shape {tuple(values.shape)}"
        )
    observed = ~values.isnan()
    if mask is not None:
        if mask.shape != values.shape:
            raise ValueError(
                f"`{name.replace('values', 'observed_mask')}` must have the shape of `{name}`, {tuple(values.shape)}, "
                f"got {tuple(mask.shape)}"
            )
        observed = observed & mask.to(device=values.device, dtype=torch.bool)
    values = values.to(torch.promote_types(dtype, torch.float32))
    return torch.where(observed, values, 0), observed


def check_past(config: RNNTimeSeriesConfig, length: int) -> None:
    """Refuse a past of fewer values than are read.

    Raises:
        ValueError: Naming how many that are.
    """
    if length < config.past_length:
        raise ValueError(
            f"`past_values` must be at least {config.past_length} long, `context_length` ({config.context_length}) "
            f"and the longest of `lags_sequence` ({max(config.lags_sequence, default=0)}), got {length}"
        )


def check_at_least_one(**numbers: int) -> None:
    """Refuse a number below 1 by its name.

    Raises:
        ValueError: One is.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}")


def read_features(
    config: RNNTimeSeriesConfig, features: Tensor | None, shape: Sequence[int], dtype: torch.dtype, name: str
) -> Tensor | None:
    """Time features of values of this shape, `(B, T, F)`; `None` where the network has none.

    Raises:
        ValueError: They have another shape, or there are none.
    """
    wanted = (*shape, config.num_time_features)
    if features is None and not config.num_time_features:
        return None
    if features is None or tuple(features.shape) != wanted:
        raise ValueError(
            f"`{name}` must have shape {wanted}, the last by `num_time_features`, got "
            f"{None if features is None else tuple(features.shape)}"
        )
    return features.to(dtype) if config.num_time_features else None


def check_static(config: RNNTimeSeriesConfig, categories: Tensor | None, reals: Tensor | None, rows: int) -> None:
    """Refuse what cannot be categories and numbers of so many series.

    Raises:
        ValueError: They have another shape, or a category is not known.
    """
    for name, given, count in (
        ("static_categorical_features", categories, config.num_static_categorical_features),
        ("static_real_features", reals, config.num_static_real_features),
    ):
        if (given is not None or count) and (given is None or tuple(given.shape) != (rows, count)):
            raise ValueError(
                f"`{name}` must have shape {(rows, count)}, the last by `num_{name}`, got "
                f"{None if given is None else tuple(given.shape)}"
            )
    if categories is None or not categories.numel():
        return
    sizes = torch.tensor(config.cardinality, device=categories.device)
    if categories.is_floating_point() or ((categories < 0) | (categories >= sizes)).any():
        raise ValueError(
            f"`static_categorical_features` must be whole numbers from 0 on, below `cardinality` "
            f"({config.cardinality}), got {categories.dtype} from {categories.amin(0).tolist()} to "
            f"{categories.amax(0).tolist()}"
        )


__all__ = ["check_at_least_one", "check_past", "check_static", "read_features", "read_values"]
