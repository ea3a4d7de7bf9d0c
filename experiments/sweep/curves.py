"""What a hyper-parameter does: the points of a sweep as curves, as a table, and in words."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from experiments.shared.problems import Problem
from experiments.shared.tables import METRICS
from experiments.sweep.grids import Numbers, SweepGrid, in_short
from jaxdiff.runs.methods import METHODS
from jaxdiff.runs.scores import HIGHER_IS_BETTER, mean_and_std, mean_text
from jaxdiff.runs.tables import Row, markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = 0.5
"""A difference in PSNR, in dB, that a few seeds of one image do not settle."""

JACQUES: dict[tuple[str, str], Numbers] = {
    ("box", "DPS"): (1.0,),
    ("random", "DPS"): (1.0,),
    ("blur", "DPS"): (0.3,),
    ("box", "ScoreALD, over_gamma"): (28.0, 33.0),
    # Best in LPIPS. The range with the best PSNR is the middle one of three, which he does not state.
    ("random", "ScoreALD, over_gamma"): (28.0, 33.0),
    ("blur", "ScoreALD, over_gamma"): (10.0, 15.0),
}
"""The best settings in Jacques' report, at 256x256 in 1000 steps. He did not try the other weightings."""


@dataclass(frozen=True, eq=False)
class Point:
    """One value of a hyper-parameter.

    Attributes:
        given: in the units of the literature: zeta, or gamma at the clean and the noisy end.
        used: the same, scaled to this image size and number of steps.
        samples: one image per seed.
        rows: their scores.
    """

    given: Numbers
    used: Numbers
    samples: Float[np.ndarray, "n h w c"]
    rows: list[Row]

    @property
    def position(self) -> float:
        """Where it stands on the axis; a range stands at its geometric mean."""
        return float(np.exp(np.mean(np.log(self.given))))

    @property
    def psnr(self) -> float:
        """Mean over seeds."""
        return self.mean("psnr")

    def mean(self, metric: str) -> float:
        """Returns the mean over seeds; not a number where a metric is not available."""
        return (self.score(metric) or (float("nan"),))[0]

    def score(self, metric: str) -> tuple[float, float] | None:
        """Returns mean and standard deviation over seeds, or None where a metric is not available."""
        return mean_and_std([row[metric] for row in self.rows])

    def text(self, metric: str, digits: int) -> str:
        """Returns mean and standard deviation over seeds in words."""
        return mean_text([row[metric] for row in self.rows], digits)


@dataclass(frozen=True)
class Curve:
    """All points of one method on one task.

    Attributes:
        problem: the task with its measurement.
        grid: the method, and the values it was begun with.
        points: in the order of the axis.
    """

    problem: Problem
    grid: SweepGrid
    points: list[Point]

    @property
    def title(self) -> str:
        """Task and method in words."""
        return f"{self.problem.title}, {self.grid.name}"

    @property
    def best(self) -> Point:
        """The point with the highest PSNR."""
        return max(self.points, key=lambda point: point.psnr)

    def words(self) -> list[str]:
        """Says which value is best, and which one would be taken without knowing the truth."""
        best, near = self.best, [point for point in self.points if self.best.psnr - point.psnr <= NEAR]
        residual = best.score("residual_ratio")
        sentences = [f"Best PSNR at {self._at(best)}: {best.text('psnr', 1)} dB"]
        sentences[0] += f"; the residual ratio there is {residual[0]:.2f}." if residual else "."
        if len(near) > 1:
            ends = f"{in_short(near[0].given)} to {in_short(near[-1].given)}"
            sentences.append(f"{len(near)} of {len(self.points)} values come within {NEAR} dB of it, from {ends}.")
        alike = len({point.used for point in self.points}) < len(self.points)
        if len(self.points) > 1 and best in (self.points[0], self.points[-1]) and not alike:
            which = "smallest" if best is self.points[0] else "largest"
            sentences.append(f"The best is the {which} value tried, so that a better one may lie beyond.")
        if residual:
            blind = min(self.points, key=lambda point: abs(np.log(point.mean("residual_ratio"))))
            sentences.append(
                f"Without the truth: the residual ratio is nearest to 1 ({blind.mean('residual_ratio'):.2f}) at "
                f"{self._at(blind)}, where the PSNR is {blind.text('psnr', 1)} dB."
            )
        if alike:
            sentences.append("Some values are used alike, because scale_gamma stops at a whole step onto the data.")
        return sentences

    def table(self) -> list[Row]:
        """Returns a row of words per point."""
        digits = {"psnr": 2, "residual_ratio": 2}
        lines: list[Row] = []
        for point in self.points:
            scores = {label: point.text(metric, digits.get(metric, 3)) for metric, label in METRICS.items()}
            lines.append(
                {f"{self.grid.parameter} given": in_short(point.given), "used": in_short(point.used), **scores}
            )
        return lines

    def rows(self) -> list[Row]:
        """Returns a row of numbers per point and seed; zeta has no noisy end."""
        return [
            {
                "task": self.problem.name,
                "method": METHODS[self.grid.method].name,
                "weighting": self.grid.weighting,
                "given": point.given[0],
                "given_noisy": point.given[1] if point.given[1:] else "",
                "used": point.used[0],
                "used_noisy": point.used[1] if point.used[1:] else "",
                **row,
            }
            for point in self.points
            for row in point.rows
        ]

    def _at(self, point: Point) -> str:
        return f"{self.grid.parameter} {in_short(point.given)} (given; {in_short(point.used)} used)"


