"""What a run says, and what it leaves next to the model: run.json and metrics.jsonl."""

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from accelerate import Accelerator

from rnn_hf.evaluation import finite_perplexity
from rnn_hf.files import write_json, write_text
from rnn_hf.hub.cards import CELL_NAMES
from rnn_hf.machine import cpu_model, instruction_sets
from rnn_hf.models.kernels_rnn import CHOICES
from rnn_hf.training.arguments import Arguments
from rnn_hf.training.checkpoint import Progress, writing
from rnn_hf.training.curve import plot_curve


MOST_UNKNOWN = 0.05  # share of a split above which perplexity says little of a text
PACKAGES = ("rnn_hf", "transformers", "datasets", "accelerate", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on; of torch the build too, as in `2.13.0+cpu`."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def start_record(arguments: Arguments, accelerator: Accelerator, **known: Any) -> dict[str, Any]:
    """The content of run.json before the first step, with what else is `known` of the run."""
    device = accelerator.device
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "arguments": arguments.to_dict(),
        "command": command_line(),
        "cpu": cpu_model(),
        "device": str(device),
        "instructions": instruction_sets(),
        "kernels": dict(CHOICES),
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **gpu,
        **known,
    }


def result_of(
    progress: Progress, data: dict[str, Any], steps_per_epoch: int, is_complete: bool, stop: Sequence[int]
) -> dict[str, Any]:
    """What run.json says of the end of a run with `data`, which `stop` ended if it holds a signal."""
    result = {
        "steps": progress.step,
        "epochs": round(progress.step / steps_per_epoch, 4),
        "is_complete": is_complete,
        "stopped_by": Signals(stop[0]).name if stop and not is_complete else None,
        "minutes": round(progress.seconds / 60, 2),
        "best_step": progress.best_step,
        "best_validation_loss": None,
        "best_validation_perplexity": None,
    }
    if progress.best_step:
        result["best_validation_loss"] = progress.best_loss
        result["best_validation_perplexity"] = finite_perplexity(progress.best_loss)
        if data["unit"] == "character":
            result["best_validation_bits_per_character"] = progress.best_loss / math.log(2)
    return result


