"""Forecast the series of a CSV file, all values at once, with an exported network, by onnxruntime and numpy alone.

The first column is the time, a row a step; the others are read by their names. What is empty is missing.
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
options = parser.parse_args()

config = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))
length, series = config["context_length"], config["series"]
columns, mean, std = series["item_ids"], np.array(series["mean"])[:, None], np.array(series["std"])[:, None]
with options.file.open(encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
if len(rows) < length:
    parser.error(f"the network reads {length} rows, and the file has {len(rows)}")
values = np.array([[float(row[column] or "nan") for row in rows[-length:]] for column in columns])  # (series, steps)

session = onnxruntime.InferenceSession(options.folder / "model.onnx")
inputs = {
    "past_values": ((values - mean) / std).astype(np.float32),
    "past_observed_mask": (~np.isnan(values)).astype(np.int64),
    "static_categorical_features": np.arange(len(columns))[:, None],
}
wanted = {value.name for value in session.get_inputs()}
inputs = {name: value for name, value in inputs.items() if name in wanted}
(forecast,) = session.run(["prediction_outputs"], inputs)

writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(["step", *columns])
for step, row in enumerate((forecast * std + mean).T, 1):
    writer.writerow([step, *row])
