"""The arguments of a training run, as dataclasses: of every task those of its model, its data and its training.

Nothing large is imported, so that help and a mistyped flag are answered at once.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from rnn_hf.errors import InputError
from rnn_hf.training.data_arguments import (
    DataArguments,
    ForecastDataArguments,
    LabelledDataArguments,
    SpeechDataArguments,
    TranslationDataArguments,
    check_at_least,
    check_finite,
    check_fraction,
)
from rnn_hf.training.model_arguments import (
    ClassifierArguments,
    ForecastArguments,
    ModelArguments,
    SpeechArguments,
    TaggerArguments,
    TranslationArguments,
)


@dataclass
class RunArguments:
    """How a run goes, of any task. Names are those of transformers.TrainingArguments where it has one."""

    output_dir: str = field(default="runs/default", metadata={"help": "where the model and the run's files go"})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "replace the run that output_dir holds"})
    seed: int = field(default=42, metadata={"help": "of initialisation and dropout"})
    max_steps: int = field(default=-1, metadata={"help": "stop after so many optimizer steps; -1: run all epochs"})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "windows an optimizer step"})
    weight_decay: float = field(default=0.0, metadata={"help": "L2 (sgd, adam) or decoupled (adamw)"})
    adam_beta1: float = field(default=0.9, metadata={"help": "of adam and adamw"})
    adam_beta2: float = field(default=0.999, metadata={"help": "of adam and adamw"})
    average_decay: float = field(
        default=0.0, metadata={"help": "validate and keep a running mean of the weights with this decay; 0: do not"}
    )
    label_smoothing_factor: float = field(default=0.0, metadata={"help": "share of a target spread over all words"})
    init_from: str | None = field(
        default=None, metadata={"help": "start from the weights of this model, of the same shape and vocabulary"}
    )
    warmup_steps: int = field(default=0, metadata={"help": "linear warm-up of constant, linear and cosine"})
    bf16: bool = field(
        default=False, metadata={"help": "compute in bfloat16; recurrent layers too where that is faster"}
    )
    fp16: bool = field(default=False, metadata={"help": "the same in float16, on a GPU, with a scaled loss"})
    eval_steps: int = field(default=0, metadata={"help": "validate each so many steps; 0: after each epoch"})
    save_steps: int = field(default=0, metadata={"help": "checkpoint each so many steps; 0: after each epoch"})
    save_total_limit: int = field(default=1, metadata={"help": "resumable checkpoints to keep; 0: none at all"})
    logging_steps: int = field(default=50, metadata={"help": "write training loss each so many steps"})
    early_stopping_patience: int = field(default=0, metadata={"help": "stop after so many validations without gain"})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "a checkpoint-N directory, or 'last': the newest in output_dir, if any"}
    )
    report_to: str = field(default="none", metadata={"help": "Accelerate trackers, comma-separated: tensorboard, ..."})
    push_to_hub: bool = field(default=False, metadata={"help": "push the best model to the Hub at the end"})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "repository to push to, [USER/]NAME; default: the name of output_dir"}
    )
    hub_private_repo: bool | None = field(default=None, metadata={"help": "a new repository is private"})
    hub_strategy: Literal["end", "all_checkpoints"] = field(
        default="end", metadata={"help": "all_checkpoints: push at each checkpoint too, with the checkpoints kept"}
    )
    tf32: bool = field(
        default=True, metadata={"help": "on a GPU: round the factors of float32 products to TF32, which is faster"}
    )
    measure_kernels: bool = field(
        default=True,
        metadata={"help": "on a CPU: choose the fastest kernels by a short measurement; false: the same everywhere"},
    )
    use_cpu: bool = field(default=False, metadata={"help": "do not use a GPU"})
    disable_tqdm: bool = field(default=False, metadata={"help": "no progress bar"})

    def __post_init__(self) -> None:
        check_finite(self)
        if not self.output_dir.strip():
            raise InputError(f"`output_dir` must name a directory, got {self.output_dir!r}")
        options: Any = self  # every task has these, with defaults of its own
        bounds = {
            1: "num_train_epochs per_device_train_batch_size per_device_eval_batch_size logging_steps "
            "gradient_accumulation_steps",
            0: "max_grad_norm weight_decay warmup_steps eval_steps save_steps save_total_limit "
            "early_stopping_patience seed",
        }
        check_at_least(options, bounds)
        if self.seed >= 2**32:
            raise InputError(f"`seed` must be below {2**32}, got {self.seed}")  # as NumPy wants it
        if self.bf16 and self.fp16:
            raise InputError("`bf16` and `fp16` do not go together: choose one")
        if options.learning_rate <= 0:
            raise InputError(f"`learning_rate` must be positive, got {options.learning_rate}")
        if self.max_steps == 0 or self.max_steps < -1:
            raise InputError(f"`max_steps` must be positive, or -1 for all epochs, got {self.max_steps}")
        for name in ("adam_beta1", "adam_beta2", "average_decay", "label_smoothing_factor"):
            check_fraction(name, getattr(self, name))


@dataclass
class TrainingArguments(RunArguments):
    """How a language model trains, on a stream with carried state."""

    num_train_epochs: int = field(default=10, metadata={"help": "passes over the stream; the schedule's length"})
    per_device_train_batch_size: int = field(default=20, metadata={"help": "columns of the stream on each process"})
    per_device_eval_batch_size: int = field(default=10, metadata={"help": "columns when validating during training"})
    window: int = field(default=35, metadata={"help": "steps of truncated backpropagation through time"})
    random_windows: bool = field(
        default=False, metadata={"help": "draw each window's length around `window`, with the rate in proportion"}
    )
    partial_shuffle: bool = field(default=False, metadata={"help": "turn each column at random before each epoch"})
    optim: Literal["sgd", "adam", "adamw"] = field(default="adam", metadata={"help": "optimizer"})
    learning_rate: float = field(
        default=None,  # type: ignore[assignment]  # a number from __post_init__ on
        metadata={"help": "peak learning rate; None: 20 for sgd, 0.002 for adam and adamw"},
    )
    momentum: float = field(default=0.0, metadata={"help": "of sgd"})
    activation_regularization: float = field(default=0.0, metadata={"help": "AR, on the output after dropout"})
    temporal_activation_regularization: float = field(default=0.0, metadata={"help": "TAR, on the output's changes"})
    past_decode_regularization: float = field(default=0.0, metadata={"help": "PDR, on decoding the token before"})
    sampled_softmax: int = field(
        default=0,
        metadata={"help": "words that the softmax of a training step is over, drawn by their counts; 0: all"},
    )
    average_start_step: int = field(default=-1, metadata={"help": "average the weights after this step; -1: do not"})
    nonmonotone_interval: int = field(
        default=0,
        metadata={"help": "average once validation is worse than all but the last so many (NT-ASGD has 5)"},
    )
    max_grad_norm: float = field(
        default=None,  # type: ignore[assignment]  # as of the learning rate
        metadata={"help": "clip the gradient's norm to this, 0: do not; None: 0.25 for sgd, 1 for adam and adamw"},
    )
    lr_scheduler_type: Literal["constant", "linear", "cosine", "one_cycle", "step", "reduce_lr_on_plateau"] = field(
        default="cosine", metadata={"help": "learning-rate schedule"}
    )
    lr_decay: float = field(default=0.5, metadata={"help": "factor of step and reduce_lr_on_plateau"})
    lr_decay_start: int = field(default=4, metadata={"help": "step: epochs before the first decay; then every epoch"})
    lr_patience: int = field(default=0, metadata={"help": "reduce_lr_on_plateau: evaluations without gain to bear"})
    sample_tokens: int = field(
        default=20, metadata={"help": "tokens of text that the model writes at each validation; 0: none"}
    )
    cuda_graphs: bool = field(
        default=True, metadata={"help": "on one GPU: record steps and run them without Python, which is faster"}
    )

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            self.learning_rate = 20.0 if self.optim == "sgd" else 2e-3
        if self.max_grad_norm is None:
            self.max_grad_norm = 0.25 if self.optim == "sgd" else 1.0
        super().__post_init__()
        bounds = {
            1: "window",
            0: "momentum lr_decay_start lr_patience nonmonotone_interval activation_regularization "
            "temporal_activation_regularization past_decode_regularization sampled_softmax "
            "sample_tokens",
            -1: "average_start_step",
        }
        check_at_least(self, bounds)
        check_fraction("momentum", self.momentum)
        if not 0 < self.lr_decay < 1:
            raise InputError(f"`lr_decay` is a factor in (0, 1), got {self.lr_decay}")
        for name in ("label_smoothing_factor", "past_decode_regularization"):
            if self.sampled_softmax and getattr(self, name):
                raise InputError(f"`sampled_softmax` and `{name}`, which needs all words, do not go together")
        if self.average_start_step < 0 and self.average_decay and not self.nonmonotone_interval:
            self.average_start_step = 1


@dataclass
class ExampleTrainingArguments(RunArguments):
    """How a network trains on examples, by transformers' Trainer."""

    num_train_epochs: int = field(default=10, metadata={"help": "passes over the examples; the schedule's length"})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "examples on each process"})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "examples when validating"})
    group_by_length: bool = field(default=True, metadata={"help": "batches of examples of about one length"})
    optim: Literal["adamw", "adam"] = field(default="adamw", metadata={"help": "optimizer"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "clip the gradient's norm to this, 0: do not"})
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = field(
        default="linear", metadata={"help": "learning-rate schedule"}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "rate of each layer below the head, as a factor of the one above it"}
    )
    unfreeze_epochs: float = field(
        default=0.0, metadata={"help": "epochs until the next layer below the head is trained too; 0: all at once"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, {0: "unfreeze_epochs"})
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"`layer_decay` is a factor in (0, 1], got {self.layer_decay}")


