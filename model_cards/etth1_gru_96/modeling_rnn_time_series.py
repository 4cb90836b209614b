"""A recurrent network that forecasts: value after value with a distribution of each, or all values at once.

A row is one series; several columns of a table are as many rows, with the column as a static category.

Shapes in comments: B batch, P past, C context, H horizon, F time features, T time, w segment, E width of what the
first layer reads, Q quantiles, S samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import init
from transformers.modeling_outputs import SampleTSPredictionOutput
from transformers.utils import can_return_tuple

from .cache_rnn import RNNCache, check_state
from .configuration_rnn_time_series import RNNTimeSeriesConfig
from .inputs_rnn import check_extra
from .modeling_rnn import RNNModel, RNNPreTrainedModel
from .paths_rnn import draw_paths
from .segments_rnn import SegmentProjection, draw_directly, forecast_directly
from .series_inputs_rnn import check_at_least_one, check_past, check_static, read_features, read_values
from .series_rnn import (
    Parameters,
    RNNTimeSeriesOutput,
    distribution_of,
    lagged,
    negative_log_likelihood,
    parameters_of,
    scale_of,
)
from .series_state_rnn import RNNSeriesState


class RNNForTimeSeriesPrediction(RNNPreTrainedModel):
    """Forecasts of single series by one of two heads, `config.prediction_head`.

    - `"autoregressive"` (DeepAR, Salinas et al., 2020): at each step [`RNNModel`] reads earlier values (lags), what is
      known of the time and of the series, and a linear layer gives the distribution of the value. Paths are drawn
      value by value. It has a state, so that it can also read a series as it comes (`read`).
    - `"direct"` (SegRNN, Lin et al., 2023): segments of the context are read one after the other; from the last state
      one step of the same layers for each segment of the future, all at once, from its position and the categories of
      the series, and a linear layer to its values, or their distributions or quantiles.
    """

    config_class = RNNTimeSeriesConfig
    config: RNNTimeSeriesConfig
    main_input_name = "past_values"
    input_modalities = "time"
    _input_embed_layer = "input_projection"

    def __init__(self, config: RNNTimeSeriesConfig):
        super().__init__(config)
        self.model = RNNModel(config)
        sizes = zip(config.cardinality, config.embedding_dimension, strict=True)
        self.embed_categories = nn.ModuleList([nn.Embedding(*size) for size in sizes])
        self.embed_positions = None
        size = config.num_outputs
        if config.prediction_head == "direct":
            self.model.input_projection = SegmentProjection(config.input_size, config.embedding_size)
            width = config.embedding_size - sum(config.embedding_dimension)
            self.embed_positions = nn.Embedding(config.prediction_length // config.segment_length, width)
            size *= config.segment_length
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.head = nn.Linear(config.output_size, size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As in [`RNNPreTrainedModel`], but embeddings are normal with deviation 1, as those of both papers' authors,
        and the last linear layer is uniform with bound 1/sqrt(width)."""
        if not isinstance(module, nn.Embedding | nn.Linear):
            super()._init_weights(module)
            return
        for name, parameter in module.named_parameters(recurse=False):
            if getattr(parameter, "_is_hf_initialized", False):
                continue
            if name == "bias":
                init.zeros_(parameter)
            elif isinstance(module, nn.Embedding):
                init.normal_(parameter)
            else:
                init.uniform_(parameter, -(module.in_features**-0.5), module.in_features**-0.5)

    @can_return_tuple
    def forward(
        self,
        past_values: Tensor,
        past_time_features: Tensor | None = None,
        past_observed_mask: Tensor | None = None,
        static_categorical_features: Tensor | None = None,
        static_real_features: Tensor | None = None,
        future_values: Tensor | None = None,
        future_time_features: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read the past and, of an autoregressive head, the future; predict, and compute the loss.

        Args:
            past_values: `(B, P)`, P at least `config.past_length`, of which the last ones are read. NaN is missing.
            past_time_features: `(B, P, num_time_features)`.
            past_observed_mask: `(B, P)`, 0 where a value is missing, whatever stands there.
            static_categorical_features: `(B, num_static_categorical_features)`, ids from 0 on.
            static_real_features: `(B, num_static_real_features)`.
            future_values: `(B, H)`, what came then. H is `config.prediction_length` for a direct head, else any.
            future_time_features: `(B, H, num_time_features)`.
            future_observed_mask: `(B, H)`.
            use_cache: Whether an autoregressive head returns its state; by default `config.use_cache`.
            num_items_in_batch: Divides the summed loss in place of the number of observed targets.
            kwargs: What transformers passes to every model. Other names give a warning.

        Returns:
            [`RNNTimeSeriesOutput`]. With `future_values` the `loss` of `config.loss`, in units of the values, is the
            mean over those that are observed; of an autoregressive head over those of the context as well, each from
            what came before it.

        Raises:
            ValueError: Values, features, masks or categories that do not fit; a state of a direct head.
        """
        check_extra(kwargs, None)
        past, observed, features = self._read_past(past_values, past_observed_mask, past_time_features)
        check_static(self.config, static_categorical_features, static_real_features, len(past))
        future = None
        if future_values is not None:
            future = read_values(future_values, future_observed_mask, self.head.weight.dtype, "future_values")
        if self.config.prediction_head == "direct":
            if use_cache:
                raise ValueError("`use_cache=True` is not for `prediction_head='direct'`, which has no state")
            return forecast_directly(self, past, observed, static_categorical_features, future, num_items_in_batch)
        state, values, observed = self._split_past(past, observed)
        if future is not None:
            values, observed = torch.cat([values, future[0]], dim=1), torch.cat([observed, future[1]], dim=1)
            later = self._read_features(future_time_features, future[0].shape, "future_time_features")
            features = None if features is None or later is None else torch.cat([features, later], dim=1)
        static = self._static(static_categorical_features, static_real_features, state)
        params, state = self._advance(state, values, observed, features, static)
        loc, scale, loss = state.loc, state.scale, None
        if future is not None:
            kind = self.config.distribution_output
            loss = negative_log_likelihood(kind, params, loc, scale, values, observed, num_items_in_batch)
        cache = state.cache if (self.config.use_cache if use_cache is None else use_cache) else None
        return RNNTimeSeriesOutput(loss=loss, params=params, loc=loc, scale=scale, cache=cache)

    def count_targets(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of values that the loss of `forward` on a batch is a mean over, a scalar.

        Args:
            batch: Arguments of `forward` by name, with both masks.
        """
        count = batch["future_observed_mask"].sum()
        if self.config.prediction_head == "direct":
            return count
        return count + batch["past_observed_mask"][:, -self.config.context_length :].sum()

    def output_distribution(self, params: Parameters, loc: Tensor, scale: Tensor) -> Distribution:
        """The distribution of values, in their units, by `params`, `loc` and `scale` of `forward`.

        Raises:
            ValueError: `config.loss` is another than `"nll"`.
        """
        if self.config.loss != "nll":
            raise ValueError(f"a model with `loss={self.config.loss!r}` says no distribution, one with 'nll' does")
        return distribution_of(self.config.distribution_output, params, loc, scale)

    @torch.no_grad()
    def generate(
        self,
        past_values: Tensor | None = None,
        past_time_features: Tensor | None = None,
        past_observed_mask: Tensor | None = None,
        static_categorical_features: Tensor | None = None,
        static_real_features: Tensor | None = None,
        future_time_features: Tensor | None = None,
        num_parallel_samples: int | None = None,
        prediction_length: int | None = None,
        state: RNNSeriesState | None = None,
        generator: torch.Generator | None = None,
    ) -> SampleTSPredictionOutput:
        """Draw paths of the future.

        Those of a direct head are drawn value by value without regard to each other: right at each time, and not for
        sums over times. From quantiles they are drawn by a piecewise linear function through them.

        Args:
            past_values: As in `forward`, with what goes with it; or
            state: What an autoregressive head has read (`read`).
            future_time_features: As in `forward`.
            num_parallel_samples: S; by default `config.num_parallel_samples`.
            prediction_length: H; by default `config.prediction_length`. A direct head has no other.
            generator: To draw by.

        Returns:
            `sequences`, `(B, S, H)`.

        Raises:
            ValueError: As in `forward`; a point head; both or neither of `past_values` and `state`.
        """
        config = self.config
        samples = config.num_parallel_samples if num_parallel_samples is None else num_parallel_samples
        length = config.prediction_length if prediction_length is None else prediction_length
        check_at_least_one(num_parallel_samples=samples, prediction_length=length)
        if (past_values is None) == (state is None):
            raise ValueError("pass exactly one of `past_values` and `state`")
        if config.prediction_head == "direct":
            if state is not None or length != config.prediction_length:
                raise ValueError(
                    "`prediction_head='direct'` has no `state`, and its `prediction_length` is always "
                    f"{config.prediction_length}"
                )
            outputs = self(
                past_values, past_time_features, past_observed_mask, static_categorical_features, static_real_features
            )
            return SampleTSPredictionOutput(sequences=draw_directly(config, outputs, samples, generator))
        given = (static_categorical_features, static_real_features)
        check_static(config, *given, len(past_values if state is None else state))
        if state is None:
            past, observed, features = self._read_past(past_values, past_observed_mask, past_time_features)
            before, values, observed = self._split_past(past, observed)
            _, state = self._advance(before, values, observed, features, self._static(*given, before))
        self._check_state(state, len(state))
        static = self._static(*given, state)
        later = self._read_features(future_time_features, (len(state), length), "future_time_features")
        known = self._known_inputs(state, later, static, length)
        return SampleTSPredictionOutput(sequences=draw_paths(self, state, known, samples, generator))

    def read(
        self,
        values: Tensor,
        time_features: Tensor | None = None,
        observed_mask: Tensor | None = None,
        static_categorical_features: Tensor | None = None,
        static_real_features: Tensor | None = None,
        state: RNNSeriesState | None = None,
        loc: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> RNNSeriesState:
        """Read series as they come, from their beginning or from a state: any pieces give the state of the whole.

        Unlike a window, a series that is read so has one location and scale for good: the ones given with its first
        piece, or those of its first `config.context_length` values, which must then be in that piece.

        Args:
            values: `(B, T)`, any T from 1 on. NaN is missing.
            time_features: `(B, T, num_time_features)`.
            observed_mask: `(B, T)`, 0 where a value is missing.
            static_categorical_features, static_real_features: As in `forward`, the same with each piece.
            state: After the values before these; `None` at the beginning.
            loc, scale: `(B, 1)`, to begin with; none with a `state`.

        Returns:
            The state after the last value, of which `generate` forecasts.

        Raises:
            ValueError: A direct head; values, features or a state that do not fit; a first piece that is too short.
        """
        if self.config.prediction_head == "direct":
            raise ValueError("`read` is for `prediction_head='autoregressive'`: a direct head reads whole contexts")
        values, observed = read_values(values, observed_mask, self.head.weight.dtype, "values")
        features = self._read_features(time_features, values.shape, "time_features")
        check_static(self.config, static_categorical_features, static_real_features, len(values))
        if state is None:
            state = self._empty_state(values, observed, loc, scale)
        elif loc is not None or scale is not None:
            raise ValueError("`loc` and `scale` are those of the `state`, and cannot be given with it")
        self._check_state(state, len(values))
        static = self._static(static_categorical_features, static_real_features, state)
        return self._advance(state, values, observed, features, static)[1]

    def _read_past(
        self, values: Tensor, mask: Tensor | None, features: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values and where they are observed, `(B, past_length)` each, and time features of the context."""
        values, observed = read_values(values, mask, self.head.weight.dtype, "past_values")
        features = self._read_features(features, values.shape, "past_time_features")
        check_past(self.config, values.shape[1])
        recent = slice(-self.config.past_length, None)
        features = None if features is None else features[:, -self.config.context_length :]
        return values[:, recent], observed[:, recent], features

    def _read_features(self, features: Tensor | None, shape: Sequence[int], name: str) -> Tensor | None:
        return read_features(self.config, features, shape, self.head.weight.dtype, name)

    def _check_state(self, state: RNNSeriesState, rows: int) -> None:
        if len(state) != rows:
            raise ValueError(f"`state` holds {len(state)} series, and {rows} are given")
        check_state(state.cache, self.model.state_sizes, rows)
        longest = max(self.config.lags_sequence)
        if state.values.shape[1] != longest:
            raise ValueError(
                f"`state` is that of another model: it holds {state.values.shape[1]} values, and the longest of "
                f"`lags_sequence` is {longest}"
            )

    def _split_past(self, past: Tensor, observed: Tensor) -> tuple[RNNSeriesState, Tensor, Tensor]:
        """The state before the context, which is an empty one with the values that lags reach back to; the context."""
        length = self.config.context_length
        values, are_observed = past[:, -length:], observed[:, -length:]
        loc, scale = scale_of(values, are_observed, self.config.scaling, self.config.scale_floor)
        before = RNNSeriesState(RNNCache(self.config), past[:, :-length], observed[:, :-length], loc, scale)
        return before, values, are_observed

    def _empty_state(
        self, values: Tensor, observed: Tensor, loc: Tensor | None, scale: Tensor | None
    ) -> RNNSeriesState:
        length, scaling = self.config.context_length, self.config.scaling
        if (loc is None) != (scale is None):
            raise ValueError("`loc` and `scale` go together")
        if loc is None or scale is None:
            if values.shape[1] < length and scaling is not None:
                raise ValueError(
                    f"the first `values` must be at least `context_length` ({length}) long, of which `loc` and "
                    f"`scale` are computed, or these be given; got {values.shape[1]}"
                )
            loc, scale = scale_of(values[:, :length], observed[:, :length], scaling, self.config.scale_floor)
        for name, given in (("loc", loc), ("scale", scale)):
            if tuple(given.shape) != (len(values), 1):
                raise ValueError(f"`{name}` must have shape {(len(values), 1)}, got {tuple(given.shape)}")
        unread = values.new_zeros(len(values), max(self.config.lags_sequence))
        return RNNSeriesState(RNNCache(self.config), unread, unread.bool(), loc.to(values), scale.to(values))

    def _static(self, categories: Tensor | None, reals: Tensor | None, state: RNNSeriesState) -> Tensor:
        """What is the same at all steps, `(B, width)`: categories, numbers of the series, location and scale."""
        # The logarithm of a location, with its sign.
        parts = [state.loc.sign() * state.loc.abs().log1p(), state.scale.log()]
        if reals is not None:
            parts.append(reals)
        if categories is not None:
            parts += [embed(categories[:, index]) for index, embed in enumerate(self.embed_categories)]
        return torch.cat([part.to(self.head.weight.dtype) for part in parts], dim=1)

    def _inputs(
        self, state: RNNSeriesState, values: Tensor, observed: Tensor, features: Tensor | None, static: Tensor
    ) -> Tensor:
        """What the network reads before each of the values `(B, T)`: lags, where they are observed, features."""
        time, lags = values.shape[1], self.config.lags_sequence
        are_observed = torch.cat([state.observed, observed], dim=1)
        scaled = (torch.cat([state.values, values], dim=1) - state.loc) / state.scale
        scaled = torch.where(are_observed, scaled, 0)
        parts = [lagged(scaled, lags, time), lagged(are_observed, lags, time)]
        if features is not None:
            parts.append(features)
        parts.append(static[:, None].expand(-1, time, -1))
        return torch.cat([part.to(static.dtype) for part in parts], dim=-1)

    def _advance(
        self, state: RNNSeriesState, values: Tensor, observed: Tensor, features: Tensor | None, static: Tensor
    ) -> tuple[Parameters, RNNSeriesState]:
        """Read values `(B, T)`: the parameters of the distribution before each, `(B, T)`, and the state after them."""
        inputs = self._inputs(state, values, observed, features, static)
        outputs = self.model(inputs_embeds=inputs, cache=state.own_cache(), use_cache=True, return_dict=True)
        hidden = self.dropout(outputs.last_hidden_state)
        params = parameters_of(self.config.distribution_output, self.head(hidden))
        longest = max(self.config.lags_sequence)
        values = torch.cat([state.values, values], dim=1)[:, -longest:]
        observed = torch.cat([state.observed, observed], dim=1)[:, -longest:]
        return params, RNNSeriesState(outputs.cache, values, observed, state.loc, state.scale)

    def _known_inputs(self, state: RNNSeriesState, features: Tensor | None, static: Tensor, length: int) -> Tensor:
        """What the network reads at each of the next steps, `(B, H, input size)`, with 0 for values not yet drawn."""
        zeros = state.values.new_zeros(len(state), length)
        inputs = self._inputs(state, zeros, torch.ones_like(zeros, dtype=torch.bool), features, static)
        for index, lag in enumerate(self.config.lags_sequence):
            inputs[:, lag:, index] = 0
        return inputs


__all__ = ["RNNForTimeSeriesPrediction"]
