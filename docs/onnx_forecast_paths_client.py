"""Draw the future of series in a CSV file, value by value, with an exported network, by onnxruntime and numpy alone.

The first column is the time, a row an hour; the others are read by their names. What is empty is missing.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("file", type=Path)
parser.add_argument("--paths", type=int, default=100)
parser.add_argument("--levels", type=float, nargs="+", default=[0.05, 0.5, 0.95], help="of the quantiles to write")
options = parser.parse_args()

config = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))
lags, context, horizon = config["lags_sequence"], config["context_length"], config["prediction_length"]
series, kind = config["series"], config["distribution_output"]
columns, mean, std = series["item_ids"], np.array(series["mean"])[:, None], np.array(series["std"])[:, None]
with options.file.open(encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))[-(context + lags[-1]) :]
if len(rows) < context + lags[-1]:
    parser.error(f"the network reads {context + lags[-1]} rows, and the file has {len(rows)}")
values = np.array([[float(row[column] or "nan") for row in rows] for column in columns])  # (series, steps)
values = (values - mean) / std

# What the calendar says of each hour, and of those to come: the hour of the day and the day of the week.
first = np.datetime64(next(iter(rows[0].values())), "h")
hours = first + np.arange(len(rows) + horizon)
days = hours.astype("datetime64[D]")
features = np.stack([(hours - days).astype(int) / 23 - 0.5, (days.astype(int) + 3) % 7 / 6 - 0.5], axis=1)

# Location and scale of the context, of the values that are there.
recent = values[:, -context:]
number = np.maximum(1, (~np.isnan(recent)).sum(1))
total, size = np.nansum(recent, 1), np.nansum(np.abs(recent), 1)
loc, scale = np.zeros(len(values)), np.ones(len(values))
if config["scaling"] == "mean":
    scale = np.maximum(size / number, config["scale_floor"])
elif config["scaling"] == "std":
    loc = total / number
    scale = np.maximum((np.nansum((recent - loc[:, None]) ** 2, 1) / number) ** 0.5, config["scale_floor"])
elif config["scaling"] == "last":
    loc = np.array([([0] + list(row[~np.isnan(row)]))[-1] for row in recent])

session = onnxruntime.InferenceSession(options.folder / "model.onnx")
wanted = {value.name: value.shape for value in session.get_inputs()}
given = [value.name for value in session.get_outputs()]
state = {name: np.zeros((len(values), size[1]), np.float32) for name, size in wanted.items() if "past." in name}
categories = np.arange(len(values))[:, None]


def run(begin: int, end: int) -> dict[str, np.ndarray]:
    """Read what lies before the steps from `begin` to `end`; keep the state, return the parameters at each step."""
    seen = values[:, np.arange(begin, end)[:, None] - np.array(lags)]
    inputs = {
        "lags": np.nan_to_num(seen).astype(np.float32), "lags_observed": (~np.isnan(seen)).astype(np.int64),
        "time_features": np.repeat(features[None, begin:end].astype(np.float32), len(values), axis=0),
        "static_categorical_features": categories,
        "loc": loc[:, None].astype(np.float32), "scale": scale[:, None].astype(np.float32), **state,
    }  # fmt: skip
    outputs = dict(zip(given, session.run(given, {name: inputs[name] for name in wanted}), strict=True))
    state.update({name: outputs[name.replace("past", "present")] for name in state})
    return {name.removeprefix("params."): value[:, -1] for name, value in outputs.items() if "params." in name}


generator = np.random.default_rng()
run(lags[-1], len(rows))  # the context, for the state after it
values, loc, scale, categories = (np.repeat(part, options.paths, axis=0) for part in (values, loc, scale, categories))
state = {name: np.repeat(part, options.paths, axis=0) for name, part in state.items()}
for step in range(len(rows), len(rows) + horizon):
    params = run(step, step + 1)
    if kind == "negative_binomial":
        rate = generator.gamma(params["total_count"]) * np.exp(params["logits"]) * scale
        drawn = generator.poisson(rate)
    else:
        noise = generator.standard_t(params["df"]) if kind == "student_t" else generator.standard_normal(len(values))
        drawn = (params["loc"] + params["scale"] * noise) * scale + loc
    values = np.concatenate([values, drawn[:, None]], axis=1)

paths = values[:, len(rows) :].reshape(len(columns), options.paths, horizon) * std[..., None] + mean[..., None]
quantiles = np.quantile(paths, options.levels, axis=1)  # (levels, series, steps)
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(["step", *(f"{column} {level}" for column in columns for level in options.levels)])
for step in range(horizon):
    writer.writerow([step + 1, *quantiles[:, :, step].T.flatten()])
