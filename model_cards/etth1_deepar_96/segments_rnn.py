"""The direct head of forecasts: segments of the past are read, and those of the future predicted all at once.

Shapes in comments: B batch, P past, H horizon, w segment, E width of what the first layer reads, Q quantiles,
S samples.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cache_rnn import RNNCache
from .kernels_rnn import has_own_forward, is_own, step
from .layers_rnn import CELLS, locked_dropout
from .series_rnn import (
    RNNTimeSeriesOutput,
    distribution_of,
    draw,
    negative_log_likelihood,
    observed_mean,
    parameters_of,
    pinball,
    quantile_at,
    scale_of,
)
from .versions_rnn import autocast_dtype


class SegmentProjection(nn.Linear):
    """A linear layer over segments of a series, and what is below 0 cut off."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


def forecast_directly(
    model: Any,
    past: Tensor,
    observed: Tensor,
    categories: Tensor | None,
    future: tuple[Tensor, Tensor] | None,
    num_items_in_batch: int | Tensor | None,
) -> RNNTimeSeriesOutput:
    """What [`RNNForTimeSeriesPrediction.forward`] returns of a direct head.

    Args:
        model: The network.
        past: `(B, P)`, 0 where a value is missing.
        observed: `(B, P)`.
        categories: `(B, kinds)`.
        future: Values and where they are observed, `(B, H)` each; `None` where they are not known.
        num_items_in_batch: Divides the summed loss in place of the number of observed targets.

    Raises:
        ValueError: The future has another length.
    """
    config, wanted = model.config, (len(past), model.config.prediction_length)
    if future is not None and tuple(future[0].shape) != wanted:
        raise ValueError(
            f"`future_values` must have shape {wanted}, the last by `prediction_length`, got {tuple(future[0].shape)}"
        )
    loc, scale = scale_of(past, observed, config.scaling, config.scale_floor)
    scaled = torch.where(observed, (past - loc) / scale, 0)
    segments = scaled.unflatten(1, (-1, config.segment_length)).to(model.head.weight.dtype)
    cache = model.model(inputs_embeds=segments, use_cache=True, return_dict=True).cache
    outputs = model.head(model.dropout(decode(model, cache, categories)))  # (B, H / w, w * numbers)
    outputs = outputs.reshape(*wanted, config.num_outputs)
    quantiles = params = loss = None
    if config.loss == "nll":
        kind, params = config.distribution_output, parameters_of(config.distribution_output, outputs)
        points = distribution_of(kind, params, loc, scale).mean
        if future is not None:
            loss = negative_log_likelihood(kind, params, loc, scale, *future, num_items_in_batch)
    else:
        numbers = torch.addcmul(loc[..., None], outputs.to(loc.dtype), scale[..., None])
        points = numbers[..., 0]
        if config.loss == "quantile":
            # In order, as they should be: that never makes the loss larger (Chernozhukov et al., 2010).
            quantiles = numbers.sort(dim=-1).values
            points = quantile_at(quantiles, config.quantiles, torch.full_like(points, 0.5))
        if future is not None:
            losses = point_losses(config, points, quantiles, future[0])
            loss = observed_mean(losses, future[1], num_items_in_batch)
    return RNNTimeSeriesOutput(
        loss=loss, prediction_outputs=points, quantile_outputs=quantiles, params=params, loc=loc, scale=scale
    )


def point_losses(config: Any, points: Tensor, quantiles: Tensor | None, targets: Tensor) -> Tensor:
    """Losses of points or quantiles, `(B, H)`."""
    if quantiles is not None:
        return pinball(quantiles, config.quantiles, targets)
    return (points - targets).abs() if config.loss == "mae" else (points - targets).square()


