"""The training loop: streams with carried, detached state, through Accelerate."""

import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm.auto import tqdm

from rnn_hf.data.streams import TokenStream
from rnn_hf.data.tokenization import start_id
from rnn_hf.evaluation import Score, finite_perplexity
from rnn_hf.files import read_json_lines, write_into, write_json
from rnn_hf.models import RNNCache
from rnn_hf.runs import read_run
from rnn_hf.training.arguments import Arguments
from rnn_hf.training.averaging import WeightAverage
from rnn_hf.training.checkpoint import (
    WEIGHTS,
    Progress,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    take_directory,
    writing,
)
from rnn_hf.training.objective import Objective
from rnn_hf.training.optim import Updater, build_optimizer, build_scheduler
from rnn_hf.training.pushing import Pusher
from rnn_hf.training.readings import Readings
from rnn_hf.training.recording import RecordedSteps, Step, Windows
from rnn_hf.training.reporting import (
    Metrics,
    data_warnings,
    opening_lines,
    result_of,
    score_text,
    start_record,
    write_results,
)
from rnn_hf.training.samples import PROMPT_TOKENS, write_sample
from rnn_hf.training.setup import (
    build_model,
    check_distribution,
    check_model,
    check_output_dir,
    choose_kernels,
    identity_of,
    prepare_corpus,
    set_up_process,
    start_trackers,
    trackers_of,
)
from rnn_hf.training.signals import stop_signals
from rnn_hf.training.validation import EVALUATION_WINDOW, validate


STEPS_TO_AGREE = 10  # between two questions whether one of several processes should stop


def train(arguments: Arguments) -> dict[str, Any]:
    """Train a language model and leave it, its files and its checkpoints in `--output_dir`.

    The best model by validation loss stands in the directory itself, ready for `from_pretrained`, next to
    `run.json`, `metrics.jsonl` and `curve.png`; checkpoints to go on from stand in `checkpoint-N`. SIGINT and
    SIGTERM end the run after the current step, with a checkpoint; in another thread than the main one they are left
    to the program. With `--push_to_hub` the model goes to the Hub as well.

    Returns:
        The content of run.json.

    Raises:
        ValueError: Arguments that do not fit each other, the data, or the checkpoint.
        FloatingPointError: The loss is no longer finite.
        OSError: A file or directory is missing or in the way; or the Hub refused, before the first step or, with
            all files of the run in place, at the end.
    """
    run = TrainingRun(arguments)
    with stop_signals() as stop:
        run.train(stop)
    record = run.finish(stop)
    run.push(was_stopped=bool(stop))
    return record


