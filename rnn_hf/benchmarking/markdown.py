"""Tables of benchmarks in Markdown, and the line under them."""

from typing import Any


def table(rows: list[dict[str, Any]], **titles: str) -> str:
    """Rows of a benchmark as a table; what holds several numbers takes a column for each, empty where a row lacks one.

    Args:
        rows: Of a benchmark.
        titles: Of the columns by key, in their order; `{}` stands for the name of one of several numbers. Default: all
            keys as they come.

    >>> print(table([{"ratio": {"by hand": 0.987}, "size": "small", "more": 1}], size="size", ratio="to {}"))
    | size | to by hand |
    | --- | --- |
    | small | 0.99 |
    """
    found: list[dict[str, str]] = [{} for _ in rows]
    for cells, row in zip(found, rows, strict=True):
        for key in titles or row:
            value = row[key]
            title = titles.get(key, f"{key}, {{}}" if isinstance(value, dict) else key)
            for name, number in (value if isinstance(value, dict) else {"": value}).items():
                # Ratios have three digits in the file, of which two mean something.
                cells[title.format(name)] = f"{number:.2f}" if key == "ratio" else _written(number)
    columns = list(dict.fromkeys(title for cells in found for title in cells))
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(cells.get(title, '') for title in columns)} |" for cells in found]
    return "\n".join(lines)


def _written(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def conditions(benchmark: dict[str, Any], is_timed: bool = True) -> str:
    """The line under a table: how often, on which machine and with which settings it was measured.

    Args:
        benchmark: What `scripts/benchmark.py --json` wrote; older files lack `machine`.
        is_timed: Whether all was measured in the benchmark's own process, whose memory settings then count.
    """
    machine = benchmark.get("machine")
    if machine is None:
        about = [f"{benchmark['threads']} threads", "CPU not recorded"]
    else:
        about = [f"{machine['threads']} threads", machine["cpu"], "/".join(machine["instructions"]), machine["blas"]]
        about += [] if machine["onednn"] else ["oneDNN off"]
        about += ["freed memory kept"] if is_timed and machine["keeps_freed_memory"] else []
        about += [f"{name}={value}" for name, value in sorted(machine["environment"].items())]
        about += [machine["gpu"]] if "gpu" in machine else []
    return "({rounds} rounds, {about}, torch {versions[torch]})".format(about=", ".join(about), **benchmark)
