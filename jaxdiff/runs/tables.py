"""Tables of results: rows of names and values, as CSV and as Markdown."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from jaxdiff.disk import write_atomically

Row = dict[str, str | int | float]
"""A line of a table: the value in each column."""

NOT_AVAILABLE = "n/a"
"""What stands where there is no value."""


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows with the same keys as a table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_atomically(path, text.getvalue())


def markdown(rows: Sequence[Row] | Sequence[Sequence[object]]) -> str:
    """Returns a table in Markdown, from rows with the same keys or from lines of which the first is the head.

    >>> print(markdown([{"task": "box", "dB": 20}]), end="")
    | task | dB |
    | --- | --- |
    | box | 20 |
    """
    first = rows[0]
    lines = [list(first), *(row.values() for row in rows)] if isinstance(first, dict) else list(rows)  # pyright: ignore
    shown = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in shown)