def command_line() -> str:
    """The command of this process, its program by file name."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def write_results(output_dir: Path, record: dict[str, Any], accelerator: Accelerator) -> None:
    """Write run.json with its results and draw curve.png; a line says that it is left out for want of matplotlib.

    Raises:
        OSError: run.json cannot be written.
    """
    with writing(output_dir / "run.json"):
        write_json(output_dir / "run.json", record)
    try:
        plot_curve(output_dir / "metrics.jsonl", output_dir / "curve.png")
    except ImportError as error:
        accelerator.print(f"no curve.png: {error}")


class Metrics:
    """The file metrics.jsonl: one JSON object a line, each with its `step`.

    Args:
        path: The file; it is replaced in one piece.
        rows: What it begins with: the history of a run that goes on.
    """

    def __init__(self, path: Path, rows: Iterable[dict[str, Any]] = ()):
        self.path = path
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

    def write(self, **values: float) -> None:
        """Append one line.

        Raises:
            OSError: It cannot be written; no part of it is left.
        """
        size = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError:
            os.truncate(self.path, size)
            raise


def score_text(loss: float, unit: str) -> str:
    """A loss in nats a token as perplexity and, of characters, as bits of each.

    >>> score_text(1.5, "character"), score_text(100.0, "token")
    ('perplexity 4.48 (2.164 bits per character)', 'perplexity >1e9')
    """
    perplexity = f"{math.exp(loss):.2f}" if loss < math.log(1e9) else ">1e9"
    bits = f" ({loss / math.log(2):.3f} bits per character)" if unit == "character" else ""
    return f"perplexity {perplexity}{bits}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def opening_lines(record: dict[str, Any]) -> list[str]:
    """What a run is about to do, by what stands in its run.json from the start."""
    data, counts = record["arguments"]["data"], record["data"]
    tokens = ", ".join(f"{split} {count:,}" for split, count in counts["tokens"].items())
    unknown = ", ".join(f"{split} {100 * share:.1f} %" for split, share in counts["unknown"].items())
    return [
        f"corpus      {data['dataset_name'] or data['train_file'] or data['ptb_dir']}; tokens: {tokens}",
        f"vocabulary  {counts['vocab_size']:,} ({data['tokenizer']}); unknown: {unknown or 'none'}",
        *run_lines(record),
    ]


def run_lines(record: dict[str, Any]) -> list[str]:
    """The network, the device and the length of a run of any task, by its run.json."""
    model, training = record["arguments"]["model"], record["arguments"]["training"]
    threads = f", {_count(record['threads'], 'thread')}" if record["device"] == "cpu" else ""
    processes = f", {record['processes']} processes" if record["processes"] > 1 else ""
    number = "bfloat16" if training["bf16"] else "float16" if training["fp16"] else "float32"
    epochs, total = training["num_train_epochs"], record["total_steps"]
    steps = f"{_count(epochs, 'epoch')} of {_count(record['steps_per_epoch'], 'step')}, {total:,} in all"
    if training["max_steps"] > 0:
        steps += f", of which --max_steps {training['max_steps']:,}"
    if record["first_step"]:
        steps += f", going on at step {record['first_step']:,}"
    layers = model.get("num_hidden_layers") or f"{model['num_encoder_layers']} and {model['num_decoder_layers']}"
    network = f"{CELL_NAMES[model['cell_type']]}, {layers} x {model['hidden_size']}"
    if model.get("bidirectional"):
        network = f"bidirectional {network}"
    elif model.get("reads_backward"):
        network = f"backward {network}"
    return [
        f"model       {network}, {record['parameters']:,} parameters",
        f"device      {record.get('gpu') or record['device']}{threads}{processes}, {number}",
        f"run         {steps}; {training['optim']} at {training['learning_rate']:g}",
    ]


def data_warnings(record: dict[str, Any]) -> list[str]:
    """What is to be said of a corpus with many unknown words."""
    data, unknown = record["arguments"]["data"], record["data"]["unknown"]
    if max(unknown.values(), default=0) <= MOST_UNKNOWN:
        return []
    shares = " and ".join(f"{100 * share:.1f} % of the {split} tokens" for split, share in unknown.items())
    ways = ["a lower --min_frequency"] if data["min_frequency"] > 1 else []
    ways += ["a higher --vocab_size"] if data["vocab_size"] else []
    ways += ["--tokenizer word, which splits punctuation off"] if data["tokenizer"] == "whitespace" else []
    ways += ["--tokenizer char"] if data["tokenizer"] in ("whitespace", "word") else []
    untrained = "" if unknown["train"] else "; <unk> is not in the training text (--min_frequency 2 puts it there)"
    return [
        f"warning: {shares} are unknown words, <unk>, of which perplexity says little{untrained}. "
        f"Fewer by {', '.join([*ways, 'more text'])}"
    ]


def closing_lines(record: dict[str, Any]) -> list[str]:
    """How a run ended, where its model is and how to go on, by its run.json."""
    result, training = record["result"], record["arguments"]["training"]
    lines = []
    if result["best_step"]:
        unigram = record["data"]["unigram_validation_perplexity"]
        score = score_text(result["best_validation_loss"], record["data"]["unit"])
        lines.append(f"best validation {score} at step {result['best_step']:,}; the unigram model has {unigram:.2f}")
        if result["best_validation_perplexity"] >= unigram:
            advice = "--optim adam --learning_rate 0.003 --max_grad_norm 1"
            if training["optim"] != "sgd":
                advice = "more --num_train_epochs, a smaller --per_device_train_batch_size, another --learning_rate"
            lines.append(f"warning: this is no better than counting words, so no order was learned: try {advice}")
        lines.append(f"model, run.json, metrics.jsonl and curve.png are in {training['output_dir']}")
    return [*lines, *ending_lines(record)]


def ending_lines(record: dict[str, Any]) -> list[str]:
    """How a run of any task ended and goes on, by its run.json; nothing of one that came to its end."""
    result, training = record["result"], record["arguments"]["training"]
    steps, total = result["steps"], record["total_steps"]
    had_ended = steps == record["first_step"]  # before this process
    if result["is_complete"]:
        if had_ended:
            again = f"--init_from {training['output_dir']} with another --output_dir"
            return [f"nothing was left to do: the run had ended at step {steps:,}; to train its model on, {again}"]
        patience = training["early_stopping_patience"]
        return [f"stopped early: {patience} validations without gain"] if steps < total else []
    go_on, more = "go on by the same command with --resume_from_checkpoint last", " and a higher --max_steps, or -1"
    if not training["save_total_limit"]:
        go_on, more = "--save_total_limit 0 left no checkpoint to go on from", ""
    if 0 < training["max_steps"] <= steps:
        nothing = "nothing was left to do: " if had_ended else ""
        return [f"{nothing}--max_steps {training['max_steps']:,} of {total:,} is reached; {go_on}{more}"]
    return [f"stopped by {result['stopped_by'] or 'another process'} at step {steps:,} of {total:,}; {go_on}"]
