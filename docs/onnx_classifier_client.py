"""Classify texts, or tag their words, with an exported classifier, by onnxruntime, tokenizers and numpy alone.

Of a text it prints the classes and their probabilities, likeliest first. A model of words gives each word and its tag;
the words must stand between spaces.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("texts", nargs="+", metavar="TEXT")
options = parser.parse_args()

names = ("config.json", "tokenizer_config.json")
config, settings = (json.loads((options.folder / name).read_text(encoding="utf-8")) for name in names)
labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
problem_type = config.get("problem_type")
session = onnxruntime.InferenceSession(options.folder / "model.onnx")
tags_words = len(session.get_outputs()[0].shape) == 3  # (batch, sequence, labels)

tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
tokenizer.encode_special_tokens = settings.get("split_special_tokens", False)
tokenizer.enable_padding()
texts = [text.split() for text in options.texts] if tags_words else options.texts
rows = tokenizer.encode_batch(texts, is_pretokenized=tags_words)
ids, mask = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("ids", "attention_mask"))
(logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})

for text, row, scores in zip(texts, rows, logits, strict=True):
    if tags_words:
        for number, word in enumerate(text):
            # The tag of a word is that of its first piece.
            pieces = [place for place, word_id in enumerate(row.word_ids) if word_id == number]
            print(word, labels[scores[pieces[0]].argmax()] if pieces else "", sep="\t")
        print()
        continue
    if problem_type == "multi_label_classification" or (problem_type is None and len(labels) == 1):
        scores = 1 / (1 + np.exp(-scores))  # each class for itself
    elif problem_type != "regression":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    print(text, *(f"{labels[index]} {scores[index]:.6f}" for index in np.argsort(-scores)), sep="\t")
