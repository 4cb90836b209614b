"""The ONNX graphs of networks that forecast: a direct head whole, an autoregressive one as steps with the state.

Shapes in comments: B batch, P past, H horizon, T steps, L lags, w segment, m segments of the future, E width of what
the first layer reads, Q quantiles.
"""

from typing import Any

import torch

from rnn_hf.errors import InputError
from rnn_hf.models import RNNCache, RNNForTimeSeriesPrediction, RNNSeriesState
from rnn_hf.models.series_rnn import parameters_of
from rnn_hf.onnx.graph import Graph, add_layer, add_projected_layer, check_size, finish, states_of


FORECASTING = "time-series-forecasting"  # as the metadata of a file name the task
FUTURE = ".future"  # in the names of the second run of each layer
PARAMETERS = {
    "student_t": ("df", "loc", "scale"),
    "normal": ("loc", "scale"),
    "negative_binomial": ("total_count", "logits"),
}


class ForecastGraph(Graph):
    """A graph in which the second run of a layer, over the future, has the weights of the first."""

    def weight(self, name: str, tensor: torch.Tensor) -> str:
        first = name.replace(FUTURE, "")
        return first if FUTURE in name else super().weight(name, tensor)

    def number(self, value: float) -> str:
        """A constant number."""
        name = f"number.{value}"
        if all(weight.name != name for weight in self.weights):
            super().weight(name, torch.tensor(float(value)))
        return name

    def numbers(self, *numbers: int) -> str:
        """A constant list of whole numbers."""
        name = f"numbers.{'.'.join(map(str, numbers))}"
        if all(weight.name != name for weight in self.weights):
            super().weight(name, torch.tensor(numbers))
        return name

    def sizes(self, batch: str, name: str, *sizes: int) -> str:
        """The shape `(B, *sizes)` of what has this name, by the size of the batch and whole numbers."""
        return self.node("Concat", [batch, self.numbers(*sizes)], f"{name}.shape", axis=0)

    def where(self, condition: str, inputs: str, name: str) -> str:
        """The inputs, and 0 where the condition is not met."""
        return self.node("Where", [condition, inputs, self.number(0)], name)


def build_forecast_graph(model: Any) -> Any:
    """The `onnx.ModelProto` of a network that forecasts, float32.

    Of a direct head the inputs are `past_values`, float32 `(batch, past_length)`, `past_observed_mask`, int64 of the
    same shape, and, if it knows categories, `static_categorical_features`, int64 `(batch, kinds)`; the outputs
    `prediction_outputs`, `(batch, prediction_length)`, `quantile_outputs` or the parameters `params.df` and so on,
    `loc` and `scale`, all as of `RNNForTimeSeriesPrediction.forward`.

    An autoregressive head is as a graph of steps: the inputs are the values that lie so many steps back, `lags`,
    float32 `(batch, sequence, number of lags)`, and whether they are observed, `lags_observed`, int64 of the same
    shape; `time_features` `(batch, sequence, number)`, `static_categorical_features` and `static_real_features`, where
    it knows such; `loc` and `scale`, float32 `(batch, 1)`; and the state, named and shaped as of
    [`rnn_hf.onnx.graph.build_graph`], zeros at first. The outputs are the parameters of the distribution of the scaled
    value at each step, `(batch, sequence)`, and the state after the last one.

    Args:
        model: An `RNNForTimeSeriesPrediction`, of any type of float. Dropout is never part of the graph.

    Raises:
        InputError: It is none, or has over 2 GB of weights, which no ONNX file holds.
        MissingPackageError: onnx is not installed.
    """
    if not isinstance(model, RNNForTimeSeriesPrediction):
        raise InputError(f"`model` must be a network of this package that forecasts, not {type(model).__name__}")
    check_size(model)
    graph, interface = ForecastGraph(), interface_of(model.config)
    if model.config.prediction_head == "direct":
        add_direct_head(graph, model)
    else:
        add_step(graph, model)
    about = {"task": FORECASTING, "prediction_head": model.config.prediction_head}
    return finish(graph, model, interface, about)


