"""What a benchmark has measured: said and written row by row, so that nothing is lost when it is stopped."""

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rnn_hf.benchmarking.markdown import conditions, table
from rnn_hf.files import write_json
from rnn_hf.machine import describe_machine
from rnn_hf.training.reporting import versions


Rows = Iterable[tuple[str, dict[str, Any]]]  # the name of a table, and a row of it


@dataclass
class Record:
    """Measurements by table, and other facts by name.

    They are in NAME.partial.json after each `note`, and in NAME.json once the record is finished: a benchmark that was
    stopped leaves the results of the last complete one as they are, and the tables made of them too.

    Attributes:
        path: NAME.json; `None` to write no file.
        content: What was noted.
    """

    path: Path | None
    content: dict[str, Any] = field(default_factory=lambda: {"complete": False})

    @property
    def partial_path(self) -> Path | None:
        return self.path and self.path.with_suffix(".partial.json")

    def note(self, **values: Any) -> None:
        """Keep facts by name."""
        self.content |= values
        if self.partial_path is not None:
            write_json(self.partial_path, self.content)

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Keep a row more of a table."""
        self.note(**{name: [*self.content.get(name, []), row]})

    def finish(self, is_complete: bool = True) -> None:
        """Leave NAME.json in place of the partial file."""
        self.note(complete=is_complete)
        if self.path is not None and self.partial_path is not None:
            self.partial_path.replace(self.path)


def collect(rows: Rows, record: Record, say: Callable[[str], None]) -> int | None:
    """Say each row when it is measured, and add it to a record.

    SIGINT and SIGTERM end this at once and in the middle of a row, because a row can take minutes; the processes that
    the row has started end as well.

    Args:
        rows: Pairs of a table's name and a row, measured as they are asked for.
        record: Gets the rows.
        say: Prints a line.

    Returns:
        Number of the signal that ended it; `None` when all rows were measured.
    """
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for name, row in rows:
            record.add(name, row)
            say(f"{name}: {json.dumps(row)}")
    except KeyboardInterrupt as interrupt:
        return int(interrupt.args[0])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return None


def run_benchmark(rows: Rows, record: Record, rounds: int, device: str, say: Callable[[str], None]) -> int | None:
    """Measure all rows, and say their tables and the conditions that they were measured under.

    Args:
        rows: As of `collect`.
        record: Gets the rows and the conditions; it is finished when all rows were measured.
        rounds: Of each comparison, for the conditions.
        device: That is measured, for the conditions.
        say: Prints lines.

    Returns:
        As `collect`.
    """
    record.note(rounds=rounds, device=device, versions=versions(), machine=describe_machine(device))
    signal_number = collect(rows, record, say)
    record.note(machine=describe_machine(device))  # again: it names the kernels that were chosen by now
    say("\nRatios are times over the other's in the same round (median; below 1 is faster):\n")
    for name, content in record.content.items():
        if isinstance(content, list):
            say(f"{name}\n\n{table(content)}\n")
    say(conditions(record.content))
    if signal_number is None:
        record.finish()
    else:
        where = "" if record.partial_path is None else f", which {record.partial_path} has"
        say(f"NOT complete: stopped by {signal.Signals(signal_number).name} after these rows{where}")
    return signal_number


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    for process in multiprocessing.active_children():
        process.terminate()  # whoever started it waits for it to end
    raise KeyboardInterrupt(number)
