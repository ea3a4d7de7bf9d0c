"""Compares SDEdit, ScoreALD and DPS on box inpainting, random inpainting and Gaussian deblurring.

    python -m experiments.compare
    python -m experiments.compare --prior priors/ffhq-256 --image PHOTO.png --steps 1000

Writes `metrics.csv` (a row per task, method and seed), `table.md`, `figure.png`, `config.json`, and every image as
a PNG. A run that was interrupted goes on when the same command is given again.
"""

import hashlib
import io
import json
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float
from rich.console import Console

from experiments.errors import UserError, exit_on_user_error
from experiments.problems import METHODS, TASKS, Run, chosen, load_truth, make_operator, make_run
from experiments.runner import Timing, run_with_progress
from experiments.scores import (
    Row,
    load_lpips_nets,
    markdown_table,
    mean_and_std,
    score,
    write_atomically,
    write_csv,
)
from jaxdiff import Denoiser, __version__
from jaxdiff.images import heat, labelled_grid, write_image
from jaxdiff.lpips import LPIPS
from jaxdiff.operators import measure
from jaxdiff.unet import FFHQ_256

KEYS = (
    "root = jax.random.key(seed); mask of a task: fold_in(fold_in(root, 0), task index); noise of its measurement: "
    "fold_in(fold_in(root, 1), task index); sample k, for all tasks and methods: fold_in(fold_in(root, 2), k); "
    "step from t: fold_in(sample key, t); initial noise: fold_in(sample key, -1); task index: box 0, random 1, blur 2"
)


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    prior: str = "faces-32"
    """A shipped prior, or a folder written by `python -m convert_weights`."""
    image: Path | None = None
    """A photo to measure and restore; a drawn face that was held out of training by default."""
    face: int = 0
    """Which held-out face, without --image."""
    size: int | None = None
    """Height and width of the image; the prior's own by default."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Some of: box, random, blur."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Some of: sdedit, score-ald, dps."""
    seeds: int = 5
    """Samples per task and method."""
    steps: int = 250
    """Diffusion steps of a whole chain (SDEdit takes about half of them); the reports take 1000."""
    sigma: float = 0.05
    """Standard deviation of the measurement noise, in units of [-1, 1] images (0.025 in units of [0, 1])."""
    batch_size: int | None = None
    """Samples drawn at once; all by default, fewer to save memory."""
    seed: int = 0
    """Root of all random numbers."""
    out: Path = Path("results/compare")
    """Folder of the results."""
    overwrite: bool = False
    """Replace results of other settings in that folder."""


@dataclass(frozen=True)
class Problem:
    """One task with its simulated measurement.

    Attributes:
        task: its short name.
        operator: the forward model.
        operator_settings: what to write down about it.
        y: the measurement.
    """

    task: str
    operator: Any
    operator_settings: dict[str, Any]
    y: Float[Array, "h w 3"]


@dataclass(frozen=True)
class Cell:
    """What one method gave for one task.

    Attributes:
        problem: the task.
        method: short name of the method.
        samples: one image per seed.
        settings: the hyper-parameters used.
        timing: how long it took.
        rows: the scores, one row per seed.
    """

    problem: Problem
    method: str
    samples: Float[np.ndarray, "n h w 3"]
    settings: dict[str, Any]
    timing: Timing
    rows: list[Row]


