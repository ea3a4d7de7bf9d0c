"""Starts SDEdit at several times: the later it starts, the more real the result, and the less it is the same person.

    python -m experiments.sdedit
    python -m experiments.sdedit --prior priors/ffhq-256 --image PHOTO.png --steps 1000 --starts 250 500 750

SDEdit noises the measurement up to a start time and denoises from there. Noise hides the damage, and the face with it.
Faithfulness is told by the PSNR against the truth and by the distance to the measurement, the root mean square of
`y - A x` over what was measured (the noise alone for the true image).

Realism is 0 for faces with the task's damage and 1 for whole faces, along the direction that tells the two apart
in the innermost layer of the prior's own network. It sees what is left of the damage and nothing else;
`experiments/realism.py` says how it is made, and the report how well it knows other faces.

Writes `report.html`, `figure.png`, `curve.png`, `table.md`, `metrics.csv` (a row per task, start and seed),
`config.json`, `measurements.npz`, and every image as a PNG. `--resume` goes on with an interrupted run.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

from experiments.cells import Cell, record, run_cell, sections, write_cells
from experiments.curves import check_matplotlib
from experiments.levels import markdown
from experiments.problems import KINDS, TASKS, make_problem
from experiments.realism import Judged, judge, reference_faces
from experiments.setup import INTERRUPTED, Config, Experiment, begin
from experiments.tables import summary
from jaxdiff.images import labelled_grid, write_image
from jaxdiff.lpips import LPIPS
from jaxdiff.operators import residual_ratio
from jaxdiff.runs import report
from jaxdiff.runs.errors import UserError, check_names, exit_on_user_error
from jaxdiff.runs.folder import Row, command_line, finish_folder, write_atomically, write_csv
from jaxdiff.runs.presets import HyperParameters, make_run
from jaxdiff.runs.scores import load_lpips_nets, mean_and_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROGRAM = "python -m experiments.sdedit"


@dataclass(frozen=True)
class Starts(Config):
    """Settings of the start times."""

    starts: tuple[int, ...] = (250, 300, 400, 500, 750)
    """Times of the diffusion at which SDEdit begins."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Some of: box, random, blur."""
    references: int | None = None
    """Faces that realism is judged by: 320 drawn ones, or, with --image, 64 samples of the prior."""
    out: Path = Path("results/sdedit")
    """Folder of the results."""


@dataclass(frozen=True)
class Line:
    """One task at all start times.

    Attributes:
        cells: one per start.
        judged: realism of the truth, of the measurement, and of all samples of all cells, in this order.
    """

    cells: list[Cell]
    judged: Judged

    @property
    def task(self) -> str:
        """The task in words."""
        return TASKS[self.cells[0].problem.task]

    @property
    def starts(self) -> list[int]:
        """The start times."""
        return [cell.settings["start"] for cell in self.cells]

    @property
    def realism(self) -> Float[np.ndarray, "starts seeds"]:
        """Of every sample."""
        return self.judged.images[2:].reshape(len(self.cells), -1)

    @property
    def psnr(self) -> Float[np.ndarray, "starts seeds"]:
        """Of every sample."""
        return np.array([[row["psnr"] for row in cell.rows] for cell in self.cells], float)

    @property
    def distance(self) -> Float[np.ndarray, "starts seeds"]:
        """Of every sample to the measurement, in [-1, 1] units."""
        problem = self.cells[0].problem
        samples = jnp.clip(np.stack([cell.drawn.samples for cell in self.cells]), -1, 1)
        one = lambda x: residual_ratio(problem.operator, problem.y, x, 1.0)
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
        """Says what the start time does, and what the ruler is worth."""
        psnr, realism = self.psnr.mean(1), self.realism.mean(1)
        best = int(psnr.argmax())
        return (
            f"{self.task.capitalize()}: from start {self.starts[0]} to {self.starts[-1]} realism goes from "
            f"{realism[0]:.2f} to {realism[-1]:.2f}, and PSNR from {psnr[0]:.1f} to {psnr[-1]:.1f} dB. PSNR is best at "
            f"{self.starts[best]}, with {psnr[best]:.1f} dB at a realism of {realism[best]:.2f}. "
            f"Check of the ruler: other whole faces have {told(self.judged.whole)}, damaged ones "
            f"{told(self.judged.damaged)}, the truth {self.judged.images[0]:.2f}, the measurement "
            f"{self.judged.images[1]:.2f}."
        )