def interface_of(config: Any) -> dict[str, list[dict[str, Any]]]:
    """Names, shapes and types of what goes in and comes out."""

    def value(name: str, *shape: int | str, dtype: str = "float32") -> dict[str, Any]:
        return {"name": name, "shape": ["batch", *shape], "dtype": dtype}

    static = [value("static_categorical_features", config.num_static_categorical_features, dtype="int64")]
    static = static if config.num_static_categorical_features else []
    scales, params = [value("loc", 1), value("scale", 1)], PARAMETERS[config.distribution_output]
    if config.prediction_head == "direct":
        past, horizon = config.past_length, config.prediction_length
        outputs = [value("prediction_outputs", horizon)]
        if config.loss == "quantile":
            outputs.append(value("quantile_outputs", horizon, len(config.quantiles)))
        elif config.loss == "nll":
            outputs += [value(f"params.{name}", horizon) for name in params]
        inputs = [value("past_values", past), value("past_observed_mask", past, dtype="int64"), *static]
        return {"inputs": inputs, "outputs": [*outputs, *scales]}
    number = len(config.lags_sequence)
    inputs = [value("lags", "sequence", number), value("lags_observed", "sequence", number, dtype="int64")]
    if config.num_time_features:
        inputs.append(value("time_features", "sequence", config.num_time_features))
    if config.num_static_real_features:
        static.append(value("static_real_features", config.num_static_real_features))
    return {
        "inputs": [*inputs, *static, *scales, *states_of(config, "past")],
        "outputs": [*(value(f"params.{name}", "sequence") for name in params), *states_of(config, "present")],
    }


def add_direct_head(graph: ForecastGraph, model: Any) -> None:
    """All of `rnn_hf.models.segments_rnn.forecast_directly`."""
    config = model.config
    is_number = graph.node("Not", [graph.node("IsNaN", ["past_values"], "is_nan")], "is_number")
    in_mask = graph.node("Cast", ["past_observed_mask"], "in_mask", to=graph.onnx.TensorProto.BOOL)
    observed = graph.node("And", [is_number, in_mask], "observed")
    values = graph.where(observed, "past_values", "values")
    batch = graph.node("Shape", ["past_values"], "batch", start=0, end=1)
    add_scale(graph, config, values, observed, batch)
    centered = graph.node("Sub", [values, "loc"], "values.centered")
    scaled = graph.where(observed, graph.node("Div", [centered, "scale"], "values.scaled"), "values.read")
    shape = graph.numbers(0, -1, config.segment_length)  # 0: as it is
    segments = graph.node("Reshape", [scaled, shape], "segments")
    by_step = graph.node("Transpose", [segments], "segments.by_step", perm=[1, 0, 2])
    outputs = graph.node("Relu", [add_linear(graph, "input_projection", model, by_step)], "embeds")
    for index, sizes in enumerate(config.state_sizes):
        for part, width in zip(("hidden", "cell"), sizes, strict=True):
            if width is not None:
                name = f"past.{index}.{part}"
                graph.node("ConstantOfShape", [graph.sizes(batch, name, width)], name)
    build = add_projected_layer if config.projection_size else add_layer
    for index, layer in enumerate(model.model.layers):
        outputs = build(graph, layer.rnn, layer.kind, index, outputs)
    outputs = add_future(graph, model, batch)  # (1, B * m, E)
    for index, layer in enumerate(model.model.layers):
        outputs = build(graph, layer.rnn, layer.kind, f"{index}{FUTURE}", outputs)
    outputs = add_linear(graph, "head", model, outputs)
    shape = graph.numbers(-1, config.prediction_length, config.num_outputs)
    add_forecasts(graph, config, graph.node("Reshape", [outputs, shape], "outputs"))


def add_linear(graph: Graph, name: str, model: Any, inputs: str) -> str:
    """The linear layer of this name."""
    layer = model.head if name == "head" else model.model.input_projection
    weight, bias = graph.weight(f"{name}.weight", layer.weight.T), graph.weight(f"{name}.bias", layer.bias)
    return graph.linear(f"{name}.outputs", inputs, weight, bias)