def check(config: Config) -> None:
    """Refuses numbers that make no sense, before anything slow."""
    if not 0 <= config.sigma < float("inf"):
        raise UserError(f"--sigma must be zero or positive, got {config.sigma}.")
    for name in ("seeds", "steps", "batch_size"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    if config.face < 0:
        raise UserError(f"--face must be zero or positive, got {config.face}.")


def make_problem(config: Config, task: str, truth: Float[Array, "h w 3"]) -> Problem:
    """Builds a task's operator and simulates its measurement."""
    root, index = jax.random.key(config.seed), list(TASKS).index(task)
    key_mask, key_noise = (jax.random.fold_in(jax.random.fold_in(root, i), index) for i in (0, 1))
    h, w, c = truth.shape
    operator, settings = make_operator(task, (h, w, c), key_mask)
    return Problem(task, operator, settings, measure(key_noise, operator, truth, config.sigma))


def open_folder(config: Config, settings: dict[str, Any]) -> None:
    """Makes the result folder, or finds it with results of the same settings.

    Raises:
        UserError: if it holds results of other settings.
    """
    path = config.out / "config.json"
    if path.exists() and not config.overwrite:
        try:
            old = json.loads(path.read_text())["settings"]
        except (KeyError, TypeError, ValueError):
            old = None
        if old != settings:
            raise UserError(
                f"{config.out} holds results of other settings; choose another --out, or replace them with --overwrite."
            )
    try:
        (config.out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {config.out}: {error.strerror}; choose another --out.") from error
    if config.overwrite:
        for old_file in (config.out / "samples").glob("*.npz"):
            old_file.unlink()
    write_atomically(path, json.dumps({"settings": settings}, indent=2) + "\n")


def settings_of(config: Config, denoiser: Denoiser, truth: Float[Array, "h w 3"]) -> dict[str, Any]:
    """Everything that decides the numbers; a folder is continued only if all of it is the same."""
    flags = {k: v for k, v in asdict(config).items() if k not in ("out", "overwrite", "batch_size")}
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "numpy")}
    settings = {
        **flags,
        "image_sha256": hashlib.sha256(np.asarray(truth).tobytes()).hexdigest(),
        "image_shape": truth.shape,
        "sigma_y": {"in [-1, 1] units": config.sigma, "in [0, 1] units": config.sigma / 2},
        "target": denoiser.target,
        "variance": denoiser.variance,
        "keys": KEYS,
        "versions": versions | {"jaxdiff": __version__, "python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
    }
    return json.loads(json.dumps(settings, default=str))


def draw_samples(
    config: Config, title: str, run: Run, path: Path, console: Console
) -> tuple[Float[np.ndarray, "n h w 3"], Timing]:
    """Draws one sample per seed, or reads them back from `path` if an earlier run finished them."""
    if path.exists():
        with np.load(path) as stored:
            console.print("  finished by an earlier run of the same settings", highlight=False)
            return stored["samples"], Timing(*stored["seconds"].tolist())
    root = jax.random.fold_in(jax.random.key(config.seed), 2)
    keys = jax.vmap(lambda k: jax.random.fold_in(root, k))(jnp.arange(config.seeds))
    samples, timing = run_with_progress(title, run, keys, config.batch_size, console)
    if not np.isfinite(samples).all():
        raise UserError(f"{title}: the chain diverged (not a finite number); more --steps make every step gentler.")
    buffer = io.BytesIO()
    np.savez(buffer, samples=samples, seconds=np.array([timing.compile_seconds, timing.run_seconds]))
    write_atomically(path, buffer.getvalue())
    return samples, timing


def run_cell(
    config: Config,
    denoiser: Denoiser,
    truth: Float[Array, "h w 3"],
    problem: Problem,
    method: str,
    nets: dict[str, LPIPS],
    console: Console,
) -> Cell:
    """Runs one method on one task, scores it, and says so."""
    task, title = problem.task, f"{TASKS[problem.task]}, {METHODS[method]}"
    run = make_run(method, task, denoiser, problem.operator, problem.y, config.sigma, config.steps)
    used = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.settings.items())
    console.print(f"{title}: {used}", highlight=False, soft_wrap=True)
    samples, timing = draw_samples(config, title, run, config.out / "samples" / f"{task}_{method}.npz", console)
    scores = score(samples, truth, problem.operator, problem.y, config.sigma, nets)
    rows = [{"task": task, "method": method, "seed": k, **row} for k, row in enumerate(scores)]
    console.print(
        f"  {psnr_text(rows)} dB in {timing.run_seconds:.0f} s, after {timing.compile_seconds:.0f} s of compiling",
        highlight=False,
    )
    return Cell(problem, method, samples, run.settings, timing, rows)


def psnr_text(rows: list[Row]) -> str:
    """Returns mean and standard deviation of the PSNR."""
    mean, std = mean_and_std([row["psnr"] for row in rows]) or (float("nan"), float("nan"))
    return f"{mean:.1f} ± {std:.1f}"


