"""The tables of an evaluation: means over images with their uncertainty."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from experiments.evaluate.records import Entry, held, read_entries, read_settings
from experiments.shared.problems import PROBLEMS
from experiments.shared.tables import METRICS
from jaxdiff.disk import write_atomically
from jaxdiff.runs.methods import METHODS, describe_sigma
from jaxdiff.runs.tables import NOT_AVAILABLE, Row, markdown, write_csv


def write_tables(folder: Path) -> str:
    """Writes `metrics.csv` and `table.md` from what is there; returns the table.

    Raises:
        UserError: if there is no evaluation in the folder.
    """
    settings = read_settings(folder)
    with held(folder / ".tables.lock"):
        entries = read_entries(folder)
        rows = sorted(
            ({"image": entry["image"], "sha256": entry["sha256"], **record} for entry in entries.values()
             for record in entry["records"]),
            key=lambda row: row["image"],
        )  # fmt: skip
        text = evaluation_table(entries, settings)
        if rows:
            write_csv(folder / "metrics.csv", [_printable(row) for row in rows])
        write_atomically(folder / "table.md", text)
    return text


def evaluation_table(entries: Mapping[str, Entry], settings: Mapping[str, Any]) -> str:
    """Returns the table in Markdown, a row per task and method, below what it was made of."""
    found, total = len(entries), settings["num_images"]
    records = [record for entry in entries.values() for record in entry["records"]]
    seeds = f"{settings['seeds']} seed" + "s" * (settings["seeds"] > 1)
    lines = [
        f"{found} of {total} images" + f"; {total - found} still missing" * (total > found),
        f"{seeds}, {settings['steps']} steps, prior {settings['prior']} in {settings['dtype']}, "
        f"sigma_y = {describe_sigma(settings['sigma'])}",
        "Mean over images ± half of its 95 % t-interval; the seeds of an image are averaged first.",
    ]
    if not records:
        return "\n\n".join(lines) + "\n"
    shown = {name: head for name, head in METRICS.items() if any(r[name] != NOT_AVAILABLE for r in records)}
    head = ["task", "method", *shown.values(), "healthy", "s per sample"]
    body = [
        _line(task, method, [_of(entry, task, method) for entry in entries.values()], list(shown))
        for task in settings["tasks"]
        for method in settings["methods"]
    ]
    lines.append(markdown([head, *body]).rstrip())
    lost = sum(record["psnr"] is None for record in records)
    if lost:
        lines.append(f"{lost} of {len(records)} samples are not finite; means are over the others.")
    return "\n\n".join(lines) + "\n"


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns a mean and half of its 95 % t-interval, which is NaN for fewer than two values."""
    array = np.asarray(values, float)
    if len(array) < 2:
        return (float(array[0]) if len(array) else math.nan), math.nan
    half = student.ppf(0.975, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array))
    return float(array.mean()), float(half)


def _of(entry: Entry, task: str, method: str) -> list[dict[str, Any]]:
    return [record for record in entry["records"] if (record["task"], record["method"]) == (task, method)]


def _line(task: str, method: str, images: Sequence[Sequence[dict[str, Any]]], metrics: Iterable[str]) -> list[str]:
    """Returns a row of the table from the records of every image."""
    cells = [PROBLEMS[task].title, METHODS[method].name]
    for metric in metrics:
        of_images = ([r[metric] for r in records if isinstance(r[metric], float)] for records in images)
        mean, half = mean_and_interval([float(np.mean(values)) for values in of_images if values])
        digits = 2 if metric in ("psnr", "residual_ratio") else 3
        spread = "" if math.isnan(half) else f" ± {half:.{digits}f}"
        cells.append(NOT_AVAILABLE if math.isnan(mean) else f"{mean:.{digits}f}{spread}")
    records = [record for image in images for record in image]
    healthy = np.mean([record["verdict"] == "healthy" for record in records])
    return [*cells, f"{healthy:.0%}", f"{np.median([record['seconds'] for record in records]):.3g}"]


def _printable(row: Mapping[str, Any]) -> Row:
    return {name: "nan" if value is None else value for name, value in row.items()}
