"""Measure speed, always as a ratio to something that runs in turn in the same process.

python scripts/benchmark.py train [--rounds 9] [--device cpu] [--json FILE]
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

import torch

from rnn_hf.benchmarking import benchmark_training
from rnn_hf.files import write_json
from rnn_hf.training.reporting import versions


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train"])
    parser.add_argument(
        "--rounds", type=int, default=9, help="rounds, in which each candidate runs twice and the second run counts"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", help="also write the result to this file")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU is available")
    rows = benchmark_training(arguments.rounds, arguments.device)
    names = list(rows[0]["ratio"])
    print("Time of a training step, as a ratio to the other's in the same round (median; below 1 is faster):\n")
    print("| size | tokens/s | " + " | ".join(f"to {name}" for name in names) + " |")
    print("|" + " --- |" * (2 + len(names)))
    for row in rows:
        ratios = " | ".join(f"{row['ratio'][name]:.3f}" for name in names)
        print(f"| {row['size']} | {row['tokens_per_second']:,} | {ratios} |")
    if arguments.json:
        content = {
            "rows": rows,
            "rounds": arguments.rounds,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        write_json(Path(arguments.json), content | {"device": arguments.device})
    return 0


if __name__ == "__main__":
    sys.exit(main())
