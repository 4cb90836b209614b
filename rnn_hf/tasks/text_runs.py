"""What a training run on labelled text works on, and what it asks of its task."""

from hashlib import sha1
from pathlib import Path
from typing import Any

from rnn_hf.data.labelled import MULTI, REGRESSION, label_counts, majority_floor, summary
from rnn_hf.errors import InputError
from rnn_hf.models import RNNConfig
from rnn_hf.tasks import METRICS, TASKS
from rnn_hf.tasks.distillation import taught_examples
from rnn_hf.tasks.labelled import build_model, prepare
from rnn_hf.tasks.metrics import ClassScores, check_scorers


class TextWork:
    """The data of a run and all that is made of it; of speech, `rnn_hf.tasks.speech_runs.SpeechWork` has the same.

    Args:
        arguments: A `rnn_hf.training.arguments.Arguments`.

    Attributes:
        prepared: Data, tokenizer and examples by split.
        metric: That decides which weights are best.

    Raises:
        InputError: As `prepare`, or an argument that does not fit the labels.
        MissingPackageError: As `rnn_hf.tasks.metrics.check_scorers`.
    """

    config_class = RNNConfig

    def __init__(self, arguments: Any):
        options = arguments.training
        self.arguments, self.module = arguments, TASKS[arguments.task].module
        self.prepared = prepare(
            arguments.task, arguments.data, options.seed, options.init_from,
            bool(arguments.model.character_embedding_size),
        )  # fmt: skip
        self.metric = METRICS[self.module.metric_of(self.prepared.data)]
        check_scorers(self.metric.name)
        if options.label_smoothing_factor and self.prepared.data.problem_type in (MULTI, REGRESSION):
            raise InputError("`label_smoothing_factor` is for one class out of several: leave it out")

    def build_model(self) -> Any:
        """A fresh model, or one on the weights of `init_from`; errors as `rnn_hf.tasks.labelled.build_model`."""
        options = self.arguments.training
        return build_model(
            self.module.AUTO_CLASS, self.arguments.model, self.prepared, options.seed, options.init_from
        )

    def training_examples(self) -> list[dict[str, Any]]:
        """What Trainer takes batches of; errors as `rnn_hf.tasks.distillation.taught_examples`."""
        return taught_examples(self.prepared, self.arguments.training)

    def collator(self) -> Any:
        """Makes a batch of examples."""
        return self.module.COLLATOR(self.prepared.tokenizer)

    def score(self, model: Any) -> ClassScores:
        """The scores of a model on the validation split."""
        examples, size = self.prepared.examples["validation"], self.arguments.training.per_device_eval_batch_size
        return self.module.score(model, self.prepared.data, "validation", examples, size)

    def save_processors(self, directory: Path) -> None:
        """Write what a model needs besides its weights."""
        self.prepared.tokenizer.save_pretrained(directory)

    def summary(self) -> list[str]:
        """The data in lines, for people."""
        return summary(self.prepared.data)

    def counts(self) -> dict[str, Any]:
        """What run.json says of the data: sizes, labels, the floor of the most frequent class, a checksum."""
        prepared, data = self.prepared, self.prepared.data
        train = repr([(example["input_ids"], example["labels"]) for example in prepared.examples["train"]])
        counts = {
            "rows": {split: len(data.splits[split]) for split in prepared.examples},
            "floor": majority_floor(data, "validation"),
            "vocab_size": len(prepared.tokenizer),
            "train_sha1": sha1(train.encode()).hexdigest(),
            **self.module.counts(prepared),
        }
        if data.label_names is not None:
            counts["labels"] = {split: label_counts(data, split) for split in prepared.examples}
        return counts
