"""`rnn-hf predict`: a label a text or a word, from the command line, a file or standard input, in each format."""

import csv
import io
import json
import os

import pytest
from classifiers import REVIEWS, SENTENCES, TEXTS, make_classifier, write_texts, write_words

from rnn_hf import RNNConfig, RNNForCausalLM
from rnn_hf.data.tokenization import build_tokenizer
from rnn_hf.loading import load_model
from rnn_hf.tasks import text_classification, token_classification


READ = ["a warm film", "dull , cold"]


@pytest.fixture(scope="module")
def of_texts(text_model):
    """What the library says of `READ`."""
    model, tokenizer = load_model(text_model, auto_class=text_classification.AUTO_CLASS)
    return list(text_classification.predict(model, tokenizer, READ))


def of_words(name, sentences):
    """What the library says of sentences, as `[(word, label), ...]` each."""
    model, tokenizer = load_model(name, auto_class=token_classification.AUTO_CLASS)
    answers = token_classification.predict(model, tokenizer, [sentence.split() for sentence in sentences])
    return [[(row["word"], row["label"]) for row in rows] for rows in answers]


def test_texts_have_a_label_and_its_probability_each(text_model, of_texts, run_script):
    status, printed, _ = run_script("predict.py", text_model, *READ)
    assert status == 0
    for line, answer in zip(printed.splitlines(), of_texts, strict=True):
        assert line.split(maxsplit=2) == [answer["label"], f"{answer['score']:.4f}", answer["text"]]


def test_a_table_has_the_probability_of_each_label_on_request(text_model, of_texts, run_script):
    _, printed, _ = run_script("predict.py", text_model, *READ, "--format", "csv", "--all_scores")
    rows = list(csv.DictReader(io.StringIO(printed)))
    for row, answer in zip(rows, of_texts, strict=True):
        assert row["text"] == answer["text"] and row["label"] == answer["label"]
        for name, value in answer["scores"].items():
            assert float(row[f"score {name}"]) == pytest.approx(value, abs=1e-4)
    _, printed, _ = run_script("predict.py", text_model, *READ, "--format", "json", "--batch_size", 1)
    for line, answer in zip(printed.splitlines(), of_texts, strict=True):
        row = json.loads(line)
        assert row == {"text": answer["text"], "label": answer["label"], "score": pytest.approx(answer["score"])}


def test_words_have_a_label_each_and_punctuation_is_a_word_unless_words_are_given(word_model, run_script):
    _, printed, _ = run_script("predict.py", word_model, "The dog runs.", "Don't!")
    expected = of_words(word_model, ["The dog runs .", "Don't !"])
    sentences = [[tuple(line.split("\t")) for line in block.splitlines()] for block in printed.split("\n\n")]
    assert sentences == expected
    _, printed, _ = run_script("predict.py", word_model, "Don't! run", "--is_split_into_words")
    assert [tuple(line.split("\t")) for line in printed.splitlines()] == of_words(word_model, ["Don't! run"])[0]


def test_a_table_of_words_says_of_which_sentence_each_is(word_model, run_script):
    options = ["--format", "json", "--all_scores", "--batch_size", 1]
    _, printed, errors = run_script("predict.py", word_model, "the dog", " ", "cats", *options)
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [(row["sentence"], row["word"]) for row in rows] == [(1, "the"), (1, "dog"), (3, "cats")]
    assert errors.endswith("warning: without text and left out: 2\n")
    for row in rows:
        scores = {name.removeprefix("score "): row[name] for name in row if name.startswith("score ")}
        assert max(scores, key=scores.get) == row["label"] and scores[row["label"]] == row["score"]


def test_a_file_of_texts_and_one_to_train_on_give_what_the_command_line_gives(text_model, tmp_path, run_script):
    texts = [text for text, _ in REVIEWS]
    _, expected, _ = run_script("predict.py", text_model, *texts)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"review": text}) + "\n" for text in texts))
    write_texts(tmp_path / "texts.csv", REVIEWS)
    for name, *flags in (["texts.txt"], ["texts.csv"], ["texts.jsonl", "--text_column", "review"]):
        assert run_script("predict.py", text_model, "--file", tmp_path / name, *flags)[:2] == (0, expected)


