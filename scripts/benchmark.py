"""Measure speed, always as a ratio to something that runs in turn in the same process.

    python scripts/benchmark.py train [--rounds 9] [--device cpu] [--peer DIR ...] [--json FILE]
    python scripts/benchmark.py generate [--rounds 9] [--json FILE] [--plot PNG]
    python scripts/benchmark.py deploy [--rounds 9] [--ptb_dir DIR] [--json FILE] [--plot PNG]

`train` also measures padded batches, bfloat16, memory, where the time goes, and growing vocabularies; `generate` time
and memory of one more token as the context grows, of transformers' GPT-2 and Mamba too; `deploy` exported models in
ONNX Runtime, the shipped checkpoints in 8 bits, and the start of a process.
"""

import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch

from rnn_hf.benchmarking.deployment import benchmark_deployment, plot_deployment
from rnn_hf.benchmarking.generation import benchmark_generation, plot_context
from rnn_hf.benchmarking.loops import benchmark_training
from rnn_hf.benchmarking.machine import describe_machine
from rnn_hf.benchmarking.pages import conditions, table
from rnn_hf.commands import run_command
from rnn_hf.files import write_json
from rnn_hf.training.reporting import versions


def measure(arguments: Namespace) -> dict[str, Any]:
    """The tables of one benchmark, by name."""
    if arguments.what == "train":
        return benchmark_training(arguments.rounds, arguments.device, arguments.peer)
    if arguments.what == "generate":
        return benchmark_generation(arguments.rounds)
    return benchmark_deployment(arguments.rounds, arguments.ptb_dir, Path(__file__).parents[1])


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["train", "generate", "deploy"])
    parser.add_argument("--rounds", type=int, default=9, help="in each a candidate runs twice, the second is timed")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of train")
    parser.add_argument(
        "--peer", nargs="+", type=Path, default=[], help="checkouts of word_language_model or awd-lstm-lm; of train"
    )
    parser.add_argument("--ptb_dir", type=Path, help="directory with ptb.{train,valid,test}.txt; of deploy")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--plot", help="also draw the figure to this PNG file; of generate and deploy")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.device != "cpu" and arguments.what != "train":
        parser.error(f"--device {arguments.device}: {arguments.what} is measured on the CPU alone")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU is available")
    for peer in arguments.peer:
        if not (peer / "main.py").is_file():
            parser.error(f"--peer {peer}: no main.py; name a checkout of word_language_model or awd-lstm-lm")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("rnn_hf.benchmarking", "rnn_hf.timing"):
        logging.getLogger(name).setLevel(logging.INFO)
    tables = measure(arguments)
    machine = describe_machine(arguments.device)
    about = {"rounds": arguments.rounds, "device": arguments.device, "versions": versions(), "machine": machine}
    print("Ratios are times over the other's in the same round (median; below 1 is faster):\n")
    for name, rows in tables.items():
        print(f"{name}\n\n{table(rows)}\n")
    print(conditions(about))
    if arguments.plot and arguments.what != "train":
        {"generate": plot_context, "deploy": plot_deployment}[arguments.what](tables, Path(arguments.plot))
    if arguments.json:
        write_json(Path(arguments.json), about | tables)
    return 0


if __name__ == "__main__":
    run_command(main)
