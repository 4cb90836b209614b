"""Measure speed, always as a ratio to something that runs in turn in the same process.

    python scripts/benchmark.py train [--rounds 9] [--device cpu] [--peer DIR ...] [--json FILE]
    python scripts/benchmark.py generate [--rounds 9] [--json FILE] [--plot PNG]

`train` also measures memory, where the time goes, and the output layer as the vocabulary grows; `generate` the time
and memory of one more token as the context grows, beside transformers' GPT-2 and Mamba, and memory over a million
tokens.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch

from rnn_hf.benchmarking.generation import benchmark_generation, plot_context
from rnn_hf.benchmarking.loops import benchmark_training
from rnn_hf.files import write_json
from rnn_hf.training.reporting import versions


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table; what holds several numbers takes a column for each of them, empty where it lacks one."""
    flat = [{} for _ in rows]  # type: list[dict[str, Any]]
    for cells, row in zip(flat, rows, strict=True):
        for key, value in row.items():
            cells |= {f"{key} to {name}" if key == "ratio" else f"{key}, {name}": number
                      for name, number in value.items()} if isinstance(value, dict) else {key: value}  # fmt: skip
    keys = list(dict.fromkeys(key for cells in flat for key in cells))
    print(f"| {' | '.join(keys)} |\n|{' --- |' * len(keys)}")
    for cells in flat:
        print(f"| {' | '.join(str(cells.get(key, '')) for key in keys)} |")
    print()


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "generate"])
    parser.add_argument(
        "--rounds", type=int, default=9, help="rounds, in which each candidate runs twice and the second run counts"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; of train")
    parser.add_argument(
        "--peer", nargs="+", type=Path, default=[], help="checkouts of word_language_model or awd-lstm-lm; of train"
    )
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--plot", help="also draw time and memory over the context to this PNG file; of generate")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU is available")
    for peer in arguments.peer:
        if not (peer / "main.py").is_file():
            parser.error(f"--peer {peer}: no main.py; name a checkout of word_language_model or awd-lstm-lm")
    print("Time as a ratio to the other's in the same round (median; below 1 is faster):\n")
    if arguments.what == "train":
        tables = benchmark_training(arguments.rounds, arguments.device, arguments.peer)
    else:
        tables = benchmark_generation(arguments.rounds)
    for rows in tables.values():
        show(rows)
    if arguments.plot and arguments.what == "generate":
        plot_context(tables["context"], Path(arguments.plot))
    if arguments.json:
        about = {"rounds": arguments.rounds, "threads": torch.get_num_threads(), "versions": versions()}
        write_json(Path(arguments.json), about | tables | {"device": arguments.device})
    return 0


if __name__ == "__main__":
    sys.exit(main())
