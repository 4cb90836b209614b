"""Paths of an autoregressive forecast: each value is drawn and then read.

Shapes in comments: B series, S samples of each, R = B * S rows, H horizon, F width of what is read at each step,
E width of what the first layer reads.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cache_rnn import RNNCache
from .kernels_rnn import Product, has_own_forward, is_own, product_of, step
from .series_rnn import draw, parameters_of
from .series_state_rnn import RNNSeriesState
from .versions_rnn import autocast_dtype


def draw_paths(
    model: Any, state: RNNSeriesState, known: Tensor, samples: int, generator: torch.Generator | None
) -> Tensor:
    """Draw `samples` paths of each series.

    Args:
        model: An autoregressive [`RNNForTimeSeriesPrediction`].
        state: After the last value of each series.
        known: `(B, H, F)`, what is read at each step, with 0 for the values that are yet to be drawn.
        samples: S.
        generator: To draw by.

    Returns:
        `(B, S, H)`.
    """
    config, (series, length, _) = model.config, known.shape
    runs = steps_of(model, series * samples) or steps_of_modules(model)
    runner = runs(state.own_cache(), known, samples)
    loc, scale = (part[:, 0].repeat_interleave(samples) for part in (state.loc, state.scale))
    drawn = known.new_empty(length, series * samples)  # scaled
    paths = loc.new_empty(length, series * samples)
    lags = torch.tensor(config.lags_sequence, device=known.device)
    for at in range(length):
        # Lags ascend, so the first ones reach back to what was drawn.
        number = sum(lag <= at for lag in config.lags_sequence)
        outputs = runner(at, drawn.index_select(0, at - lags[:number]).t())
        params = parameters_of(config.distribution_output, outputs)
        paths[at] = draw(config.distribution_output, params, loc, scale, generator)
        drawn[at] = (paths[at] - loc) / scale
    return paths.t().unflatten(0, (series, samples))


# Makes of a state, what is known, and S a function of the step and its drawn lags, `(R, number)`, to what the network
# says, `(R, numbers)`. Drawn lags stand in the first places of what is read.
Runs = Callable[[RNNCache, Tensor, int], Callable[[int, Tensor], Tensor]]


def steps_of_modules(model: Any) -> Runs:
    """Each step by the modules, whatever they are."""

    def start(cache: RNNCache, known: Tensor, samples: int) -> Callable[[int, Tensor], Tensor]:
        cache.batch_repeat_interleave(samples)

        def run(at: int, lags: Tensor) -> Tensor:
            inputs = known[:, at].repeat_interleave(samples, dim=0)
            inputs[:, : lags.shape[1]] = lags
            hidden = model.model(inputs_embeds=inputs[:, None], cache=cache, use_cache=True, return_dict=True)
            return model.head(model.dropout(hidden.last_hidden_state[:, 0]))

        return run

    return start


def steps_of(model: Any, rows: int) -> Runs | None:
    """Each step from the equations, on a CPU; `None` where the modules must be run.

    What the first layer reads of all that is known is computed once for all steps and paths.
    """
    project, head, layers = model.model.input_projection, model.head, model.model.layers
    if model.training or head.weight.device.type != "cpu" or autocast_dtype(head.weight.device) is not None:
        return None
    if not all(map(has_own_forward, (model, model.model, *layers))):
        return None
    if not all(is_own(module, nn.Linear) for module in (project, head)):
        return None
    stack = [(layer.kind, layer.step_products(rows, packs=True)) for layer in layers]
    if any(products is None for _, products in stack):
        return None
    of_head = product_of(head.weight, head.bias, rows, True)

    def start(cache: RNNCache, known: Tensor, samples: int) -> Callable[[int, Tensor], Tensor]:
        embedded = F.linear(known, project.weight, project.bias).transpose(0, 1).contiguous()  # (H, B, E)
        return StepRunner(stack, of_head, project.weight.t(), embedded, samples, list(cache))

    return start


class StepRunner:
    """The steps of one call of `draw_paths`, see `steps_of`."""

    def __init__(
        self,
        stack: list[tuple[str, list[Product]]],
        head: Product,
        of_lags: Tensor,
        embedded: Tensor,
        samples: int,
        states: list[tuple[Tensor, Tensor | None]],
    ):
        self.stack, self.head, self.of_lags, self.embedded, self.samples = stack, head, of_lags, embedded, samples
        self.states = [
            (hidden.repeat_interleave(samples, 0), None if cell is None else cell.repeat_interleave(samples, 0))
            for hidden, cell in states
        ]

    def __call__(self, at: int, lags: Tensor) -> Tensor:
        outputs = self.embedded[at][:, None].expand(-1, self.samples, -1).flatten(0, 1)
        if lags.shape[1]:
            outputs = torch.addmm(outputs, lags, self.of_lags[: lags.shape[1]])
        for index, (kind, products) in enumerate(self.stack):
            self.states[index] = step(kind, outputs, *self.states[index], products)
            outputs = self.states[index][0]
        return self.head(outputs)


__all__ = ["draw_paths"]
