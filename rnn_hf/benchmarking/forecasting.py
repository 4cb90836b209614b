"""What forecasts take: a training step of a direct head, and paths of an autoregressive one, against loops by hand."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, StudentT, TransformedDistribution
from torch.nn import functional as F

from rnn_hf.benchmarking.by_hand import adam_step
from rnn_hf.models import RNNForTimeSeriesPrediction, RNNTimeSeriesConfig
from rnn_hf.timing import in_turn, ratio


# The shapes of the recipes etth1_gru_96 and etth1_deepar_96: seven series, the next 96 hours.
SERIES, PATHS, ROWS = 7, 100, 448  # rows are windows of a training step
OF_SERIES: dict[str, Any] = {"num_static_categorical_features": 1, "cardinality": [SERIES], "prediction_length": 96}
DIRECT = OF_SERIES | {
    "prediction_head": "direct", "context_length": 720, "segment_length": 48, "scaling": "last", "loss": "mae",
    "cell_type": "gru", "num_hidden_layers": 1, "hidden_size": 256, "embedding_size": 256, "classifier_dropout": 0.5,
}  # fmt: skip
LAGS = [*range(1, 8), *(day * 24 + near for day in range(1, 8) for near in (-1, 0, 1))]
AUTOREGRESSIVE = OF_SERIES | {
    "context_length": 168, "lags_sequence": LAGS, "scaling": "std", "cell_type": "lstm", "num_hidden_layers": 2,
    "hidden_size": 40, "embedding_size": 40, "num_time_features": 2,
}  # fmt: skip


class SegRNN(nn.Module):
    """A direct head as one writes it by hand: torch's layers over segments (Lin et al., 2023).

    Args:
        model: An `RNNForTimeSeriesPrediction` of the shape `DIRECT`, whose weights it takes.
    """

    def __init__(self, model: Any):
        super().__init__()
        config = model.config
        self.size, self.dropout = config.segment_length, nn.Dropout(config.classifier_dropout)
        self.project = nn.Linear(config.segment_length, config.embedding_size)
        self.rnn = nn.GRU(config.embedding_size, config.hidden_size, batch_first=True)
        self.positions = nn.Parameter(model.embed_positions.weight.detach().clone())
        self.series = nn.Parameter(model.embed_categories[0].weight.detach().clone())
        self.head = nn.Linear(config.hidden_size, config.segment_length)
        theirs = (model.model.input_projection, model.model.layers[0].rnn, model.head)
        for own, module in zip((self.project, self.rnn, self.head), theirs, strict=True):
            own.load_state_dict(module.state_dict())

    def forward(self, past: Tensor, which: Tensor, future: Tensor) -> Tensor:
        """The mean absolute error of forecasts, of windows `(B, P)` and `(B, H)` of series `(B,)`."""
        last = past[:, -1:]
        segments = (past - last).reshape(len(past), -1, self.size)
        _, state = self.rnn(self.project(segments).relu())
        number = len(self.positions)
        inputs = torch.cat(
            [self.positions.expand(len(past), -1, -1), self.series[which][:, None].expand(-1, number, -1)], dim=-1
        )
        outputs, _ = self.rnn(inputs.flatten(0, 1)[:, None], state.repeat_interleave(number, dim=1))
        forecast = self.head(self.dropout(outputs[:, 0])).reshape(len(past), -1) + last
        return F.l1_loss(forecast, future)


def training_steps() -> dict[str, Callable[[], Tensor]]:
    """A step of Adam by the package and by hand, on the same windows; each call returns the loss before it."""
    torch.manual_seed(0)
    model = RNNForTimeSeriesPrediction(RNNTimeSeriesConfig(**DIRECT))
    by_hand = SegRNN(model)
    past, future, which = torch.randn(ROWS, 720), torch.randn(ROWS, 96), torch.arange(ROWS) % SERIES

    inputs = {"past_values": past, "static_categorical_features": which[:, None], "future_values": future}
    return {
        "package": adam_step(model, lambda: model(**inputs).loss),
        "by hand": adam_step(by_hand, lambda: by_hand(past, which, future)),
    }


def student_t(outputs: Tensor) -> Distribution:
    """Of three numbers a row, as the heads of transformers make it."""
    freedom, center, width = outputs.unbind(-1)
    width, freedom = F.softplus(width), 2 + F.softplus(freedom)
    return TransformedDistribution(StudentT(freedom), [AffineTransform(center, width)])


@torch.no_grad()
def paths_by_hand(
    model: Any, state: Any, known: Tensor, samples: int = PATHS, draw: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Paths as one draws them by hand: one module of all layers, a step at a time (Salinas et al., 2020).

    Args:
        model: An `RNNForTimeSeriesPrediction` of the shape `AUTOREGRESSIVE`.
        state: After its context, as of `model.read`.
        known: What the network reads at each of H steps but for values to come, `(series, H, input size)`.
        samples: S.
        draw: Makes scaled values `(R,)` of what the head says, `(R, numbers)`; by default of Student's t.

    Returns:
        `(series, S, H)`.
    """
    config, layers = model.config, model.model.layers
    rnn = nn.LSTM(config.embedding_size, config.hidden_size, len(layers), batch_first=True).eval()
    for index, layer in enumerate(layers):
        for name, weight in layer.rnn.named_parameters():
            getattr(rnn, name.replace("l0", f"l{index}")).copy_(weight)
    hidden, cell = (
        torch.stack(parts).repeat_interleave(samples, dim=1) for parts in zip(*state.own_cache(), strict=True)
    )
    lags, drawn = config.lags_sequence, known.new_zeros(len(known) * samples, known.shape[1])
    for at in range(known.shape[1]):
        inputs = known[:, at].repeat_interleave(samples, dim=0)
        for index, lag in enumerate(lags):
            if lag <= at:
                inputs[:, index] = drawn[:, at - lag]
        outputs, (hidden, cell) = rnn(model.model.input_projection(inputs)[:, None], (hidden, cell))
        said = model.head(outputs[:, 0])
        drawn[:, at] = student_t(said).sample() if draw is None else draw(said)
    paths = drawn.unflatten(0, (len(known), samples))
    return paths * state.scale[:, :, None] + state.loc[:, :, None]


