"""Tables of scores, with published numbers beside ours."""

from collections.abc import Mapping, Sequence

from experiments.shared.problems import ALL_PROBLEMS
from jaxdiff.runs.scores import HIGHER_IS_BETTER, LABELS, mean_and_std, mean_text
from jaxdiff.runs.tables import NOT_AVAILABLE, Row, markdown

METRICS = {**LABELS, "residual_ratio": "residual / noise"}
"""Columns of scores and their heads."""

Published = Mapping[str, Mapping[tuple[str, str], str]]
"""Columns of published numbers, by task and method."""


def score_table(rows: Sequence[Row], published: Published | None = None) -> str:
    """Returns `summary` in Markdown, the best of a task in bold."""
    return markdown(summary(rows, published, bold="**"))


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
        columns = {head: _column(of_method, metric, bold) for metric, head in METRICS.items()}
        for i, method in enumerate(methods):
            ours = {head: texts[i] for head, texts in columns.items()}
            theirs = {head: numbers.get((task, method), "") for head, numbers in (published or {}).items()}
            psnr = {LABELS["psnr"]: ours[LABELS["psnr"]]}
            lines.append({"task": ALL_PROBLEMS[task].title, "method": method, **psnr, **theirs, **ours})
    return lines


def without_missing(table: Sequence[Row]) -> list[Row]:
    """Leaves out columns that hold no number."""
    kept = [head for head in table[0] if any(line[head] != NOT_AVAILABLE for line in table)]
    return [{head: line[head] for head in kept} for line in table]


def _column(of_method: Sequence[Sequence[Row]], metric: str, bold: str) -> list[str]:
    """Returns one task's texts under one head."""
    values = [[row[metric] for row in rows] for rows in of_method]
    found = [mean_and_std(of_one) for of_one in values]
    means = [pair[0] for pair in found if pair is not None]
    best = None
    if metric in HIGHER_IS_BETTER and len(found) > 1 and means:
        best = max(means) if HIGHER_IS_BETTER[metric] else min(means)
    digits = 2 if metric in ("psnr", "residual_ratio") else 3
    marks = [bold if pair is not None and pair[0] == best else "" for pair in found]
    return [f"{mark}{mean_text(of_one, digits)}{mark}" for mark, of_one in zip(marks, values, strict=True)]
