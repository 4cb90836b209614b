"""Checkpoints to go on from, and the best model: written beside and moved into place, old ones pruned after."""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnn_hf.models import RNNCache
from rnn_hf.models.kernels_rnn import CHOICES
from rnn_hf.training.averaging import WeightAverage
from rnn_hf.training.objective import Objective


@dataclass
class Progress:
    """Where a run stands: after `step` optimizer steps, before window `window` of epoch `epoch`."""

    step: int = 0
    epoch: int = 0
    window: int = 0
    best_loss: float = float("inf")
    best_step: int = 0
    evaluations_without_gain: int = 0
    loss_since_log: float = 0.0
    seconds: float = 0.0
    validation_losses: list[float] = field(default_factory=list)


def checkpoints(output_dir: Path) -> list[Path]:
    """The resumable checkpoints in `output_dir`, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def find_checkpoint(name: str, output_dir: Path) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` names; `None` for "last" where none was written yet, so that a
    run that was killed goes on by the command that started it, however early that was.

    Raises:
        FileNotFoundError: It names a directory that is no checkpoint.
    """
    if name == "last":
        found = checkpoints(output_dir)
        return found[-1] if found else None
    if not (Path(name) / "progress.json").is_file():
        raise FileNotFoundError(f"--resume_from_checkpoint {name}: not a checkpoint of a run")
    return Path(name)


def save_checkpoint(
    output_dir: Path,
    accelerator: Accelerator,
    objective: Objective,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    average: WeightAverage,
    progress: Progress,
    state: RNNCache | None,
    identity: dict[str, Any],
    limit: int,
) -> None:
    """Write `checkpoint-{step}` with all that the next step depends on; each process adds its state, its generators,
    its number of threads and its choice of kernels.

    Args:
        output_dir: Directory of the run.
        accelerator: Of the run.
        objective: Unwrapped.
        optimizer: Of all its parameters.
        scheduler: Of the learning rate.
        average: Of the weights.
        progress: Where the run stands.
        state: Carried recurrent state of this process.
        identity: What a run that goes on from here must share; see `load_checkpoint`.
        limit: Number of checkpoints to keep; older ones, and what a killed run left half-written, are removed once
            this one is whole.

    Raises:
        OSError: It cannot be written; what was written of it is removed and older ones stay.
    """
    target = output_dir / f"checkpoint-{progress.step}"
    beside = output_dir / f".{target.name}.writing"
    try:
        if accelerator.is_main_process:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            objective.model.save_pretrained(beside)
            parts: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "average": average}
            parts["extra"] = objective.extra
            torch.save({name: part.state_dict() for name, part in parts.items()}, beside / "optimizer.pt")
            (beside / "progress.json").write_text(json.dumps({"progress": asdict(progress), "identity": identity}))
        accelerator.wait_for_everyone()
        torch.save(_process_state(state), beside / f"process-{accelerator.process_index}.pt")
    except (OSError, RuntimeError, SafetensorError) as error:  # each writer has an error of its own for a full disk
        shutil.rmtree(beside, ignore_errors=True)
        kept = [path.name for path in checkpoints(output_dir)]
        raise OSError(
            f"cannot write {target}: {error}. If the disk is full, free some space and go on with "
            f"--resume_from_checkpoint last; whole are {', '.join(kept) or 'no checkpoints yet'}"
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
        for old in [*checkpoints(output_dir)[:-limit], *output_dir.glob(".checkpoint-*.writing")]:
            shutil.rmtree(old)


def _process_state(state: RNNCache | None) -> dict[str, Any]:
    """What a checkpoint keeps of this process."""
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    return {
        "state": [] if state is None else [(layer.keys, layer.values) for layer in state.layers],
        "generators": generators,
        "threads": torch.get_num_threads(),
        "kernels": dict(CHOICES),
    }


def load_checkpoint(
    path: Path,
    accelerator: Accelerator,
    objective: Objective,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    average: WeightAverage,
    identity: dict[str, Any],
) -> tuple[Progress, RNNCache | None]:
    """Put a run back to where `save_checkpoint` left it; arguments as there.

    Raises:
        ValueError: The checkpoint is of another run: a value of its identity differs, named in the message.
    """
    saved = json.loads((path / "progress.json").read_text())
    for name, value in identity.items():
        was = saved["identity"].get(name)
        if was != value:
            raise ValueError(f"{path} is of another run: {name} was {was!r}, is {value!r}")
    model = objective.model
    model.load_state_dict(type(model).from_pretrained(path).state_dict())
    device = accelerator.device
    parts = torch.load(path / "optimizer.pt", map_location=device, weights_only=True)
    optimizer.load_state_dict(parts["optimizer"])
    scheduler.load_state_dict(parts["scheduler"])
    average.load_state_dict(parts["average"])
    objective.extra.load_state_dict(parts["extra"])
    mine = torch.load(path / f"process-{accelerator.process_index}.pt", map_location="cpu", weights_only=True)
    state = None
    if mine["state"]:
        state = RNNCache(model.config)
        for layer, (hidden, cell) in zip(state.layers, mine["state"], strict=True):
            layer.update(hidden.to(device), None if cell is None else cell.to(device))
    torch.set_rng_state(mine["generators"]["cpu"])
    if "cuda" in mine["generators"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["generators"]["cuda"])
    if device.type == "cpu" and "threads" in mine:  # older checkpoints lack it
        _take_threads(mine["threads"], accelerator)
    CHOICES.update(mine.get("kernels", {}))
    return Progress(**saved["progress"]), state


def _take_threads(threads: int, accelerator: Accelerator) -> None:
    """Compute on as many threads as before the checkpoint: they share out sums, so their number changes rounding."""
    now, cores = torch.get_num_threads(), os.cpu_count() or 1
    if threads != now:
        torch.set_num_threads(threads)
        slow = f"; this machine has {cores} cores, so it will be slow" if threads > cores else ""
        accelerator.print(f"resuming on {threads} threads, as before, not {now}: their number changes rounding{slow}")
