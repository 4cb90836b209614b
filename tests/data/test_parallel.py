"""Parallel text: two files, tables, JSON lines, the Hub and a corpus with a name; what does not belong together."""

import json

import pytest
from datasets import Dataset, DatasetDict
from parallel_files import some_pairs, write_pairs

from rnn_hf.data import parallel
from rnn_hf.data.named_corpora import MULTI30K
from rnn_hf.data.parallel import Pair, choose_splits, load_parallel, read_pairs
from rnn_hf.errors import InputError


PAIRS = [*some_pairs(5), ("", "leer"), ('a "quoted" \ttab', "b")]
PLAIN = some_pairs(6)


def as_pairs(pairs):
    return [Pair(*pair) for pair in pairs]


def test_two_files_are_named_by_what_they_share_or_by_one_of_them(tmp_path):
    stem = write_pairs(tmp_path / "some.text", PAIRS)
    assert read_pairs(stem, "en", "xx") == read_pairs(f"{stem}.en", "en", "xx") == as_pairs(PAIRS)
    assert read_pairs(stem, "xx", "en") == as_pairs([(target, source) for source, target in PAIRS])


def test_marks_and_ends_of_lines_are_no_part_of_a_text(tmp_path):
    (tmp_path / "a.en").write_bytes("\ufeffone\r\ntwo\r\n".encode())
    (tmp_path / "a.xx").write_bytes(b"eins\nzwei")
    assert read_pairs(str(tmp_path / "a"), "en", "xx") == as_pairs([("one", "eins"), ("two", "zwei")])


def test_a_table_has_the_source_first_or_a_header(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"{source}\t{target}\n" for source, target in PLAIN))
    assert read_pairs(str(file), None, None) == read_pairs(str(file), "en", "xx") == as_pairs(PLAIN)
    rows = "".join(f"{number}\t{target}\t{source}\n" for number, (source, target) in enumerate(PLAIN))
    file.write_text("id\txx\ten\n" + rows)
    assert read_pairs(str(file), "en", "xx") == as_pairs(PLAIN)


@pytest.mark.parametrize("wrap", [lambda row: {"translation": row}, lambda row: row | {"id": 3}])
def test_json_lines_have_a_dictionary_by_language_or_a_column_each(tmp_path, wrap):
    file = tmp_path / "a.jsonl"
    rows = [wrap({"en": source, "xx": target}) for source, target in PLAIN]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_pairs(str(file), "en", "xx") == as_pairs(PLAIN)
    with pytest.raises(InputError, match="line 1 has no text in de: set `target_lang` to one of en, xx"):
        read_pairs(str(file), "en", "de")


@pytest.mark.parametrize("is_column_each", [False, True])
def test_a_data_set_of_the_hub(monkeypatch, is_column_each):
    rows = [{"en": source, "xx": target} for source, target in PLAIN]
    data = DatasetDict(
        {
            split: Dataset.from_list(rows if is_column_each else [{"translation": row} for row in rows])
            for split in ("train", "test")
        }
    )
    monkeypatch.setattr(parallel, "from_hub", lambda what, load: data)
    loaded = load_parallel("user/data", source_lang="xx", target_lang="en")
    assert loaded.splits.keys() == {"train", "test"} and loaded.target_lang == "en"
    assert loaded.splits["test"] == as_pairs([(target, source) for source, target in PLAIN])
    with pytest.raises(InputError, match="row 1 of train has no text in None: set `source_lang` to one of en, xx"):
        load_parallel("user/data")
    monkeypatch.setattr(parallel, "from_hub", lambda what, load: DatasetDict({"extra": data["train"]}))
    with pytest.raises(InputError, match="none of the splits train, validation, test"):
        load_parallel("user/data", source_lang="xx", target_lang="en")


def test_multi30k_has_the_splits_that_its_folder_has(tmp_path):
    pairs = some_pairs(4)
    for split in ("train", "validation", "test_2016"):
        write_pairs(tmp_path / split, pairs, "en", "de")
    data = load_parallel("multi30k", dataset_dir=str(tmp_path))
    assert list(data.splits) == ["train", "validation", "test_2016"] and data.splits["test_2016"] == as_pairs(pairs)
    assert (data.source_lang, data.target_lang) == MULTI30K.languages == ("en", "de")
    other = load_parallel("multi30k", dataset_dir=str(tmp_path), source_lang="de", target_lang="en")
    assert other.splits["train"][0] == Pair(*reversed(pairs[0]))
    (tmp_path / "validation.de").unlink()
    with pytest.raises(FileNotFoundError, match="there is no file .*validation.de"):
        load_parallel("multi30k", dataset_dir=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="has no file of multi30k, such as train.en"):
        load_parallel("multi30k", dataset_dir=str(tmp_path / "none"))


