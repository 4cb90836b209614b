"""Training on labelled examples: transformers' Trainer, with the files and the way to end of every run here."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerState
from transformers import TrainingArguments as TrainerArguments
from transformers.trainer import TRAINING_ARGS_NAME

from rnn_hf.models.heads_rnn import label_loss
from rnn_hf.tasks.distillation import soft_loss
from rnn_hf.training.arguments import ExampleTrainingArguments
from rnn_hf.training.averaging import WeightAverage
from rnn_hf.training.checkpoint import WEIGHTS, reading


DRAFTS = ".drafts"  # in the run's directory, where a checkpoint is written before it is moved into place


class LengthSampler(Sampler[int]):
    """Examples at random, those of about one length in a batch together.

    What an epoch draws depends on the seed and the number of the epoch alone, so that a run that is resumed sees what
    it would have seen.

    Args:
        lengths: Of the examples.
        batch_size: Examples that are taken together.
        seed: Of the run.
        epoch: Says which epoch begins.
        by_length: Whether lengths count; else the order is a plain shuffle.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], int], by_length: bool = True
    ):
        self.lengths, self.batch_size, self.by_length = lengths, batch_size, by_length
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self.seed} {self.epoch()}")
        order = list(range(len(self.lengths)))
        generator.shuffle(order)
        if not self.by_length:
            return iter(order)
        # Sorted by length with some noise, so that batches differ from epoch to epoch.
        order.sort(key=lambda index: self.lengths[index] * generator.uniform(0.9, 1.1))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        last = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        generator.shuffle(batches)
        return iter([index for batch in [*batches, *last] for index in batch])


class EpochBatches(Sampler[list[int]]):
    """The batches of each epoch, of examples that know how to make them.

    Args:
        examples: Whose `batches` gives the indices of those of an epoch.
        number: Of batches an epoch, of all processes.
        epoch: Says which epoch begins.
        by_length: Whether lengths count.
    """

    def __init__(self, examples: Any, number: int, epoch: Callable[[], int], by_length: bool):
        self.examples, self.number, self.epoch, self.by_length = examples, number, epoch, by_length

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.examples.batches(self.epoch(), self.number, self.by_length))


class DrawnSampler(LengthSampler):
    """The same of examples that are drawn again for each epoch, and so have other lengths.

    Args:
        examples: Whose `begin_epoch` draws those of an epoch, by its number, and returns their lengths.
        arguments: The others of `LengthSampler`.
    """

    def __init__(self, examples: Any, *arguments: Any):
        super().__init__([0] * len(examples), *arguments)
        self.examples = examples

    def __iter__(self) -> Iterator[int]:
        self.lengths = self.examples.begin_epoch(self.epoch())
        return super().__iter__()


