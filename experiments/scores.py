"""Scoring samples against the truth, and writing the scores as CSV and Markdown."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.problems import METHODS, TASKS
from experiments.published import PUBLISHED
from jaxdiff.lpips import LPIPS, LPIPSWeightsNotFound, load_lpips
from jaxdiff.metrics import psnr, ssim
from jaxdiff.operators import Operator, residual_ratio

NOT_AVAILABLE = "n/a"
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips_vgg": False, "lpips_alex": False}
LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips_vgg": "LPIPS (vgg)", "lpips_alex": "LPIPS (alex)"}

Row = dict[str, str | int | float]


def load_lpips_nets() -> tuple[dict[str, LPIPS], list[str]]:
    """Loads the LPIPS networks whose weights can be found; the others' messages say how to get them."""
    found, missing = {}, []
    for net in ("vgg", "alex"):
        try:
            found[f"lpips_{net}"] = load_lpips(net)
        except LPIPSWeightsNotFound as error:
            missing.append(str(error))
    return found, missing


def score(
    samples: Float[np.ndarray, "n h w 3"],
    truth: Float[Array, "h w 3"],
    operator: Operator,
    y: Array,
    sigma_y: float,
    nets: Mapping[str, LPIPS],
) -> list[Row]:
    """Scores every sample, clipped to [-1, 1]; a metric whose weights are missing reads "n/a"."""
    clipped = jnp.clip(jnp.asarray(samples), -1, 1)
    columns: dict[str, Sequence] = {
        "psnr": np.asarray(jax.vmap(psnr, (0, None))(clipped, truth)).tolist(),
        "ssim": np.asarray(jax.vmap(ssim, (0, None))(clipped, truth)).tolist(),
    }
    for name in ("lpips_vgg", "lpips_alex"):
        net = nets.get(name)
        distances = [] if net is None else np.asarray(jax.vmap(net, (0, None))(clipped, truth)).tolist()
        columns[name] = distances or [NOT_AVAILABLE] * len(samples)
    ratio = [NOT_AVAILABLE] * len(samples)
    if sigma_y > 0:
        ratio = np.asarray(jax.vmap(lambda x: residual_ratio(operator, y, x, sigma_y))(clipped)).tolist()
    columns["residual_ratio"] = ratio
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is complete or absent."""
    partial = path.with_name(f".{path.name}.partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows with the same keys as a table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_atomically(path, text.getvalue())


def mean_and_std(values: Sequence[object]) -> tuple[float, float] | None:
    """Returns mean and sample standard deviation over seeds, or None where a value is missing."""
    if not all(isinstance(v, int | float) for v in values):
        return None
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


def markdown_table(rows: Sequence[Row], *, published: bool) -> str:
    """Mean and standard deviation over seeds per task and method, the best of a task in bold.

    Args:
        rows: as in `metrics.csv`.
        published: also give the reports' numbers, which belong to FFHQ-256.
    """
    metrics = [*LABELS, "residual_ratio"]
    head = ["task", "method", *LABELS.values(), "residual / noise", *(PUBLISHED if published else ())]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for task in dict.fromkeys(str(row["task"]) for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        methods = list(dict.fromkeys(str(row["method"]) for row in of_task))
        means = {
            (method, metric): mean_and_std([row[metric] for row in of_task if row["method"] == method])
            for method in methods
            for metric in metrics
        }
        for method in methods:
            cells = [_cell(means, methods, method, metric) for metric in metrics]
            theirs = [report.get((task, method), "") for report in PUBLISHED.values()] if published else []
            lines.append("| " + " | ".join([TASKS[task], METHODS[method], *cells, *theirs]) + " |")
    return "\n".join(lines) + "\n"


def _cell(
    means: Mapping[tuple[str, str], tuple[float, float] | None], methods: Sequence[str], method: str, metric: str
) -> str:
    value = means[method, metric]
    if value is None:
        return NOT_AVAILABLE
    digits = 2 if metric in ("psnr", "residual_ratio") else 3
    text = f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"
    if metric not in HIGHER_IS_BETTER or len(methods) == 1:
        return text
    others = [found[0] for m in methods if (found := means[m, metric]) is not None]
    best = max(others) if HIGHER_IS_BETTER[metric] else min(others)
    return f"**{text}**" if value[0] == best else text
