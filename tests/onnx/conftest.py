"""What tests of exported classifiers share: small ones, with their data."""

import pytest
from classifiers import REVIEWS, SENTENCES, TEXTS, make_classifier, write_texts, write_words


@pytest.fixture
def make_small(tmp_path):
    """`make_small(task, **fields)`: the path of a random classifier; that of words reads their characters."""

    def make(task, **fields):
        data = {"min_frequency": 1, "pieces": "characters"}
        for split in ("train", "validation"):
            write, rows = (write_texts, REVIEWS) if task == TEXTS else (write_words, SENTENCES)
            data[f"{split}_file"] = write(tmp_path / f"{task}.{split}{'.csv' if task == TEXTS else '.tsv'}", rows)
        if task != TEXTS:
            fields = {"character_embedding_size": 4, "character_hidden_size": 3, **fields}
        return make_classifier(task, tmp_path / task, data=data, **fields)

    return make
