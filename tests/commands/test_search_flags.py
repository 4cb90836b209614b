"""`rnn-hf evaluate` and `predict` with a search: what the library finds, and flags that do not go together."""

import json
from pathlib import Path

import pytest
from networks import make_words_depend_on_the_past

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.audio import find_audio
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.tasks import automatic_speech_recognition as task
from rnn_hf.tasks.speech_search import load_search


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The directory of a language model of the tones' names."""
    folder = str(tmp_path_factory.mktemp("words"))
    model = RNNForCausalLM(RNNConfig(vocab_size=11, hidden_size=8, tie_word_embeddings=False)).eval()
    make_words_depend_on_the_past(model)
    model.save_pretrained(folder)
    build_tokenizer(["three low high two six five four one nine"]).save_pretrained(folder)
    return folder


def flags_of(words) -> dict:
    return {"num_beams": 3, "language_model": words, "language_model_weight": 2.5, "length_bonus": -0.5}


def as_flags(settings) -> list:
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


@pytest.mark.slow
def test_evaluate_scores_what_the_search_finds(recognizer, words, run_script):
    for settings in (flags_of(words), {"num_beams": 2}, {"language_model": words}):
        expected = task.evaluate(recognizer, ["validation"], {}, search=settings)["validation"]
        status, printed, errors = run_script("evaluate.py", recognizer, *as_flags(settings))
        assert status == 0 and printed == f"validation: {task.describe_score(expected)}\n", errors
    best_path = task.evaluate(recognizer, ["validation"], {})["validation"]
    found = task.evaluate(recognizer, ["validation"], {}, search=flags_of(words))["validation"]
    assert found.values != best_path.values and found.loss == best_path.loss


def test_predict_prints_what_the_search_finds(recognizer, words, run_script):
    archive, settings = Path(recognizer).parent / "validation.zip", flags_of(words) | {"length_bonus": 30.0}
    model, tokenizer, extractor = task.load_recognizer(recognizer)
    files, search = find_audio(str(archive)), load_search(tokenizer, **settings)
    expected = [answer["text"] for answer in task.predict(model, tokenizer, extractor, files, search=search)]
    flags = [archive, *as_flags(settings), "--format", "json"]
    status, printed, errors = run_script("predict.py", recognizer, *flags)
    assert status == 0 and [json.loads(line)["text"] for line in printed.splitlines()] == expected, errors
    assert expected != [answer["text"] for answer in task.predict(model, tokenizer, extractor, files)]


def test_what_does_not_fit_a_search_is_named(recognizer, text_model, words, run_script):
    other = str(Path(words).parent / "other")
    RNNForCausalLM.from_pretrained(words).save_pretrained(other)
    build_tokenizer(["three low"]).save_pretrained(other)
    archive = Path(recognizer).parent / "validation.zip"
    cases = [
        ("evaluate.py", (text_model, "--num_beams", 0), f"--num_beams does not go with {text_model}, which is a"),
        ("evaluate.py", (recognizer, "--num_beams", 2, "--save"), "--save is for the best path: drop --num_beams"),
        (
            "evaluate.py",
            (recognizer, "--num_beams", 2, "--length_bonus", 1, "--alignment", "a.png"),
            "--alignment is for the best path: drop --num_beams and --length_bonus",
        ),
        ("evaluate.py", (recognizer, "--num_beams", 0), "--num_beams must be a whole number, at least 1, got 0"),
        (
            "evaluate.py",
            (recognizer, "--language_model", other),
            f"--language_model {other} does not fit: the language",
        ),
        ("predict.py", (text_model, "a", "--length_bonus", 0), "--length_bonus is for a recognizer of speech, and"),
        ("predict.py", (recognizer, archive, "--language_model", recognizer), "is a model of another task"),
        (
            "predict.py",
            (recognizer, archive, "--language_model_weight", 1),
            "is that of --language_model, which is not",
        ),
        ("predict.py", (recognizer, archive, "--length_bonus", "nan"), "--length_bonus must be a number, got nan"),
        (
            "predict.py",
            (recognizer, archive, "--num_beams", "many"),
            "argument --num_beams: invalid int value: 'many'",
        ),
    ]
    for script, flags, message in cases:
        status, _, errors = run_script(script, *flags)
        assert status == 2 and message in errors.splitlines()[-1], errors