def told(values: Float[np.ndarray, " n"], digits: int = 2) -> str:
    """Returns mean and standard deviation in words."""
    mean, std = mean_and_std(values.tolist()) or (0.0, 0.0)
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def read_starts(config: Starts, num_times: int) -> list[int]:
    """Returns the start times in order; anything amiss ends the script."""
    if not config.starts or not all(0 <= start < num_times for start in config.starts):
        raise UserError(f"--starts must be one or more times from 0 to {num_times - 1}, got {config.starts}.")
    if config.references is not None and config.references < 10:
        raise UserError(f"--references must be at least 10, got {config.references}; leave it out for the default.")
    return sorted(set(config.starts))


def run_task(
    config: Starts, experiment: Experiment, task: str, starts: Sequence[int], nets: Mapping[str, LPIPS]
) -> list[Cell]:
    """Runs SDEdit on a task from every start time."""
    problem = make_problem(task, experiment.truth, config.sigma, config.seed)
    inputs = KINDS[task], experiment.denoiser, problem.operator, problem.y, config.sigma, config.steps
    return [
        run_cell(
            config,
            experiment,
            problem,
            f"SDEdit from {start}",
            make_run("sdedit", *inputs, HyperParameters(start=start)),
            nets,
        )
        for start in starts
    ]


def judge_tasks(config: Starts, experiment: Experiment, tasks: Sequence[list[Cell]]) -> list[Line]:
    """Judges truth, measurement and samples of all tasks."""
    count = config.references or (320 if config.image is None else 64)
    faces = reference_faces(config, experiment, count)
    images = [
        np.concatenate([[experiment.truth], [cells[0].problem.y], *(cell.drawn.samples for cell in cells)])
        for cells in tasks
    ]
    operators = [cells[0].problem.operator for cells in tasks]
    judged = judge(experiment.denoiser, faces, list(zip(operators, images, strict=True)))
    return [Line(cells, found) for cells, found in zip(tasks, judged, strict=True)]


def figure(experiment: Experiment, lines: Sequence[Line]) -> Float[np.ndarray, "H W 3"]:
    """Draws a row per task: truth, measurement, and one sample per start."""
    rows, captions = [], []
    for line in lines:
        truth, measurement = line.judged.images[:2]
        rows.append([experiment.truth, line.cells[0].problem.y, *(cell.drawn.samples[0] for cell in line.cells)])
        told_realism = [f"realism {value:.2f}" for value in (truth, measurement, *line.realism.mean(1))]
        scores = ["", f"sigma {line.cells[0].problem.sigma_y:g}", *(f"{cell.psnr} dB" for cell in line.cells)]
        captions.append([f"{score}\n{real}" for score, real in zip(scores, told_realism, strict=True)])
    titles = ["truth", "measurement", *(f"SDEdit\nfrom {start}" for start in lines[0].starts)]
    names = [line.task.replace(" ", "\n") for line in lines]
    scale = max(1, round(128 / experiment.truth.shape[0]))
    return labelled_grid(rows, titles, names, captions=captions, scale=scale)