def drawn_paths() -> tuple[RNNForTimeSeriesPrediction, Mapping[str, Any], dict[str, Callable[[], Tensor]]]:
    """A network, what it is given, and paths of it by the package and by hand, from the state of one context."""
    torch.manual_seed(0)
    model = RNNForTimeSeriesPrediction(RNNTimeSeriesConfig(**AUTOREGRESSIVE)).eval()
    features, which = torch.rand(SERIES, model.config.past_length + 96, 2) - 0.5, torch.arange(SERIES)[:, None]
    past = torch.randn(SERIES, model.config.past_length)
    state = model.read(past, features[:, : past.shape[1]], static_categorical_features=which)
    later = {"future_time_features": features[:, past.shape[1] :], "static_categorical_features": which}
    with torch.no_grad():
        static = model._static(which, None, state)
        known = model._known_inputs(state, later["future_time_features"], static, 96)
    ways = {
        "package": lambda: model.generate(state=state, num_parallel_samples=PATHS, **later).sequences,
        "by hand": lambda: paths_by_hand(model, state, known),
    }
    return model, {"state": state, "known": known, **later}, ways


def benchmark_forecasts(rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of the table `forecasts` on one thread: `case`, `milliseconds` of each way, medians, and their `ratio`."""
    torch.set_num_threads(1)
    cases = {
        f"a training step of {ROWS} windows, direct": training_steps(),
        f"{PATHS} paths of 96 steps of {SERIES} series": drawn_paths()[2],
    }
    for table, (case, ways) in zip(repeat("forecasts"), cases.items()):
        times = in_turn(ways, rounds)
        milliseconds = {name: round(1000 * statistics.median(taken), 1) for name, taken in times.items()}
        yield (
            table,
            {
                "case": case,
                "milliseconds": milliseconds,
                "ratio": {"by hand": round(ratio(times, "package", "by hand"), 3)},
            },
        )
