"""`rnn-hf translate`, and what `evaluate` and `predict` make of a translator."""

import json

import pytest
from parallel_files import some_pairs, write_pairs
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from translators import make_directory

from rnn_hf.data.parallel import Pair
from rnn_hf.tasks.translation import score
from rnn_hf.translation import translate


TEXTS = ["two small dog", "cat", "red bird sees tree snow"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Two translators of one vocabulary, one of another, one without attention."""
    folder = tmp_path_factory.mktemp("models")
    none = {"attention": None, "embedding_size": 8}
    return [
        make_directory(folder / "a", 0), make_directory(folder / "b", 1), make_directory(folder / "c", 0, 40),
        make_directory(folder / "d", 0, **none),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(directories):
    models = [AutoModelForSeq2SeqLM.from_pretrained(name).eval() for name in directories[:2]]
    return models, AutoTokenizer.from_pretrained(directories[0])


def test_texts_are_translated_by_one_and_by_several(directories, loaded, run_script):
    models, tokenizer = loaded
    for flags, beams in (([], 5), (["--num_beams", 1], 1)):
        status, printed, errors = run_script("translate.py", directories[0], *TEXTS, *flags)
        assert (status, printed.splitlines()) == (0, translate(models[0], tokenizer, TEXTS, beams)), errors
    _, printed, _ = run_script("translate.py", *directories[:2], TEXTS[2], "--length_penalty", 2)
    assert printed.splitlines() == translate(models, tokenizer, TEXTS[2:], length_penalty=2.0)


def test_lines_of_a_file_and_of_standard_input_keep_their_places(
    directories, loaded, tmp_path, run_script, monkeypatch
):
    models, tokenizer = loaded
    lines = [TEXTS[0], "", *TEXTS[1:]]
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    expected = translate(models[0], tokenizer, lines)
    flags = ("--file", tmp_path / "in.txt", "--output", tmp_path / "out.txt")
    assert run_script("translate.py", directories[0], *flags)[:2] == (0, "")
    assert (tmp_path / "out.txt").read_text().splitlines() == expected and expected[1] == ""
    _, printed, _ = run_script("translate.py", directories[0], "--file", tmp_path / "in.txt")
    assert printed.splitlines() == expected


def test_the_picture_of_attention(directories, tmp_path, run_script):
    pytest.importorskip("matplotlib")
    png = tmp_path / "a.png"
    assert run_script("translate.py", directories[0], TEXTS[0], "--attention", png)[0] == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_evaluate_says_what_score_says_of_each_and_of_all(directories, loaded, tmp_path, run_script):
    models, tokenizer = loaded
    pairs = some_pairs(6)
    flags = ["--validation_file", write_pairs(tmp_path / "v", pairs), "--source_lang", "en", "--target_lang", "xx"]
    status, printed, errors = run_script("evaluate.py", *directories[:2], *flags, "--json", "--num_beams", 2)
    assert status == 0, errors
    rows = [json.loads(line) for line in printed.splitlines()]
    for model, row in zip([*models, models], rows, strict=True):
        expected = score(model, tokenizer, [Pair(*pair) for pair in pairs], num_beams=2).to_dict()
        if "loss" in expected:  # which several have not
            assert row["loss"] == pytest.approx(expected.pop("loss"), rel=1e-6)
        assert {name: row[name] for name in expected} == expected and row["split"] == "validation"
    assert [row["model"] for row in rows] == [*directories[:2], directories[:2]]
    status, printed, _ = run_script("evaluate.py", directories[0], *flags)
    assert status == 0 and "5 beams" in printed and "words of the source" in printed and "tok:13a" in printed
    assert "tok:none" in run_script("evaluate.py", directories[0], *flags, "--bleu_tokenize", "none")[1]


def test_mistakes_are_named(directories, tmp_path, run_script):
    a, _, c, d = directories
    pair = write_pairs(tmp_path / "v", some_pairs(2))
    for name, argv, message in (
        ("translate.py", [a, "x", "--file", "y"], "give either texts or --file FILE"),
        ("translate.py", [a, "--file", tmp_path / "y"], "no file"),
        ("translate.py", [a, "x", "--num_beams", 0], "--num_beams must be at least 1, got 0"),
        ("translate.py", [a, c, "x"], "have other vocabularies: models that translate together need one tokenizer"),
        ("translate.py", [a, a, "x", "--attention", tmp_path / "a.png"], "--attention is of one model"),
        ("translate.py", [d, "x", "--attention", tmp_path / "a.png"], "needs a network with attention"),
        ("translate.py", [a, "x", "--output", tmp_path / "no" / "a"], "--output: no directory"),
        ("translate.py", [a, ""], "there is no text in the arguments"),
        ("predict.py", [a, "x"], "is a translator: `rnn-hf translate` has it write"),
        ("evaluate.py", [a, "--window", 3, "--test_file", pair], "--window does not go with"),
        ("evaluate.py", [a, "--save", "--num_beams", 3], "--save is for the search by default: drop --num_beams"),
        ("evaluate.py", [a, "--split", "test_2016", "--test_file", pair, "--source_lang", "en", "--target_lang", "xx"],
         "the data has no split 'test_2016', only test"),
        ("evaluate.py", [a, c, "--test_file", pair], "have other vocabularies"),
    ):  # fmt: skip
        status, printed, errors = run_script(name, *argv)
        assert status == 2 and message in errors and not printed, (name, argv, errors)
