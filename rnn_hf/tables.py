"""Rows of named values as lines of text: tab-separated, CSV, JSON, or columns for the eye."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rnn_hf.errors import InputError


FORMATS = ("tsv", "csv", "json")
# What would break a line of the table, or a column, is written as in a string of Python.
AS_WRITTEN = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"})


def table_lines(rows: Iterable[Mapping[str, Any]], format: str = "tsv") -> Iterator[str]:
    """Rows as lines of text, as they come.

    Args:
        rows: With the same keys each.
        format: `"tsv"`: a tab between columns, a line break within one written as `\\n`; `"csv"`: with quotes, as
            spreadsheets read it; `"json"`: an object a line, numbers in full and what is not finite as `null`. The
            first two begin with the names of the columns, and have four digits after the point.

    Raises:
        InputError: Another format.

    Example:

    >>> print(*table_lines([{"word": "a, b", "surprisal": 0.12345, "unknown": True}], "csv"), sep="\\n")
    word,surprisal,unknown
    "a, b",0.1235,yes
    """
    if format not in FORMATS:
        raise InputError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    return _table_lines(rows, format)


def _table_lines(rows, format):
    for number, row in enumerate(rows):
        if format == "json":
            is_lost = {key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
            content = {key: None if key in is_lost else value for key, value in row.items()}
            yield json.dumps(content, ensure_ascii=False)
            continue
        for cells in ([list(row)] if not number else []) + [list(map(_cell, row.values()))]:
            if format == "tsv":
                yield "\t".join(cell.translate(AS_WRITTEN) for cell in cells)
            else:
                line = io.StringIO()
                csv.writer(line, lineterminator="").writerow(cells)
                yield line.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def aligned(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows as columns of even width under their names, numbers to the right.

    >>> print(*aligned([{"run": "a", "score": "9.5"}, {"run": "long", "score": "10.5"}]), sep="\\n")
    run   score
    a       9.5
    long   10.5
    """
    columns = []
    for name in rows[0] if rows else ():
        cells = [row[name] for row in rows]
        width = max(map(len, [name, *cells]))
        is_number = all(cell[:1].isdigit() for cell in cells if cell)
        columns.append([cell.rjust(width) if is_number else cell.ljust(width) for cell in [name, *cells]])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
