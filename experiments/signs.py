"""What tells, with and without the truth, that an image is strange to the prior: a face and a stranger compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.cells import Cell
from experiments.problems import TASKS
from experiments.setup import Config, Experiment
from jaxdiff.runs.folder import Row
from jaxdiff.runs.scores import NOT_AVAILABLE, mean_and_std

SIGNS = {"residual_ratio": "residual / noise", "std": "std over seeds", "denoising_error": "denoising error"}
"""What needs no truth."""


@dataclass(frozen=True)
class Subject:
    """One image with all that is made of it.

    Attributes:
        name: in tables.
        config: the flags, with a folder for this image.
        experiment: the prior, the image, and where to say things.
    """

    name: str
    config: Config
    experiment: Experiment


@dataclass(frozen=True)
class Result:
    """What came out for one image.

    Attributes:
        subject: the image.
        cells: one per task and method.
        noisy: the image at one noise level, one per seed.
        denoised: the same after one step.
        rows: a row per task, method and seed, and per seed of one-step denoising.
    """

    subject: Subject
    cells: list[Cell]
    noisy: Float[np.ndarray, "n h w 3"]
    denoised: Float[np.ndarray, "n h w 3"]
    rows: list[Row]

    def values(self, task: str, method: str, column: str) -> list[str | int | float]:
        """Returns a column of one task and method."""
        return [row[column] for row in self.rows if (row["task"], row["method"]) == (task, method)]

    def mean(self, task: str, method: str, column: str) -> float | None:
        """Returns the mean over seeds, or None where a number is not available."""
        return (mean_and_std(self.values(task, method, column)) or (None,))[0]


def std_of(samples: Float[np.ndarray, "n h w 3"]) -> float | str:
    """Returns the standard deviation over seeds, averaged over the image."""
    return float(np.clip(samples, -1, 1).std(0).mean()) if len(samples) > 1 else NOT_AVAILABLE


def told(values: Sequence[str | int | float], digits: int) -> str:
    """Returns mean and standard deviation in words."""
    found = mean_and_std(values)
    return NOT_AVAILABLE if found is None else f"{found[0]:.{digits}f} ± {found[1]:.{digits}f}"


def compared(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Returns every task and method, one-step denoising first."""
    return list(dict.fromkeys((str(row["task"]), str(row["method"])) for row in results[0].rows))


def table(results: Sequence[Result]) -> list[Row]:
    """Returns a row per task and method: PSNR of both, their difference, and the signs that need no truth."""
    lines: list[Row] = []
    for task, method in compared(results):
        face, stranger = (result.mean(task, method, "psnr") or 0.0 for result in results)
        line: Row = {"task": TASKS.get(task, "denoising"), "method": method}
        line |= {f"PSNR (dB): {r.subject.name}": told(r.values(task, method, "psnr"), 1) for r in results}
        line["difference"] = f"{stranger - face:+.1f}"
        for column, label in SIGNS.items():
            means = {r.subject.name: r.mean(task, method, column) for r in results}
            digits = 2 if column == "residual_ratio" else 3
            line |= {f"{label}: {n}": NOT_AVAILABLE if m is None else f"{m:.{digits}f}" for n, m in means.items()}
        lines.append(line)
    return lines


def words(results: Sequence[Result]) -> list[str]:
    """Says how much worse the stranger is restored, and which signs would have told."""
    name = results[1].subject.name
    pairs = lambda column: [
        (face, stranger)
        for task, method in compared(results)
        if task != "denoise"
        and (face := results[0].mean(task, method, column)) is not None
        and (stranger := results[1].mean(task, method, column)) is not None
    ]
    psnrs = pairs("psnr")
    worse = np.mean([face - stranger for face, stranger in psnrs])
    lower = sum(stranger < face for face, stranger in psnrs)
    sentences = [f"PSNR: lower for the {name} in {lower} of {len(psnrs)} cases, by {worse:.1f} dB on average."]
    for column, label in SIGNS.items():
        found = pairs(column)
        if found:
            larger = sum(stranger > face for face, stranger in found)
            ratio = np.exp(np.mean(np.log([stranger / face for face, stranger in found])))
            sentences.append(
                f"{label.capitalize()}: larger for the {name} in {larger} of {len(found)} cases, {ratio:.1f} times "
                "that of the face on average."
            )
    return sentences