def between_neighbours(points: Sequence[Point], count: int) -> list[Numbers]:
    """Returns values around the best, between its two neighbours.

    The best parts the bracket in two. Each part gets half of the values, evenly on the log axis; an odd one goes to the
    side of the better neighbour. At an end of the axis the bracket goes one step further, as long as the step
    on the other side.

    Args:
        points: in the order of the axis.
        count: how many values.
    """
    logs = [np.log(point.given) for point in points]
    i = max(range(len(points)), key=lambda k: points[k].psnr)
    step = logs[1] - logs[0] if i == 0 and len(points) > 1 else logs[i] - logs[i - 1] if i else np.log(2.0)
    low = logs[i - 1] if i > 0 else logs[i] - step
    high = logs[i + 1] if i + 1 < len(points) else logs[i] + step
    outside = float("-inf")
    left = points[i - 1].psnr if i > 0 else outside
    right = points[i + 1].psnr if i + 1 < len(points) else outside
    below = (count + (left > right)) // 2
    sides = ((low, below), (high, count - below))
    return [
        tuple(np.exp(logs[i] + (end - logs[i]) * k / (n + 1)).tolist()) for end, n in sides for k in range(1, n + 1)
    ]


def sweep_table(curves: Sequence[Curve]) -> str:
    """Returns all points of all curves, the best PSNR of a curve in bold."""
    lines = [["task", "method", "parameter", "given", "used", *METRICS.values()]]
    for curve in curves:
        for point, row in zip(curve.points, curve.table(), strict=True):
            given, used, psnr, *others = map(str, row.values())
            given, psnr = (f"**{given}**", f"**{psnr}**") if point is curve.best else (given, psnr)
            where = [curve.problem.title, curve.grid.name, curve.grid.parameter]
            lines.append([*where, given, used, psnr, *others])
    return markdown(lines)


def draw_sweep(curves: Sequence[Curve]) -> bytes:
    """Draws PSNR, a perceptual metric and the residual against the parameter, one line per curve, as a PNG."""
    from matplotlib.figure import Figure

    perceptual = next(m for m in ("lpips_vgg", "lpips_alex", "ssim") if curves[0].best.score(m) is not None)
    metrics = [m for m in ("psnr", perceptual, "residual_ratio") if curves[0].best.score(m) is not None]
    figure = Figure(figsize=(4 * len(metrics), 3.6), layout="constrained")
    for ax, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        _panel(ax, curves, metric)
        _ticks(ax, curves)
    figure.suptitle(f"{curves[0].problem.title}, {METHODS[curves[0].grid.method].name}")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()


def _panel(ax: "Axes", curves: Sequence[Curve], metric: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for number, curve in enumerate(curves):
        colour, best = f"C{number}", curve.best
        x = [point.position for point in curve.points]
        mean, std = np.array([point.score(metric) for point in curve.points]).T
        ax.plot(x, mean, "o-", color=colour, markersize=4, label=curve.grid.name)
        ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        star = mean[curve.points.index(best)]
        ax.plot(best.position, star, "*", color=colour, markersize=14, label=f"best PSNR: {in_short(best.given)}")
        published = JACQUES.get((curve.problem.name, curve.grid.name))
        if published:
            at = float(np.exp(np.mean(np.log(published))))
            ax.axvline(at, color=colour, linestyle=":", label=f"Jacques' best: {in_short(published)}")
    arrow = {True: " ↑", False: " ↓", None: ""}[HIGHER_IS_BETTER.get(metric)]
    ax.set_title(METRICS[metric] + arrow, fontsize="medium")
    ax.grid(alpha=0.3)
    if metric == "residual_ratio":
        ax.axhline(1, color="0.4", linewidth=1)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(NullLocator())


def _ticks(ax: "Axes", curves: Sequence[Curve]) -> None:
    """Writes the values tried under the axis, as many as there is room for."""
    points = {point.position: in_short(point.given) for curve in curves for point in curve.points}
    ax.set_xscale("log")
    gap = 0.09 * np.log(max(points) / min(points))
    shown: list[float] = []
    for x in sorted(points):
        if not shown or np.log(x / shown[-1]) >= gap:
            shown.append(x)
    ax.set_xticks(shown, [points[x] for x in shown], fontsize="small")
    ax.set_xticks([], minor=True)
    ax.set_xlabel(f"{curves[0].grid.parameter} given (256x256, 1000 steps)")