def draw_curve(config: Starts, lines: Sequence[Line]) -> bytes:
    """Draws realism against faithfulness, one line per task with the start times along it, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    canvas = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = canvas.subplots(1, 2, sharey=True)
    for number, line in enumerate(lines):
        for ax, values in ((left, line.psnr), (right, line.distance)):
            _curve(ax, line, values.mean(1), f"C{number}")
    for ax in (left, right):
        ax.axhspan(0.99, 1.01, color="0.8")
        ax.axhspan(-0.01, 0.01, color="0.8")
        ax.grid(alpha=0.3)
        ax.margins(x=0.12)
    left.set_title("Faithful to the truth?")
    left.set_ylabel("realism: 0 damaged faces, 1 whole faces")
    left.set_xlabel("PSNR in dB (more faithful →)")
    left.legend(loc="lower left", frameon=False, bbox_to_anchor=(0, 0.02))
    right.set_title("Faithful to the data?")
    right.set_xlabel("RMS of y - A x (more faithful →)")
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter(NullFormatter())
    if config.sigma > 0:
        right.axvline(config.sigma, color="0.4", linestyle=":")
        right.annotate("truth: noise alone", (config.sigma, 0.5), (4, 0), textcoords="offset points", rotation=90)
    right.invert_xaxis()
    png = io.BytesIO()
    canvas.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _curve(ax: "Axes", line: Line, x: Float[np.ndarray, " starts"], colour: str) -> None:
    y = line.realism.mean(1)
    ax.plot(x, y, "o-", color=colour, label=line.task)
    for start, at, height in zip(line.starts, x, y, strict=True):
        ax.annotate(str(start), (at, height), (5, 5), textcoords="offset points", color=colour, fontsize="small")


def table(lines: Sequence[Line], bold: str = "") -> list[Row]:
    """Returns mean and standard deviation over seeds, a row per task and start."""
    scores = summary([row for line in lines for row in line.rows()], bold=bold)
    extra = [pair for line in lines for pair in zip(line.distance, line.realism, strict=True)]
    return [
        {**row, "distance to y": told(distance, 3), "realism": told(realism)}
        for row, (distance, realism) in zip(scores, extra, strict=True)
    ]


def write_report(config: Starts, experiment: Experiment, lines: Sequence[Line]) -> None:
    """Writes `report.html`."""
    cells = [cell for line in lines for cell in line.cells]
    told_realism = (
        "Realism is 0 for faces with the task's damage and 1 for whole faces, along the direction that tells the two "
        "apart in the innermost layer of the prior's own network. It sees what is left of the damage, and nothing else."
    )
    blocks = [
        report.command(command_line(PROGRAM)),
        report.paragraph(
            "SDEdit noises the measurement up to a start time and denoises from there. Too early a stop leaves the "
            "damage; too much noise gives a whole face, but another one."
        ),
        report.figure_file(config.out / "figure.png", "One sample per start; PSNR and realism over all seeds."),
        report.figure_file(config.out / "curve.png", "Best would be the upper right corner. Labels: start times."),
        report.paragraph(told_realism),
        *(report.paragraph(line.words()) for line in lines),
        report.table(table(lines), "mean ± standard deviation over seeds"),
        *sections(experiment, cells),
        report.heading("Settings"),
        report.settings(record(cells)),
    ]
    report.write_page(config.out / "report.html", "SDEdit: realism against faithfulness", blocks)


def main(config: Starts) -> None:
    """Runs all starts on all tasks and writes the folder."""
    check_matplotlib()
    tasks = check_names(config.tasks, list(TASKS), "task")
    experiment = begin(config, PROGRAM)
    starts = read_starts(config, experiment.denoiser.schedule.num_times)
    console = experiment.console
    nets, missing = load_lpips_nets()
    lines = judge_tasks(config, experiment, [run_task(config, experiment, task, starts, nets) for task in tasks])
    cells = [cell for line in lines for cell in line.cells]
    shown = markdown(table(lines, bold="**"))
    write_csv(config.out / "metrics.csv", [row for line in lines for row in line.rows()])
    write_atomically(config.out / "table.md", shown)
    write_cells(config, experiment, cells)
    write_image(config.out / "figure.png", figure(experiment, lines))
    write_atomically(config.out / "curve.png", draw_curve(config, lines))
    finish_folder(config.out, {**record(cells), "found": [line.words() for line in lines]})
    write_report(config, experiment, lines)
    console.print(shown, *(line.words() for line in lines), sep="\n", soft_wrap=True, highlight=False, markup=False)
    for message in missing:
        console.print(f"LPIPS reads n/a: {message}", soft_wrap=True, highlight=False, style="dim")
    written = "report.html, figure.png, curve.png, table.md, metrics.csv"
    console.print(f"written to {config.out}: {written}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    with exit_on_user_error(INTERRUPTED):
        main(tyro.cli(Starts, description=__doc__))
