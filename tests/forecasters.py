"""Tiny models that forecast, with random weights, that know the series of `series_files`."""

import torch

from rnn_hf import RNNForTimeSeriesPrediction
from rnn_hf.data.series import SeriesData, split_series
from rnn_hf.tasks.forecast_runs import configuration_of
from rnn_hf.tasks.forecast_windows import KnownSeries


SIZES = {"cell_type": "gru", "hidden_size": 8, "embedding_size": 8, "num_hidden_layers": 1, "prediction_length": 12}
HEADS = {
    "point": {
        "prediction_head": "direct", "context_length": 24, "segment_length": 6, "loss": "mae", "scaling": "last",
    },
    "quantile": {
        "prediction_head": "direct", "context_length": 24, "segment_length": 6, "loss": "quantile", "scaling": "std",
        "quantiles": "0.05,0.25,0.5,0.75,0.95",
    },
    "student": {"prediction_head": "direct", "context_length": 24, "segment_length": 6, "scaling": "std"},
    "autoregressive": {"context_length": 24, "lags_sequence": "1-3,24", "num_parallel_samples": 20},
}  # fmt: skip


def split_for_tests(series) -> SeriesData:
    return split_series(series, "0.6,0.2,0.2")


def make_forecaster(head: str, data: SeriesData, **fields) -> RNNForTimeSeriesPrediction:
    """A model in evaluation mode, random but for its seed."""
    known = KnownSeries.of(data, standardize=True)
    values = {**SIZES, **HEADS[head], **fields}
    features = len(data.frequency.features) + len(known.features)
    config = configuration_of(
        len(known.item_ids), features, 0.1, known.cardinality, len(known.reals), **values
    )  # fmt: skip
    config.series = known.to_dict()
    torch.manual_seed(0)
    return RNNForTimeSeriesPrediction(config).eval()
