"""What a run of examples left, as the tests compare it."""

import json

import torch
from safetensors.torch import load_file

from rnn_hf.files import read_json_lines


def history(directory):
    """The lines of metrics.jsonl but for the speed."""
    lines = read_json_lines(directory / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "samples_per_second"} for row in lines]


def state_of(directory):
    """All numbers of a run's end, as text: the best weights, those of the checkpoint, its optimizer and progress."""
    (checkpoint,) = directory.glob("checkpoint-*")
    progress = json.loads((checkpoint / "progress.json").read_text())["progress"]
    parts = [load_file(path / "model.safetensors") for path in (directory, checkpoint)]
    parts += [torch.load(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt", "average.pt")]
    torch.set_printoptions(threshold=10**9, precision=17)
    try:
        return repr(parts), {name: value for name, value in progress.items() if "seconds" not in name}
    finally:
        torch.set_printoptions(profile="default")
