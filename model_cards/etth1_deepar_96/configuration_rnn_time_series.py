"""The configuration of a network that forecasts: what [`RNNConfig`] has, and how a series becomes steps."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_rnn import RNNConfig


# Where those without this package find the classes.
AUTO_MAP = {
    "AutoConfig": "configuration_rnn_time_series.RNNTimeSeriesConfig",
    "AutoModelForTimeSeriesPrediction": "modeling_rnn_time_series.RNNForTimeSeriesPrediction",
}
# Numbers that say which distribution of a kind is meant.
NUM_PARAMETERS = {"student_t": 3, "normal": 2, "negative_binomial": 2}
SEGMENT_LENGTH = 24
QUANTILES = tuple(level / 20 for level in range(1, 20))
LENGTHS = ("prediction_length", "context_length", "segment_length", "num_parallel_samples")
COUNTS = ("num_time_features", "num_static_categorical_features", "num_static_real_features")


@strict
class RNNTimeSeriesConfig(RNNConfig):
    r"""Configuration of [`RNNForTimeSeriesPrediction`]. Fields as in [`RNNConfig`] and, by the names of transformers'
    TimeSeriesTransformerConfig where it has them:

    Args:
        prediction_head: `"autoregressive"`, one value after the other, each with a distribution (DeepAR, Salinas et
            al., 2020), or `"direct"`, all of them at once from segments (SegRNN, Lin et al., 2023).
        prediction_length: Values to predict: for a direct head always so many.
        context_length: Values that the network reads before; by default as many as it predicts.
        lags_sequence: How many steps back lie the values that an autoregressive head sees at each step: ascending,
            from 1 on; by default `[1]`. A direct head has none.
        num_time_features: Numbers that are known of each time, such as its hour; for an autoregressive head only.
        num_static_categorical_features: Kinds of categories that a series has, such as its column.
        num_static_real_features: Numbers that a series has; for an autoregressive head only.
        cardinality: Number of categories of each kind.
        embedding_dimension: Width of the embedding of each kind. By default `min(50, (cardinality + 1) // 2)`; for a
            direct head half of `embedding_size`, shared among the kinds.
        scaling: What is subtracted from each row, and what it is divided by then: `"mean"` (0, the mean of absolute
            values), `"std"` (mean, standard deviation), `"last"` (the last value, 1) or `None` (0, 1); of the context.
        scale_floor: The least number to divide by, in units of the data, and that of a row of which nothing is
            observed: a small part of the standard deviation of the training data.
        loss: `"nll"`, the negative log-likelihood of a distribution. For a direct head also `"mae"` and `"mse"`, of
            single points, and `"quantile"`, the pinball loss of several quantiles.
        distribution_output: `"student_t"`, `"normal"` or `"negative_binomial"` (of counts: with `scaling` `"mean"` or
            `None`), for `loss="nll"`.
        quantiles: Levels of the quantiles for `loss="quantile"`, ascending; by default 0.05, 0.1 and so on to 0.95.
        segment_length: Values that a direct head reads and predicts as one step; by default 24. It divides
            `context_length` and `prediction_length`.
        num_parallel_samples: Paths that `generate` draws where it is not told how many.
        input_size: Follows from the others: width of what is read at each step, before the first linear layer.
        initializer_range: As in [`RNNConfig`], of the first linear layer only.
        use_cache: Whether an autoregressive head returns its recurrent state.

    Raises:
        huggingface_hub.errors.StrictDataclassError: As of [`RNNConfig`].

    Example:

    >>> from rnn_hf import RNNTimeSeriesConfig
    >>> config = RNNTimeSeriesConfig(prediction_length=24, lags_sequence=[1, 2, 24], num_time_features=2)
    >>> config.past_length, config.input_size  # lags with marks of what is missing, features, location and scale
    (48, 10)
    """

    model_type = "rnn_hf_time_series"
    _auto_map = AUTO_MAP

    vocab_size: int = 1
    prediction_head: Literal["autoregressive", "direct"] = "autoregressive"
    prediction_length: int = 24
    context_length: int | None = None
    lags_sequence: list[int] | tuple[int, ...] | None = None
    num_time_features: int = 0
    num_static_categorical_features: int = 0
    num_static_real_features: int = 0
    cardinality: list[int] | tuple[int, ...] | None = None
    embedding_dimension: list[int] | tuple[int, ...] | None = None
    scaling: Literal["mean", "std", "last"] | None = "mean"
    scale_floor: float | int = 1e-3
    loss: Literal["nll", "mae", "mse", "quantile"] = "nll"
    distribution_output: Literal["student_t", "normal", "negative_binomial"] = "student_t"
    quantiles: list[float] | tuple[float, ...] | None = None
    segment_length: int | None = None
    num_parallel_samples: int = 100
    tie_word_embeddings: bool = False
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        is_direct = self.prediction_head == "direct"
        if self.context_length is None:
            self.context_length = self.prediction_length
        if self.lags_sequence is None:
            self.lags_sequence = [] if is_direct else [1]
        if self.segment_length is None and is_direct:
            self.segment_length = SEGMENT_LENGTH
        if self.quantiles is None and self.loss == "quantile":
            self.quantiles = list(QUANTILES)
        self.cardinality = list(self.cardinality or ())
        if self.embedding_dimension is None:
            half = (self.embedding_size or self.hidden_size) // 2
            shared = max(1, half // max(1, len(self.cardinality)))
            self.embedding_dimension = [shared if is_direct else min(50, (each + 1) // 2) for each in self.cardinality]
        for name in ("lags_sequence", "embedding_dimension", "quantiles"):
            if getattr(self, name) is not None:
                setattr(self, name, list(getattr(self, name)))  # as they are read from a file
        if self.input_size is None:
            self.input_size = self._input_size
        super().__post_init__(**kwargs)

    @property
    def _input_size(self) -> int:
        """Of a direct head a segment. Else lags, whether each is observed, features, location and scale."""
        if self.prediction_head == "direct":
            return self.segment_length or SEGMENT_LENGTH
        of_series = sum(self.embedding_dimension) + self.num_static_real_features + 2
        return 2 * len(self.lags_sequence) + self.num_time_features + of_series

    @property
    def past_length(self) -> int:
        """Values that are needed before the first one to predict: the context, and what its lags reach back to."""
        return self.context_length + max(self.lags_sequence, default=0)

    @property
    def num_outputs(self) -> int:
        """Numbers that are predicted of each value: parameters of a distribution, quantiles, or a point."""
        if self.loss == "nll":
            return NUM_PARAMETERS[self.distribution_output]
        return len(self.quantiles) if self.loss == "quantile" else 1

    def validate_rnn(self) -> None:
        """Part of the `@strict` validation: as of [`RNNConfig`], and the fields of time series."""
        for name in LENGTHS:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in COUNTS:
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        if not 0 < self.scale_floor < float("inf"):
            raise ValueError(f"`scale_floor` must be positive and finite, got {self.scale_floor}")
        if self.bidirectional:
            raise ValueError("`bidirectional` is not for forecasts, which go on from a state")
        if self.num_softmaxes > 1 or self.output_projection_size is not None:
            raise ValueError("`num_softmaxes` and `output_projection_size` are for language models only")
        self._validate_categories()
        self._validate_outputs()
        if self.prediction_head == "direct":
            self._validate_direct()
        else:
            self._validate_autoregressive()
        if self.input_size != self._input_size:
            raise ValueError(
                f"`input_size` ({self.input_size}) follows from the other fields, which give {self._input_size}, and "
                "may be left out"
            )
        super().validate_rnn()

    def _validate_categories(self) -> None:
        for name in ("cardinality", "embedding_dimension"):
            sizes = getattr(self, name)
            if len(sizes) != self.num_static_categorical_features or any(size < 1 for size in sizes):
                raise ValueError(
                    f"`{name}` must be a number of at least 1 for each of `num_static_categorical_features` "
                    f"({self.num_static_categorical_features}), got {sizes}"
                )

    def _validate_outputs(self) -> None:
        levels = self.quantiles
        if self.loss == "quantile":
            if len(levels) < 2 or levels != sorted(set(levels)) or not 0 < levels[0] < levels[-1] < 1:
                raise ValueError(f"`quantiles` must be two levels or more between 0 and 1, ascending, got {levels}")
        elif levels is not None:
            raise ValueError(f"`quantiles` are for `loss='quantile'` only, got {levels} with `loss={self.loss!r}`")
        if self.loss == "nll" and self.distribution_output == "negative_binomial" and self.scaling in ("std", "last"):
            raise ValueError(
                f"`scaling={self.scaling!r}` subtracts a number, and `distribution_output='negative_binomial'` is of "
                "counts: use 'mean' or None"
            )

    def _validate_direct(self) -> None:
        for name in ("lags_sequence", "num_time_features", "num_static_real_features", "output_dropout"):
            if getattr(self, name):
                raise ValueError(f"`{name}` is not for `prediction_head='direct'`, got {getattr(self, name)}")
        for name in ("context_length", "prediction_length"):
            if getattr(self, name) % self.segment_length:
                raise ValueError(
                    f"`{name}` ({getattr(self, name)}) must be a multiple of `segment_length` ({self.segment_length})"
                )
        if sum(self.embedding_dimension) >= self.embedding_size:
            raise ValueError(
                f"`embedding_dimension` {self.embedding_dimension} leaves no room in `embedding_size` "
                f"({self.embedding_size}) for the position of a segment"
            )

    def _validate_autoregressive(self) -> None:
        lags = self.lags_sequence
        if not lags or lags[0] < 1 or lags != sorted(set(lags)):
            raise ValueError(f"`lags_sequence` must be ascending numbers of steps back, from 1 on, got {lags}")
        if self.loss != "nll":
            raise ValueError(f"`loss={self.loss!r}` is for `prediction_head='direct'` only: use 'nll'")
        if self.segment_length is not None:
            raise ValueError(f"`segment_length` is for `prediction_head='direct'` only, got {self.segment_length}")


__all__ = ["RNNTimeSeriesConfig"]