def add_scale(graph: ForecastGraph, config: Any, values: str, observed: str, batch: str) -> None:
    """`loc` and `scale`, `(B, 1)`, of values `(B, P)`, as `rnn_hf.models.series_rnn.scale_of`."""
    shape = "" if config.scaling == "std" else graph.sizes(batch, "scale", 1)
    if config.scaling in ("last", None):
        graph.node("Expand", [graph.number(1), shape], "scale")
        if config.scaling is None:
            graph.node("Expand", [graph.number(0), shape], "loc")
            return
        places = graph.node("Cast", [observed], "places", to=graph.onnx.TensorProto.INT64)
        last = graph.node("ArgMax", [places], "last", axis=1, select_last_index=1)
        graph.node("GatherElements", [values, last], "loc", axis=1)
        return
    ones = graph.node("Cast", [observed], "ones", to=graph.onnx.TensorProto.FLOAT)
    count = graph.node("ReduceSum", [ones, graph.axis(1)], "count")
    count = graph.node("Max", [count, graph.number(1)], "count.positive")

    def mean(inputs: str, name: str) -> str:
        return graph.node("Div", [graph.node("ReduceSum", [inputs, graph.axis(1)], f"{name}.sum"), count], name)

    if config.scaling == "mean":
        graph.node("Expand", [graph.number(0), shape], "loc")
        spread = mean(graph.node("Abs", [values], "values.abs"), "values.mean")
    else:
        loc = mean(values, "loc")
        apart = graph.where(observed, graph.node("Sub", [values, loc], "apart.all"), "apart")
        spread = graph.node("Sqrt", [mean(graph.node("Mul", [apart, apart], "apart.square"), "variance")], "deviation")
    graph.node("Max", [spread, graph.number(config.scale_floor)], "scale")


def add_future(graph: ForecastGraph, model: Any, batch: str) -> str:
    """What the layers read of the future, `(1, B * m, E)`, and the state of each row before each segment of it."""
    positions, config = model.embed_positions.weight, model.config
    number, width = positions.shape
    places = graph.weight("positions", positions[None])
    parts = [graph.node("Expand", [places, graph.sizes(batch, "positions.all", number, width)], "positions.all")]
    for kind, embedding in enumerate(model.embed_categories):
        name = f"categories.{kind}"
        place = graph.weight(f"{name}.place", torch.tensor(kind))
        ids = graph.node("Gather", ["static_categorical_features", place], f"{name}.ids", axis=1)
        row = graph.node("Gather", [graph.weight(f"{name}.weight", embedding.weight), ids], f"{name}.row")
        row = graph.node("Unsqueeze", [row, graph.axis(1)], f"{name}.one")
        shape = graph.sizes(batch, f"{name}.all", number, embedding.embedding_dim)
        parts.append(graph.node("Expand", [row, shape], f"{name}.all"))
    joined = graph.node("Concat", parts, "future.embeds", axis=-1)
    for index, sizes in enumerate(config.state_sizes):
        for part, size in zip(("hidden", "cell"), sizes, strict=True):
            if size is not None:
                name = f"past.{index}{FUTURE}.{part}"
                one = graph.node("Unsqueeze", [f"present.{index}.{part}", graph.axis(1)], f"{name}.one")
                of_each = graph.node("Expand", [one, graph.sizes(batch, name, number, size)], f"{name}.each")
                graph.node("Reshape", [of_each, graph.numbers(-1, size)], name)
    return graph.node("Reshape", [joined, graph.numbers(1, -1, config.embedding_size)], "future.inputs")


def add_parameters(graph: ForecastGraph, config: Any, outputs: str) -> dict[str, str]:
    """Parameters `params.df` and so on of any numbers `(..., parameters)`, as `parameters_of`."""
    names, found = PARAMETERS[config.distribution_output], {}
    for place, name in enumerate(names):
        index = graph.weight(f"params.{name}.place", torch.tensor(place))
        raw = graph.node("Gather", [outputs, index], f"params.{name}.raw", axis=-1)
        if name in ("loc", "logits"):
            found[name] = graph.node("Identity", [raw], f"params.{name}")
            continue
        square = graph.node("Add", [graph.node("Mul", [raw, raw], f"{raw}.square"), graph.number(4)], f"{raw}.more")
        root = graph.node("Sqrt", [square], f"{raw}.root")
        total = graph.node("Add", [raw, root], f"{raw}.sum")
        positive = f"params.{name}" if name == "total_count" else f"{raw}.positive"
        found[name] = graph.node("Div", [total, graph.number(2)], positive)
        if name == "scale":
            least = graph.number(torch.finfo(torch.float32).eps)
            found[name] = graph.node("Max", [positive, least], f"params.{name}")
        elif name == "df":
            found[name] = graph.node("Add", [positive, graph.number(2)], f"params.{name}")
    return found


