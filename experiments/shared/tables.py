"""Tables of scores, with published numbers beside ours."""

from collections.abc import Mapping, Sequence

from experiments.shared.problems import TASKS
from jaxdiff.runs.scores import HIGHER_IS_BETTER, LABELS, NOT_AVAILABLE, mean_and_std
from jaxdiff.runs.tables import Row

Published = Mapping[str, Mapping[tuple[str, str], str]]
"""Columns of published numbers, by task and method."""


def markdown_table(rows: Sequence[Row], published: Published | None = None) -> str:
    """Returns `summary` in Markdown, the best of a task in bold."""
    lines = summary(rows, published, bold="**")
    texts = [list(lines[0]), ["---"] * len(lines[0]), *(line.values() for line in lines)]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in texts)


def summary(rows: Sequence[Row], published: Published | None = None, *, bold: str = "") -> list[Row]:
    """Returns mean and standard deviation over seeds, a row per task and method.

    Args:
        rows: as in `metrics.csv`.
        published: columns to put beside our PSNR.
        bold: a mark to put around the best of a task.
    """
    lines: list[Row] = []
    for task in dict.fromkeys(str(row["task"]) for row in rows):
        methods = list(dict.fromkeys(str(row["method"]) for row in rows if row["task"] == task))
        of_method = [[row for row in rows if (row["task"], row["method"]) == (task, method)] for method in methods]
        columns = {
            LABELS.get(metric, "residual / noise"): _column(of_method, metric, bold)
            for metric in (*LABELS, "residual_ratio")
        }
        for i, method in enumerate(methods):
            ours = {head: texts[i] for head, texts in columns.items()}
            theirs = {head: numbers.get((task, method), "") for head, numbers in (published or {}).items()}
            psnr = {LABELS["psnr"]: ours[LABELS["psnr"]]}
            lines.append({"task": TASKS[task], "method": method, **psnr, **theirs, **ours})
    return lines


def without_missing(table: Sequence[Row]) -> list[Row]:
    """Leaves out columns that hold no number."""
    kept = [head for head in table[0] if any(line[head] != NOT_AVAILABLE for line in table)]
    return [{head: line[head] for head in kept} for line in table]


def _column(of_method: Sequence[Sequence[Row]], metric: str, bold: str) -> list[str]:
    """Returns one task's texts under one head."""
    found = [mean_and_std([row[metric] for row in rows]) for rows in of_method]
    means = [pair[0] for pair in found if pair is not None]
    best = None
    if metric in HIGHER_IS_BETTER and len(found) > 1 and means:
        best = max(means) if HIGHER_IS_BETTER[metric] else min(means)
    digits = 2 if metric in ("psnr", "residual_ratio") else 3
    texts = []
    for pair in found:
        text = NOT_AVAILABLE if pair is None else f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"
        texts.append(f"{bold}{text}{bold}" if pair is not None and pair[0] == best else text)
    return texts
