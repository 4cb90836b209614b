"""Token classification: a class for each word of a sentence, such as its part of speech."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import DataCollatorForTokenClassification, PreTrainedModel

from rnn_hf.data.alignment import IGNORED, encode_rows, first_pieces
from rnn_hf.data.labelled import LabelledData
from rnn_hf.loading import load_model
from rnn_hf.tasks.labelled import Prepared, check_splits, load_data_of, log_softmax, run_batches
from rnn_hf.tasks.metrics import ClassScores, class_rows, has_spans, macro_f1, sklearn_metrics, span_f1


NAME, AUTO_CLASS, COLLATOR = (
    "token-classification",
    "AutoModelForTokenClassification",
    DataCollatorForTokenClassification,
)
EVALUATION_BATCH = 64


def metric_of(data: LabelledData) -> str:
    """The metric that decides which weights are best."""
    return "span_f1" if has_spans(data.label_names or []) else "accuracy"


def score(
    model: PreTrainedModel, data: LabelledData, split: str, examples: Sequence[Mapping[str, Any]],
    batch_size: int = EVALUATION_BATCH, progress: bool = False,
) -> ClassScores:  # fmt: skip
    """The scores of a model on the words of a split.

    Accuracy is also given of words that the training data has (`accuracy_known`) and has not (`accuracy_unknown`),
    compared as they are written.

    Args:
        model: An `RNNForTokenClassification`.
        data: What the examples were made of.
        split: Of `data`.
        examples: `input_ids` and `labels`, -100 where a token is not the first piece of a word, as
            `rnn_hf.data.alignment.encode_rows` gives them.
        batch_size: Sentences a batch.
        progress: Whether to show a progress bar.
    """
    names = data.label_names or []
    truths: list[np.ndarray] = [np.zeros(0, int)] * len(examples)
    predictions, losses = list(truths), [0.0] * len(examples)
    for index, logits in run_batches(model, examples, batch_size, progress):
        labels = np.array(examples[index]["labels"])
        at = np.flatnonzero(labels != IGNORED)
        truths[index], predictions[index] = labels[at], logits[at].argmax(axis=1)
        losses[index] = -float(log_softmax(logits[at])[np.arange(len(at)), labels[at]].sum())
    truth, predicted = np.concatenate(truths), np.concatenate(predictions)
    metrics, right = sklearn_metrics(), truth == predicted
    classes = class_rows(truth, predicted, names)
    values = {"accuracy": float(right.mean()), "macro_f1": macro_f1(classes)}
    if has_spans(names):
        as_names = ([[names[label] for label in row] for row in rows] for rows in (truths, predictions))
        values = {"span_f1": span_f1(*as_names), "accuracy": values["accuracy"]}
    if split != "train" and "train" in data.splits:
        known = {word for row in data.splits["train"] for word in row["words"]}
        rows = zip(data.splits[split], truths, strict=True)
        is_known = np.array(
            [word in known for row, labels in rows for word in row["words"][: len(labels)]], dtype=bool
        )
        for kind, mask in (("known", is_known), ("unknown", ~is_known)):
            if mask.any():
                values[f"accuracy_{kind}"] = float(right[mask].mean())
    confusion = metrics.confusion_matrix(truth, predicted, labels=list(range(len(names))))
    return ClassScores(values, sum(losses) / len(truth), len(truth), "words", classes, confusion)


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
        batch_size: Sentences a batch, a matter of memory and speed.

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
    model: PreTrainedModel, tokenizer: Any, sentences: Sequence[Sequence[str]], batch_size: int = EVALUATION_BATCH
) -> Iterator[list[dict[str, Any]]]:
    """What a model says of the words of sentences, in their order.

    Args:
        model: An `RNNForTokenClassification`.
        tokenizer: Its own.
        sentences: Words each.
        batch_size: Sentences a batch.

    Yields:
        Of each sentence a row a word: `word`, `label`, and `score`, the probability of the label. A word of which the
        tokenizer leaves nothing has the label `None`.
    """
    words = [list(sentence) for sentence in sentences]
    encodings = tokenizer(words, is_split_into_words=True)
    examples = [{"input_ids": ids} for ids in encodings["input_ids"]]
    by_index = dict(run_batches(model, examples, batch_size))
    config: Any = model.config
    names = config.id2label
    for index, sentence in enumerate(words):
        logits, positions = by_index[index], first_pieces(encodings.word_ids(index))
        rows: list[dict[str, Any]] = []
        for number, word in enumerate(sentence):
            if number not in positions:
                rows.append({"word": word, "label": None, "score": None})
                continue
            chances = log_softmax(logits[positions[number]])
            best = int(chances.argmax())
            rows.append({"word": word, "label": names[best], "score": float(np.exp(chances[best]))})
        yield rows


def counts(prepared: Prepared) -> dict[str, Any]:
    """What run.json says of the data besides labels and rows."""
    words = {split: sum(len(row["words"]) for row in prepared.data.splits[split]) for split in prepared.examples}
    known = {word for row in prepared.data.splits["train"] for word in row["words"]}
    rows = prepared.data.splits["validation"]
    unknown = sum(word not in known for row in rows for word in row["words"]) / max(1, words["validation"])
    return {"words": words, "unknown": {"validation": round(unknown, 5)}}
