"""Checkpoints to go on from, and the best model: written as drafts and moved into place, old ones pruned after."""

import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rnn_hf.errors import InputError
from rnn_hf.files import link_or_copy, read_json, write_into, write_json
from rnn_hf.models import RNNCache
from rnn_hf.models.kernels_rnn import CHOICES
from rnn_hf.training.arguments import LabelledTrainingArguments, ModelArguments, TrainingArguments
from rnn_hf.training.averaging import WeightAverage
from rnn_hf.training.objective import Objective


WEIGHTS, BEST = "model.safetensors", "best.safetensors"  # of the model; of the best one when this was written
# Of what the arguments of a run did not have yet when it began.
DEFAULTS = {part.name: part.default for kind in (ModelArguments, TrainingArguments) for part in fields(kind)}
DEFAULTS["task"] = "language-modeling"
TRAINING = {part.name for kind in (TrainingArguments, LabelledTrainingArguments) for part in fields(kind)}
BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError)


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


def named_as_checkpoints(output_dir: Path) -> list[Path]:
    """What is called checkpoint-N in `output_dir`, by N."""
    paths = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(paths, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The N of checkpoint-N."""
    return int(checkpoint.name.rpartition("-")[2])


def is_checkpoint(path: Path) -> bool:
    """Whether a run of this package left it."""
    return (path / "progress.json").is_file()


def checkpoints(output_dir: Path) -> list[Path]:
    """The resumable checkpoints in `output_dir`, oldest first."""
    return [path for path in named_as_checkpoints(output_dir) if is_checkpoint(path)]


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, so that no part of it is ever taken for one; of a link only the link."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
        return
    aside = checkpoint.with_name(f".{checkpoint.name}.removing")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(checkpoint, aside)
    shutil.rmtree(aside)


def find_checkpoint(name: str, output_dir: Path) -> Path | None:
    """The checkpoint that `resume_from_checkpoint` names; `None` for "last" where none was written yet, so that a
    run that was killed goes on by the command that started it, however early that was.

    Raises:
        FileNotFoundError: It names a directory that is no checkpoint.
    """
    if name == "last":
        whole = checkpoints(output_dir)
        return whole[-1] if whole else None
    if not is_checkpoint(Path(name)):
        raise FileNotFoundError(f"`resume_from_checkpoint` {name}: not a checkpoint of a run")
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
    draft = output_dir / f".{target.name}.writing"
    if accelerator.is_main_process:
        parts: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "average": average}
        parts["extra"] = objective.extra
        if accelerator.scaler is not None:
            parts["scaler"] = accelerator.scaler
        with writing(target, draft):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            objective.model.save_pretrained(draft)
            _write_tensors({name: part.state_dict() for name, part in parts.items()}, draft / "optimizer.pt")
            write_json(draft / "progress.json", {"progress": asdict(progress), "identity": identity})
            if progress.best_step and (output_dir / WEIGHTS).is_file():
                link_or_copy(output_dir / WEIGHTS, draft / BEST)
    accelerator.wait_for_everyone()
    with writing(target, draft):
        _write_tensors(_process_state(state), draft / f"process-{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        put_in_place(draft, target, limit)


def put_in_place(draft: Path, target: Path, limit: int) -> None:
    """Make a whole draft the checkpoint `target`, and remove older ones, of which `limit` are kept, with what a killed
    run left half-written."""
    if os.path.lexists(target):
        remove(target)
    os.replace(draft, target)
    others = [path for path in checkpoints(target.parent) if path != target]
    for old in others[: max(0, len(others) + 1 - limit)]:
        remove(old)
    for pattern in (".checkpoint-*.writing", ".checkpoint-*.removing"):
        for left in target.parent.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def writing(target: Path, draft: Path | None = None) -> Iterator[None]:
    """Have an error of writing `target`, which stands among checkpoints, say which of them are whole and how to go on;
    what was written in the directory `draft` is removed."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # each writer has an error of its own for a full disk
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        kept = [path.name for path in checkpoints(target.parent)]
        raise OSError(
            f"cannot write {target}: {error}. If the disk is full, free some space and go on with "
            f'`resume_from_checkpoint="last"`; whole are {", ".join(kept) or "no checkpoints yet"}'
        ) from error


def _write_tensors(content: dict[str, Any], path: Path) -> None:
    """By way of memory: torch says RuntimeError for a full disk, as for whatever else goes wrong."""
    buffer = BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


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
        InputError: The checkpoint is of another run: a value of its identity differs, named in the message; or a file
            of it is broken or missing.
    """
    rank = accelerator.process_index
    model = objective.model
    with reading(path, "progress.json"):
        saved = read_json(path / "progress.json")
        before = dict(saved["identity"])
    check_identity(path, before, identity)
    with reading(path, "progress.json"):
        progress = Progress(**saved["progress"])
    with reading(path, WEIGHTS):
        weights = type(model).from_pretrained(path).state_dict()
    with reading(path, "optimizer.pt"):
        parts = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    with reading(path, f"process-{rank}.pt"):
        process = torch.load(path / f"process-{rank}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    device = accelerator.device
    for group in parts["optimizer"]["param_groups"]:
        group |= {"fused": True, "capturable": True}  # older checkpoints say otherwise
    optimizer.load_state_dict(parts["optimizer"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(parts["scaler"])
    # How long the schedule is follows from the arguments; older checkpoints have it wrong with random windows.
    of_length = ("total_steps", "_schedule_phases")
    scheduler.load_state_dict({name: part for name, part in parts["scheduler"].items() if name not in of_length})
    average.load_state_dict(parts["average"])
    objective.extra.load_state_dict(parts["extra"])
    state = None
    if process["state"]:
        state = RNNCache(model.config)
        for layer, (hidden, cell) in zip(state.layers, process["state"], strict=True):
            layer.update(hidden.to(device), None if cell is None else cell.to(device))
    torch.set_rng_state(process["generators"]["cpu"])
    if "cuda" in process["generators"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(process["generators"]["cuda"])
    if device.type == "cpu" and "threads" in process:  # older checkpoints lack it
        take_threads(process["threads"], accelerator)
    CHOICES.update(process.get("kernels", {}))
    return progress, state


def check_identity(path: Path, before: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another run.

    Args:
        path: Of the checkpoint.
        before: The identity that it was saved with.
        identity: Of the run.

    Raises:
        InputError: A value of the identity differs, named in the message.
    """
    for name, value in {"task": DEFAULTS["task"], **identity}.items():
        was = before.get(name, DEFAULTS.get(name))
        if was != value:
            advice = f"; `init_from` {path.parent} with another `output_dir` trains its model on as a run of its own"
            advice = advice if name in TRAINING or name == "train_sha1" else ""
            raise InputError(f"{path} is of another run: `{name}` was {was!r}, is {value!r}{advice}")


def take_directory(output_dir: Path, resumed: Path | None, write_model: Callable[[Path], None]) -> None:
    """Make a directory the one of a run that starts or goes on: nothing of a run that is replaced stays in it, nor a
    checkpoint of a branch that is left, and the best model so far stands there.

    Args:
        output_dir: Directory of the run; it need not exist.
        resumed: The checkpoint that the run goes on from, if any.
        write_model: Writes a model of the run, with all that belongs to it, into a directory.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    step = read_json(resumed / "progress.json")["progress"]["step"] if resumed is not None else 0
    is_own = resumed is not None and resumed.parent.resolve() == output_dir.resolve()
    for old in checkpoints(output_dir):
        if not is_own or step_of(old) > step:
            remove(old)
    if not is_own and (output_dir / "run.json").exists():
        for name in ("config.json", WEIGHTS, "evaluation.json", "curve.png", "run.json"):
            (output_dir / name).unlink(missing_ok=True)
    if resumed is None:
        return
    own = resumed / BEST
    target = output_dir / WEIGHTS
    best = own if own.is_file() else resumed.parent / WEIGHTS  # before the first validation, or by an older version
    if not best.is_file() or (target.is_file() and target.samefile(best)):
        return

    def write(directory: Path) -> None:
        write_model(directory)
        (directory / WEIGHTS).unlink()
        link_or_copy(best, directory / WEIGHTS)

    write_into(output_dir, write)


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """A file that does not load is named, with the checkpoints to go on from in place of this one."""
    try:
        yield
    except BROKEN as error:
        others = [str(other) for other in checkpoints(path.parent) if other.name != path.name]
        advice = "put a whole copy in its place, or start again with `overwrite_output_dir=True`"
        if others:
            advice = f"go on with `resume_from_checkpoint` {others[-1]}"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path / name} is broken or missing ({reason}): {advice}") from error


def take_threads(threads: int, accelerator: Accelerator) -> None:
    """Compute on as many threads as before the checkpoint: they share out sums, so their number changes rounding."""
    now = torch.get_num_threads()
    cores = os.cpu_count() or 1
    if threads != now:
        torch.set_num_threads(threads)
        slow = f"; this machine has {cores} cores, so it will be slow" if threads > cores else ""
        accelerator.print(f"resuming on {threads} threads, as before, not {now}: their number changes rounding{slow}")
