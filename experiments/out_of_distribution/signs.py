"""What tells, with and without the truth, that an image is strange to the prior: a face and a stranger compared."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.shared.cells import Cell
from experiments.shared.problems import PROBLEMS
from experiments.shared.setup import Config, Experiment
from jaxdiff.metrics.diagnosis import ABOUT_ONE
from jaxdiff.runs.scores import mean_and_std, mean_text
from jaxdiff.runs.tables import NOT_AVAILABLE, Row

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


def compared(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Returns every task and method, one-step denoising first."""
    return list(dict.fromkeys((str(row["task"]), str(row["method"])) for row in results[0].rows))


def signs_table(results: Sequence[Result]) -> list[Row]:
    """Returns a row per task and method: PSNR, difference, and the signs that need no truth, face → stranger."""
    face, stranger = results
    lines: list[Row] = []
    for task, method in compared(results):
        psnrs = [mean_text(result.values(task, method, "psnr"), 1) for result in results]
        difference = (stranger.mean(task, method, "psnr") or 0.0) - (face.mean(task, method, "psnr") or 0.0)
        line: Row = {
            "task": PROBLEMS[task].title if task in PROBLEMS else "denoising",
            "method": method,
            "PSNR (dB)": " → ".join(psnrs),
        }
        line["difference"] = f"{difference:+.1f}"
        for column, label in SIGNS.items():
            digits = 2 if column == "residual_ratio" else 3
            means = [result.mean(task, method, column) for result in results]
            line[label] = " → ".join(NOT_AVAILABLE if mean is None else f"{mean:.{digits}f}" for mean in means)
        lines.append(line)
    return lines


def signs_in_words(results: Sequence[Result]) -> list[str]:
    """Says how much worse the stranger is restored, and which signs would have shown it."""
    name = results[1].subject.name
    worse = [face - stranger for pairs in paired(results, "psnr").values() for face, stranger in pairs]
    lower = sum(difference > 0 for difference in worse)
    sentences = [f"PSNR: lower for the {name} in {lower} of {len(worse)} cases, by {np.mean(worse):.1f} dB on average."]
    for column, label in SIGNS.items():
        of_method = paired(results, column)
        if not of_method:
            continue
        every = [pair for pairs in of_method.values() for pair in pairs]
        counts = [f"{method} {_larger(pairs)} of {len(pairs)}" for method, pairs in of_method.items()]
        ratio = np.exp(np.mean(np.log([stranger / face for face, stranger in every])))
        sentences.append(
            f"{label.capitalize()}: larger for the {name} in {_larger(every)} of {len(every)} cases "
            f"({', '.join(counts)}), {ratio:.1f} times that of the face on average."
        )
        if column == "residual_ratio":
            low, high = ABOUT_ONE
            seen = sum(low <= face <= high and not low <= stranger <= high for face, stranger in every)
            sentences[-1] += (
                f" Seen alone it tells less: in {seen} of {len(every)} cases it is outside of {low:g} to {high:g} "
                "while that of the face is inside."
            )
    return sentences


def paired(results: Sequence[Result], column: str) -> dict[str, list[tuple[float, float]]]:
    """Returns the means of face and stranger by method, a pair per task; those not available are left out."""
    face, stranger = results
    found: dict[str, list[tuple[float, float]]] = {}
    for cell in face.cells:
        means = [result.mean(cell.problem.name, cell.method, column) for result in (face, stranger)]
        if means[0] is not None and means[1] is not None:
            found.setdefault(cell.method, []).append((means[0], means[1]))
    return found


def _larger(pairs: Sequence[tuple[float, float]]) -> int:
    return sum(stranger > face for face, stranger in pairs)