def add_forecasts(graph: ForecastGraph, config: Any, outputs: str) -> None:
    """What a direct head gives, of the numbers `(B, H, numbers)` that the last layer says."""
    if config.loss == "nll":
        params = add_parameters(graph, config, outputs)
        if config.distribution_output == "negative_binomial":
            odds = graph.node("Mul", [graph.node("Exp", [params["logits"]], "odds"), "scale"], "odds.scaled")
            graph.node("Mul", [params["total_count"], odds], "prediction_outputs")
        else:
            spread = graph.node("Mul", [params["loc"], "scale"], "mean.spread")
            graph.node("Add", [spread, "loc"], "prediction_outputs")
        return
    loc, scale = (graph.node("Unsqueeze", [name, graph.axis(-1)], f"{name}.deep") for name in ("loc", "scale"))
    numbers = graph.node("Add", [graph.node("Mul", [outputs, scale], "outputs.spread"), loc], "numbers")
    if config.loss != "quantile":
        graph.node("Squeeze", [numbers, graph.axis(-1)], "prediction_outputs")
        return
    count = len(config.quantiles)
    graph.node("TopK", [numbers, graph.numbers(count)], "quantile_outputs", "quantiles.places", largest=0)
    right = min(max(1, sum(level < 0.5 for level in config.quantiles)), count - 1)
    low, high = config.quantiles[right - 1 : right + 1]
    ends = [
        graph.node("Gather", ["quantile_outputs", graph.weight(f"{name}.place", torch.tensor(place))], name, axis=-1)
        for name, place in (("quantile.low", right - 1), ("quantile.high", right))
    ]
    apart = graph.node("Sub", [ends[1], ends[0]], "quantile.apart")
    part = graph.node("Mul", [apart, graph.number((0.5 - low) / (high - low))], "quantile.part")
    graph.node("Add", [ends[0], part], "prediction_outputs")


def add_step(graph: ForecastGraph, model: Any) -> None:
    """Steps of an autoregressive head, `(B, T)`, from the state to the one after them."""
    config, float32 = model.config, graph.onnx.TensorProto.FLOAT
    observed = graph.node("Cast", ["lags_observed"], "observed", to=graph.onnx.TensorProto.BOOL)
    deep = {name: graph.node("Unsqueeze", [name, graph.axis(-1)], f"{name}.deep") for name in ("loc", "scale")}
    centered = graph.node("Sub", ["lags", deep["loc"]], "lags.centered")
    scaled = graph.where(observed, graph.node("Div", [centered, deep["scale"]], "lags.scaled"), "lags.read")
    parts = [scaled, graph.node("Cast", [observed], "lags.flags", to=float32)]
    if config.num_time_features:
        parts.append("time_features")
    more = graph.node("Add", [graph.node("Abs", ["loc"], "loc.abs"), graph.number(1)], "loc.more")
    logarithm = graph.node("Log", [more], "loc.log")
    signed = graph.node("Mul", [graph.node("Sign", ["loc"], "loc.sign"), logarithm], "loc.feature")
    static = [signed, graph.node("Log", ["scale"], "scale.feature")]
    static += ["static_real_features"] * bool(config.num_static_real_features)
    for kind, embedding in enumerate(model.embed_categories):
        place = graph.weight(f"categories.{kind}.place", torch.tensor(kind))
        ids = graph.node("Gather", ["static_categorical_features", place], f"categories.{kind}.ids", axis=1)
        weight = graph.weight(f"categories.{kind}.weight", embedding.weight)
        static.append(graph.node("Gather", [weight, ids], f"categories.{kind}.row"))
    joined = graph.node("Unsqueeze", [graph.node("Concat", static, "static", axis=-1), graph.axis(1)], "static.one")
    width = sum(config.embedding_dimension) + config.num_static_real_features + 2
    size = graph.node("Shape", ["lags"], "size", start=0, end=2)
    shape = graph.sizes(size, "static.all", width)
    parts.append(graph.node("Expand", [joined, shape], "static.all"))
    inputs = graph.node("Concat", parts, "inputs", axis=-1)
    by_step = graph.node("Transpose", [inputs], "inputs.by_step", perm=[1, 0, 2])
    outputs = add_linear(graph, "input_projection", model, by_step)
    build = add_projected_layer if config.projection_size else add_layer
    for index, layer in enumerate(model.model.layers):
        outputs = build(graph, layer.rnn, layer.kind, index, outputs)
    outputs = add_linear(graph, "head", model, outputs)
    add_parameters(graph, config, graph.node("Transpose", [outputs], "outputs", perm=[1, 0, 2]))


