"""Tiny networks that forecast, with random weights, and windows to forecast."""

import torch

from rnn_hf import RNNForTimeSeriesPrediction, RNNTimeSeriesConfig


CLOSE = {"rtol": 1e-11, "atol": 1e-11}
SIZES = {"embedding_size": 6, "hidden_size": 5, "num_static_categorical_features": 1, "cardinality": [4]}
FIELDS = {
    "autoregressive": {
        **SIZES, "prediction_head": "autoregressive", "prediction_length": 5, "context_length": 7,
        "lags_sequence": [1, 2, 4], "num_time_features": 2, "num_static_real_features": 1, "scaling": "std",
    },
    "direct": {
        **SIZES, "prediction_head": "direct", "prediction_length": 6, "context_length": 9, "segment_length": 3,
        "scaling": "last",
    },
}  # fmt: skip


def config_of(head: str, cell: dict | None = None, **fields) -> RNNTimeSeriesConfig:
    return RNNTimeSeriesConfig(**{**FIELDS[head], **(cell or {}), **fields})


def make_forecaster(head: str, cell: dict | None = None, seed: int = 0, **fields) -> RNNForTimeSeriesPrediction:
    """In float64 and evaluation mode, with every parameter random."""
    model = RNNForTimeSeriesPrediction(config_of(head, cell, **fields)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.empty_like(parameter).uniform_(-0.8, 0.8, generator=generator))
    return model


def some_windows(config: RNNTimeSeriesConfig, batch: int = 4, seed: int = 0, length: int | None = None) -> dict:
    """Arguments of `forward`: random walks, and features where the network has some; so many values of the future."""
    generator = torch.Generator().manual_seed(seed)
    past, later = config.past_length, config.prediction_length if length is None else length

    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    values = 3 + random(batch, past + later).cumsum(dim=1)
    if config.distribution_output == "negative_binomial":
        values = values.abs().round()
    features = random(batch, past + later, config.num_time_features)
    windows = {"past_values": values[:, :past]}
    if config.num_time_features:
        windows |= {"past_time_features": features[:, :past], "future_time_features": features[:, past:]}
    if config.num_static_categorical_features:
        windows["static_categorical_features"] = torch.arange(batch)[:, None] % torch.tensor(config.cardinality)
    if config.num_static_real_features:
        windows["static_real_features"] = random(batch, config.num_static_real_features)
    return windows | {"future_values": values[:, past:]}


def without_future(windows: dict) -> dict:
    """The arguments of `generate` among those of `forward`."""
    return {name: value for name, value in windows.items() if name != "future_values"}


def rows_of(windows: dict, rows) -> dict:
    """The arguments of some rows."""
    return {name: value[rows] for name, value in windows.items()}
