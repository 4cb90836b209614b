"""Text classification: a class, several, or a number for a whole text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import DataCollatorWithPadding, PreTrainedModel

from rnn_hf.data.alignment import encode_rows
from rnn_hf.data.labelled import MULTI, REGRESSION, LabelledData, majority_floor
from rnn_hf.tasks.labelled import Prepared, evaluate_models, log_softmax, run_batches, values_of_card
from rnn_hf.tasks.metrics import ClassScores, class_rows, describe, macro_f1, sklearn_metrics
from rnn_hf.tasks.text_runs import TextWork


NAME, AUTO_CLASS, COLLATOR = "text-classification", "AutoModelForSequenceClassification", DataCollatorWithPadding
EVALUATION_BATCH = 128
describe_score, WORK = describe, TextWork


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
    return scores_of(logits_of(model, examples, batch_size, progress), examples, data, split)


def logits_of(
    model: PreTrainedModel, examples: Sequence[Mapping[str, Any]], batch_size: int, progress: bool = False
) -> list[np.ndarray]:
    """The logits of each example, `(classes,)`; arguments as of `score`."""
    by_index = dict(run_batches(model, examples, batch_size, progress))
    return [by_index[index] for index in range(len(examples))]


def scores_of(
    outputs: Sequence[np.ndarray], examples: Sequence[Mapping[str, Any]], data: LabelledData, split: str
) -> ClassScores:
    """The scores of logits, `(classes,)` each, against the labels of examples, by the problem type of the data."""
    logits, labels = np.stack(outputs), np.array([example["labels"] for example in examples])
    floor = majority_floor(data, split) if "train" in data.splits else None
    metrics, count = sklearn_metrics(), len(labels)
    names = data.label_names or []
    if data.problem_type == REGRESSION:
        predicted = logits[:, 0]
        error = float(metrics.mean_squared_error(labels, predicted))
        values = {"mean_squared_error": error}
        if count > 1:
            values["r2"] = float(metrics.r2_score(labels, predicted))
        return ClassScores(values, error, count, "texts", floor=floor)
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
    return ClassScores(values, loss, count, "texts", classes, confusion, floor)


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
        InputError: As `evaluate_models`.
    """
    return evaluate_models(NAME, [name], splits, given, revision, progress, device, batch_size)[0]


def predict(
    model: PreTrainedModel, tokenizer: Any, texts: Sequence[str], batch_size: int = EVALUATION_BATCH
) -> Iterator[dict[str, Any]]:
    """What a model says of texts, in their order.

    Args:
        model: An `RNNForSequenceClassification`.
        tokenizer: Its own.
        texts: To classify.
        batch_size: Texts a batch.

    Yields:
        `text`; `label`, the name of the likeliest class and, of several labels, the names of those that are likelier
        than not, joined by commas, or a number; of one label its probability `score`; and of classes `scores`, the
        probability of each by name.
    """
    examples = encode_rows([{"text": text} for text in texts], tokenizer)
    config: Any = model.config
    names = [config.id2label[index] for index in range(config.num_labels)]
    for text, logits in zip(texts, logits_of(model, examples, batch_size), strict=True):
        if config.problem_type == REGRESSION:
            yield {"text": text, "label": float(logits[0])}
        elif config.problem_type == MULTI:
            chances = np.exp(-np.logaddexp(0, -logits))
            label = ",".join(names[index] for index in np.flatnonzero(logits > 0))
            yield {"text": text, "label": label, "scores": dict(zip(names, chances.tolist(), strict=True))}
        else:
            chances, best = np.exp(log_softmax(logits)), int(logits.argmax())
            scores = dict(zip(names, chances.tolist(), strict=True))
            yield {"text": text, "label": names[best], "score": float(chances[best]), "scores": scores}


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


def card_values(run: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    """What `text_classification.md` needs besides the values of every card; arguments as of `values_of_card`."""
    unknown = (run.get("data") or {}).get("unknown") or {}
    shares = ", ".join(f"{100 * share:.2f} % in {split}" for split, share in unknown.items() if share)
    sizes = {"speed_unit": "texts", "size_unit": "tokens", "unknown_share": f"Unknown: {shares}." if shares else ""}
    return values_of_card(run, scores, "texts", "rows") | sizes