@torch.no_grad()
def run_forecaster(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What PyTorch makes of the inputs of such a graph, by the names of its outputs."""
    config, dtype = model.config, model.dtype
    given = {name: each.to(dtype) if each.is_floating_point() else each for name, each in inputs.items()}
    names = [f"params.{name}" for name in PARAMETERS[config.distribution_output]]
    if config.prediction_head == "direct":
        output = model(**given)
        found = {name: getattr(output, name) for name in ("prediction_outputs", "quantile_outputs", "loc", "scale")}
        found |= dict(zip(names, output.params or [], strict=False))
        return {name: part for name, part in found.items() if part is not None}
    state = state_of(model, given)
    static = model._static(given.get("static_categorical_features"), given.get("static_real_features"), state)
    observed = given["lags_observed"].bool()
    scaled = (given["lags"] - state.loc[..., None]) / state.scale[..., None]
    parts = [torch.where(observed, scaled, 0), observed.to(dtype)]
    parts += [given[name] for name in ("time_features",) if name in given]
    parts.append(static[:, None].expand(-1, observed.shape[1], -1))
    outputs = model.model(inputs_embeds=torch.cat(parts, dim=-1), cache=state.cache, use_cache=True)
    params = parameters_of(config.distribution_output, model.head(outputs.last_hidden_state))
    found = dict(zip(names, params, strict=True))
    for index, (hidden, cell) in enumerate(outputs.cache):
        found |= {f"present.{index}.hidden": hidden} | ({} if cell is None else {f"present.{index}.cell": cell})
    return found


def random_series(
    config: Any, interface: dict[str, list[dict[str, Any]]], batch: int, sequence: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Inputs of such a graph with values missing at random; of a first row of several none is."""
    inputs = {}
    for value in interface["inputs"]:
        shape = [{"batch": batch, "sequence": sequence}.get(size, size) for size in value["shape"]]
        tensor = torch.randn(shape, generator=generator)
        if value["name"] == "static_categorical_features":
            sizes = torch.tensor(config.cardinality)
            tensor = (torch.rand(shape, generator=generator) * sizes).long().clamp(max=sizes - 1)
        elif value["dtype"] == "int64":
            tensor = (tensor < 1).long()
            tensor[0] |= batch > 1
        elif value["name"] == "scale":
            tensor = tensor.exp()
        elif value["name"].startswith("past."):
            tensor = tensor.tanh()
        inputs[value["name"]] = tensor
    return inputs


def state_of(model: Any, inputs: dict[str, torch.Tensor]) -> RNNSeriesState:
    """The state that the inputs of a step name, without values."""
    parts = [
        (inputs[f"past.{index}.hidden"], inputs.get(f"past.{index}.cell"))
        for index in range(model.config.num_hidden_layers)
    ]
    nothing = inputs["loc"][:, :0]
    return RNNSeriesState(RNNCache(parts), nothing, nothing.bool(), inputs["loc"], inputs["scale"])


__all__ = ["FORECASTING", "build_forecast_graph", "random_series", "run_forecaster"]
