"""Sweeps the hyper-parameters of DPS and ScoreALD: every value with every seed, in one compiled program.

    python -m experiments.sweep
    python -m experiments.sweep --tasks blur --methods dps --zeta 0.05:2:12 --refine 6 --seeds 5 --steps 250
    python -m experiments.sweep --methods score-ald --gamma 10:15 28:33 --weightings over_gamma

Values are given in the units of the literature (256x256 images, 1000 steps) and scaled by `jaxdiff.scale_zeta` and
`jaxdiff.scale_gamma`; the tables show what was given and what was used. Jacques' grid is zeta 0.1, 0.3 and 1.0, and
gamma 10:15 to 28:33 with a range between that the report does not state. Seed k has the same noise at every
value, so that values differ by what they do and not by chance.

The best value is the one of the highest PSNR, which needs the truth. Without it there is only the residual
ratio to look at: about 1 where a sample fits the data as well as their noise allows.

Writes `report.html` with the curves, `TASK_METHOD.png` (the curves alone), `images.png` (what the smallest, the best
and the largest value give), `table.md`, `metrics.csv` (a row per task, method, value and seed), `measurements.npz`,
`config.json`, and all samples (`samples/*.npz`, values x seeds). `--resume` goes on with an interrupted run, also
with another `--refine`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Float

from experiments.shared.cells import file_name, write_measurements
from experiments.shared.command import run_script
from experiments.shared.problems import KNOWN_PROBLEMS, PROBLEMS, Problem, make_problem
from experiments.shared.setup import Config, Experiment, begin_experiment, print_results
from experiments.sweep.curves import (
    Curve,
    Point,
    between_neighbours,
    draw_sweep,
    sweep_table,
)
from experiments.sweep.grids import Numbers, SweepGrid, in_short, read_gammas, read_zetas
from jaxdiff.chains.batched import stack
from jaxdiff.disk import write_atomically
from jaxdiff.errors import UserError, check_names
from jaxdiff.images.files import write_image
from jaxdiff.images.grid import labelled_grid
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.runs import page
from jaxdiff.runs.folder import command_line, finish_folder
from jaxdiff.runs.methods import METHODS, Run, describe_sigma, make_run
from jaxdiff.runs.platform import require
from jaxdiff.runs.runner import draw, sample_keys
from jaxdiff.runs.scores import load_lpips_nets, score_samples
from jaxdiff.runs.setup import WEIGHTINGS
from jaxdiff.runs.tables import NOT_AVAILABLE, write_csv

PROGRAM = "python -m experiments.sweep"


@dataclass(frozen=True)
class Sweep(Config):
    """Settings of the sweep."""

    batch_size: int | None = None
    """Samples drawn at once; all by default, fewer to save memory."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_PROBLEMS}.")] = tuple(PROBLEMS)
    methods: tuple[str, ...] = ("dps", "score-ald")
    """Some of: dps, score-ald."""
    zeta: str = "0.1,0.2,0.3,0.6,1,2,3"
    """DPS' step sizes: single values, or from:to:count on a log axis, or several of these with commas."""
    gamma: tuple[str, ...] = ("3:4.5", "5:7.5", "10:15", "17:22", "28:33", "100:115")
    """ScoreALD's gammas as clean:noisy, at t = 0 and at the last t."""
    weightings: tuple[str, ...] = ("over_gamma", "over_variance")
    """ScoreALD's weightings, some of: over_gamma, over_variance, twice_over_variance. The last is almost the second
    with gamma divided by the root of 2."""
    refine: int = 0
    """Further values around the best of the grid, between its two neighbours."""
    seeds: int = 3
    """Samples at every value."""
    steps: int = 100
    """Diffusion steps of a whole chain; the reports take 1000."""
    out: Path = Path("results/sweep")
    """Folder of the results."""