# As the layers in RNNModel: torch.compile does not trace recurrent modules.
@torch.compiler.disable
def decode(model: Any, cache: RNNCache, categories: Tensor | None) -> Tensor:
    """One step of each layer from its last state, for each segment of the future: `(B, m, width)`."""
    config, number, rows = model.config, model.embed_positions.num_embeddings, len(cache.layers[0].keys)
    outputs: Any = None
    for index, (layer, (hidden, cell)) in enumerate(zip(model.model.layers, cache, strict=True)):
        rate = config.hidden_dropout if index else config.input_dropout
        if outputs is None and shares_products(layer, rate):
            outputs = first_step(model, layer, hidden, cell, categories)
            continue
        if outputs is None:
            outputs = future_inputs(model, rows, categories)
        outputs = locked_dropout(outputs.flatten(0, 1)[:, None], rate, model.training)  # (B * m, 1, E)
        outputs, *_ = layer(outputs, *(None if part is None else each(part, number) for part in (hidden, cell)))
        outputs = outputs[:, 0].unflatten(0, (rows, number))
    return outputs


def future_inputs(model: Any, rows: int, categories: Tensor | None) -> Tensor:
    """What the first layer reads of so many series: positions and categories, `(rows, m, E)`."""
    positions = model.embed_positions.weight
    parts = [positions.expand(rows, -1, -1)]
    if categories is not None:
        parts += [
            embed(categories[:, index])[:, None].expand(-1, len(positions), -1)
            for index, embed in enumerate(model.embed_categories)
        ]
    return torch.cat(parts, dim=-1)


def each(rows: Tensor, number: int) -> Tensor:
    """Each row so many times, one after the other."""
    return rows[:, None].expand(-1, number, -1).flatten(0, 1)


def shares_products(layer: Any, dropout: float) -> bool:
    """Whether the first step of the future may be computed from its equations, on a CPU."""
    rnn, training = layer.rnn, layer.training
    return (
        type(rnn) in CELLS.values()
        and is_own(rnn, type(rnn))
        and has_own_forward(layer)
        and not getattr(rnn, "proj_size", 0)
        and rnn.weight_hh_l0.device.type == "cpu"
        and rnn.weight_hh_l0.dtype in (torch.float32, torch.float64)
        and autocast_dtype(rnn.weight_hh_l0.device) is None
        and not (training and (dropout or layer.recurrent_dropout or layer.gradient_checkpointing))
    )


def first_step(model: Any, layer: Any, hidden: Tensor, cell: Tensor | None, categories: Tensor | None) -> Tensor:
    """The step of the first layer, `(B, m, H)`, by few products.

    All segments of a row go on from one state, and all rows of the same categories read the same, so that the products
    are those of B states, and of m inputs for each kind of row: with many segments half of the network's work.
    """
    rnn, rows, number = layer.rnn, len(hidden), model.embed_positions.num_embeddings
    place = None
    if categories is not None and categories.shape[1]:
        categories, place = categories.unique(dim=0, return_inverse=True)
    inputs = future_inputs(model, rows if categories is None else len(categories), categories)
    if place is None:
        inputs = inputs[:1]
    of_input = F.linear(inputs, rnn.weight_ih_l0, rnn.bias_ih_l0)
    of_input = of_input.expand(rows, -1, -1) if place is None else of_input.index_select(0, place)
    of_hidden = F.linear(hidden, rnn.weight_hh_l0, rnn.bias_hh_l0)
    products = [lambda _: of_input.flatten(0, 1), lambda _: each(of_hidden, number)]
    state = (each(hidden, number), None if cell is None else each(cell, number))
    outputs, _ = step(layer.kind, inputs, *state, products)
    return outputs.unflatten(0, (rows, number))


def draw_directly(config: Any, output: Any, samples: int, generator: torch.Generator | None) -> Tensor:
    """Samples of each value, `(B, S, H)`, without regard to the others.

    Raises:
        ValueError: The head says points only.
    """
    if config.loss == "quantile":
        quantiles = output.quantile_outputs[:, None]
        shape = (len(quantiles), samples, quantiles.shape[2])
        at = torch.rand(shape, generator=generator, dtype=quantiles.dtype, device=quantiles.device)
        return quantile_at(quantiles, config.quantiles, at)
    if output.params is None:
        raise ValueError(f"a model with `loss={config.loss!r}` predicts points, of which no paths can be drawn")
    params = tuple(part[:, None].expand(-1, samples, -1) for part in output.params)
    return draw(config.distribution_output, params, output.loc[..., None], output.scale[..., None], generator)


__all__ = ["SegmentProjection", "draw_directly", "forecast_directly"]
