"""Text classification: a class, several, or a number for a whole text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import DataCollatorWithPadding, PreTrainedModel

from rnn_hf.data.alignment import encode_rows
from rnn_hf.data.labelled import MULTI, REGRESSION, LabelledData
from rnn_hf.loading import load_model
from rnn_hf.tasks.labelled import Prepared, check_splits, load_data_of, log_softmax, run_batches
from rnn_hf.tasks.metrics import ClassScores, class_rows, macro_f1, sklearn_metrics


NAME, AUTO_CLASS, COLLATOR = "text-classification", "AutoModelForSequenceClassification", DataCollatorWithPadding
EVALUATION_BATCH = 128


def metric_of(data: LabelledData) -> str:
    """The metric that decides which weights are best."""
    return {MULTI: "micro_f1", REGRESSION: "mean_squared_error"}.get(data.problem_type or "", "accuracy")


def score(
    model: PreTrainedModel, data: LabelledData, split: str, examples: Sequence[Mapping[str, Any]],
    batch_size: int = EVALUATION_BATCH, progress: bool = False,
) -> ClassScores:  # fmt: skip
    """The scores of a model on the examples of a split.

    Args:
        model: An `RNNForSequenceClassification`.
        data: What the examples were made of.
        split: Of `data`.
        examples: `input_ids` and `labels`, as `rnn_hf.data.alignment.encode_rows` gives them.
        batch_size: Texts a batch.
        progress: Whether to show a progress bar.
    """
    by_index = dict(run_batches(model, examples, batch_size, progress))
    logits = np.stack([by_index[index] for index in range(len(examples))])
    return scores_of(logits, np.array([example["labels"] for example in examples]), data)


def scores_of(logits: np.ndarray, labels: np.ndarray, data: LabelledData) -> ClassScores:
    """The scores of logits `(texts, classes)` against labels, by the problem type of the data."""
    metrics, count = sklearn_metrics(), len(labels)
    names = data.label_names or []
    if data.problem_type == REGRESSION:
        predicted = logits[:, 0]
        error = float(metrics.mean_squared_error(labels, predicted))
        values = {"mean_squared_error": error, "r2": float(metrics.r2_score(labels, predicted))}
        return ClassScores(values, error, count, "texts")
    if data.problem_type == MULTI:
        predicted = (logits > 0).astype(int)
        loss = float(np.mean(np.logaddexp(0, logits) - logits * labels))
        classes = class_rows(labels.astype(int), predicted, names)
        values = {
            "micro_f1": float(metrics.f1_score(labels, predicted, average="micro", zero_division=0)),
            "macro_f1": macro_f1(classes),
            "accuracy": float((labels == predicted).all(axis=1).mean()),
        }
        return ClassScores(values, loss, count, "texts", classes)
    predicted = logits.argmax(axis=1)
    loss = -float(log_softmax(logits)[np.arange(count), labels].mean())
    classes = class_rows(labels, predicted, names)
    values = {"accuracy": float(metrics.accuracy_score(labels, predicted)), "macro_f1": macro_f1(classes)}
    confusion = metrics.confusion_matrix(labels, predicted, labels=list(range(len(names))))
    return ClassScores(values, loss, count, "texts", classes, confusion)


def evaluate(
    name: str, splits: Sequence[str], given: Mapping[str, Any], revision: str | None = None, progress: bool = False,
    device: str = "cpu", batch_size: int | None = None,
) -> dict[str, ClassScores]:  # fmt: skip
    """The scores of a model on splits of its run's data, or of other data.

    Args:
        name: Directory of the model, or its name on the Hub.
        splits: Among `train`, `validation`, `test`.
        given: As of `rnn_hf.tasks.labelled.load_data_of`.
        revision: Branch, tag or commit on the Hub.
        progress: Whether to show a progress bar.
        device: One of `rnn_hf.loading.DEVICES`.
        batch_size: Texts a batch, a matter of memory and speed.

    Raises:
        InputError: As `load_data_of` and `load_model`; or there is no such split.
    """
    data = load_data_of(NAME, name, given, revision)
    check_splits(data, splits)
    model, tokenizer = load_model(name, revision, device, AUTO_CLASS)
    examples = {split: encode_rows(data.splits[split], tokenizer) for split in splits}
    size = batch_size or EVALUATION_BATCH
    return {split: score(model, data, split, examples[split], size, progress) for split in splits}


def predict(
    model: PreTrainedModel, tokenizer: Any, texts: Sequence[str], batch_size: int = 128
) -> Iterator[dict[str, Any]]:
    """What a model says of texts, in their order.

    Args:
        model: An `RNNForSequenceClassification`.
        tokenizer: Its own.
        texts: To classify.
        batch_size: Texts a batch.

    Yields:
        `text`, `label` (a name; several, joined by commas; a number), and `score`, the probability of the label; of
        several labels or a number there is no such score.
    """
    examples = encode_rows([{"text": text} for text in texts], tokenizer)
    by_index = dict(run_batches(model, examples, batch_size))
    config: Any = model.config
    names = config.id2label
    for index, text in enumerate(texts):
        logits = by_index[index]
        if config.problem_type == REGRESSION:
            yield {"text": text, "label": float(logits[0])}
        elif config.problem_type == MULTI:
            yield {"text": text, "label": ",".join(names[int(label)] for label in np.flatnonzero(logits > 0))}
        else:
            best = int(logits.argmax())
            yield {"text": text, "label": names[best], "score": float(np.exp(log_softmax(logits)[best]))}


def counts(prepared: Prepared) -> dict[str, Any]:
    """What run.json says of the data besides labels and rows."""
    unknown = prepared.tokenizer.unk_token_id
    lengths = {
        split: sum(len(example["input_ids"]) for example in examples) for split, examples in prepared.examples.items()
    }
    shares = {
        split: round(sum(example["input_ids"].count(unknown) for example in examples) / max(1, lengths[split]), 5)
        for split, examples in prepared.examples.items()
    }
    return {"tokens": lengths, "unknown": shares}
