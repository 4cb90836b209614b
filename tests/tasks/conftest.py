"""Random classifiers of texts, of words and of spans, with their data."""

import pytest
from classifiers import REVIEWS, SENTENCES, SPANS, TEXTS, WORDS, make_classifier, write_texts, write_words


@pytest.fixture(scope="session")
def text_files(tmp_path_factory):
    """Arguments of data for texts."""
    folder = tmp_path_factory.mktemp("texts")
    return {
        "train_file": write_texts(folder / "train.csv", REVIEWS),
        "validation_file": write_texts(folder / "validation.csv", REVIEWS[1:6]),
    }


@pytest.fixture(scope="session")
def word_files(tmp_path_factory):
    """Arguments of data for words; of those for validation some are not in the training text."""
    folder = tmp_path_factory.mktemp("words")
    return {
        "train_file": write_words(folder / "train.tsv", SENTENCES[:4]),
        "validation_file": write_words(
            folder / "validation.tsv", [SENTENCES[0], SENTENCES[5], ("the cat", "DET NOUN")]
        ),
    }


@pytest.fixture(scope="session")
def text_model(text_files, tmp_path_factory):
    return make_classifier(TEXTS, tmp_path_factory.mktemp("texts"), data=text_files)


@pytest.fixture(scope="session")
def word_model(word_files, tmp_path_factory):
    return make_classifier(WORDS, tmp_path_factory.mktemp("words"), data=word_files)


@pytest.fixture(scope="session")
def span_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans")
    file = write_words(folder / "train.tsv", SPANS)
    return make_classifier(WORDS, folder / "model", data={"train_file": file, "validation_file": file})
