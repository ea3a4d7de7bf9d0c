"""Starts SDEdit at several times: the later it starts, the more real the result, and the less it is the same person.

    python -m experiments.sdedit
    python -m experiments.sdedit --prior priors/ffhq-256 --image PHOTO.png --steps 1000 --starts 250 500 750

SDEdit noises the measurement up to a start time and denoises from there. Noise hides the damage, and the face with it.
Faithfulness is measured by the PSNR against the truth and by the distance to the measurement, the root mean square of
`y - A x` over what was measured (the noise alone for the true image).

Realism is 0 for faces with the task's damage and 1 for whole faces, along the direction that tells the two apart
in the innermost layer of the prior's own network. It sees what is left of the damage and nothing else;
`experiments/shared/realism.py` says how it is made, and the report how well it knows other faces.

Writes `report.html`, `figure.png`, `curve.png`, `table.md`, `metrics.csv` (a row per task, start and seed),
`config.json`, `measurements.npz`, and every image as a PNG. `--resume` goes on with an interrupted run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float

from experiments.sdedit.starts import Line, draw_starts, starts_table
from experiments.shared.cells import Cell, cells_record, run_cell, sections, write_cells
from experiments.shared.command import run_script
from experiments.shared.problems import KNOWN_PROBLEMS, PROBLEMS, make_problem
from experiments.shared.realism import judge_realism, reference_faces
from experiments.shared.setup import (
    Config,
    Experiment,
    experiment_settings,
    load,
    open_results,
    print_noise,
    print_results,
)
from jaxdiff.disk import write_atomically
from jaxdiff.errors import UserError, check_names
from jaxdiff.images.files import write_image
from jaxdiff.images.grid import labelled_grid
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.runs import page
from jaxdiff.runs.folder import command_line, finish_folder
from jaxdiff.runs.methods import HyperParameters, make_run
from jaxdiff.runs.platform import require
from jaxdiff.runs.scores import load_lpips_nets
from jaxdiff.runs.tables import markdown, write_csv

PROGRAM = "python -m experiments.sdedit"


@dataclass(frozen=True)
class Starts(Config):
    """Settings of the start times."""

    starts: tuple[int, ...] = (250, 300, 400, 500, 750)
    """Times of the diffusion at which SDEdit begins."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_PROBLEMS}.")] = tuple(PROBLEMS)
    references: int | None = None
    """Faces that realism is judged by: 320 drawn ones, or, with --image, 64 samples of the prior."""
    out: Path = Path("results/sdedit")
    """Folder of the results."""


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
    inputs = problem.task, experiment.prior, problem.measurement, config.steps
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
        np.concatenate([[experiment.truth], [cells[0].problem.measurement.y], *(cell.drawn.samples for cell in cells)])
        for cells in tasks
    ]
    operators = [cells[0].problem.measurement.operator for cells in tasks]
    judged = judge_realism(experiment.prior, faces, list(zip(operators, images, strict=True)))
    return [Line(cells, found) for cells, found in zip(tasks, judged, strict=True)]


def figure(experiment: Experiment, lines: Sequence[Line]) -> Float[np.ndarray, "H W 3"]:
    """Draws a row per task: truth, measurement, and one sample per start."""
    rows, captions = [], []
    for line in lines:
        truth, measurement = line.found.images[:2]
        rows.append(
            [experiment.truth, line.cells[0].problem.measurement.y, *(cell.drawn.samples[0] for cell in line.cells)]
        )
        realisms = [f"realism {value:.2f}" for value in (truth, measurement, *line.realism.mean(1))]
        scores = [
            "",
            f"sigma {line.cells[0].problem.measurement.sigma_y:g}",
            *(f"{cell.psnr} dB" for cell in line.cells),
        ]
        captions.append([f"{score}\n{real}" for score, real in zip(scores, realisms, strict=True)])
    titles = ["truth", "measurement", *(f"SDEdit\nfrom {start}" for start in lines[0].starts)]
    names = [line.task.replace(" ", "\n") for line in lines]
    scale = max(1, round(128 / experiment.truth.shape[0]))
    return labelled_grid(rows, titles, names, captions=captions, scale=scale)


def write_report(config: Starts, experiment: Experiment, lines: Sequence[Line]) -> None:
    """Writes `report.html`."""
    cells = [cell for line in lines for cell in line.cells]
    blocks = [
        page.command(command_line(PROGRAM, config)),
        page.paragraph(
            "SDEdit noises the measurement up to a start time and denoises from there. Little noise leaves the damage; "
            "much noise gives a whole face, but another one."
        ),
        page.figure_file(config.out / "figure.png", "One sample per start; PSNR and realism over all seeds."),
        page.figure_file(config.out / "curve.png", "Best would be the upper right corner."),
        *(page.paragraph(line.words()) for line in lines),
        page.table(starts_table(lines), "mean ± standard deviation over seeds"),
        page.heading("What is realism here?"),
        page.paragraph(
            "0 for faces with the task's damage and 1 for whole faces, along the direction that tells the two apart in "
            "the innermost layer of the prior's own network. It sees what is left of the damage, and nothing else. "
            "Whole faces differ among themselves, as the table shows, so compare a sample also with the truth."
        ),
        page.table([line.check() for line in lines], "a check on images whose realism is known"),
        *sections(experiment, cells),
        page.heading("Settings"),
        page.settings(cells_record(cells)),
    ]
    page.write_page(config.out / "report.html", "SDEdit: realism against faithfulness", blocks)


def main(config: Starts) -> None:
    """Runs all starts on all tasks and writes the folder."""
    require("matplotlib", "plots", "drawing curves")
    tasks = check_names(config.tasks, list(PROBLEMS), "task")
    experiment = load(config)
    starts, console = read_starts(config, experiment.prior.schedule.num_times), experiment.console
    open_results(config, PROGRAM, experiment_settings(config, experiment))
    print_noise(config, experiment)
    nets, missing = load_lpips_nets()
    lines = judge_tasks(config, experiment, [run_task(config, experiment, task, starts, nets) for task in tasks])
    cells = [cell for line in lines for cell in line.cells]
    shown = markdown(starts_table(lines, bold="**"))
    write_csv(config.out / "metrics.csv", [row for line in lines for row in line.rows()])
    write_atomically(config.out / "table.md", shown)
    write_cells(config, experiment, cells)
    write_image(config.out / "figure.png", figure(experiment, lines))
    write_atomically(config.out / "curve.png", draw_starts(lines))
    finish_folder(config.out, {**cells_record(cells), "realism": [line.check() for line in lines]})
    write_report(config, experiment, lines)
    written = "report.html, figure.png, curve.png, table.md, metrics.csv"
    print_results(console, config.out, written, missing, shown, *(line.words() for line in lines))


if __name__ == "__main__":
    run_script(main, Starts, __doc__)
