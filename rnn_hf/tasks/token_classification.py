"""Token classification: a class for each word of a sentence, such as its part of speech."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import DataCollatorForTokenClassification, PreTrainedModel

from rnn_hf.data.alignment import IGNORED, first_pieces
from rnn_hf.data.labelled import LabelledData, majority_floor
from rnn_hf.data.tokenization import SPACE, WORD
from rnn_hf.tasks.labelled import Prepared, evaluate_models, log_softmax, run_batches, values_of_card
from rnn_hf.tasks.metrics import (
    ClassScores,
    class_rows,
    describe,
    macro_f1,
    sklearn_metrics,
)
from rnn_hf.tasks.spans import has_spans, likeliest_labels, span_f1
from rnn_hf.tasks.text_runs import TextWork


NAME, AUTO_CLASS, COLLATOR = (
    "token-classification",
    "AutoModelForTokenClassification",
    DataCollatorForTokenClassification,
)
EVALUATION_BATCH = 64
describe_score, WORK = describe, TextWork


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
    return scores_of(logits_of(model, examples, batch_size, progress), examples, data, split)


def logits_of(
    model: PreTrainedModel, examples: Sequence[Mapping[str, Any]], batch_size: int, progress: bool = False
) -> list[np.ndarray]:
    """The logits at the words of each example that have a label, `(words, classes)`; arguments as of `score`."""
    by_index = dict(run_batches(model, examples, batch_size, progress))
    return [by_index[index][np.array(example["labels"]) != IGNORED] for index, example in enumerate(examples)]


def scores_of(
    outputs: Sequence[np.ndarray], examples: Sequence[Mapping[str, Any]], data: LabelledData, split: str
) -> ClassScores:
    """The scores of logits, `(words, classes)` each, against the labels of examples."""
    names = data.label_names or []
    labels = [np.array(example["labels"]) for example in examples]
    truths = [row[row != IGNORED] for row in labels]
    predictions = [likeliest_labels(logits, names) for logits in outputs]
    truth, predicted = np.concatenate(truths), np.concatenate(predictions)
    loss = -float(log_softmax(np.concatenate(outputs))[np.arange(len(truth)), truth].mean())
    metrics, right = sklearn_metrics(), truth == predicted
    classes = class_rows(truth, predicted, names)
    values = {"accuracy": float(right.mean()), "macro_f1": macro_f1(classes)}
    if has_spans(names):
        as_names = ([[names[label] for label in row] for row in rows] for rows in (truths, predictions))
        values = {"span_f1": span_f1(*as_names), "accuracy": values["accuracy"]}
    has_train = "train" in data.splits
    if split != "train" and has_train:
        known = {word for row in data.splits["train"] for word in row["words"]}
        rows = zip(data.splits[split], truths, strict=True)
        is_known = np.array(
            [word in known for row, labels in rows for word in row["words"][: len(labels)]], dtype=bool
        )
        for kind, mask in (("known", is_known), ("unknown", ~is_known)):
            if mask.any():
                values[f"accuracy_{kind}"] = float(right[mask].mean())
    confusion = metrics.confusion_matrix(truth, predicted, labels=list(range(len(names))))
    floor = majority_floor(data, split) if has_train else None
    return ClassScores(values, loss, len(truth), "words", classes, confusion, floor)


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
        InputError: As `evaluate_models`.
    """
    return evaluate_models(NAME, [name], splits, given, revision, progress, device, batch_size)[0]


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
        Of each sentence a row a word: `word`, `label`, its probability `score`, and `scores`, the probability of each
        label by name. Of labels that mark spans `label` is as of `rnn_hf.tasks.spans.likeliest_labels`. A word of
        which the tokenizer leaves nothing has `None` for all of these.
    """
    words = [list(sentence) for sentence in sentences]
    if not words:
        return
    encodings = tokenizer(words, is_split_into_words=True)
    examples = [{"input_ids": ids} for ids in encodings["input_ids"]]
    by_index = dict(run_batches(model, examples, batch_size))
    config: Any = model.config
    names = [config.id2label[index] for index in range(config.num_labels)]
    for index, sentence in enumerate(words):
        positions = first_pieces(encodings.word_ids(index))
        chances = np.exp(log_softmax(by_index[index]))  # of all tokens at once, which is faster than word by word
        listed, numbers = chances.tolist(), [number for number in range(len(sentence)) if number in positions]
        labels = likeliest_labels(by_index[index][[positions[number] for number in numbers]], names).tolist()
        best = dict(zip(numbers, labels, strict=True))
        rows: list[dict[str, Any]] = []
        for number, word in enumerate(sentence):
            if number not in positions:
                rows.append({"word": word, "label": None, "score": None, "scores": dict.fromkeys(names)})
                continue
            of_word, label = listed[positions[number]], best[number]
            scores = dict(zip(names, of_word, strict=True))
            rows.append({"word": word, "label": names[label], "score": of_word[label], "scores": scores})
        yield rows


def split_words(text: str) -> list[str]:
    """The words of plain text: what stands between spaces, with punctuation split off.

    >>> split_words("Don't stop, 3.50 is fine.")
    ["Don't", 'stop', ',', '3.50', 'is', 'fine', '.']
    """
    return [word for part in text.split() for word in re.findall(f"{WORD}|{SPACE}", part)]


def counts(prepared: Prepared) -> dict[str, Any]:
    """What run.json says of the data besides labels and rows."""
    words = {split: sum(len(row["words"]) for row in prepared.data.splits[split]) for split in prepared.examples}
    known = {word for row in prepared.data.splits["train"] for word in row["words"]}
    rows = prepared.data.splits["validation"]
    unknown = sum(word not in known for row in rows for word in row["words"]) / max(1, words["validation"])
    return {"words": words, "unknown": {"validation": round(unknown, 5)}}


def card_values(run: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    """What `token_classification.md` needs besides the values of every card; arguments as of `values_of_card`."""
    share = ((run.get("data") or {}).get("unknown") or {}).get("validation")
    unknown = f"Of the words for validation {100 * share:.2f} % are not in the training text." if share else ""
    sizes = {"speed_unit": "sentences", "size_unit": "words", "unknown_share": unknown}
    return values_of_card(run, scores, "words", "words") | sizes