def read_grids(config: Sweep) -> list[SweepGrid]:
    """Returns what to sweep, in the order of the tables."""
    methods = check_names(config.methods, ["dps", "score-ald"], "method")
    weightings = check_names(config.weightings, list(WEIGHTINGS), "weighting")
    zetas, gammas = read_zetas(config.zeta), read_gammas(config.gamma)
    if config.refine < 0:
        raise UserError(f"--refine must be zero or positive, got {config.refine}.")
    grids = {
        "dps": [SweepGrid("dps", "", zetas)],
        "score-ald": [SweepGrid("score-ald", weighting, gammas) for weighting in weightings],
    }
    return [grid for method in methods for grid in grids[method]]


def sweep(config: Sweep, experiment: Experiment, problem: Problem, grid: SweepGrid, nets: Mapping[str, LPIPS]) -> Curve:
    """Tries all values of a grid, then further ones around the best, and says what came out."""
    say = partial(experiment.console.print, highlight=False, soft_wrap=True)
    points = try_values(config, experiment, problem, grid, grid.values, "", nets)
    for done in range(0, config.refine, len(grid.values)):
        more = between_neighbours(points, min(config.refine - done, len(grid.values)))
        say(f"  refining with {len(more)} values from {in_short(min(more))} to {in_short(max(more))}")
        points += try_values(config, experiment, problem, grid, more, f"_refine-{config.refine}-{done}", nets)
        points.sort(key=lambda point: point.position)
    curve = Curve(problem, grid, points)
    for sentence in curve.words():
        say(f"  {sentence}")
    return curve


def try_values(
    config: Sweep,
    experiment: Experiment,
    problem: Problem,
    grid: SweepGrid,
    values: Sequence[Numbers],
    suffix: str,
    nets: Mapping[str, LPIPS],
) -> list[Point]:
    """Draws all seeds at all values, and scores them."""
    fixed = grid.method, problem.task, experiment.prior, problem.measurement, config.steps
    runs = [make_run(*fixed, grid.chosen(value)) for value in values]
    samples = draw_runs(config, experiment, problem, grid, runs, suffix)
    points = []
    for value, run, x in zip(values, runs, samples, strict=True):
        used = tuple(float(getattr(run.sampler, name)) for name in grid.fields)
        points.append(Point(value, used, x, score_samples(x, problem.measurement, truth=experiment.truth, nets=nets)))
    return points