class TrainingRun:
    """A run and where it stands. Everything that can be refused is refused when it is made."""

    def __init__(self, arguments: Arguments):
        self.arguments, options = arguments, arguments.training
        check_model(arguments)
        self.output_dir = check_output_dir(arguments)
        set_up_process(options)
        trackers = trackers_of(options.report_to)
        self.accelerator = Accelerator(
            cpu=options.use_cpu,
            mixed_precision="fp16" if options.fp16 else "bf16" if options.bf16 else "no",
            log_with=trackers or None,
            project_dir=str(self.output_dir),
        )
        check_distribution(self.accelerator)
        self._inform("reading the corpus and making it tokens ...")
        self.corpus = prepare_corpus(arguments.data, arguments.model.reads_backward)
        self.counts = self.corpus.counts()
        self.start = start_id(self.corpus.tokenizer)
        self.stream = self._whole_stream()
        epochs = options.num_train_epochs
        drawn = (self._epoch_stream(epoch) for epoch in range(epochs))
        streams = drawn if options.random_windows else [self.stream] * epochs  # else all epochs have as many windows
        steps = [math.ceil(len(stream) / options.gradient_accumulation_steps) for stream in streams]
        self.total_steps = sum(steps)
        self.steps_per_epoch = round(self.total_steps / epochs)
        self.model = model = build_model(arguments, self.corpus.tokenizer)
        self.objective = Objective(model, options, self.corpus.frequencies())
        self.average = WeightAverage(model, options.average_decay or 1.0)
        # The stream is not prepared: Accelerate would deal its windows out in turn, and rows must go on. Nor is the
        # optimizer: Accelerate's looks through the installed packages at each step, and waits for the GPU in float16.
        self.wrapped = self.accelerator.prepare(self.objective)
        self.optimizer = build_optimizer(self.objective, options)
        self.updater = Updater(self.optimizer, options.max_grad_norm, self.accelerator.scaler)
        self.compute: Step = RecordedSteps(self._compute, self.optimizer) if self._records() else self._compute
        self.scheduler = build_scheduler(self.optimizer, options, steps)
        # Dropout differs between processes; initialisation did not.
        torch.manual_seed(options.seed + self.accelerator.process_index)
        self.progress = Progress()
        self.state: RNNCache | None = None
        self.has_begun = False
        self.logged = (0, 0.0)  # step and seconds of the last line of training loss
        self.resumed: Path | None = None
        self.history: list[dict[str, Any]] = []  # lines of metrics.jsonl to begin with
        if options.resume_from_checkpoint:
            self._resume(find_checkpoint(options.resume_from_checkpoint, self.output_dir))
        self.readings = Readings(self.accelerator, self.progress)
        self.pusher = None
        if options.push_to_hub and self.accelerator.is_main_process:
            self.pusher = Pusher(options, self.output_dir, tqdm.write)
        self.epoch_stream = self._epoch_stream(self.progress.epoch)
        choose_kernels(self.accelerator, self.objective, self.stream, lambda: self._score(EVALUATION_WINDOW))
        if trackers:
            start_trackers(self.accelerator, arguments, self.output_dir)
        self.record = start_record(
            arguments, self.accelerator, data=self.counts, parameters=self.model.num_parameters(),
            steps_per_epoch=self.steps_per_epoch, total_steps=self.total_steps, first_step=self.progress.step,
        )  # fmt: skip
        self._inform(*opening_lines(self.record))
        self._say(*data_warnings(self.record))
        self.metrics: Metrics | None = None

    def _records(self) -> bool:
        """Whether steps are recorded as CUDA graphs, whose tensors have the same sizes each time."""
        options, accelerator = self.arguments.training, self.accelerator
        is_single = accelerator.num_processes == 1 and accelerator.device.type == "cuda"
        return options.cuda_graphs and is_single and not options.sampled_softmax

    def _whole_stream(self) -> TokenStream:
        """The training text in columns, of which this process has its share on its device."""
        ranks, options = self.accelerator.num_processes, self.arguments.training
        columns = options.per_device_train_batch_size * ranks
        stream = TokenStream(
            self.corpus.streams["train"], self.start, columns, options.window, self.accelerator.process_index, ranks
        )
        return stream.to(self.accelerator.device)

    def _say(self, *lines: str) -> None:
        for line in lines if self.accelerator.is_main_process else ():
            tqdm.write(line)

    def _inform(self, *lines: str) -> None:
        """Say what is left out with the progress bar."""
        self._say(*([] if self.arguments.training.disable_tqdm else lines))

    def _epoch_stream(self, epoch: int) -> TokenStream:
        options = self.arguments.training
        return self.stream.for_epoch(options.seed, epoch, options.random_windows, options.partial_shuffle)

    def train(self, stop: list[int]) -> None:
        """Run to the end of the epochs, `--max_steps`, early stopping, or a signal in `stop`."""
        options, progress = self.arguments.training, self.progress
        last = self.total_steps if options.max_steps < 0 else min(options.max_steps, self.total_steps)
        bar = tqdm(
            total=last, initial=progress.step, desc="training", unit="step",
            mininterval=1 if sys.stderr.isatty() else 30,
            disable=options.disable_tqdm or not self.accelerator.is_main_process,
        )  # fmt: skip
        self.wrapped.train()
        with bar:
            while progress.step < last and not self._stopped_early():
                self._step(bar)
                stopping = self._agree(bool(stop)) or progress.step >= last
                epoch_ended = progress.window == 0
                is_due = self._due(options.eval_steps, epoch_ended)
                is_extra = stopping and not stop and not is_due
                saves = self._due(options.save_steps, epoch_ended)
                if is_due or saves or stopping:
                    self.readings.read()
                if is_due:
                    self._evaluate(bar)
                    stopping = stopping or self._stopped_early()
                if options.save_total_limit and (stopping or saves):
                    self._save()
                if is_extra:  # after the checkpoint: a run that goes on must not have it in its history
                    self._evaluate(bar)
                if stopping:
                    break

    def _step(self, bar: tqdm) -> None:
        """One optimizer step: `gradient_accumulation_steps` windows, fewer at the end of an epoch. Nothing in it waits
        for the device but `readings`, at some steps."""
        options, progress, stream = self.arguments.training, self.progress, self.epoch_stream
        started, first = time.perf_counter(), progress.window
        last = min(first + options.gradient_accumulation_steps, len(stream))
        windows = [stream[window] for window in range(first, last)]
        (group,) = self.optimizer.param_groups
        rate = group["lr"]
        if options.random_windows:  # longer ones have as much more to say (Merity et al., 2018, section 4.1)
            group["lr"] = rate * sum(inputs.shape[1] for inputs, _ in windows) / (options.window * len(windows))
        loss, norm, self.state = self.compute(windows, self.state)
        group["lr"] = rate
        self.readings.add(loss, norm, rate)
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        progress.step += 1
        progress.window = last
        if self.average.is_on:
            self.average.update()
        elif 0 <= options.average_start_step <= progress.step:
            self.average.start()
        progress.seconds += time.perf_counter() - started
        is_logged = progress.step - self.logged[0] >= options.logging_steps
        if is_logged or not self.has_begun or self.readings.is_full:
            self.readings.read()
            self._begin()
        if is_logged:
            self._log(bar)
        bar.update()
        if progress.window == len(stream):
            progress.epoch, progress.window, self.state = progress.epoch + 1, 0, None
            self.epoch_stream = self._epoch_stream(progress.epoch)

    def _compute(self, windows: Windows, state: RNNCache | None) -> tuple[torch.Tensor, torch.Tensor, RNNCache]:
        """The work of a step: mean loss and norm of the gradient, on the device, and the state after the windows."""
        losses: list[torch.Tensor] = []
        for inputs, targets in windows:
            is_last = len(losses) + 1 == len(windows)
            with nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                objective, loss, state = self.wrapped(inputs, targets, state)
                self.updater.scale(objective / len(windows)).backward()
            losses.append(loss)
        assert state is not None
        return torch.stack(losses).mean(), self.updater.step(), state

    def _log(self, bar: tqdm) -> None:
        progress, (since, seconds) = self.progress, self.logged
        count = progress.step - since
        mean = progress.loss_since_log / count
        progress.loss_since_log = 0.0
        elapsed = progress.seconds - seconds
        self.logged = (progress.step, progress.seconds)
        tokens = count * self.stream.num_tokens / self.steps_per_epoch * self.accelerator.num_processes
        speed = tokens / elapsed if elapsed else 0.0  # the first step with --logging_steps 1
        perplexity = finite_perplexity(mean)
        bar.set_postfix(loss=f"{mean:.3f}", ppl=f"{perplexity:.1f}", tok_s=f"{speed:,.0f}", refresh=False)
        self._report(
            epoch=round(progress.step / self.steps_per_epoch, 4), train_loss=mean, train_perplexity=perplexity,
            grad_norm=self.readings.norm, learning_rate=self.readings.rate, tokens_per_second=round(speed, 1),
        )  # fmt: skip

    def _evaluate(self, bar: tqdm) -> None:
        """Validate on every process alike, by the mean of the weights if there is one, and keep the best model."""
        with self.average.in_place():
            loss = self._validate(bar)
        history, interval = self.progress.validation_losses, self.arguments.training.nonmonotone_interval
        if interval and not self.average.is_on and len(history) > interval and loss > min(history[:-interval]):
            self.average.start()
            self._say(f"averaging the weights from step {self.progress.step} on")
        history.append(loss)

    def _validate(self, bar: tqdm) -> float:
        options, progress, score = self.arguments.training, self.progress, self._score()
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(score.loss)
        is_best = score.loss < progress.best_loss
        progress.evaluations_without_gain = 0 if is_best else progress.evaluations_without_gain + 1
        epoch = progress.step / self.steps_per_epoch
        perplexity = finite_perplexity(score.loss)
        self._report(epoch=round(epoch, 4), validation_loss=score.loss, validation_perplexity=perplexity)
        self._say(
            f"epoch {epoch:.2f}  step {progress.step}  {progress.seconds / 60:.1f} min  validation loss "
            f"{score.loss:.4f}  {score_text(score.loss, self.counts['unit'])}{'  (best)' if is_best else ''}"
        )
        if options.sample_tokens and self.accelerator.is_main_process and not options.disable_tqdm:
            prompt = [self.start, *self.corpus.streams["validation"][:PROMPT_TOKENS].tolist()]
            text = write_sample(self.model, self.corpus.tokenizer, prompt, options.sample_tokens, options.seed)
            tqdm.write(f"sample: {text} ..." if self.model.config.reads_backward else f"sample: ... {text}")
        if is_best:
            progress.best_loss, progress.best_step = score.loss, progress.step
            if self.accelerator.is_main_process:
                with writing(self.output_dir / WEIGHTS):
                    write_into(self.output_dir, self._write_model)
        return score.loss

    def _score(self, steps: int | None = None) -> Score:
        """The score of the model on the validation text, or on the first so many steps of its columns."""
        columns = self.arguments.training.per_device_eval_batch_size
        return validate(self.accelerator, self.model, self.corpus.streams["validation"], self.start, columns, steps)

    def _write_model(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.corpus.tokenizer.save_pretrained(directory)

    def _due(self, every: int, epoch_ended: bool) -> bool:
        return self.progress.step % every == 0 if every else epoch_ended

    def _stopped_early(self) -> bool:
        patience = self.arguments.training.early_stopping_patience
        return bool(patience) and self.progress.evaluations_without_gain >= patience

    def _agree(self, stop: bool) -> bool:
        """Whether any process was told to stop: all must leave the loop at the same step, and ask at some only."""
        if self.accelerator.num_processes == 1:
            return stop
        if self.progress.step % STEPS_TO_AGREE:
            return False
        if stop:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _identity(self) -> dict[str, Any]:
        data = {name: self.counts[name] for name in ("train_sha1", "vocab_size")}
        return {**identity_of(self.arguments), **data, "processes": self.accelerator.num_processes}

    def _save(self) -> None:
        save_checkpoint(
            self.output_dir, self.accelerator, self.objective, self.optimizer, self.scheduler, self.average,
            self.progress, self.state, self._identity(), self.arguments.training.save_total_limit,
        )  # fmt: skip
        if self.pusher is not None and self.pusher.with_checkpoints:
            self.pusher.start(f"Step {self.progress.step}")

    def _resume(self, path: Path | None) -> None:
        if path is None:
            return
        self.progress, self.state = load_checkpoint(
            path, self.accelerator, self.objective, self.optimizer, self.scheduler, self.average, self._identity()
        )
        self.resumed = path
        rows = read_json_lines(path.parent / "metrics.jsonl")
        self.history = [row for row in rows if row["step"] <= self.progress.step]
        every = self.arguments.training.logging_steps
        self.logged = (self.progress.step - self.progress.step % every, self.progress.seconds)

    def _begin(self) -> None:
        """Make the directory this run's, once and after the first step: a run that fails before it changes nothing."""
        if not self.has_begun and self.accelerator.is_main_process:
            with writing(self.output_dir / "run.json"):
                take_directory(self.output_dir, self.resumed, self._write_model)
                self.metrics = Metrics(self.output_dir / "metrics.jsonl", self.history)
                write_json(self.output_dir / "run.json", self.record)
        self.has_begun = True

    def _report(self, **values: float) -> None:
        if self.metrics is not None:
            with writing(self.metrics.path):
                self.metrics.write(step=self.progress.step, **values)
        self.accelerator.log(values, step=self.progress.step)

    def finish(self, stop: Sequence[int] = ()) -> dict[str, Any]:
        """Write the results into run.json, draw the curve, close the trackers; returns the content of run.json.

        Args:
            stop: Signals that ended the run.
        """
        is_complete = self.progress.step >= self.total_steps or self._stopped_early()
        result = result_of(self.progress, self.counts, self.steps_per_epoch, is_complete, stop)
        before = (read_run(self.output_dir / "run.json") or {}).get("result", {})
        if self.progress.step == self.record["first_step"] == before.get("steps"):
            # Nothing was left to do: all stays as the run left it, whose checkpoint may not know its last validation.
            self.accelerator.end_training()
            return self.record | {"result": before | {"stopped_by": result["stopped_by"]}}
        self._begin()
        self.record["result"] = result
        if self.accelerator.is_main_process:
            write_results(self.output_dir, self.record, self.accelerator)
        self.accelerator.end_training()
        return self.record

    def push(self, was_stopped: bool) -> None:
        """The last push, with `push_to_hub`."""
        if self.pusher is not None:
            self.pusher.end(self.progress.step, was_stopped)