def test_pairs_without_words_are_not_trained_on_and_are_scored(tmp_path):
    stem = write_pairs(tmp_path / "a", [*PLAIN, ("", "leer"), ("empty", " ")])
    with pytest.warns(UserWarning, match="2 pairs of train have an empty side and are left out"):
        data = load_parallel(train_file=stem, test_file=stem, source_lang="en", target_lang="xx", lowercase=True)
    assert len(data.splits["train"]) == 6 and len(data.splits["test"]) == 8


def test_pairs_are_drawn_for_validation_by_the_seed_alone(tmp_path):
    pairs = some_pairs(40)
    data = load_parallel(train_file=write_pairs(tmp_path / "a", pairs), source_lang="en", target_lang="xx")
    one, again, other = (choose_splits(data, 10, seed).splits for seed in (1, 1, 2))
    assert one == again != other and len(one["validation"]) == 4
    assert sorted(map(repr, one["train"] + one["validation"])) == sorted(map(repr, as_pairs(pairs)))
    assert choose_splits(data, 10, 1, 7).splits["train"] == one["train"][:7]
    with pytest.raises(InputError, match="too few pairs to set some aside"):
        choose_splits(data, 1, 1)


def test_what_does_not_belong_together_is_refused(tmp_path):
    stem = write_pairs(tmp_path / "a", PLAIN)
    (tmp_path / "a.yy").write_text("one\ntwo\n")
    (tmp_path / "a.zz").write_text("\n")
    (tmp_path / "a.ww").write_bytes(b"\xff\n" * 6)
    (tmp_path / "b.tsv").write_text("one\teins\ntwo\n")
    (tmp_path / "c.tsv").write_text("")
    (tmp_path / "d.jsonl").write_text("[1]\n")
    (tmp_path / "e.jsonl").write_text("{\n")
    for languages, kind, message in (
        (("en", "yy"), InputError, r"a.en has 6 lines and .*a.yy has 2: a line and its translation must have one"),
        (("en", "zz"), InputError, "a.zz is empty"),
        (("en", "ww"), InputError, "is not UTF-8 text"),
        (("en", "qq"), FileNotFoundError, "there is no file .*a.qq"),
        ((None, None), InputError, "stands for two files, one a language: give `source_lang` and `target_lang`"),
    ):
        with pytest.raises(kind, match=message):
            read_pairs(stem, *languages)
    for name, kind, message in (
        ("b.tsv", InputError, "b.tsv, line 2 has 1 fields, not 2"),
        ("c.tsv", InputError, "c.tsv is empty"),
        ("d.jsonl", InputError, "d.jsonl, line 1 holds no JSON object"),
        ("e.jsonl", InputError, "e.jsonl, line 1 is no JSON"),
        ("f.tsv", FileNotFoundError, "there is no file"),
    ):
        with pytest.raises(kind, match=message):
            read_pairs(str(tmp_path / name), "en", "xx")
    for flags, message in (
        ({}, "give either `train_file` and its like or `dataset_name`"),
        ({"train_file": stem, "dataset_name": "multi30k"}, "give either `train_file`"),
        ({"train_file": stem, "source_lang": "en"}, "`source_lang` and `target_lang` must be two languages"),
        ({"train_file": stem, "source_lang": "en", "target_lang": "en"}, "must be two languages, got 'en' and 'en'"),
        ({"dataset_name": "ptb"}, "`dataset_name` ptb is for language-modeling, not for translation"),
        ({"dataset_name": "multi30k"}, "needs `dataset_dir`, the folder of its files"),
        ({"dataset_name": "user/data", "dataset_dir": "x"}, "`dataset_dir` goes with `dataset_name`, one of multi30k"),
    ):
        with pytest.raises(InputError, match=message):
            load_parallel(**flags)