def draw_runs(
    config: Sweep, experiment: Experiment, problem: Problem, grid: SweepGrid, runs: Sequence[Run], suffix: str
) -> Float[np.ndarray, "values seeds h w c"]:
    """Draws in one `vmap` over values and seeds, filled with copies up to what the grid's program takes."""
    console, seeds = experiment.console, config.seeds
    title = f"{problem.title}, {grid.name}"
    width = min(len(grid.values) * seeds, config.batch_size or len(grid.values) * seeds)
    copies = max(-(-width // seeds) - len(runs), 0)
    filled, of_one = [*runs, *[runs[-1]] * copies], sample_keys(config.seed, seeds)
    samplers, keys = (
        [run.sampler for run in filled for _ in range(seeds)],
        of_one[np.tile(np.arange(seeds), len(filled))],
    )
    times = runs[0].times
    stacked, state = stack(samplers, keys, int(times[0]), shared=(experiment.prior, problem.measurement))
    store = config.out / "samples" / f"{file_name(problem.name, grid.name)}{suffix}.npz"
    drawn = draw(title, Run(stacked, times, {}, state), keys, store, console, batch_size=width)
    chains = f"{len(runs) * seeds} chains" + f", {width} at once" * (width < len(keys))
    seconds = f"{drawn.timing.run_seconds:.0f} s and {drawn.timing.compile_seconds:.0f} s of compiling"
    earlier = " (continued from an earlier run)" * drawn.resumed
    console.print(
        f"{title}: {len(runs)} values x {seeds} seeds: {chains}; {seconds}{earlier}",
        highlight=False,
        soft_wrap=True,
    )
    shape = (-1, seeds, *drawn.samples.shape[1:])
    return drawn.samples.reshape(shape)[: len(runs)]


def figure(experiment: Experiment, curves: Sequence[Curve]) -> Float[np.ndarray, "H W 3"]:
    """Draws a row per task and method: truth, measurement, and seed 0 at the smallest, best and largest value."""
    rows, captions = [], []
    for curve in curves:
        best = curve.best
        points = [None if curve.points[0] is best else curve.points[0], best]
        points += [None if curve.points[-1] is best else curve.points[-1]]
        said = [
            f"{curve.grid.parameter} {in_short(point.given)}\n{point.text('psnr', 1)} dB" if point else "the best one"
            for point in points
        ]
        rows.append([experiment.truth, curve.problem.measurement.y, *(point and point.samples[0] for point in points)])
        captions.append(["", f"sigma {curve.problem.measurement.sigma_y:g}", *said])
    titles = ["truth", "measurement", "smallest", "best PSNR", "largest"]
    names = [curve.title.replace(", ", "\n") for curve in curves]
    return labelled_grid(rows, titles, names, captions=captions, scale=max(1, round(128 / experiment.truth.shape[0])))


def record(curves: Sequence[Curve]) -> dict[str, Any]:
    """Returns what followed from the settings."""
    return {
        "operators": {curve.problem.name: curve.problem.operator_settings for curve in curves},
        "best": {curve.title: curve.words() for curve in curves},
        "values": {curve.title: {in_short(p.given): list(p.used) for p in curve.points} for curve in curves},
    }


def write_report(config: Sweep, experiment: Experiment, curves: Sequence[Curve]) -> None:
    """Writes the figures and `report.html`."""
    blocks = [
        page.command(command_line(PROGRAM, config)),
        page.paragraph(
            "Values are given in the units of the literature (256x256 images, 1000 steps); the tables also show what "
            "was used here. Bands are one standard deviation over seeds; a seed has the same noise at every value, "
            "so that values differ by what they do and not by chance."
        ),
    ]
    for task, method in dict.fromkeys((curve.problem.name, curve.grid.method) for curve in curves):
        together = [curve for curve in curves if (curve.problem.name, curve.grid.method) == (task, method)]
        png = draw_sweep(together)
        write_atomically(config.out / f"{task}_{method}.png", png)
        images = figure(experiment, together)
        blocks += [page.heading(f"{PROBLEMS[task].title}, {METHODS[method].name}"), page.figure_file(png)]
        blocks += [page.picture(images, width=images.shape[1])]
        for curve in together:
            blocks += [page.heading(curve.grid.name, 3)] * bool(curve.grid.weighting)
            lines = [{k: v for k, v in line.items() if v != NOT_AVAILABLE} for line in curve.table()]
            blocks += [page.paragraph(" ".join(curve.words())), page.table(lines)]
    write_image(config.out / "images.png", figure(experiment, curves))
    shared = {
        "prior": config.prior,
        "steps": config.steps,
        "seeds": config.seeds,
        "sigma_y": describe_sigma(config.sigma),
    }
    blocks += [page.heading("Settings"), page.settings({**shared, "operators": record(curves)["operators"]})]
    page.write_page(config.out / "report.html", "Sweep of hyper-parameters", blocks)


def main(config: Sweep) -> None:
    """Runs the sweep and writes its folder."""
    require("matplotlib", "plots", "drawing curves")
    tasks, grids = check_names(config.tasks, list(PROBLEMS), "task"), read_grids(config)
    experiment = begin_experiment(config, PROGRAM, without=("refine",))
    nets, missing = load_lpips_nets()
    problems = [make_problem(task, experiment.truth, config.sigma, config.seed) for task in tasks]
    write_measurements(config, experiment, problems)
    curves = [sweep(config, experiment, problem, grid, nets) for problem in problems for grid in grids]
    write_csv(config.out / "metrics.csv", [row for curve in curves for row in curve.rows()])
    write_atomically(config.out / "table.md", sweep_table(curves))
    finish_folder(config.out, record(curves))
    write_report(config, experiment, curves)
    print_results(experiment.console, config.out, "report.html, images.png, table.md, metrics.csv", missing)


if __name__ == "__main__":
    run_script(main, Sweep, __doc__)
