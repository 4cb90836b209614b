"""Random classifiers of texts and of words for the commands, and a recognizer of tones, each with its data."""

import pytest
from classifiers import REVIEWS, SENTENCES, TEXTS, WORDS, make_classifier, write_texts, write_words
from speech_models import train_recognizer


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    file = write_texts(folder / "train.csv", REVIEWS)
    return make_classifier(TEXTS, folder / "model", data={"train_file": file, "validation_file": file})


@pytest.fixture(scope="session")
def word_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    data = {
        "train_file": write_words(folder / "train.tsv", SENTENCES[:5]),
        "validation_file": write_words(folder / "validation.tsv", SENTENCES),
    }
    return make_classifier(WORDS, folder / "model", data=data)


@pytest.fixture(scope="session")
def recognizer(tmp_path_factory):
    return train_recognizer(tmp_path_factory.mktemp("recognizer"), num_train_epochs=8)
