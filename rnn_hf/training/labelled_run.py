"""A run on texts or recordings with labels: what is checked before it, what it leaves, how it stops and goes on."""

import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm
from transformers import TrainerCallback

from rnn_hf.files import link_or_copy, read_json, read_json_lines, write_into, write_json
from rnn_hf.models.kernels_rnn import CHOICES
from rnn_hf.runs import read_run
from rnn_hf.tasks import METRICS, TASKS
from rnn_hf.training.arguments import Arguments
from rnn_hf.training.checkpoint import (
    BEST,
    WEIGHTS,
    check_identity,
    find_checkpoint,
    put_in_place,
    reading,
    take_directory,
    take_threads,
    writing,
)
from rnn_hf.training.pushing import Pusher
from rnn_hf.training.reporting import Metrics, ending_lines, run_lines, start_record, write_results
from rnn_hf.training.setup import (
    check_distribution,
    check_model,
    check_output_dir,
    identity_of,
    set_up_process,
    trackers_of,
)
from rnn_hf.training.signals import stop_signals
from rnn_hf.training.trainer import DRAFTS, LabelledTrainer


# What needs no model, by the metric that it is a floor of.
FLOORS = {
    "accuracy": "the most frequent class",
    "mean_squared_error": "the mean",
    "wer": "the most frequent word",
    "mse": "what was a season before",
    "crps": "what was a season before",
    "bleu": "the source itself",
}


@dataclass
class Progress:
    """Where a run stands after `step` optimizer steps."""

    step: int = 0
    best: dict[str, float] | None = None  # the scores of the best validation
    best_step: int = 0
    last_validation: int = 0  # its step
    evaluations_without_gain: int = 0
    seconds: float = 0.0
    last_log: int = 0  # step of the last line of training loss
    last_log_seconds: float = 0.0
    sum_of_losses: float = 0.0  # of the steps after it


def train(arguments: Arguments) -> dict[str, Any]:
    """Train a classifier or a recognizer and leave it, its files and its checkpoints in `output_dir`.

    The best model by validation stands in the directory itself, with `run.json`, `metrics.jsonl` and `curve.png`;
    checkpoints to go on from stand in `checkpoint-N`. SIGINT and SIGTERM end the run after the current step, with a
    checkpoint.

    Returns:
        The content of run.json.

    Raises:
        InputError: Arguments that do not fit each other, the data, or the checkpoint.
        FloatingPointError: The loss is no longer finite.
        OSError: A file or directory is missing or in the way; or the Hub refused.
    """
    run = LabelledRun(arguments)
    with stop_signals() as run.stop:
        run.train()
    record = run.finish()
    run.push()
    return record


