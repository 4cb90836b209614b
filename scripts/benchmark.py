"""Measure speed, always as a ratio to something that runs in turn in the same process.

    python scripts/benchmark.py train [--rounds 9] [--device cpu] [--peer DIR ...] [--json FILE]
    python scripts/benchmark.py generate [--rounds 9] [--json FILE] [--plot PNG]

`generate` also measures the time and memory of one more token as the context grows, beside transformers' GPT-2 and
Mamba, and resident memory over a million tokens.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch

from rnn_hf.benchmarking.generation import benchmark_context, benchmark_generation, plot_context, resident_memory
from rnn_hf.benchmarking.training import benchmark_loops, benchmark_training
from rnn_hf.files import write_json
from rnn_hf.training.reporting import versions


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table; `ratio` takes a column for each thing that is compared to, empty where it was not."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("ratio", {})))
    keys = [key for key in rows[0] if key != "ratio"]
    print(f"| {' | '.join([*keys, *(f'to {name}' for name in names)])} |")
    print("|" + " --- |" * (len(keys) + len(names)))
    for row in rows:
        ratios = [f"{row['ratio'][name]:.3f}" if name in row["ratio"] else "" for name in names]
        print(f"| {' | '.join([*(str(row[key]) for key in keys), *ratios])} |")
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
    content: dict[str, Any] = {"rounds": arguments.rounds, "threads": torch.get_num_threads(), "versions": versions()}
    print("Time as a ratio to the other's in the same round (median; below 1 is faster):\n")
    if arguments.what == "train":
        rows = benchmark_training(arguments.rounds, arguments.device)
        if arguments.device == "cpu":
            rows += benchmark_loops(arguments.rounds, peers=arguments.peer)
        content["rows"] = rows
        show(content["rows"])
    else:
        content |= {"rows": benchmark_generation(arguments.rounds)}
        show(content["rows"])
        content |= {"context": benchmark_context(arguments.rounds), "memory": resident_memory()}
        show(content["context"])
        show(content["memory"])
        if arguments.plot:
            plot_context(content["context"], Path(arguments.plot))
    if arguments.json:
        write_json(Path(arguments.json), content | {"device": arguments.device})
    return 0


if __name__ == "__main__":
    sys.exit(main())