def figure(truth: Float[Array, "h w 3"], cells: list[Cell], sigma: float) -> Float[np.ndarray, "H W 3"]:
    """Draws a row per task: truth, measurement, one sample per method, and the standard deviation over seeds."""
    stds = [np.clip(cell.samples, -1, 1).std(0).mean(-1) for cell in cells]
    # One scale for all maps, which a few outlying pixels must not set.
    brightest = max(*(float(np.quantile(std, 0.99)) for std in stds), 1e-6)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    rows, captions, names = [], [], []
    for task in dict.fromkeys(cell.problem.task for cell in cells):
        here = [(cell, std) for cell, std in zip(cells, stds, strict=True) if cell.problem.task == task]
        rows.append(
            [truth, here[0][0].problem.y]
            + [cell.samples[0] for cell, _ in here]
            + [heat(std, brightest) for _, std in here]
        )
        captions.append(
            ["", f"sigma {sigma:g}"]
            + [f"{psnr_text(cell.rows)} dB" for cell, _ in here]
            + [f"mean {std.mean():.3f}" for _, std in here]
        )
        names.append(TASKS[task].replace(" ", "\n"))
    titles = ["truth", "measurement", *(METHODS[m] for m in methods), *(f"std of\n{METHODS[m]}" for m in methods)]
    scale = max(1, round(128 / truth.shape[0]))
    return labelled_grid(rows, titles, names, captions=captions, scale=scale)


def write_images(out: Path, truth: Float[Array, "h w 3"], cells: list[Cell], sigma: float) -> None:
    """Writes the figure, the truth, and every measurement and sample, clipped to [-1, 1]."""
    write_image(out / "truth.png", truth)
    for cell in cells:
        write_image(out / f"{cell.problem.task}_measurement.png", cell.problem.y)
        for k, x in enumerate(cell.samples):
            write_image(out / f"{cell.problem.task}_{cell.method}_{k}.png", x)
    write_image(out / "figure.png", figure(truth, cells, sigma))


def record(settings: dict[str, Any], cells: list[Cell]) -> str:
    """Returns `config.json`: the settings, and what followed from them."""
    described = {
        "command": " ".join(["python -m experiments.compare", *sys.argv[1:]]),
        "settings": settings,
        "operators": {cell.problem.task: cell.problem.operator_settings for cell in cells},
        "hyper_parameters": {f"{cell.problem.task}/{cell.method}": cell.settings for cell in cells},
        "seconds": {f"{cell.problem.task}/{cell.method}": asdict(cell.timing) for cell in cells},
    }
    return json.dumps(described, indent=2) + "\n"


def main(config: Config) -> None:
    """Runs the comparison and writes its folder."""
    check(config)
    tasks = chosen(config.tasks, list(TASKS), "task")
    methods = chosen(config.methods, list(METHODS), "method")
    console = Console()
    denoiser, truth = load_truth(config.prior, config.image, config.face, config.size)
    if config.steps > denoiser.schedule.num_times:
        raise UserError(f"--steps must be between 1 and {denoiser.schedule.num_times}, got {config.steps}.")
    settings = settings_of(config, denoiser, truth)
    open_folder(config, settings)
    console.print(
        f"sigma_y = {config.sigma:g} in [-1, 1] units = {config.sigma / 2:g} in [0, 1] units; "
        f"{config.seeds} seeds, {config.steps} steps, {settings['device']}",
        highlight=False,
    )
    nets, missing = load_lpips_nets()
    problems = [make_problem(config, task, truth) for task in tasks]
    cells = [run_cell(config, denoiser, truth, p, method, nets, console) for p in problems for method in methods]
    rows = [row for cell in cells for row in cell.rows]
    table = markdown_table(rows, published=is_ffhq_256(denoiser))
    write_csv(config.out / "metrics.csv", rows)
    write_atomically(config.out / "table.md", table)
    write_atomically(config.out / "config.json", record(settings, cells))
    write_images(config.out, truth, cells, config.sigma)
    console.print(table, soft_wrap=True, highlight=False, markup=False)
    for message in missing:
        console.print(f"LPIPS reads n/a: {message}", soft_wrap=True, highlight=False, style="dim")
    console.print(f"written to {config.out}: figure.png, table.md, metrics.csv, config.json", highlight=False)


def is_ffhq_256(denoiser: Denoiser) -> bool:
    """Tells whether the published numbers are about this network, at its own size."""
    return denoiser.network.config == FFHQ_256 and denoiser.image_shape == (256, 256, 3)


if __name__ == "__main__":
    with exit_on_user_error("the same command goes on where this one stopped"):
        main(tyro.cli(Config, description=__doc__))