def test_a_file_of_words_gives_what_the_command_line_gives(word_model, tmp_path, run_script):
    sentences = [words for words, _ in SENTENCES]
    _, expected, _ = run_script("predict.py", word_model, *sentences, "--is_split_into_words")
    write_words(tmp_path / "words.conll", SENTENCES)
    write_words(tmp_path / "words.tsv", SENTENCES)
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"tokens": words.split()}) + "\n" for words in sentences))
    lines = [
        f"{number}\t{word}" + "\t_" * 8 for words in sentences for number, word in enumerate([*words.split(), ""])
    ]
    (tmp_path / "words.conllu").write_text("\n".join("" if line.split("\t")[1] == "" else line for line in lines))
    for name in ("words.conll", "words.tsv", "words.jsonl"):
        assert run_script("predict.py", word_model, "--file", tmp_path / name)[:2] == (0, expected)
    assert run_script("predict.py", word_model, "--file", tmp_path / "words.conllu")[:2] == (0, expected)


def test_what_is_printed_of_words_can_be_trained_on(word_model, tmp_path, run_script):
    _, printed, _ = run_script("predict.py", word_model, "the dog runs .", "cats sleep !")
    (tmp_path / "silver.conll").write_text(printed)
    again = token_classification.evaluate(word_model, ["test"], {"test_file": str(tmp_path / "silver.conll")})
    assert again["test"].values["accuracy"] == 1 and again["test"].count == 7


def test_texts_come_from_standard_input_where_none_are_given(text_model, run_script, tmp_path):
    _, expected, _ = run_script("predict.py", text_model, *READ)
    (tmp_path / "input").write_text("\n".join(READ))
    before = os.dup(0)
    try:
        for flags in ([], ["--file", "-"]):
            with open(tmp_path / "input") as source:
                os.dup2(source.fileno(), 0)
                assert run_script("predict.py", text_model, *flags)[:2] == (0, expected)
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    rows = [(text, len(text) / 7) for text, _ in REVIEWS * 2]
    return make_classifier(TEXTS, folder / "model", data={"train_file": write_texts(folder / "a.csv", rows)})


def test_a_model_of_numbers_prints_them(numbers, run_script):
    _, printed, _ = run_script("predict.py", numbers, *READ)
    assert [float(line.split()[0]) for line in printed.splitlines()]
    status, _, errors = run_script("predict.py", numbers, "a", "--all_scores", "--format", "csv")
    assert status == 2 and "--all_scores is for classes, and" in errors


def test_a_language_model_is_refused_with_what_to_use(tmp_path, run_script):
    tokenizer = build_tokenizer(["a b"])
    RNNForCausalLM(RNNConfig(vocab_size=len(tokenizer), hidden_size=6)).save_pretrained(tmp_path)
    status, printed, errors = run_script("predict.py", tmp_path, "a b")
    assert status == 2 and not printed
    assert f"{tmp_path} is no classifier: `rnn-hf generate` writes text" in errors and "`rnn-hf score`" in errors


@pytest.mark.parametrize(
    "flags, message",
    [
        (("a", "--file", __file__), "give either texts or --file FILE"),
        (("--file", "nowhere"), "no file nowhere"),
        (("--file", "."), "no file ."),
        (("a", "--batch_size", "0"), "--batch_size must be at least 1, got 0"),
        (("a", "--all_scores"), "--all_scores is for a table: --format tsv, csv, json"),
        (("caf\udce9",), "argument TEXT: must be UTF-8 text, got"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_model_is_looked_for(flags, message, run_script):
    status, printed, errors = run_script("predict.py", "no-model", *flags)
    assert status == 2 and not printed and errors.startswith(f"error: {message}") and errors.count("\n") == 1


def test_what_does_not_fit_the_model_or_holds_no_text_is_named(text_model, word_model, tmp_path, run_script):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "tokens": ["a"]}\n')
    write_texts(tmp_path / "a.csv", REVIEWS)
    cases = [
        ((text_model, "a", "--is_split_into_words"), "--is_split_into_words is for a model of words, and"),
        ((text_model, "--file", empty), f"there is no text in {empty}"),
        ((text_model, ""), "there is no text in the arguments"),
        ((text_model, "--file", tmp_path / "a.jsonl", "--text_column", "tokens"), "--text_column must hold text, got"),
        ((word_model, "--file", tmp_path / "a.jsonl", "--text_column", "text"), "must hold a list of words, got 'a'"),
        (
            (text_model, "--file", tmp_path / "a.jsonl", "--text_column", "b"),
            "no column 'b': set --text_column to one",
        ),
        ((word_model, "--file", tmp_path / "a.csv"), "a file for token-classification ends in .jsonl"),
    ]
    for flags, message in cases:
        status, _, errors = run_script("predict.py", *flags)
        assert status == 2 and message in errors.splitlines()[-1], message
