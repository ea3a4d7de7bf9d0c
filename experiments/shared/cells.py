"""One cell of an experiment: a sampler run on a problem with several seeds, scored and told."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from experiments.shared.problems import TASKS, Problem
from experiments.shared.setup import Config, Experiment
from jaxdiff.images.files import write_image
from jaxdiff.images.grid import heat
from jaxdiff.metrics.diagnosis import Diagnose, Verdict
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.operators import observed
from jaxdiff.runs import report
from jaxdiff.runs.folder import write_npz
from jaxdiff.runs.methods import Run
from jaxdiff.runs.runner import Drawn, draw, sample_keys
from jaxdiff.runs.scores import judge, mean_and_std, residual_text, score
from jaxdiff.runs.tables import Row


@dataclass(frozen=True)
class Cell:
    """What one sampler gave for one problem.

    Attributes:
        problem: the task with its measurement.
        method: name of the method, as in tables.
        settings: the hyper-parameters used.
        drawn: one image per seed, snapshots, and how long it took.
        rows: the scores, one row per seed.
    """

    problem: Problem
    method: str
    settings: dict[str, Any]
    drawn: Drawn
    rows: list[Row]

    @property
    def title(self) -> str:
        """Task and method in words."""
        return f"{TASKS[self.problem.task]}, {self.method}"

    @property
    def file_name(self) -> str:
        """Task and method as part of a file's name."""
        return file_name(self.problem.task, self.method)

    @property
    def std(self) -> Float[np.ndarray, "h w"]:
        """The standard deviation over seeds at every pixel, averaged over the colours."""
        return np.clip(self.drawn.samples, -1, 1).std(0).mean(-1)

    @property
    def psnr(self) -> str:
        """Mean and standard deviation of the PSNR."""
        mean, std = mean_and_std([row["psnr"] for row in self.rows]) or (float("nan"), float("nan"))
        return f"{mean:.1f} ± {std:.1f}"

    @cached_property
    def judged(self) -> tuple[Verdict, list[str]]:
        """The verdict on all samples, and the word for every one alone."""
        problem = self.problem
        return judge(self.drawn.samples, problem.operator, problem.y, problem.sigma_y, self.drawn.diagnosis)


def file_name(task: str, method: str) -> str:
    """Returns the stem of all files of a cell."""
    return f"{task}_{method}".lower().replace(" ", "-").replace(",", "")


def run_cell(
    config: Config, experiment: Experiment, problem: Problem, method: str, run: Run, nets: Mapping[str, LPIPS]
) -> Cell:
    """Runs a sampler on a problem, or reads what an earlier run finished; scores it, and says so."""
    console, operator, y, sigma_y = experiment.console, problem.operator, problem.y, problem.sigma_y
    title = f"{TASKS[problem.task]}, {method}"
    used = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.settings.items())
    console.print(f"{title}: {used}", highlight=False, soft_wrap=True)
    store = config.out / "samples" / f"{file_name(problem.task, method)}.npz"
    keys = sample_keys(config.seed, config.seeds)
    residual = residual_text(operator, y, sigma_y)
    observer = Diagnose(experiment.denoiser.schedule, operator, y, sigma_y)
    drawn = draw(title, run, keys, store, console, batch_size=config.batch_size, residual=residual, observer=observer)
    scores = score(drawn.samples, operator, y, sigma_y, truth=experiment.truth, nets=nets)
    rows: list[Row] = [{"task": problem.task, "method": method, **row} for row in scores]
    cell = Cell(problem, method, run.settings, drawn, rows)
    seconds = f"{drawn.timing.run_seconds:.0f} s, after {drawn.timing.compile_seconds:.0f} s of compiling"
    earlier = " (continued from an earlier run)" if drawn.resumed else ""
    said = f"  {cell.psnr} dB, {cell.judged[0].word}, in {seconds}{earlier}"
    console.print(said, highlight=False, soft_wrap=True)
    return cell


def brightest(cells: Sequence[Cell]) -> float:
    """Returns one scale for the maps of all cells, which a few outlying pixels must not set."""
    return max(*(float(np.quantile(cell.std, 0.99)) for cell in cells), 1e-6)


def write_measurements(config: Config, experiment: Experiment, problems: Sequence[Problem]) -> None:
    """Writes the truth, every measurement, and which of its entries are known, to `measurements.npz`."""
    arrays: dict[str, Array] = {}
    for problem in problems:
        arrays[f"{problem.task}_y"] = problem.y
        arrays[f"{problem.task}_observed"] = observed(problem.operator, problem.y)
    write_npz(config.out / "measurements.npz", truth=experiment.truth, sigma_y=config.sigma, **arrays)


def write_cells(config: Config, experiment: Experiment, cells: Sequence[Cell]) -> None:
    """Writes the truth, every measurement and sample, their mean and spread as PNGs, and `measurements.npz`."""
    write_image(config.out / "truth.png", experiment.truth)
    vmax = brightest(cells)
    for cell in cells:
        problem, name = cell.problem, cell.file_name
        write_image(config.out / f"{problem.task}_measurement.png", problem.y)
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
            measurement=np.asarray(cell.problem.y),
            truth=np.asarray(experiment.truth),
            rows=cell.rows,
            std_max=std_max,
            frames=cell.drawn.frames,
            verdict=cell.judged[0],
            curve=cell.drawn.curve,
        )
        for cell in cells
    ]


def record(cells: Sequence[Cell]) -> dict[str, Any]:
    """Returns what followed from the settings."""
    return {
        "operators": {cell.problem.task: cell.problem.operator_settings for cell in cells},
        "hyper_parameters": {cell.title: cell.settings for cell in cells},
        "seconds": {cell.title: asdict(cell.drawn.timing) for cell in cells},
        "verdicts": {cell.title: cell.judged[0]._asdict() for cell in cells},
    }
