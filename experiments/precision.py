"""What lower precision of the network costs: whole trajectories in bfloat16 and tf32 against float32.

    python -m experiments.precision
    python -m experiments.precision --prior priors/ffhq-256 --image PHOTO.png --steps 1000

Every precision draws with the same keys. Writes `table.md`, `metrics.csv` (a row per task, method, precision and seed)
and `config.json`. On a CPU tf32 is the same arithmetic as float32, and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float

from experiments.shared.cells import file_name
from experiments.shared.command import run_script
from experiments.shared.problems import KNOWN_PROBLEMS, PROBLEMS, Problem, make_problem
from experiments.shared.setup import Config, Experiment, begin_experiment, print_results
from jaxdiff import Denoiser, load_prior
from jaxdiff.disk import write_atomically
from jaxdiff.errors import check_names
from jaxdiff.metrics.pixels import psnr
from jaxdiff.networks.precision import Dtype
from jaxdiff.runs.folder import finish_folder
from jaxdiff.runs.methods import KNOWN_METHODS, METHODS, make_run
from jaxdiff.runs.runner import draw, sample_keys
from jaxdiff.runs.tables import Row, markdown, write_csv
from jaxdiff.samplers.base import perturb

PROGRAM = "python -m experiments.precision"
TIME = 300
"""Where one forward pass is compared."""


@dataclass(frozen=True)
class Precision(Config):
    """Settings of the comparison."""

    tasks: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_PROBLEMS}.")] = ("box", "blur")
    methods: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_METHODS}.")] = ("score-ald", "dps")
    dtypes: tuple[Dtype, ...] | None = None
    """Precisions beside float32: bfloat16 on a CPU, tf32 and bfloat16 elsewhere by default."""
    seeds: int = 8
    """Samples of everything."""
    out: Path = Path("results/precision")
    """Folder of the results."""
    dtype: tyro.conf.Suppress[Dtype] = "float32"


def forward_error(exact: Denoiser, rough: Denoiser, x: Float[Array, "h w 3"]) -> float:
    """Returns the length of a difference of `x0_hat` over its own, for one noisy image."""
    run = jax.jit(lambda denoiser, x: denoiser.predict(x, TIME).x0_hat)
    first, second = run(exact, x), run(rough, x)
    return float(jnp.linalg.norm(second - first) / jnp.linalg.norm(first))


def draw_all(
    config: Precision, experiment: Experiment, prior: Denoiser, problem: Problem, method: str, dtype: Dtype
) -> Float[np.ndarray, "n h w 3"]:
    """Draws all samples in one precision, clipped to [-1, 1]."""
    run = make_run(method, problem.task, prior, problem.measurement, config.steps)
    store = config.out / "samples" / f"{file_name(problem.name, method)}_{dtype}.npz"
    title = f"{problem.title}, {METHODS[method].name}, {dtype}"
    keys = sample_keys(config.seed, config.seeds)
    drawn = draw(title, run, keys, store, experiment.console, batch_size=config.batch_size)
    seconds = f"{drawn.timing.run_seconds:.0f} s, after {drawn.timing.compile_seconds:.0f} s of compiling"
    experiment.console.print(f"{title}: {seconds}", highlight=False, soft_wrap=True)
    return np.clip(drawn.samples, -1, 1)


def compare_samples(
    names: tuple[str, str, Dtype],
    truth: Array,
    exact: Float[np.ndarray, "n h w 3"],
    rough: Float[np.ndarray, "n h w 3"],
) -> list[Row]:
    """Returns a row per seed: both samples against the truth, and against each other."""
    task, method, dtype = names
    of = lambda images, reference: np.asarray(jax.vmap(psnr)(images, reference)).tolist()
    truths = jnp.broadcast_to(truth, exact.shape)
    columns = (of(exact, truths), of(rough, truths), of(jnp.asarray(rough), jnp.asarray(exact)))
    return [
        {"task": task, "method": method, "dtype": dtype, "seed": k, "float32": a, "psnr": b, "between": c}
        for k, (a, b, c) in enumerate(zip(*columns, strict=True))
    ]


def precision_table(rows: Sequence[Row]) -> str:
    """Returns by how much the PSNR changes, paired over seeds, a row per task, method and precision."""
    head = ["task", "method", "precision", "PSNR in float32 (dB)", "change (dB)", "between the two samples (dB)"]
    lines = [head]
    for task, method, dtype in dict.fromkeys((row["task"], row["method"], row["dtype"]) for row in rows):
        here = [row for row in rows if (row["task"], row["method"], row["dtype"]) == (task, method, dtype)]
        before, after, between = (
            np.array([row[name] for row in here], float) for name in ("float32", "psnr", "between")
        )
        change = after - before
        error = change.std(ddof=1) / len(here) ** 0.5 if len(here) > 1 else float("nan")
        texts = [f"{before.mean():.2f}", f"{change.mean():+.3f} ± {error:.3f}", f"{between.mean():.1f}"]
        lines.append([PROBLEMS[str(task)].title, METHODS[str(method)].name, str(dtype), *texts])
    return markdown(lines)


def main(config: Precision) -> None:
    """Draws everything in every precision, and writes the folder."""
    tasks = check_names(config.tasks, list(PROBLEMS), "task")
    methods = check_names(config.methods, list(METHODS), "method")
    usual = ("bfloat16",) if jax.default_backend() == "cpu" else ("tf32", "bfloat16")
    dtypes: list[Any] = check_names(config.dtypes or usual, ("tf32", "bfloat16"), "precision")
    experiment = begin_experiment(config, PROGRAM)
    priors: dict[Any, Denoiser] = {"float32": experiment.prior}
    for dtype in dtypes:
        priors[dtype] = load_prior(config.prior, dtype=dtype).at(experiment.prior.image_shape)
    noisy = perturb(experiment.prior.schedule, jax.random.key(config.seed), experiment.truth, TIME)
    errors = {dtype: forward_error(priors["float32"], priors[dtype], noisy) for dtype in dtypes}
    rows: list[Row] = []
    for task in tasks:
        problem = make_problem(task, experiment.truth, config.sigma, config.seed)
        for method in methods:
            drawn = {name: draw_all(config, experiment, prior, problem, method, name) for name, prior in priors.items()}
            for dtype in dtypes:
                names = task, method, dtype
                rows += compare_samples(names, experiment.truth, drawn["float32"], drawn[dtype])
    write_csv(config.out / "metrics.csv", rows)
    write_atomically(config.out / "table.md", precision_table(rows))
    finish_folder(config.out, {"relative error of x0_hat at t = 300": errors})
    sentences = [
        f"one forward pass at t = {TIME} in {dtype}: x0_hat changes by {100 * error:.2f} % of its length"
        for dtype, error in errors.items()
    ]
    sentences.append("change: mean over seeds of sample by sample differences ± standard error")
    print_results(experiment.console, config.out, "table.md, metrics.csv", (), precision_table(rows), *sentences)


if __name__ == "__main__":
    run_script(main, Precision, __doc__)
