"""Rows of values as lines: what is read back is what was written."""

import csv
import io
import json
import math

import pytest

from rnn_hf.tables import table_lines


ROWS = [
    {"text": 1, "word": 'a "b', "bits": 1 / 3, "unknown": True},
    {"text": 2, "word": "\t,\n", "bits": math.inf, "unknown": False},
]


def test_rows_are_written_so_that_each_format_reads_back_what_was_written():
    lines = [line.split("\t") for line in table_lines(ROWS)]
    assert lines == [list(ROWS[0]), ["1", 'a "b', "0.3333", "yes"], ["2", "\\t,\\n", "inf", "no"]]
    text = "\n".join(table_lines(ROWS, "csv"))
    assert list(csv.reader(io.StringIO(text, newline=""))) == [*lines[:2], ["2", "\t,\n", "inf", "no"]]
    assert list(map(json.loads, table_lines(ROWS, "json"))) == [ROWS[0], ROWS[1] | {"bits": None}]
    with pytest.raises(ValueError, match="`format` must be one of tsv, csv, json"):
        table_lines(ROWS, "xml")