class LabelledRun(TrainerCallback):
    """A run and where it stands. Everything that can be refused is refused when it is made.

    Args:
        arguments: Of the run.

    Attributes:
        stop: Signals that this process received.
        is_stopped: Whether any process received one, as all agreed after the last step.
    """

    def __init__(self, arguments: Arguments):
        self.arguments, self.stop, self.is_stopped = arguments, list[int](), False
        options = arguments.training
        kind = TASKS[arguments.task].module.WORK
        check_model(arguments, kind.config_class)
        self.output_dir = check_output_dir(arguments)
        set_up_process(options)
        trackers = trackers_of(options.report_to)
        if not options.disable_tqdm:
            tqdm.write("reading the data ...")
        self.work = work = kind(arguments)
        self.prepared, self.metric = work.prepared, work.metric
        self.model = model = work.build_model()
        self.trainer = LabelledTrainer(
            self, options, trackers, model=model, train_dataset=work.training_examples(),
            eval_dataset=self.prepared.examples["validation"], processing_class=self.prepared.tokenizer,
            data_collator=work.collator(),
        )  # fmt: skip
        self.accelerator = self.trainer.accelerator
        check_distribution(self.accelerator)
        self.is_main = self.accelerator.is_main_process
        batch = options.per_device_train_batch_size * self.accelerator.num_processes
        batches = math.ceil(len(self.prepared.examples["train"]) / batch)
        self.steps_per_epoch = math.ceil(batches / options.gradient_accumulation_steps)
        self.total_steps = self.steps_per_epoch * options.num_train_epochs
        self.last_step = self.total_steps if options.max_steps < 0 else min(options.max_steps, self.total_steps)
        self.counts = work.counts()
        self.progress = Progress()
        self.resumed: Path | None = None
        self.history: list[dict[str, Any]] = []
        torch.manual_seed(options.seed + self.accelerator.process_index)  # of dropout
        if options.resume_from_checkpoint:
            self._resume(find_checkpoint(options.resume_from_checkpoint, self.output_dir))
        self.started = 0.0
        self.pusher = Pusher(options, self.output_dir, tqdm.write) if options.push_to_hub and self.is_main else None
        self.record = start_record(
            arguments, self.accelerator, task=arguments.task, metric=self.metric.name, data=self.counts,
            parameters=model.num_parameters(), steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps,
            first_step=self.progress.step,
        )  # fmt: skip
        self.metrics: Metrics | None = None
        self.has_begun = False
        if not options.disable_tqdm:
            self._say(*work.summary(), *run_lines(self.record))

    def _say(self, *lines: str) -> None:
        for line in lines if self.is_main else ():
            tqdm.write(line)

    def train(self) -> None:
        """Run to the end of the epochs, `max_steps`, early stopping, or a signal."""
        progress = self.progress
        self.bar = tqdm(
            total=self.last_step, initial=progress.step, desc="training", unit="step",
            mininterval=1 if sys.stderr.isatty() else 30,
            disable=self.arguments.training.disable_tqdm or not self.is_main,
        )  # fmt: skip
        with self.bar:
            if progress.step < self.last_step and not self._stopped_early():
                self.trainer.train(resume_from_checkpoint=None if self.resumed is None else str(self.resumed))
            # After the checkpoint: a run that goes on must not have it in its history.
            if self.has_begun and not self.is_stopped and progress.last_validation < progress.step:
                self.trainer.evaluate()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.go_on_logging(self.progress.sum_of_losses, self.progress.last_log)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()
        if every := self.arguments.training.unfreeze_epochs:
            self.trainer.freeze_below(int(self.progress.step / self.steps_per_epoch / every))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        options, progress, average = self.arguments.training, self.progress, self.trainer.average
        progress.step = state.global_step
        progress.seconds += time.perf_counter() - self.started
        if options.average_decay:
            average.update() if average.is_on else average.start()
        self._begin()
        self.bar.update()
        control.should_training_stop = ends = self._should_stop()
        control.should_evaluate = self._due(options.eval_steps) or progress.step == self.total_steps
        control.should_save = bool(options.save_total_limit) and (ends or self._due(options.save_steps))

    def _due(self, every: int) -> bool:
        return self.progress.step % (every or self.steps_per_epoch) == 0

    def _should_stop(self) -> bool:
        self.is_stopped = bool(self.stop)
        if self.accelerator.num_processes > 1:  # all must leave at the same step
            if self.is_stopped:
                self.accelerator.set_trigger()
            self.is_stopped = self.accelerator.check_trigger()
        return self.is_stopped or self.progress.step >= self.last_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" not in logs:
            return
        options, progress, rate = self.arguments.training, self.progress, logs["learning_rate"]
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss is {logs['loss']:g} up to step {state.global_step} (learning rate {rate:g}): lower "
                "`learning_rate` or `max_grad_norm`, or warm up by `warmup_steps`; the last checkpoint is untouched"
            )
        elapsed = progress.seconds - progress.last_log_seconds
        batch = options.per_device_train_batch_size * options.gradient_accumulation_steps
        samples = (progress.step - progress.last_log) * batch * self.accelerator.num_processes
        progress.last_log, progress.last_log_seconds = progress.step, progress.seconds
        self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        self._report(
            train_loss=logs["loss"], grad_norm=logs.get("grad_norm", 0.0), learning_rate=rate,
            samples_per_second=round(samples / elapsed, 1) if elapsed else 0.0,
        )  # fmt: skip

    def validate(self, trainer: LabelledTrainer) -> dict[str, float]:
        """Score the model as it stands, and keep it if it is the best: what Trainer's `evaluate` calls."""
        progress, options = self.progress, self.arguments.training
        values = self._score()
        value, best = values[self.metric.name], progress.best
        is_best = best is None or self.metric.is_better(value, best[self.metric.name])
        progress.evaluations_without_gain = 0 if is_best else progress.evaluations_without_gain + 1
        progress.last_validation = progress.step
        self._report(**{f"validation_{name}": number for name, number in values.items()})
        self._say(
            f"epoch {progress.step / self.steps_per_epoch:.2f}  step {progress.step}  {progress.seconds / 60:.1f} min"
            f"  validation loss {values['loss']:.4f}  {self.metric.label(value)}{'  (best)' if is_best else ''}"
        )
        if is_best:
            progress.best, progress.best_step = values, progress.step
            if self.is_main:
                with writing(self.output_dir / WEIGHTS):
                    write_into(self.output_dir, self._write_model)
        if self._stopped_early():
            trainer.control.should_training_stop = True
            trainer.control.should_save = bool(options.save_total_limit)
        return values

    def _score(self) -> dict[str, float]:
        """The scores of the model as it stands, which the main process computes for all, so that none parts."""
        self.trainer.check_weights()
        values = {}
        if self.is_main:
            scores = self.work.score(self.model)
            values = {"loss": scores.loss, **scores.values}
        (values,) = broadcast_object_list([values])
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"the validation loss is {values['loss']:g}: lower `learning_rate`")
        return values

    def _stopped_early(self) -> bool:
        patience = self.arguments.training.early_stopping_patience
        return bool(patience) and self.progress.evaluations_without_gain >= patience

    def _write_model(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.work.save_processors(directory)

    def _identity(self) -> dict[str, Any]:
        data = {name: self.counts[name] for name in ("train_sha1", "vocab_size") if name in self.counts}
        of_run = {"task": self.arguments.task, "processes": self.accelerator.num_processes}
        return {**identity_of(self.arguments), **data, **of_run}

    @contextmanager
    def writing_checkpoint(self, step: int, drafts: Path) -> Iterator[None]:
        """Complete the checkpoint that Trainer writes below `drafts`, and put it in place."""
        self.trainer.check_weights()
        self.progress.sum_of_losses = self.trainer.sum_of_losses()
        target = self.output_dir / f"checkpoint-{step}"
        draft = drafts / target.name
        with writing(target, drafts):
            yield
            if self.is_main:
                content = {
                    "progress": asdict(self.progress),
                    "identity": self._identity(),
                    "threads": torch.get_num_threads(),
                    "kernels": dict(CHOICES),
                }
                write_json(draft / "progress.json", content)
                if self.progress.best_step and (self.output_dir / WEIGHTS).is_file():
                    link_or_copy(self.output_dir / WEIGHTS, draft / BEST)
        self.accelerator.wait_for_everyone()
        if self.is_main:
            put_in_place(draft, target, self.arguments.training.save_total_limit)
            shutil.rmtree(drafts, ignore_errors=True)
            if self.pusher is not None and self.pusher.with_checkpoints:
                self.pusher.start(f"Step {step}")

    def _resume(self, path: Path | None) -> None:
        if path is None:
            return
        with reading(path, "progress.json"):
            saved = read_json(path / "progress.json")
            before = dict(saved["identity"])
        check_identity(path, before, self._identity())
        with reading(path, "progress.json"):
            self.progress = Progress(**saved["progress"])
            threads, kernels = saved["threads"], saved["kernels"]
        self.trainer.take_up(path)
        if self.accelerator.device.type == "cpu":
            take_threads(threads, self.accelerator)
        CHOICES.update(kernels)
        self.resumed = path
        # A run that `max_steps` ended was validated once more, after its checkpoint.
        last = {True: self.progress.last_validation, False: self.progress.step}
        rows = read_json_lines(path.parent / "metrics.jsonl")
        self.history = [row for row in rows if row["step"] <= last["validation_loss" in row]]

    def _begin(self) -> None:
        """Make the directory this run's, once and after the first step: a run that fails before it changes nothing."""
        if self.has_begun:
            return
        self.trainer.check_weights()
        if self.is_main:
            with writing(self.output_dir / "run.json"):
                take_directory(self.output_dir, self.resumed, self._write_model)
                shutil.rmtree(self.output_dir / DRAFTS, ignore_errors=True)  # what a killed run left half-written
                self.metrics = Metrics(self.output_dir / "metrics.jsonl", self.history)
                write_json(self.output_dir / "run.json", self.record)
        self.accelerator.wait_for_everyone()
        self.has_begun = True

    def _report(self, **values: float) -> None:
        if self.metrics is not None:
            with writing(self.metrics.path):
                epoch = round(self.progress.step / self.steps_per_epoch, 4)
                self.metrics.write(step=self.progress.step, epoch=epoch, **values)

    def finish(self) -> dict[str, Any]:
        """Write the results into run.json and draw the curve; returns the content of run.json."""
        progress = self.progress
        is_complete = progress.step >= self.total_steps or self._stopped_early()
        result = {
            "steps": progress.step,
            "epochs": round(progress.step / self.steps_per_epoch, 4),
            "is_complete": is_complete,
            "stopped_by": Signals(self.stop[0]).name if self.stop and not is_complete else None,
            "minutes": round(progress.seconds / 60, 2),
            "best_step": progress.best_step,
            **{f"best_validation_{name}": value for name, value in (progress.best or {}).items()},
        }
        before = (read_run(self.output_dir / "run.json") or {}).get("result", {})
        if not self.has_begun and progress.step == before.get("steps"):  # nothing was left to do
            return self.record | {"result": before | {"stopped_by": result["stopped_by"]}}
        self._begin()
        self.record |= {"result": result, "kernels": dict(CHOICES)}
        if self.is_main:
            write_results(self.output_dir, self.record, self.accelerator)
        return self.record

    def push(self) -> None:
        """The last push, with `push_to_hub`."""
        if self.pusher is not None:
            self.pusher.end(self.progress.step, was_stopped=bool(self.stop))


def closing_lines(record: dict[str, Any]) -> list[str]:
    """How a run ended, where its model is and how to go on, by its run.json."""
    result, training, metric = record["result"], record["arguments"]["training"], METRICS[record["metric"]]
    lines = []
    value, floor = result.get(f"best_validation_{metric.name}"), record["data"]["floor"]
    if value is not None:
        against = ""
        if floor is not None and metric.name in FLOORS:
            against = f"; always {FLOORS[metric.name]} has {metric.text(floor)}"
        lines.append(f"best validation {metric.label(value)} at step {result['best_step']:,}{against}")
        if against and not metric.is_better(value, floor):
            no_network = dict.fromkeys(("mse", "crps", "bleu"), "no network")
            without = ({"wer": "hearing nothing"} | no_network).get(metric.name, "looking at no text")
            lines.append(
                f"warning: this is no better than {without}: try more `num_train_epochs`, another `learning_rate`, or "
                "more examples"
            )
        lines.append(f"model, run.json, metrics.jsonl and curve.png are in {training['output_dir']}")
    return [*lines, *ending_lines(record)]