@dataclass
class LabelledTrainingArguments(ExampleTrainingArguments):
    """How a network trains on labelled texts."""

    teachers: str | None = field(
        default=None,
        metadata={"help": "classifiers of the same classes, comma-separated, whose probabilities are learned too"},
    )
    teacher_weight: float = field(default=0.7, metadata={"help": "of the teachers; the labels have the rest"})
    teacher_temperature: float = field(default=2.0, metadata={"help": "by which the teachers' logits are divided"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.teacher_weight <= 1:
            raise InputError(f"`teacher_weight` must be in [0, 1], got {self.teacher_weight}")
        if self.teacher_temperature <= 0:
            raise InputError(f"`teacher_temperature` must be positive, got {self.teacher_temperature}")
        if self.teachers and self.label_smoothing_factor:
            raise InputError("`teachers` and `label_smoothing_factor` do not go together: choose one")


@dataclass
class SpeechTrainingArguments(ExampleTrainingArguments):
    """How a network learns to hear. A plateau, on which it gives blanks alone, comes before all else."""

    num_train_epochs: int = field(default=30, metadata={"help": "passes over the recordings; the schedule's length"})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "examples on each process"})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "examples when validating"})
    learning_rate: float = field(default=3e-3, metadata={"help": "peak learning rate"})
    max_grad_norm: float = field(default=5.0, metadata={"help": "clip the gradient's norm to this, 0: do not"})
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = field(
        default="cosine", metadata={"help": "learning-rate schedule"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing_factor:
            raise InputError("`label_smoothing_factor` is for one class out of several, not for speech: leave it out")


@dataclass
class ForecastTrainingArguments(ExampleTrainingArguments):
    """How a network learns to forecast, by windows of series."""

    num_train_epochs: int = field(default=20, metadata={"help": "passes over the windows; the schedule's length"})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "windows of one series each a process"})
    per_device_eval_batch_size: int = field(default=512, metadata={"help": "windows when validating"})
    group_by_length: bool = field(default=False, metadata={"help": "of no use here: windows have one length"})
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = field(
        default="cosine", metadata={"help": "learning-rate schedule"}
    )
    validation_samples: int = field(
        default=20, metadata={"help": "paths of each window that are drawn to validate a distribution"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, {2: "validation_samples"})
        if self.label_smoothing_factor:
            raise InputError("`label_smoothing_factor` is for one class out of several, not for series: leave it out")


@dataclass
class TranslationTrainingArguments(ExampleTrainingArguments):
    """How a network learns to translate."""

    num_train_epochs: int = field(default=30, metadata={"help": "passes over the pairs; the schedule's length"})
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "pairs of a batch in the mean: batches have about as many tokens each"}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "pairs when validating"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak learning rate"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_decay != 1 or self.unfreeze_epochs:
            raise InputError("`layer_decay` and `unfreeze_epochs` are for classifiers: leave them out")


@dataclass
class Arguments:
    """A whole run: its task, model, data and training arguments, and the recipe that they came from."""

    model: Any  # classes made from RNNConfig
    data: Any
    training: Any
    recipe: str | None = None
    task: str = "language-modeling"

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, for run.json."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "task"}


# Classes of the model, data and training arguments of each task.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "language-modeling": (ModelArguments, DataArguments, TrainingArguments),
    "text-classification": (ClassifierArguments, LabelledDataArguments, LabelledTrainingArguments),
    "token-classification": (TaggerArguments, LabelledDataArguments, LabelledTrainingArguments),
    "automatic-speech-recognition": (SpeechArguments, SpeechDataArguments, SpeechTrainingArguments),
    "time-series-forecasting": (ForecastArguments, ForecastDataArguments, ForecastTrainingArguments),
    "translation": (TranslationArguments, TranslationDataArguments, TranslationTrainingArguments),
}
