"""Measure, test and train on a GPU, each part in its own process and its box of time; a later call goes on.

    python scripts/gpu_check.py OUT [--ptb_dir DIR] [--work DIR] [--budget SECONDS] [--parts facts,tests,speed,train]

A part writes OUT/PART.json and OUT/PART.log, and is left out where its file is there; but `train` goes on from the
checkpoint in WORK/ptb_gpu until its run is complete. The package need not be installed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]
BOXES = {"facts": 20, "tests": 130, "speed": 150, "train": 190}  # seconds
SLACK, MOST_OF_A_LOG = 15, 200_000  # seconds after the box until a part is killed; bytes


def run_part(part: str, until: float, arguments: Namespace) -> None:
    """Run a part in a process of its own, and leave its file: with what it had, if it was killed."""
    log, partial, file = (Path(arguments.out, part + suffix) for suffix in (".log", ".partial.json", ".json"))
    told = {name: getattr(arguments, name) for name in ("out", "work", "ptb_dir", "device", "is_dry")}
    command = ["-m", "rnn_hf.benchmarking.gpu", json.dumps({"name": part, "until": until, **told})]
    variables = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("wb") as output:
        options: Any = {"cwd": ROOT, "env": variables, "stdout": output, "stderr": output, "start_new_session": True}
        process = subprocess.Popen([sys.executable, *command], **options)
        try:
            process.wait(max(1, until + SLACK - time.time()))
        except subprocess.TimeoutExpired:
            print(f"{part}: killed after its time")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and what it started
                process.wait()
    log.write_bytes(log.read_bytes()[-MOST_OF_A_LOG:])
    if partial.is_file():
        file.write_text(json.dumps(json.loads(partial.read_text()) | {"complete": False}, indent=2))
        partial.unlink()
    print(f"{part}: {'done' if file.is_file() else f'failed, see {log}'}", flush=True)


def main() -> int:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=os.path.abspath, help="directory of the files")
    parser.add_argument("--ptb_dir", type=os.path.abspath, help="directory with ptb.{train,valid,test}.txt; of train")
    parser.add_argument("--work", type=os.path.abspath, default=str(ROOT / "runs"), help="where train has its run")
    parser.add_argument("--budget", type=float, help="seconds of the parts that are run; default: their boxes")
    parser.add_argument("--parts", default=",".join(BOXES), help="comma-separated")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dry", action="store_true", dest="is_dry", help="tiny sizes and one round")
    arguments = parser.parse_args()
    out, parts = Path(arguments.out), arguments.parts.split(",")
    if not set(parts) <= set(BOXES):
        parser.error(f"--parts: {', '.join(BOXES)} are known, got {arguments.parts}")
    out.mkdir(parents=True, exist_ok=True)
    sys.path[0] = str(ROOT)  # in place of scripts/
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no part is left behind
    done = {file.stem for file in out.glob("*.json")}
    if "train" in done and not json.loads((out / "train.json").read_text())["complete"]:
        done.remove("train")
    boxes = {part: seconds for part, seconds in BOXES.items() if part in parts and part not in done}
    end = time.time() + (budget := arguments.budget or sum(boxes.values()))
    for part, seconds in boxes.items():  # of which the last has what the others left
        until = time.time() + seconds * budget / sum(boxes.values())
        run_part(part, end if part == list(boxes)[-1] else until, arguments)
    from rnn_hf.benchmarking.pages import summary_of_gpu  # which takes seconds, so once all is on the disk

    print(summary_of_gpu(out))
    return int(not any((out / f"{part}.json").is_file() for part in BOXES))


if __name__ == "__main__":
    sys.exit(main())
