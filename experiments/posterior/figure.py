"""The figure of the bench of exact posteriors: calibration curves, and ratios of standard deviations."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.posterior.calibration import LEVELS
from jaxdiff.disk import write_atomically
from jaxdiff.runs.tables import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = "o^vsDPX*<>hpd"


def bench_figure(path: Path, rows: Sequence[Row], steps: int) -> None:
    """Draws, for every operator, coverage against level and the ratio of the standard deviations, as a PNG.

    The curves are of the first prior; the ratios have one dot per prior, hollow for hidden entries.
    """
    from matplotlib.figure import Figure

    chosen = [row for row in rows if row["operator"] != "none" and row["steps"] in (0, steps)]
    operators = list(dict.fromkeys(str(row["operator"]) for row in chosen))
    samplers = list(dict.fromkeys(str(row["sampler"]) for row in chosen))
    priors = list(dict.fromkeys(str(row["prior"]) for row in chosen))
    canvas = Figure(figsize=(3.1 * len(operators) + 1.6, 8.2), layout="constrained")
    axes = canvas.subplots(2, len(operators), squeeze=False, sharey="row")
    for column, operator in enumerate(operators):
        here = [row for row in chosen if row["operator"] == operator]
        _curves(axes[0, column], [row for row in here if row["prior"] == priors[0]], samplers)
        _ratios(axes[1, column], here, samplers, priors)
        axes[0, column].set_title(operator)
    axes[0, 0].set_ylabel(f"exact samples inside (prior: {priors[0]})")
    axes[1, 0].set_yticks(range(len(samplers)), samplers)
    axes[1, 0].set_ylim(len(samplers) - 0.5, -0.5)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside right lower", frameon=False, fontsize="small")
    png = io.BytesIO()
    canvas.savefig(png, format="png", dpi=100)
    write_atomically(path, png.getvalue())


def _curves(ax: "Axes", rows: Sequence[Row], samplers: Sequence[str]) -> None:
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for row in rows:
        number = samplers.index(str(row["sampler"]))
        colour = "black" if row["sampler"] == samplers[0] else f"C{number % 10}"
        style = {"color": colour, "marker": MARKS[number % len(MARKS)], "markersize": 4}
        y = [np.nan if row["diverged"] else float(row[f"cover{100 * level:.0f}_seen"]) for level in LEVELS]
        ax.plot(LEVELS, y, label=row["sampler"], linewidth=1, **style)
    ax.set_xlabel("level of the interval")
    ax.set_aspect("equal")
    ax.grid(alpha=0.3)


def _ratios(ax: "Axes", rows: Sequence[Row], samplers: Sequence[str], priors: Sequence[str]) -> None:
    ax.axvspan(0.9, 1.1, color="0.9")
    ax.axvline(1, color="0.6", linewidth=1)
    for number, prior in enumerate(priors):
        for part, fill in (("seen", f"C{number}"), ("hidden", "none")):
            found = [
                row for row in rows if row["prior"] == prior and not row["diverged"] and row.get(f"std_{part}", "")
            ]
            x = [float(row[f"std_{part}"]) for row in found]
            y = [samplers.index(str(row["sampler"])) + 0.16 * (number - (len(priors) - 1) / 2) for row in found]
            label = prior if part == "seen" else None
            ax.plot(x, y, "o", markersize=4.5, color=f"C{number}", markerfacecolor=fill, label=label)
    ax.set_xscale("log")
    ax.set_xlim(0.03, 15)
    ax.set_xticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    ax.set_xlabel("std / exact std")
    ax.grid(alpha=0.3)
