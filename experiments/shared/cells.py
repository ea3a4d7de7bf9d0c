"""One cell of an experiment: a sampler run on a problem with several seeds, and its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from experiments.shared.problems import Problem
from experiments.shared.setup import Config, Experiment
from jaxdiff.images.files import write_image
from jaxdiff.images.grid import heat
from jaxdiff.metrics.diagnosis import Diagnose, Verdict
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.runs import report
from jaxdiff.runs.folder import write_npz
from jaxdiff.runs.methods import Run
from jaxdiff.runs.runner import Drawn, draw, sample_keys
from jaxdiff.runs.scores import judge, mean_text, residual_text, score_samples
from jaxdiff.runs.tables import Row


@dataclass(frozen=True)
class Cell:
    """What one sampler gave for one problem.

    Attributes:
        problem: the task with its measurement.
        method: name of the method, as in tables.
        run: the sampler, with the hyper-parameters used.
        drawn: one image per seed, snapshots, and how long it took.
        rows: the scores, one row per seed.
    """

    problem: Problem
    method: str
    run: Run
    drawn: Drawn
    rows: list[Row]

    @property
    def title(self) -> str:
        """Task and method in words."""
        return f"{self.problem.title}, {self.method}"

    @property
    def file_name(self) -> str:
        """Task and method as part of a file's name."""
        return file_name(self.problem.name, self.method)

    @property
    def std(self) -> Float[np.ndarray, "h w"]:
        """The standard deviation over seeds at every pixel, averaged over the colours."""
        return np.clip(self.drawn.samples, -1, 1).std(0).mean(-1)

    @property
    def psnr(self) -> str:
        """Mean and standard deviation of the PSNR."""
        return mean_text([row["psnr"] for row in self.rows], 1)

    @cached_property
    def verdicts(self) -> tuple[Verdict, list[str]]:
        """The verdict on all samples, and the word for every one alone."""
        return judge(self.drawn.samples, self.problem.measurement, self.drawn.diagnosis, self.run.method)


def file_name(task: str, method: str) -> str:
    """Returns the stem of all files of a cell."""
    return f"{task}_{method}".lower().replace(" ", "-").replace(",", "")


def run_cell(
    config: Config, experiment: Experiment, problem: Problem, method: str, run: Run, nets: Mapping[str, LPIPS]
) -> Cell:
    """Runs a sampler on a problem, or reads what an earlier run finished; scores it, and says so."""
    console, measurement = experiment.console, problem.measurement
    title = f"{problem.title}, {method}"
    used = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.settings.items())
    console.print(f"{title}: {used}", highlight=False, soft_wrap=True)
    store = config.out / "samples" / f"{file_name(problem.name, method)}.npz"
    keys = sample_keys(config.seed, config.seeds)
    residual, observer = residual_text(measurement), Diagnose(experiment.prior.schedule, measurement)
    drawn = draw(title, run, keys, store, console, batch_size=config.batch_size, residual=residual, observer=observer)
    scores = score_samples(drawn.samples, measurement, truth=experiment.truth, nets=nets)
    rows: list[Row] = [{"task": problem.name, "method": method, **row} for row in scores]
    cell = Cell(problem, method, run, drawn, rows)
    seconds = f"{drawn.timing.run_seconds:.0f} s, after {drawn.timing.compile_seconds:.0f} s of compiling"
    earlier = " (continued from an earlier run)" if drawn.resumed else ""
    said = f"  {cell.psnr} dB, {cell.verdicts[0].word}, in {seconds}{earlier}"
    console.print(said, highlight=False, soft_wrap=True)
    return cell


def brightest(cells: Sequence[Cell]) -> float:
    """Returns one scale for the maps of all cells, which a few outlying pixels must not set."""
    return max(*(float(np.quantile(cell.std, 0.99)) for cell in cells), 1e-6)


def write_measurements(config: Config, experiment: Experiment, problems: Sequence[Problem]) -> None:
    """Writes the truth, every measurement, and which of its entries are known, to `measurements.npz`."""
    arrays: dict[str, Array] = {}
    for problem in problems:
        arrays[f"{problem.name}_y"] = problem.measurement.y
        arrays[f"{problem.name}_observed"] = problem.measurement.observed
    write_npz(config.out / "measurements.npz", truth=experiment.truth, sigma_y=config.sigma, **arrays)


def write_cells(config: Config, experiment: Experiment, cells: Sequence[Cell]) -> None:
    """Writes the truth, every measurement and sample, their mean and spread as PNGs, and `measurements.npz`."""
    write_image(config.out / "truth.png", experiment.truth)
    vmax = brightest(cells)
    for cell in cells:
        problem, name = cell.problem, cell.file_name
        write_image(config.out / f"{problem.name}_measurement.png", problem.shown)
        write_image(config.out / f"{name}_mean.png", np.clip(cell.drawn.samples, -1, 1).mean(0))
        write_image(config.out / f"{name}_std.png", heat(cell.std, vmax))
        for k, x in enumerate(cell.drawn.samples):
            write_image(config.out / "samples" / f"{name}_{k}.png", x)
    write_measurements(config, experiment, [cell.problem for cell in cells])


def sections(experiment: Experiment, cells: Sequence[Cell]) -> list[str]:
    """Returns a section of `report.html` per cell."""
    std_max = brightest(cells)
    return [
        report.samples_section(
            cell.title,
            samples=cell.drawn.samples,
            measurement=np.asarray(cell.problem.shown),
            truth=np.asarray(experiment.truth),
            rows=cell.rows,
            std_max=std_max,
            frames=cell.drawn.frames,
            verdict=cell.verdicts[0],
            curve=cell.drawn.curve,
        )
        for cell in cells
    ]


def cells_record(cells: Sequence[Cell]) -> dict[str, Any]:
    """Returns what followed from the settings."""
    return {
        "operators": {cell.problem.name: cell.problem.operator_settings for cell in cells},
        "hyper_parameters": {cell.title: cell.run.settings for cell in cells},
        "seconds": {cell.title: asdict(cell.drawn.timing) for cell in cells},
        "verdicts": {cell.title: cell.verdicts[0]._asdict() for cell in cells},
    }
