"""Compares SDEdit, ScoreALD and DPS on box inpainting, random inpainting and Gaussian deblurring.

    python -m experiments.compare
    python -m experiments.compare --prior priors/ffhq-256 --image PHOTO.png --steps 1000
    python -m experiments.compare --paper zhu --out results/zhu

    python -m experiments.compare --tasks phase hdr --methods dps dps-likelihood --steps 1000
    python -m experiments.compare --tasks box random --setting daps

There are other tasks beside these three, see `--tasks`; a method that a task does not suit is left out, and said so.
`--setting` takes operators and noise of a published comparison in place of this project's.

`--paper` takes the settings of a report where they are known, says what it leaves open, and puts its numbers beside
ours; `--tasks` and `--methods` then choose among what it tries.

Writes `report.html`, `figure.png`, `table.md`, `metrics.csv` (a row per task, method and seed), `config.json`,
`measurements.npz`, and every image as a PNG. `--resume` goes on with an interrupted run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from jaxtyping import Float

from experiments.shared.cells import Cell, brightest, cells_record, run_cell, sections, write_cells
from experiments.shared.command import run_script
from experiments.shared.papers import OURS, PAPERS, Paper, Variant
from experiments.shared.problems import ALL_PROBLEMS, PROBLEMS, Problem, make_problem
from experiments.shared.published import prior_of, published, remarks
from experiments.shared.setup import Config, Experiment, begin_experiment, print_results
from experiments.shared.tables import score_table, summary, without_missing
from jaxdiff.disk import write_atomically
from jaxdiff.errors import UnsuitableMethod, UserError, check_name, check_names
from jaxdiff.images.files import write_image
from jaxdiff.images.grid import heat, labelled_grid
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.presets import preset
from jaxdiff.priors.denoiser import Prior
from jaxdiff.runs import page
from jaxdiff.runs.folder import command_line, finish_folder
from jaxdiff.runs.methods import KNOWN_METHODS, METHODS, REPORTED, Run, make_run
from jaxdiff.runs.scores import load_lpips_nets
from jaxdiff.runs.tables import Row, write_csv

PROGRAM = "python -m experiments.compare"


@dataclass(frozen=True)
class Compare(Config):
    """Settings of the comparison."""

    paper: str | None = None
    """Settings of a report: zhu, jacques, chin-zhang or qi; this project's own by default."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {', '.join(ALL_PROBLEMS)}.")] = tuple(PROBLEMS)
    methods: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_METHODS}.")] = tuple(REPORTED)
    setting: str | None = None
    """Operators and noise of a published comparison, in place of --sigma: dps2022, daps, ddrm or diffpir."""
    out: Path = Path("results/compare")
    """Folder of the results."""


def choose(config: Compare, paper: Paper | None) -> list[tuple[str, Variant]]:
    """Returns the tasks, each with every method to run on it."""
    tasks = check_names(config.tasks, list(ALL_PROBLEMS), "task")
    methods = check_names(config.methods, list(METHODS), "method")
    variants = [variant for variant in (paper.variants if paper else OURS) if variant.method in methods]
    pairs = [(task, variant) for task in tasks for variant in variants if task in variant.chosen]
    if not pairs:
        raise UserError(f"--paper {config.paper} has no settings for these --tasks and --methods; leave them out.")
    return pairs


def with_sigma(config: Compare) -> Compare:
    """Returns the flags with the noise of `--setting`, if there is one.

    Raises:
        UserError: if its tasks have several.
    """
    if config.setting is None:
        return config
    key = jax.random.key(config.seed)
    levels = {float(preset(config.setting, task, key, (256, 256, 3)).noise.sigma_y) for task in config.tasks}
    if len(levels) > 1:
        raise UserError(
            f"the noise of --setting {config.setting} differs between these --tasks; run them by themselves."
        )
    return replace(config, sigma=levels.pop())


def suitable_runs(
    config: Compare, experiment: Experiment, prior: Prior, pairs: Sequence[tuple[str, Variant]]
) -> list[tuple[Problem, Variant, Run]]:
    """Sets every method up for its task; says which ones do not suit theirs, and leaves them out."""
    problems = {
        task: make_problem(task, experiment.truth, config.sigma, config.seed, config.setting)
        for task in dict.fromkeys(task for task, _ in pairs)
    }
    runs, reasons = [], []
    for task, variant in pairs:
        problem, chosen = problems[task], variant.chosen[task]
        try:
            run = make_run(variant.method, problem.task, prior, problem.measurement, config.steps, chosen)
        except UnsuitableMethod as error:
            reasons.append(f"{problem.title}, {variant.name}: left out, as {error}")
            continue
        runs.append((problem, variant, run))
    for reason in reasons:
        experiment.console.print(reason, soft_wrap=True, highlight=False, markup=False)
    if not runs:
        raise UserError("none of these --methods suits these --tasks.")
    return runs


