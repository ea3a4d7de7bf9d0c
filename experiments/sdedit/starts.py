"""One task of SDEdit at all start times: as rows, in words, and as a curve of realism against faithfulness."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.shared.cells import Cell
from experiments.shared.realism import Realism
from experiments.shared.tables import summary
from jaxdiff import Measurement
from jaxdiff.runs.scores import mean_text
from jaxdiff.runs.tables import NOT_AVAILABLE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Line:
    """One task at all start times.

    Attributes:
        cells: one per start.
        found: realism of the truth, of the measurement, and of all samples of all cells, in this order.
    """

    cells: list[Cell]
    found: Realism

    @property
    def task(self) -> str:
        """The task in words."""
        return self.cells[0].problem.title

    @property
    def starts(self) -> list[int]:
        """The start times."""
        return [cell.run.settings["start"] for cell in self.cells]

    @property
    def realism(self) -> Float[np.ndarray, "starts seeds"]:
        """Of every sample."""
        return self.found.images[2:].reshape(len(self.cells), -1)

    @property
    def psnr(self) -> Float[np.ndarray, "starts seeds"]:
        """Of every sample."""
        return np.array([[row["psnr"] for row in cell.rows] for cell in self.cells], float)

    @cached_property
    def distance(self) -> Float[np.ndarray, "starts seeds"]:
        """Of every sample to the measurement, in [-1, 1] units."""
        measurement = self.cells[0].problem.measurement
        # A noise of 1 makes the ratio a root mean square.
        one = Measurement(measurement.operator, measurement.y, 1.0).residual_ratio
        samples = jnp.clip(np.stack([cell.drawn.samples for cell in self.cells]), -1, 1)
        return np.asarray(jax.vmap(jax.vmap(one))(samples))

    def rows(self) -> list[Row]:
        """Returns a row per start and seed."""
        return [
            {"task": row["task"], "start": start, **row, "distance": float(distance), "realism": float(realism)}
            for start, cell, distances, realisms in zip(
                self.starts, self.cells, self.distance, self.realism, strict=True
            )
            for row, distance, realism in zip(cell.rows, distances, realisms, strict=True)
        ]

    def words(self) -> str:
        """Says what the start time does."""
        psnr, realism = self.psnr.mean(1), self.realism.mean(1)
        best = int(psnr.argmax())
        return (
            f"{self.task.capitalize()}: from start {self.starts[0]} to {self.starts[-1]} realism goes from "
            f"{realism[0]:.2f} to {realism[-1]:.2f}, and PSNR from {psnr[0]:.1f} to {psnr[-1]:.1f} dB. PSNR is best at "
            f"{self.starts[best]}, with {psnr[best]:.1f} dB at a realism of {realism[best]:.2f}."
        )

    def check(self) -> Row:
        """Returns what the ruler says of images whose realism is known."""
        truth, measurement = self.found.images[:2]
        return {
            "task": self.task,
            "other whole faces": mean_text(self.found.whole.tolist(), 2),
            "the same, damaged": mean_text(self.found.damaged.tolist(), 2),
            "the truth": f"{truth:.2f}",
            "the measurement": f"{measurement:.2f}",
        }


def draw_starts(lines: Sequence[Line]) -> bytes:
    """Draws realism against faithfulness, one line per task with the start times along it, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    canvas = Figure(figsize=(10.5, 4.8), layout="constrained")
    canvas.suptitle("Realism against faithfulness; the numbers are SDEdit's start times")
    left, right = canvas.subplots(1, 2, sharey=True)
    for number, line in enumerate(lines):
        for ax, values in ((left, line.psnr), (right, line.distance)):
            _curve(ax, line, values.mean(1), f"C{number}")
        right.plot(
            float(line.cells[0].problem.measurement.sigma_y) or np.nan,
            line.found.images[0],
            "*",
            color=f"C{number}",
            markersize=14,
        )
    for ax in (left, right):
        ax.grid(alpha=0.3)
        ax.margins(x=0.12)
        for height, offset, text in ((0, 0.02, "damaged faces"), (1, -0.06, "whole faces")):
            ax.axhline(height, color="0.5", linewidth=4, alpha=0.4)
            ax.text(0.985, height + offset, text, transform=ax.get_yaxis_transform(), ha="right", color="0.3")
    left.set_ylabel("realism")
    left.set_xlabel("PSNR against the truth, in dB (more faithful →)")
    left.legend(loc="lower left", frameon=False, bbox_to_anchor=(0, 0.1))
    right.set_xlabel("distance to the data, RMS of y - A x (more faithful →); star: the truth")
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter(NullFormatter())
    right.invert_xaxis()
    png = io.BytesIO()
    canvas.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _curve(ax: "Axes", line: Line, x: Float[np.ndarray, " starts"], colour: str) -> None:
    y = line.realism.mean(1)
    ax.plot(x, y, "o-", color=colour, label=line.task)
    for start, at, height in zip(line.starts, x, y, strict=True):
        ax.annotate(str(start), (at, height), (5, 5), textcoords="offset points", color=colour, fontsize="small")


def starts_table(lines: Sequence[Line], bold: str = "") -> list[Row]:
    """Returns mean and standard deviation over seeds, a row per task and start, without what is not available."""
    scores = summary([row for line in lines for row in line.rows()], bold=bold)
    missing = {name for name in scores[0] if all(row[name] == NOT_AVAILABLE for row in scores)}
    realism = [mean_text(values.tolist(), 2) for line in lines for values in line.realism]
    return [
        {**{name: value for name, value in row.items() if name not in missing}, "realism": real}
        for row, real in zip(scores, realism, strict=True)
    ]
