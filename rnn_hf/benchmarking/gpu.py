"""The parts of `scripts/gpu_check.py`: what a GPU is and can do, its tests, its speed, and a run of training."""

import importlib.util
import json
import logging
import math
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import nn

from rnn_hf.benchmarking.gpu_speed import DRY, FULL, TYPES, rows_of_speed, set_tf32
from rnn_hf.benchmarking.loops import write_text
from rnn_hf.benchmarking.record import Record
from rnn_hf.benchmarking.training import TrainingSize
from rnn_hf.evaluation import evaluate_splits
from rnn_hf.files import read_json, read_json_lines
from rnn_hf.machine import describe_machine
from rnn_hf.runs import load_corpus_of, save_scores
from rnn_hf.training.reporting import versions


ROOT = Path(__file__).parents[2]
logger = logging.getLogger(__name__)


@dataclass
class Part:
    """A part of the check: what it was told, and what it measured, which is in a file after each row.

    Attributes:
        name: Of `PARTS`.
        out: Directory of the files.
        work: Directory that the training run's own directory is in.
        ptb_dir: Directory of Penn Treebank's text, if any.
        device: `cuda` or `cpu`.
        is_dry: Whether all is tiny and in one round.
        until: When the part is to be over, in seconds since the epoch.
        record: Gets what is measured; in OUT/NAME.json.
    """

    name: str
    out: Path
    work: Path
    ptb_dir: Path | None
    device: str
    is_dry: bool
    until: float

    def __post_init__(self) -> None:
        self.record = Record(self.out / f"{self.name}.json")

    @property
    def target(self) -> torch.device:
        return torch.device(self.device)

    def seconds_left(self) -> float:
        return self.until - time.time()

    def add(self, table: str, about: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
        """A row more of a table: what it is about, and what was measured or the error that was met instead."""
        try:
            row = about | measure()
        except Exception as error:  # the other rows go on
            traceback.print_exc()
            row = about | {"error": first_line(error)}
        logger.info("%s: %s", table, row)
        self.record.add(table, row)


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


# Facts


def median_time(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median of the seconds that a run keeps a device busy, by events on a GPU, after two runs to warm up."""
    run()
    run()
    seconds = []
    for _ in range(rounds):
        if device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            run()
            last.record()
            last.synchronize()
            seconds.append(first.elapsed_time(last) / 1000)
        else:
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def card(device: torch.device) -> dict[str, Any]:
    """Name and properties of the GPU, and versions of what drives it; nothing on a CPU."""
    if device.type == "cpu":
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cudnn": torch.backends.cudnn.version(),
        "cuda": torch.version.cuda,
    }


def driver() -> dict[str, str]:
    """Version of the driver, and clocks and power as they are now."""
    query = ["driver_version", "clocks.sm", "clocks.mem", "power.limit"]
    command = ["nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader"]
    values = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    return dict(zip(query, values.splitlines()[0].split(", "), strict=True))


def copy_rate(device: torch.device, is_dry: bool) -> dict[str, float]:
    """GB/s from device memory to device memory, bytes read and bytes written, of blocks beyond all caches."""
    numbers = 1000 if is_dry else 1 << 29
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    seconds = median_time(lambda: target.copy_(source), device, 3 if is_dry else 20)
    return {"copy_gb_per_s": round(2 * source.nbytes / seconds / 1e9, 1)}


def matrix_rate(device: torch.device, name: str, is_dry: bool) -> dict[str, float]:
    """TFLOP/s of a product of two square matrices in one of `TYPES`, on random numbers."""
    dtype, is_tf32 = TYPES[name]
    set_tf32(is_tf32)
    size = 64 if is_dry else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = median_time(lambda: a @ b, device, 3 if is_dry else 10)
    return {"tflop_per_s": round(2 * size**3 / seconds / 1e12, 3)}


def recurrent_layer(device: torch.device, name: str, is_dry: bool) -> dict[str, float]:
    """Milliseconds of the forward pass of an LSTM in one of `TYPES`, which tells whether cuDNN takes it."""
    dtype, is_tf32 = TYPES[name]
    set_tf32(is_tf32)
    width = 8 if is_dry else 1024
    layer = nn.LSTM(width, width, batch_first=True).to(device, dtype)
    inputs = torch.randn(64, 35, width, device=device).to(dtype)
    with torch.no_grad():
        seconds = median_time(lambda: layer(inputs), device, 3 if is_dry else 20)
    return {"forward_ms": round(1000 * seconds, 3)}


def find_facts(part: Part) -> bool:
    device = part.target
    part.record.note(versions=versions(), machine=describe_machine(part.device), **card(device))
    if part.device == "cuda":
        part.add("driver", {}, driver)
    part.add("memory", {}, lambda: copy_rate(device, part.is_dry))
    for table, measure in (("matrix", matrix_rate), ("lstm", recurrent_layer)):
        for name in TYPES:
            part.add(table, {"type": name}, partial(measure, device, name, part.is_dry))
    return True


# Tests

# Given by name, as to collect others would import what may not be there.
TEST_FILES = ("tests/models/test_gpu*.py", "tests/test_gpu*.py", "tests/training/test_gpu*.py")
SECONDS_A_TEST, SECONDS_TO_STOP = 60, 10
SECONDS_A_ROW = 3  # of speed


def run_tests(part: Part) -> bool:
    """The tests marked `gpu`, stopped in time to say what was seen; on a CPU all of them are skipped."""
    files = sorted(str(path.relative_to(ROOT)) for pattern in TEST_FILES for path in ROOT.glob(pattern))
    if not files:
        raise ValueError(f"no files {' '.join(TEST_FILES)}")
    report = part.out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", *files, "-q", "-p", "no:cacheprovider", "--maxfail=40",
        "--tb=short", f"--junitxml={report.resolve()}",
        # Releases other than those that the tests run on elsewhere may warn of what these do not.
        "-W", "default::FutureWarning", "-W", "default::DeprecationWarning",
    ]  # fmt: skip
    if importlib.util.find_spec("pytest_timeout"):
        command.append(f"--timeout={SECONDS_A_TEST}")
    if importlib.util.find_spec("xdist") and not part.is_dry:
        command += ["-n", "6"]
    start = time.time()
    code = run_until(command, part.until - SECONDS_TO_STOP, signal.SIGINT)
    part.record.note(files=files, seconds=round(time.time() - start, 1), exit_code=code)
    part.record.note(**read_report(report))
    return code in (0, 1)


def run_until(command: list[str], until: float, number: int) -> int:
    """Exit code of a command, which gets a signal when its time is over, and is killed if it does not end by that."""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait(max(1, until - time.time()))
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    try:
        return process.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def read_report(report: Path) -> dict[str, Any]:
    """Counts by outcome, and names and messages of failures, of a junit.xml; an error where there is none."""
    if not report.is_file():
        return {"error": "pytest left no report: see tests.log"}
    counts, failures = {"passed": 0, "failed": 0, "errors": 0, "skipped": 0}, []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        outcome = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), None)
        counts[{"failure": "failed", "error": "errors", None: "passed"}.get(outcome, "skipped")] += 1
        if outcome in ("failure", "error"):
            message = (case.find(outcome).get("message") or "").partition("\n")[0][:300]  # type: ignore[union-attr]
            failures.append({"test": f"{case.get('classname')}::{case.get('name')}", "message": message})
    return {"counts": counts, "failures": failures}


# Speed


def find_speed(part: Part) -> bool:
    """Rows of `rows_of_speed`, the most telling ones first, as many as there is time for."""
    facts = read_json(part.out / "facts.json") or {}
    rates = {row["type"]: row["tflop_per_s"] for row in facts.get("matrix", []) if "tflop_per_s" in row}
    for table, about, measure in rows_of_speed(part.target, DRY if part.is_dry else FULL, rates):
        if part.seconds_left() < SECONDS_A_ROW:
            return False
        part.add(table, about, measure)
    return True


# Training

RECIPE = "scripts/recipes/ptb_gpu_awd.yaml"  # which may be stopped at any time
SECONDS_TO_EVALUATE = 22  # from the signal to the scores
DRY_SIZE = TrainingSize("lstm", 8, 1, 2, 5, vocab_size=20)
KEPT = ("run.json", "metrics.jsonl", "curve.png", "evaluation.json")


def within_root(path: Path) -> str:
    """A path as run.json should have it: from the root, where it is below it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def training_flags(part: Part) -> list[str]:
    """What scripts/train.py is run with, but for where to."""
    if not part.is_dry:
        if part.ptb_dir is None:
            raise ValueError("give --ptb_dir DIR, with ptb.train.txt, ptb.valid.txt and ptb.test.txt")
        return [RECIPE, "--ptb_dir", within_root(part.ptb_dir)]
    text = part.work / "text"
    text.mkdir(parents=True, exist_ok=True)
    write_text(DRY_SIZE, 40, text)
    values = {
        "train_file": text / "train.txt", "validation_file": text / "valid.txt", "test_file": text / "test.txt",
        "hidden_size": 8, "num_hidden_layers": 1, "per_device_train_batch_size": 2, "window": 5,
        "num_train_epochs": 2, "logging_steps": 10, "use_cpu": part.device == "cpu",
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in values.items()]


def run_training(part: Part) -> bool:
    """The recipe for a GPU, on from its last checkpoint, and the scores of its best model so far.

    The files of the run that are small are kept in OUT as `train_run.json` and so on.
    """
    directory = part.work / Path(RECIPE).stem
    command = ["scripts/train.py", *training_flags(part), "--output_dir", within_root(directory)]
    command += ["--resume_from_checkpoint", "last", "--save_total_limit", "1", "--disable_tqdm", "true"]
    seconds = min(SECONDS_TO_EVALUATE, part.seconds_left() / 2)
    code = run_until([sys.executable, *command], part.until - seconds, signal.SIGTERM)
    part.record.note(command=f"python {' '.join(command)}", exit_code=code)
    run, rows = read_json(directory / "run.json"), read_json_lines(directory / "metrics.jsonl")
    if run is None or "result" not in run:
        part.record.note(error="the run did not end by itself: see train.log")
        return False
    speeds = [row["tokens_per_second"] for row in rows if row.get("tokens_per_second")]
    part.record.note(
        result=run["result"], parameters=run["parameters"], metrics=rows[-5:],
        tokens_per_second=statistics.median(speeds) if speeds else None,
    )  # fmt: skip
    part.add("scores", {}, lambda: scores_of(directory, part.device))
    for name in KEPT:
        if (directory / name).is_file():
            shutil.copyfile(directory / name, part.out / f"train_{name}")
    return code == 0 and run["result"]["is_complete"] and "error" not in part.record.content["scores"][0]


def scores_of(directory: Path, device: str) -> dict[str, Any]:
    """Perplexity of a run's model on the validation and test text of its corpus, the state carried through all."""
    start = time.time()
    set_tf32(False)
    scores = evaluate_splits(
        str(directory), ["validation", "test"], load_corpus_of(str(directory)), window=256, device=device
    )
    save_scores(directory, scores)
    perplexities = {split: round(score.perplexity, 3) for split, score in scores.items()}
    if not all(map(math.isfinite, perplexities.values())):
        raise ValueError(f"perplexities are {perplexities}")
    return perplexities | {"seconds": round(time.time() - start, 1)}


PARTS: dict[str, Callable[[Part], bool]] = {
    "facts": find_facts, "tests": run_tests, "speed": find_speed, "train": run_training,
}  # fmt: skip


def run_part(part: Part) -> None:
    """Run a part and leave its file, whether it came to its end or not."""
    part.out.mkdir(parents=True, exist_ok=True)
    start, is_complete = time.time(), False
    try:
        is_complete = PARTS[part.name](part)
    except Exception as error:
        traceback.print_exc()
        part.record.note(error=first_line(error))
    part.record.note(part_seconds=round(time.time() - start, 1))
    part.record.finish(is_complete)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    told = json.loads(sys.argv[1])
    for key in ("out", "work", "ptb_dir"):
        told[key] = told[key] and Path(told[key])
    run_part(Part(**told))
