"""Tiny classifiers with random weights on tiny data, in directories as a run leaves them."""

import json
from dataclasses import asdict
from pathlib import Path

from rnn_hf.tasks import TASKS
from rnn_hf.tasks.labelled import build_model, prepare
from rnn_hf.training.arguments import KINDS


TEXTS, WORDS = "text-classification", "token-classification"
REVIEWS = [
    ("a warm , funny film", "good"), ("dull and cold", "bad"), ("moving", "good"), ("a flat , dull film", "bad"),
    ("funny and moving", "good"), ("not funny", "bad"), ("a film", "good"), ("a warm , unforgettable one", "good"),
]  # fmt: skip
SENTENCES = [
    ("the dog runs .", "DET NOUN VERB PUNCT"), ("cats sleep", "NOUN VERB"), ("a cat", "DET NOUN"),
    ("sleep !", "VERB PUNCT"), ("the unforgettable dog .", "DET ADJ NOUN PUNCT"), ("dogs run", "NOUN VERB"),
]  # fmt: skip
SPANS = [("in New York", "O B-LOC I-LOC"), ("Ann saw Paris .", "B-PER O B-LOC O"), ("Ann Lee", "B-PER I-PER")]


def write_texts(path: Path, rows) -> str:
    """A CSV file of texts and labels."""
    lines = [f'"{text}",{label}' for text, label in rows]
    path.write_text("\n".join(["text,label", *lines, ""]), encoding="utf-8")
    return str(path)


def write_words(path: Path, rows) -> str:
    """A file with a word and its label a line."""
    sentences = ["\n".join(map("\t".join, zip(words.split(), labels.split(), strict=True))) for words, labels in rows]
    path.write_text("\n\n".join([*sentences, ""]), encoding="utf-8")
    return str(path)


def make_classifier(task, directory: Path, seed: int = 0, data=None, **fields) -> str:
    """The path of a random model, with its tokenizer and a run.json that names its data.

    Args:
        task: `TEXTS` or `WORDS`.
        directory: To write to.
        seed: Of its weights, and of the rows that are set aside for validation.
        data: Arguments of the data.
        fields: Of the configuration.
    """
    model_kind, data_kind, _ = KINDS[task]
    arguments = data_kind(**data)
    prepared = prepare(task, arguments, seed, None)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "bidirectional": True, "initializer_range": 1.5}
    model_arguments = model_kind(**{**sizes, **fields})
    model = build_model(TASKS[task].module.AUTO_CLASS, model_arguments, prepared, seed, None)
    model.save_pretrained(directory)
    prepared.tokenizer.save_pretrained(directory)
    parts = {"model": asdict(model_arguments), "data": asdict(arguments), "training": {"seed": seed}}
    metric = TASKS[task].module.metric_of(prepared.data)
    (directory / "run.json").write_text(json.dumps({"arguments": parts, "task": task, "metric": metric}))
    return str(directory)
