"""Files of labelled text: what was written is what is read, and a wrong line is named."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_hf.data.rows import read_file
from rnn_hf.errors import InputError


TEXTS, WORDS = "text-classification", "token-classification"
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
word = st.text(st.characters(exclude_categories=["Cs", "Zl", "Zp", "Zs", "Cc"]), min_size=1, max_size=5)
sentences = st.lists(
    st.lists(st.tuples(word | st.just("#"), st.sampled_from("AB")), min_size=1, max_size=4), min_size=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


def write(path, text):
    path.write_bytes(text.encode())
    return str(path)


def read(*arguments, text_column=None, label_column=None):
    return [(row.text, row.label) for row in read_file(*arguments, text_column, label_column)]


@pytest.mark.parametrize("suffix, dialect", [(".csv", "excel"), (".csv", "unix"), (".tsv", "excel-tab")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@given(rows=st.lists(st.tuples(cells, cells), min_size=1))
def test_a_table_is_read_as_the_csv_module_wrote_it(folder, suffix, dialect, encoding, rows):
    with (folder / f"a{suffix}").open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream, dialect)
        writer.writerows([("label", "id", "text"), *((label, "7", text) for text, label in rows)])
    assert read(str(folder / f"a{suffix}"), TEXTS) == rows


labels = st.one_of(cells, st.integers(), st.floats(allow_nan=False), st.lists(cells), st.none(), st.booleans())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("escape", [True, False])
@given(rows=st.lists(st.tuples(cells, labels), min_size=1))
def test_json_lines_are_read_as_they_were_written(folder, encoding, escape, rows):
    lines = [json.dumps({"t": text, "l": label, "id": 7}, ensure_ascii=escape) for text, label in rows]
    (folder / "a.jsonl").write_bytes("\n".join([*lines, ""]).encode(encoding))
    assert read(str(folder / "a.jsonl"), TEXTS, text_column="t", label_column="l") == rows


@pytest.mark.parametrize("separator", ["\t", " "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@given(sentences=sentences)
def test_sentences_are_read_as_they_were_written(folder, separator, end, sentences):
    comment = "# sent_id = a 1" if separator == "\t" else "# comment"
    lines = [comment]
    for sentence in sentences:
        lines += [f"{word}{separator}7{separator}{tag}" for word, tag in sentence] + ["", comment]
    # What tells comments from the word "#" is the number of fields of the first other line.
    lines = [f"a{separator}7{separator}A", "", *lines]
    path = write(folder / "a.conll", end.join(lines))
    expected = [(["a"], ["A"]), *(tuple(map(list, zip(*sentence, strict=True))) for sentence in sentences)]
    assert read(path, WORDS) == expected


def test_columns_of_sentences_have_numbers_and_those_of_conllu_names(tmp_path):
    line = "{0}\t{1}\tlemma\t{2}\tX\t_\t0\troot\t_\t_\n"
    text = "# text = don't go\n" + line.format("1-2", "don't", "_") + line.format(1, "do", "AUX")
    text += line.format(2, "n't", "PART") + line.format("2.1", "x", "X") + line.format(3, "go", "VERB")
    path = write(tmp_path / "a.conllu", text)
    assert read(path, WORDS) == [(["do", "n't", "go"], ["AUX", "PART", "VERB"])]
    assert read(path, WORDS, text_column="LEMMA", label_column="XPOS")[0] == (["lemma"] * 3, ["X"] * 3)
    path = write(tmp_path / "a.tsv", "1\tdo\tAUX\tx\n2\tgo\tVERB\tx\n")
    assert read(path, WORDS, text_column="2", label_column="3") == [(["do", "go"], ["AUX", "VERB"])]


def test_the_document_marks_of_conll_2003_are_no_sentences(tmp_path):
    path = write(tmp_path / "a.txt", "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n. . O O\n\n")
    assert read(path, WORDS) == [(["EU", "."], ["B-ORG", "O"])]


def test_several_columns_of_marks_are_several_labels(tmp_path):
    path = write(tmp_path / "a.csv", "text,toxic,threat\na,1,1\nb,0,1.0\nc,0,0\n")
    expected = [("a", ["toxic", "threat"]), ("b", ["threat"]), ("c", [])]
    assert read(path, TEXTS, label_column="toxic, threat") == expected
    write(tmp_path / "a.csv", "text,toxic,threat\na,1,x\n")
    with pytest.raises(InputError, match=r"line 2: column 'threat' must be 0 or 1.*got 'x'"):
        read(path, TEXTS, label_column="toxic,threat")


def test_a_text_may_be_longer_than_the_csv_module_allows(tmp_path):
    assert read(write(tmp_path / "a.csv", "text,label\n" + "a" * 200_000 + ",1\n"), TEXTS) == [("a" * 200_000, "1")]


@pytest.mark.parametrize(
    "name, task, content, message",
    [
        (
            "a.csv",
            TEXTS,
            "sentence,label\na,1\n",
            r"line 2 has no column 'text': set `text_column` to one of sentence, l",
        ),
        ("a.csv", TEXTS, "text,stars\na,1\n", "set `label_column` to one of text, stars"),
        ("a.csv", TEXTS, 'text,label\n"a\nb",1\na,b,1\n', "line 4 has 3 fields, the header has 2: quote fields"),
        ("a.csv", TEXTS, 'text,label\n"a"b,1\n', "line 2: .*; quote fields"),
        ("a.tsv", TEXTS, 'text\tlabel\n"a\t1\nb\t1\n', "a.tsv, line 3: .*; quote fields"),
        ("a.jsonl", TEXTS, '{"text": "a", "label": 1}\n{"text": \n', "line 2 is no JSON"),
        ("a.jsonl", TEXTS, "[1]\n", 'line 1 holds no JSON object, such as {"text": ""}'),
        (
            "a.jsonl",
            TEXTS,
            '\n{"sentence": "a"}\n',
            "line 2 has no column 'text': set `text_column` to one of sentence",
        ),
        ("a.txt", TEXTS, "a\n", "ends in .csv or .tsv with a header, or .jsonl$"),
        ("a.csv", WORDS, "a,b\n", "a file for token-classification ends in .jsonl, .conllu, or one word a line"),
        ("a.tsv", WORDS, "# a\na\tA\n\nb\tB\tC\n", "line 4 has 3 fields, the first word of the file 2"),
        ("a.tsv", WORDS, "a\tA\nb\t\n", "line 2 has no label"),
        ("a.tsv", WORDS, "a\nb\n", "a.tsv must have a word and its label in each line"),
        ("a.tsv", WORDS, "", "a.tsv must have a word and its label in each line"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, name, task, content, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / name, content), task)


def test_a_row_knows_its_first_line(tmp_path):
    for name, task, content in (
        ("a.csv", TEXTS, 'text,label\n"a\n\nb",1\n\nc,2\n'),
        ("a.tsv", WORDS, "\na\tA\nb\tB\n\n# x\nc\tC\n"),
        ("a.jsonl", WORDS, '\n{"tokens": [], "tags": []}\n' + "\n" * 3 + '{"tokens": [], "tags": []}'),
    ):
        path = write(tmp_path / name, content)
        assert [row.place for row in read_file(path, task, None, None)] == [f"{path}, line {n}" for n in (2, 6)]


def test_a_wrong_number_of_a_column_is_refused_with_the_right_ones(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tA\n")
    for column in ("0", "3", "word"):
        with pytest.raises(
            InputError, match=f"`label_column` must be the number of a column, from 1 to 2; got '{column}'"
        ):
            read(path, WORDS, label_column=column)
    path = write(tmp_path / "a.conllu", "1\ta" + "\t_" * 8)
    with pytest.raises(InputError, match="or one of ID, FORM"):
        read(path, WORDS, label_column="POS")


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*a.csv"):
        read(str(tmp_path / "a.csv"), TEXTS)
    for name, task in (("a.csv", TEXTS), ("a.jsonl", TEXTS), ("a.tsv", WORDS)):
        (tmp_path / name).write_bytes(b"text,label\n\xff\xfe,1\n")
        with pytest.raises(InputError, match="is not UTF-8 text"):
            read(str(tmp_path / name), task)
