"""Measure speed, always as a ratio to something that runs in turn in the same process.

    python scripts/benchmark.py train [--rounds 9] [--device cpu] [--peer DIR ...] [--json FILE]
    python scripts/benchmark.py sample|generate|hear|classify|forecast|translate [--ewt_dir DIR] [--json FILE]
    python scripts/benchmark.py deploy [--rounds 9] [--ptb_dir DIR] [--json FILE] [--plot PNG]

docs/speed.md has the tables of each, and docs/deployment.md those of `deploy`. Ctrl-C keeps what was measured by then.
"""

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from rnn_hf.benchmarking.classification import benchmark_classification
from rnn_hf.benchmarking.deployment import benchmark_deployment, plot_deployment
from rnn_hf.benchmarking.forecasting import benchmark_forecasts
from rnn_hf.benchmarking.generation import benchmark_generation, plot_context
from rnn_hf.benchmarking.loops import benchmark_training
from rnn_hf.benchmarking.record import Record, Rows, run_benchmark
from rnn_hf.benchmarking.speech import benchmark_speech
from rnn_hf.benchmarking.training import benchmark_sampled
from rnn_hf.benchmarking.translation import benchmark_translation
from rnn_hf.commands import run_command


ROOT = Path(__file__).parents[1]
# The rows of each benchmark, with the name of their table.
BENCHMARKS: dict[str, Callable[[Namespace], Rows]] = {
    "train": lambda given: benchmark_training(given.rounds, given.device, given.peer),
    "sample": lambda given: benchmark_sampled(given.rounds),
    "generate": lambda given: benchmark_generation(given.rounds),
    "classify": lambda given: benchmark_classification(given.rounds, given.ewt_dir, ROOT),
    "hear": lambda given: benchmark_speech(given.rounds, ROOT),
    "forecast": lambda given: benchmark_forecasts(given.rounds),
    "translate": lambda given: benchmark_translation(given.rounds),
    "deploy": lambda given: benchmark_deployment(given.rounds, given.ptb_dir, ROOT),
}


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=BENCHMARKS)
    parser.add_argument("--rounds", type=int, default=9, help="in each a candidate runs twice, the second is timed")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of train")
    parser.add_argument(
        "--peer", nargs="+", type=Path, default=[], help="checkouts of word_language_model or awd-lstm-lm; of train"
    )
    parser.add_argument("--ewt_dir", type=Path, help="directory with validation.tsv of ewt_pos; of classify")
    parser.add_argument("--ptb_dir", type=Path, help="directory with ptb.{train,valid,test}.txt; of deploy")
    parser.add_argument("--json", type=Path, help="also write the result here; until then to FILE.partial.json")
    parser.add_argument("--plot", type=Path, help="also draw the figure to this PNG file; of generate and deploy")
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
    record = Record(arguments.json)
    rows, say = BENCHMARKS[arguments.what](arguments), partial(print, flush=True)
    signal_number = run_benchmark(rows, record, arguments.rounds, arguments.device, say)
    if signal_number is not None:
        return 128 + signal_number
    if arguments.plot and arguments.what != "train":
        {"generate": plot_context, "deploy": plot_deployment}[arguments.what](record.content, arguments.plot)
    return 0


if __name__ == "__main__":
    run_command(main)
