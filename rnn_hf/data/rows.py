"""Rows of labelled text as they stand in CSV, TSV, JSON lines, CoNLL files and data sets of the Hub."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rnn_hf.data.corpora import SPLITS, from_hub
from rnn_hf.errors import InputError
from rnn_hf.files import json_objects


TEXTS, WORDS = "text-classification", "token-classification"
TASKS = (TEXTS, WORDS)
COLUMNS = {TEXTS: ("text", "label"), WORDS: ("tokens", "tags")}

# The columns of CoNLL-U, https://universaldependencies.org/format.html.
CONLLU = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]


class Row(NamedTuple):
    """One text with its label, or one sentence with a label for each word, as read."""

    place: str  # file and line, or split and number, for messages
    text: Any  # str, or list of words
    label: Any


def read_file(file: str, task: str, text_column: str | None, label_column: str | None) -> list[Row]:
    """The rows of a file; its suffix says what it is.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is not what its name says, or lacks a column; the message names the line.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    suffix = path.suffix.lower()
    columns = text_column or COLUMNS[task][0], label_column or COLUMNS[task][1]
    try:
        if suffix in (".jsonl", ".json"):
            text, label = columns
            found = json_objects(path, json.dumps({text: ""}))
            return [
                Row(place, _field(row, text, "text_column", place), _label(row, label, place)) for place, row in found
            ]
        if task == WORDS and suffix != ".csv":
            return list(_read_conll(path, text_column, label_column))
        if task == TEXTS and suffix in (".csv", ".tsv"):
            return list(_read_table(path, *columns))
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: {error}") from error
    kinds = {
        TEXTS: ".csv or .tsv with a header, or .jsonl",
        WORDS: ".jsonl, .conllu, or one word a line with its label behind a tab (.tsv, .conll, .txt)",
    }
    raise InputError(f"{file}: a file for {task} ends in {kinds[task]}")


def read_hub(
    name: str, config: str | None, revision: str | None, task: str, text_column: str | None, label_column: str | None
) -> tuple[dict[str, list[Row]], list[str] | None]:
    """The labelled splits of a data set of the Hub, and the names of its classes where its features have them.

    A split without any label, as the test sets of competitions, is left out.
    """
    from datasets import load_dataset

    corpus = from_hub(f"`dataset_name={json.dumps(name)}`", lambda: load_dataset(name, name=config, revision=revision))
    text_column, label_column = text_column or COLUMNS[task][0], label_column or COLUMNS[task][1]
    rows: dict[str, list[Row]] = {}
    names = None
    for split in SPLITS:
        if split not in corpus:
            continue
        feature = corpus[split].features.get(label_column)
        names = getattr(getattr(feature, "feature", feature), "names", None) or names
        read = [
            Row(place, _field(row, text_column, "text_column", place), _named(_label(row, label_column, place), names))
            for number, row in enumerate(corpus[split], 1)
            for place in [f"row {number} of {split}"]
        ]
        if any(row.label is not None for row in read):
            rows[split] = read
    if not rows:
        raise InputError(f"the data set has no labels in the splits {', '.join(SPLITS)}")
    return rows, names


def _named(label: Any, names: list[str] | None) -> Any:
    """Class numbers of the Hub as names; -1 is how it says that there is no label."""
    if names is None or label is None:
        return label
    if isinstance(label, list):
        return [_named(each, names) for each in label]
    return None if label == -1 else names[label]


def _field(row: dict[str, Any], column: str, argument: str, place: str) -> Any:
    if column not in row:
        raise InputError(f"{place} has no column {column!r}: set `{argument}` to one of {', '.join(map(str, row))}")
    return row[column]


def _label(row: dict[str, Any], column: str, place: str) -> Any:
    """The label of a row; of several columns of 0 and 1, separated by commas, the names of those with 1."""
    if column in row or "," not in column:
        return _field(row, column, "label_column", place)
    columns = [name.strip() for name in column.split(",")]
    marks = {name: str(_field(row, name, "label_column", place)) for name in columns}
    for name, mark in marks.items():
        if mark not in MARKS:
            raise InputError(
                f"{place}: column {name!r} must be 0 or 1, one of several in `label_column`, got {mark!r}"
            )
    return [name for name, mark in marks.items() if MARKS[mark]]


MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}


def _read_table(path: Path, text_column: str, label_column: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # 131,072 characters otherwise, and texts may be longer
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            header = next(reader, [])
            line = reader.line_num + 1
            for cells in reader:
                place, line = f"{path}, line {line}", reader.line_num + 1
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(f"{place} has {len(cells)} fields, the header has {len(header)}: {QUOTING}")
                row = dict(zip(header, cells, strict=True))
                yield Row(place, _field(row, text_column, "text_column", place), _label(row, label_column, place))
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}; {QUOTING}") from error


QUOTING = "quote fields that hold separators, line breaks or quotes, and double the quotes in them"


def _read_conll(path: Path, text_column: str | None, label_column: str | None) -> Iterator[Row]:
    """Sentences from one word a line, separated by blank lines.

    Fields are separated by tabs, or by spaces in a file that has no tab. A line that begins with `#` and has another
    number of fields than the words do is a comment; so the word `#` with its label is none. The lines of CoNLL-U that
    are no words (`3-4`, `3.1`) and the `-DOCSTART-` of CoNLL-2003 are left out.
    """
    text = path.read_text(encoding="utf-8-sig")
    separator = "\t" if "\t" in text else None
    lines = text.split("\n")
    width = next((len(line.split(separator)) for line in lines if line.strip() and not line.startswith("#")), 0)
    if width < 2:
        raise InputError(f"{path} must have a word and its label in each line, separated by a tab")
    is_conllu = path.suffix.lower() == ".conllu"
    names = CONLLU if is_conllu else []
    word_at = _position(text_column or ("FORM" if is_conllu else "1"), names, width, "text_column")
    label_at = _position(label_column or ("UPOS" if is_conllu else str(width)), names, width, "label_column")
    words: list[str] = []
    labels: list[str] = []
    start = 1
    for number, line in enumerate([*lines, ""], 1):
        fields = line.split(separator)
        if not line.strip():
            if words:
                yield Row(f"{path}, line {start}", words, labels)
            words, labels = [], []
        elif len(fields) != width:
            if not line.startswith("#"):
                raise InputError(f"{path}, line {number} has {len(fields)} fields, the first word of the file {width}")
        elif not ((is_conllu and not fields[0].isdigit()) or fields[word_at] == "-DOCSTART-"):
            if not fields[label_at]:
                raise InputError(f"{path}, line {number} has no label")
            start = start if words else number
            words.append(fields[word_at])
            labels.append(fields[label_at])


def _position(column: str, names: list[str], width: int, argument: str) -> int:
    if column in names:
        return names.index(column)
    if column.isdecimal() and 1 <= int(column) <= width:
        return int(column) - 1
    among = f" or one of {', '.join(names)}" if names else ""
    raise InputError(f"`{argument}` must be the number of a column, from 1 to {width}{among}; got {column!r}")