def layer_groups(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a model from the head down: head, recurrent layers from the last one on, embeddings."""
    backbone: Any = model.model
    layers = [list(layer.parameters()) for layer in reversed(backbone.layers)]
    within = {id(parameter) for group in layers for parameter in group}
    below = [parameter for parameter in backbone.parameters() if id(parameter) not in within]
    inside = within | {id(parameter) for parameter in below}
    head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    return [head, *layers, below]


def build_optimizer(model: nn.Module, options: ExampleTrainingArguments) -> Optimizer:
    """The optimizer, with a rate for each of `layer_groups` (discriminative rates; Howard and Ruder, 2018, section
    3.2)."""
    groups = [
        {"params": parameters, "lr": options.learning_rate * options.layer_decay**depth}
        for depth, parameters in enumerate(layer_groups(model))
        if parameters
    ]
    kind = {"adam": Adam, "adamw": AdamW}[options.optim]
    betas = (options.adam_beta1, options.adam_beta2)
    return kind(groups, lr=options.learning_rate, betas=betas, weight_decay=options.weight_decay, fused=True)


def smoothed_loss(smoothing: float) -> Callable[..., torch.Tensor]:
    """Cross entropy with a share of each target spread over all classes, as Trainer's `compute_loss_func`."""

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return label_loss(outputs.logits.flatten(0, -2), labels, num_items_in_batch, smoothing)

    return loss


def trainer_arguments(options: ExampleTrainingArguments, trackers: list[str]) -> TrainerArguments:
    """The options of a run as those of transformers' Trainer.

    It never ends a run early: the schedule's length is that of all epochs, whatever `max_steps`. When to validate and
    to save is the run's affair: Trainer saves within an epoch before it validates at its end, and a run that goes on
    from there would miss that validation.
    """
    same = (
        "seed", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size",
        "gradient_accumulation_steps", "learning_rate", "max_grad_norm", "lr_scheduler_type", "warmup_steps", "bf16",
        "fp16", "logging_steps", "use_cpu",
    )  # fmt: skip
    values = {name: getattr(options, name) for name in same}
    if options.lr_scheduler_type == "constant":
        values["lr_scheduler_type"] = "constant_with_warmup"
    return TrainerArguments(
        **values,
        output_dir=".",  # Trainer makes it when it is made itself, and a run that fails should leave nothing
        eval_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=trackers or "none",
        dataloader_pin_memory=torch.cuda.is_available() and not options.use_cpu,
    )


class LabelledTrainer(Trainer):
    """transformers' Trainer, whose order of examples, optimizer, validation and checkpoints are the run's.

    Args:
        run: Told of steps, logs, validations and checkpoints.
        options: Of the run.
        trackers: To report to.
        keywords: Of Trainer.
    """

    def __init__(self, run: Any, options: ExampleTrainingArguments, trackers: list[str], **keywords: Any):
        self.run, self.options, config = run, options, keywords["model"].config
        if options.label_smoothing_factor and not getattr(config, "label_smoothing", 0.0):  # which does it itself
            keywords["compute_loss_func"] = smoothed_loss(options.label_smoothing_factor)
        elif getattr(options, "teachers", None):
            keywords["compute_loss_func"] = soft_loss
        keeps_state = config.use_cache
        super().__init__(args=trainer_arguments(options, trackers), **keywords)
        if config.is_encoder_decoder:  # Trainer turns it off for good, and with labels there is no state anyway
            config.use_cache = keeps_state
        self.args.output_dir = options.output_dir  # where trackers write
        for callback in list(self.callback_handler.callbacks):
            if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
                self.remove_callback(callback)
        self.add_callback(run)
        self.average = WeightAverage(cast(nn.Module, self.model), options.average_decay)
        self.states: dict[str, Any] = {}  # by file of the checkpoint that is taken up

    def get_train_dataloader(self) -> DataLoader:
        """As Trainer's, of examples that make their own batches too."""
        dataset: Any = self.train_dataset
        if not hasattr(dataset, "batches"):
            return super().get_train_dataloader()
        processes = self.args.world_size
        number = math.ceil(len(dataset) / (self.args.train_batch_size * processes)) * processes
        self.accelerator.even_batches = False  # there is one for each process, and none has a fixed size
        loader = DataLoader(
            dataset, batch_sampler=EpochBatches(dataset, number, self._epoch, self.options.group_by_length),
            collate_fn=self.data_collator, pin_memory=self.args.dataloader_pin_memory,
        )  # fmt: skip
        return self.accelerator.prepare(loader)

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        options, dataset = self.options, cast(Sequence, self.train_dataset)
        size = self.args.train_batch_size * options.gradient_accumulation_steps * self.args.world_size
        if hasattr(dataset, "begin_epoch"):
            return DrawnSampler(dataset, size, options.seed, self._epoch, options.group_by_length)
        lengths = [len(example["input_ids"]) for example in dataset]
        return LengthSampler(lengths, size, options.seed, self._epoch, options.group_by_length)

    def _epoch(self) -> int:
        """The one that begins: where the one before ended, or within, where a run is resumed."""
        return int(self.state.epoch or 0)

    def create_optimizer(self, *_: Any) -> Optimizer:
        if self.optimizer is None:
            self.optimizer = build_optimizer(cast(nn.Module, self.model), self.options)
        return self.optimizer

    def get_batch_samples(self, *arguments: Any) -> tuple[list, Any]:
        """The batches of a step, and how many targets they have, which Trainer counts only where they are `labels`."""
        batches, count = super().get_batch_samples(*arguments)
        model: Any = self.model
        if batches and hasattr(model, "count_targets"):
            counts = torch.stack([model.count_targets(batch) for batch in batches])
            count = self.accelerator.gather(counts.sum().to(self.args.device)).sum()
        return batches, count

    def freeze_below(self, depth: int) -> None:
        """Train the head and the first `depth` of the `layer_groups` below it (gradual unfreezing; Howard and Ruder,
        2018, section 3.3)."""
        for index, parameters in enumerate(layer_groups(cast(nn.Module, self.model))):
            for parameter in parameters:
                parameter.requires_grad_(index <= depth)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validate by the mean of the weights, if there is one, and let the run keep them if they are the best."""
        with self.average.in_place():
            values = self.run.validate(self)
        metrics = {f"eval_{name}": value for name, value in values.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def check_weights(self) -> None:
        """Have no weights kept that are no numbers: the loss is looked at only where it is logged.

        Raises:
            FloatingPointError: They are not all finite.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in cast(nn.Module, self.model).parameters()):
            raise FloatingPointError(
                f"the weights are no longer finite at step {self.state.global_step}: lower `learning_rate` or "
                "`max_grad_norm`, or warm up by `warmup_steps`; the best model and the checkpoints are untouched"
            )

    def sum_of_losses(self) -> float:
        """Of the steps since the last line of metrics, of all processes."""
        return float(self.accelerator.gather(self._tr_loss).mean())

    def go_on_logging(self, sum_of_losses: float, last_log: int) -> None:
        """Take up what was summed since the last line of metrics, which Trainer forgets."""
        self._tr_loss.fill_(sum_of_losses)
        self._globalstep_last_logged = last_log

    def take_up(self, checkpoint: Path) -> None:
        """Take the mean of the weights from a checkpoint, and try what Trainer will read: it goes on without a file
        that is missing.

        Raises:
            InputError: A file is broken or missing; the message names it.
        """
        load: Any = partial(torch.load, map_location="cpu", weights_only=True)
        readers: dict[str, Callable[[Path], Any]] = {
            WEIGHTS: load_file,
            "optimizer.pt": load,
            "scheduler.pt": load,
            "average.pt": lambda path: self.average.load_state_dict(load(path)),
            "trainer_state.json": lambda path: TrainerState.load_from_json(str(path)),
        }
        for name, read in readers.items():
            with reading(checkpoint, name):
                self.states[name] = read(checkpoint / name)
        rank = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        generators = f"rng_state{rank}.pth"
        with reading(checkpoint, generators):
            (checkpoint / generators).stat()
            self._load_rng_state(str(checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """From what was taken up; of several processes on CPUs, Trainer of transformers 5.17 fails to read it."""
        if checkpoint is not None:
            cast(Optimizer, self.optimizer).load_state_dict(self.states.pop("optimizer.pt"))
            cast(LRScheduler, self.lr_scheduler).load_state_dict(self.states.pop("scheduler.pt"))

    def _get_output_dir(self, *_: Any, **__: Any) -> str:
        return str(Path(self.options.output_dir) / DRAFTS)

    def _save_checkpoint(self, *arguments: Any, **keywords: Any) -> None:
        """Write a checkpoint as a draft, which the run completes and moves into place."""
        drafts = Path(self._get_output_dir())
        with self.run.writing_checkpoint(self.state.global_step, drafts):
            try:
                super()._save_checkpoint(*arguments, **keywords)
            except RuntimeError as error:  # as torch says where a disk is full
                raise OSError(str(error)) if "inline_container" in str(error) else error from error
            if self.args.should_save:
                draft = drafts / f"checkpoint-{self.state.global_step}"
                (draft / TRAINING_ARGS_NAME).unlink()  # it has the paths of this machine, and nobody reads it
                buffer = BytesIO()
                torch.save(self.average.state_dict(), buffer)
                (draft / "average.pt").write_bytes(buffer.getbuffer())
