"""The manual's client of classifiers runs without PyTorch and transformers, and says what pipelines say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from classifiers import TEXTS, WORDS
from test_onnx_client import BARE
from transformers import AutoConfig, AutoTokenizer, pipeline

from rnn_hf.onnx.export import export_onnx


ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "docs" / "onnx_classifier_client.py"
WITH_TOKENIZERS = BARE.replace('"tokenizers", ', "")
REVIEWS = ["A warm film, not dull!", "cold", "unheard-of [PAD] and [UNK] words", "funny and moving and funny"]
SENTENCES = ["the unforgettable dog sleeps .", "sleep", "a [PAD] zzz cats-dog runs !", "the 文 cat"]


def client(folder, *texts):
    """Lines of fields."""
    command = [sys.executable, "-c", WITH_TOKENIZERS, CLIENT, folder, *texts]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return [line.split("\t") for line in run.stdout.splitlines()]


def test_the_process_of_the_client_has_no_torch(tmp_path):
    assert '"torch"' in WITH_TOKENIZERS and "tokenizers" not in WITH_TOKENIZERS


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification", "regression"])
def test_texts_have_the_scores_of_the_pipeline(make_small, tmp_path, problem_type):
    path = make_small(TEXTS)
    config = json.loads(Path(path, "config.json").read_text())
    Path(path, "config.json").write_text(json.dumps(config | {"problem_type": problem_type}))
    export_onnx(path, tmp_path / "onnx")
    answers = pipeline("text-classification", model=path, top_k=None)(REVIEWS)
    lines = client(tmp_path / "onnx", *REVIEWS)
    assert [text for text, *_ in lines] == REVIEWS
    for (_, *fields), expected in zip(lines, answers, strict=True):
        said = [field.split(" ") for field in fields]
        assert [label for label, _ in said] == [answer["label"] for answer in expected]
        assert [float(score) for _, score in said] == pytest.approx([a["score"] for a in expected], abs=2e-6)
    assert len({fields[1] for fields in lines}) > 1


@pytest.mark.parametrize("reads_characters", [True, False])
def test_words_have_the_tags_of_the_pipeline(make_small, tmp_path, reads_characters):
    fields = {} if reads_characters else {"character_embedding_size": 0, "character_hidden_size": 0}
    path = make_small(WORDS, **fields)
    export_onnx(path, tmp_path / "onnx")
    tag = pipeline("token-classification", model=path, ignore_labels=[])
    sentences = [text.split() for text in SENTENCES]
    tokenizer = AutoTokenizer.from_pretrained(path)
    expected: list[list[str]] = []
    for words, answers in zip(sentences, tag(sentences, is_split_into_words=True), strict=True):
        word_ids = tokenizer(words, is_split_into_words=True).word_ids()
        firsts = [word_ids.index(number) for number in range(len(words))]
        expected += [[word, answers[first]["entity"]] for word, first in zip(words, firsts, strict=True)] + [[""]]
    assert client(tmp_path / "onnx", *SENTENCES) == expected
    assert len({fields[-1] for fields in expected}) > 3


def test_two_labels_without_names_are_called_as_transformers_calls_them(make_small, tmp_path):
    path = make_small(TEXTS)
    config = AutoConfig.from_pretrained(path)
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    config.label2id = {"LABEL_0": 0, "LABEL_1": 1}
    config.save_pretrained(path)
    export_onnx(path, tmp_path / "onnx")
    (fields,) = client(tmp_path / "onnx", "cold")
    assert {field.split(" ")[0] for field in fields[1:]} == {"LABEL_0", "LABEL_1"}


def test_the_page_shows_the_client():
    assert CLIENT.read_text(encoding="utf-8") in (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
