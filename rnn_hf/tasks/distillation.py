"""Learning from other classifiers: their probabilities take the place of part of a label (Hinton et al., 2015)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from rnn_hf.data.alignment import encode_rows
from rnn_hf.data.labelled import SINGLE, LabelledData
from rnn_hf.errors import InputError
from rnn_hf.loading import config_of, load_model
from rnn_hf.models.heads_rnn import at_least_float32
from rnn_hf.tasks.labelled import Prepared, log_softmax, run_batches


def check_teachers(teachers: Sequence[str], data: LabelledData) -> None:
    """Refuse teachers that cannot teach this data, before any of them is loaded.

    Raises:
        InputError: The labels are not one class a text, or a teacher has other classes.
    """
    if data.problem_type != SINGLE:
        raise InputError("`teachers` are for text-classification with one class a text")
    for name in teachers:
        config: Any = config_of(name)
        classes = {str(label) for label in config.id2label.values()}
        if classes != set(data.label_names or []):
            raise InputError(
                f"`teachers`: the classes of {name} are {', '.join(sorted(classes))}, and the data has "
                f"{', '.join(data.label_names or [])}"
            )


def soft_labels(
    teachers: Sequence[str], data: LabelledData, weight: float, temperature: float, device: str, progress: bool = False
) -> list[list[float]]:
    """What to learn of each training row: its class, and the mean of what the teachers say of it.

    Args:
        teachers: Classifiers of texts, by directory or name on the Hub; any of transformers.
        data: With the rows to train on.
        weight: Of the teachers, from 0 to 1; the class has the rest.
        temperature: By which their logits are divided, so that what they hold for unlikely counts for more.
        device: One of `rnn_hf.loading.DEVICES`.
        progress: Whether to show a progress bar for each.

    Returns:
        Probabilities of the classes, `(rows, classes)`.

    Raises:
        InputError: A teacher does not load.
    """
    rows, names = data.splits["train"], data.label_names or []
    total = np.zeros((len(rows), len(names)))
    for name in tqdm(teachers, desc="reading by the teachers", disable=not progress):
        model, tokenizer = load_model(name, device=device, auto_class="AutoModelForSequenceClassification")
        config: Any = model.config
        columns = [int(index) for label in names for index, known in config.id2label.items() if known == label]
        for index, logits in run_batches(model, encode_rows(rows, tokenizer, config_length(config)), 128):
            total[index] += np.exp(log_softmax(logits[columns] / temperature))
    classes = np.eye(len(names))[[row["labels"] for row in rows]]
    return ((1 - weight) * classes + weight * total / len(teachers)).tolist()


def config_length(config: Any) -> int | None:
    """How many tokens a model reads; `None` without a limit, as a recurrent network has none."""
    return getattr(config, "max_position_embeddings", None)


def taught_examples(prepared: Prepared, options: Any) -> list[dict[str, Any]]:
    """What a run learns from: its examples, with what the teachers say, if there are any, in place of the labels.

    Args:
        prepared: The data of the run.
        options: A `rnn_hf.training.arguments.LabelledTrainingArguments`.

    Raises:
        InputError: As `check_teachers` and `soft_labels`.
    """
    examples = prepared.examples["train"]
    teachers = [name for name in map(str.strip, (options.teachers or "").split(",")) if name]
    if not teachers:
        return examples
    check_teachers(teachers, prepared.data)
    device, progress = "cpu" if options.use_cpu else "auto", not options.disable_tqdm
    labels = soft_labels(
        teachers, prepared.data, options.teacher_weight, options.teacher_temperature, device, progress
    )
    return [{**example, "labels": label} for example, label in zip(examples, labels, strict=True)]


def soft_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross entropy against probabilities `(B, L)`, in nats a text, as Trainer's `compute_loss_func`.

    Trainer counts the numbers in `labels`, of which a text has L.
    """
    logits = at_least_float32(outputs.logits)
    count = labels.numel() if num_items_in_batch is None else num_items_in_batch
    return F.cross_entropy(logits, labels.to(logits), reduction="sum") * labels.shape[1] / count