def run_cells(
    config: Compare,
    experiment: Experiment,
    prior: Prior,
    pairs: Sequence[tuple[str, Variant]],
    nets: Mapping[str, LPIPS],
) -> list[Cell]:
    """Runs every method on its task."""
    return [
        run_cell(config, experiment, problem, variant.name, run, nets)
        for problem, variant, run in suitable_runs(config, experiment, prior, pairs)
    ]


def figure(experiment: Experiment, cells: Sequence[Cell]) -> Float[np.ndarray, "H W 3"]:
    """Draws truth, measurement, one sample per method, and the standard deviation over seeds.

    A task has one row, or with more than four methods a second one for the standard deviations.
    """
    vmax = brightest(cells)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    titles = ["truth", "measurement", *(method.replace(", ", "\n") for method in methods)]
    two_rows = len(methods) > 4
    rows, captions, names = [], [], []
    for task in dict.fromkeys(cell.problem.name for cell in cells):
        of_method = {cell.method: cell for cell in cells if cell.problem.name == task}
        here = [of_method.get(method) for method in methods]
        problem = next(iter(of_method.values())).problem
        images = [experiment.truth, problem.shown, *(cell and cell.drawn.samples[0] for cell in here)]
        texts = [
            "",
            f"sigma {problem.measurement.sigma_y:g}",
            *(f"{cell.psnr} dB" if cell else "not run" for cell in here),
        ]
        maps = [cell and heat(cell.std, vmax) for cell in here]
        means = [cell and f"mean {cell.std.mean():.3f}" for cell in here]
        rows += [images, [None, None, *maps]] if two_rows else [[*images, *maps]]
        captions += [texts, [None, None, *means]] if two_rows else [[*texts, *means]]
        names += [problem.title.replace(" ", "\n"), *["std over\nseeds"] * two_rows]
    if not two_rows:
        titles += [f"std of\n{method}" for method in methods]
    scale = max(1, round(128 / experiment.truth.shape[0]))
    return labelled_grid(rows, titles, names, captions=captions, scale=scale)


def write_report(
    config: Compare,
    experiment: Experiment,
    cells: Sequence[Cell],
    table: Sequence[Row],
    said: Mapping[str, Sequence[str]],
) -> None:
    """Writes `report.html`."""
    title = f"The settings of {PAPERS[config.paper].name}" if config.paper else "Three methods on three tasks"
    blocks = [
        page.command(command_line(PROGRAM, config)),
        page.figure_file(config.out / "figure.png", "Of every method the first sample; the maps share one scale."),
        page.table(without_missing(table), "Mean ± standard deviation over seeds."),
    ]
    for head, sentences in said.items():
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
        blocks += [page.heading(head), f"<ul>{items}</ul>"]
    blocks += [*sections(experiment, cells), page.heading("Settings"), page.settings(cells_record(cells))]
    page.write_page(config.out / "report.html", title, blocks)


def main(config: Compare) -> None:
    """Runs the comparison and writes its folder."""
    paper = None if config.paper is None else PAPERS[check_name(config.paper, list(PAPERS), "paper")]
    pairs = choose(config, paper)
    config = with_sigma(config)
    experiment = begin_experiment(config, PROGRAM)
    console = experiment.console
    said = remarks(paper, config.steps, experiment.prior)
    for head, sentences in said.items():
        console.print("\n  - ".join([head, *sentences]), soft_wrap=True, highlight=False, markup=False)
    nets, missing = load_lpips_nets()
    cells = run_cells(config, experiment, prior_of(paper, experiment.prior), pairs, nets)
    rows = [row for cell in cells for row in cell.rows]
    theirs = published(paper, experiment.prior)
    table = score_table(rows, theirs)
    words = [word for cell in cells for word in cell.verdicts[1]]
    write_csv(config.out / "metrics.csv", [{**row, "verdict": word} for row, word in zip(rows, words, strict=True)])
    write_atomically(config.out / "table.md", table)
    write_cells(config, experiment, cells)
    write_image(config.out / "figure.png", figure(experiment, cells))
    finish_folder(config.out, {**cells_record(cells), **said})
    write_report(config, experiment, cells, summary(rows, theirs), said)
    print_results(console, config.out, "report.html, figure.png, table.md, metrics.csv", missing, table)


if __name__ == "__main__":
    run_script(main, Compare, __doc__)
