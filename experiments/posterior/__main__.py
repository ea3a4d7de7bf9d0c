"""Holds every sampler against exact posteriors, where image metrics cannot tell right from wrong.

    python -m experiments.posterior
    python -m experiments.posterior --priors natural --samplers PiGDM MMPS --steps 50 1000

The priors have closed forms, so that the posterior is known: its mean, its spread, and samples of it. For every prior,
operator, number of steps and sampler the script draws hundreds of samples of one posterior and measures how far they
are from it (`experiments.posterior.calibration` says what each figure means). A new method is in the bench when its row
in `jaxdiff.runs.methods` has a `bench`.

Writes `metrics.csv` (every figure with its Monte-Carlo error), `table.md`, `figure.png` and `config.json`. `--resume`
goes on with an interrupted run.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from experiments.posterior.calibration import Reference, assess, of_posterior, of_prior
from experiments.posterior.figure import bench_figure
from experiments.posterior.tables import ddpm_table, full_table, short_table
from experiments.shared.command import run_script
from experiments.shared.setup import flags_of, open_results
from jaxdiff import DDPM, measure, sample_many
from jaxdiff.disk import write_atomically
from jaxdiff.errors import UserError, check_names
from jaxdiff.operators import BoxMask, GaussianBlur, Mask, RandomMask
from jaxdiff.priors.exact import posterior
from jaxdiff.priors.gaussian import Dense, Diagonal, GaussianPrior, natural_spectrum
from jaxdiff.priors.mixture import MixturePrior
from jaxdiff.runs.folder import finish_folder, read_json, write_json
from jaxdiff.runs.methods import METHODS, Run, describe_sigma, make_run
from jaxdiff.runs.platform import require
from jaxdiff.runs.tables import Row, write_csv
from jaxdiff.schedule import linear, time_grid

PROGRAM = "python -m experiments.posterior"
ClosedForm = GaussianPrior | MixturePrior
VARIANCE = 0.25
"""Variance of a pixel under every prior, about that of photographs in [-1, 1]."""


SAMPLERS = {label: (method, chosen) for method, row in METHODS.items() for label, chosen in row.bench.items()}
"""What is tried: of every method the settings that its row names, in the units of the literature."""
EXACT, UNGUIDED, NOTHING = "exact", "DDPM", "none"


def independent(shape: tuple[int, int, int]) -> GaussianPrior:
    """Pixels that know nothing of each other: the hardest prior to guess hidden ones from."""
    return GaussianPrior(jnp.zeros(shape), Diagonal(jnp.full(shape, VARIANCE)), linear())


def natural(shape: tuple[int, int, int]) -> GaussianPrior:
    """The spectrum and the colours of photographs."""
    return GaussianPrior(jnp.zeros(shape), natural_spectrum(shape, VARIANCE), linear())


def dense(shape: tuple[int, int, int]) -> GaussianPrior:
    """No structure at all: eigenvalues over three orders of magnitude in random directions."""
    d = math.prod(shape)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    values = np.geomspace(1e-3, 1.0, d)
    matrix = (rotation * (values / values.mean() * VARIANCE)) @ rotation.T
    return GaussianPrior(jnp.zeros(shape), Dense(matrix), linear())


def mixture(shape: tuple[int, int, int]) -> MixturePrior:
    """Four smooth images with independent pixels around them; half of the variance is between the four."""
    between = GaussianPrior(jnp.zeros(shape), natural_spectrum(shape, VARIANCE / 2), linear())
    means = jax.vmap(between.sample)(jax.random.split(jax.random.key(3), 4))
    within = Diagonal(jnp.full(shape, VARIANCE / 2))
    return MixturePrior((1.0, 2.0, 3.0, 4.0), [GaussianPrior(mean, within, linear()) for mean in means])


PRIORS: dict[str, Callable[[tuple[int, int, int]], ClosedForm]] = {
    "natural": natural,
    "independent": independent,
    "dense": dense,
    "mixture": mixture,
}
# Masks of one class share their compiled programs.
OPERATORS: dict[str, Callable[[tuple[int, int, int]], Any]] = {
    "denoise": lambda shape: Mask(np.ones((*shape[:2], 1))),
    "keep 92 %": lambda shape: Mask(RandomMask(jax.random.key(4), shape, 0.92).mask),
    "keep 8 %": lambda shape: Mask(RandomMask(jax.random.key(4), shape, 0.08).mask),
    "box": lambda shape: Mask(BoxMask(2, 2, shape[0] // 2, shape[1] // 2).observed(jnp.ones(shape))),
    "blur": lambda shape: GaussianBlur(1.0, 7),
}


@dataclass(frozen=True)
class Config:
    """Settings of the bench."""

    priors: tuple[str, ...] = tuple(PRIORS)
    """Some of: natural, independent, dense, mixture."""
    operators: tuple[str, ...] = tuple(OPERATORS)
    """Some of: denoise, "keep 92 %", "keep 8 %", box, blur."""
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    """Some of the rows of SAMPLERS."""
    steps: tuple[int, ...] = (100, 1000)
    """Numbers of steps of a chain."""
    seeds: int = 200
    """Samples of every posterior, at least 32."""
    size: int = 8
    """Height and width of the images, which have three colours; up to 32, or 16 with the dense prior."""
    sigma: float = 0.05
    """Standard deviation of the measurement noise, in [-1, 1] units."""
    out: Path = Path("results/posterior")
    """Folder of the results."""
    resume: bool = False
    """Go on with what an interrupted run of the same settings has left in that folder."""
    overwrite: bool = False
    """Replace the results in that folder."""


def check(config: Config) -> None:
    """Raises a UserError unless the flags are usable."""
    for names, known, kind in (
        (config.priors, PRIORS, "prior"),
        (config.operators, OPERATORS, "operator"),
        (config.samplers, SAMPLERS, "sampler"),
    ):
        check_names(names, list(known), kind)
    if not 0 < config.sigma < float("inf"):
        raise UserError(f"--sigma must be positive, got {config.sigma}.")
    if config.seeds < 32:
        raise UserError(f"--seeds must be at least 32, or the figures say nothing, got {config.seeds}.")
    largest = 16 if "dense" in config.priors else 32
    if not 4 <= config.size <= largest:
        raise UserError(f"--size must be between 4 and {largest} for these priors, got {config.size}.")
    if not config.steps or not all(2 <= n <= 1000 for n in config.steps):
        raise UserError(f"--steps must be between 2 and 1000, got {config.steps}.")


def rows_of(config: Config, prior_name: str, operator_name: str) -> Iterator[Row]:
    """Yields the figures of every sampler on one posterior, or of DDPM on the prior itself."""
    prior = PRIORS[prior_name]((config.size, config.size, 3))
    make = unguided_rows if operator_name == NOTHING else posterior_rows
    names: Row = {"prior": prior_name, "operator": operator_name}
    yield from make(config, names, prior)


def unguided_rows(config: Config, names: Row, prior: ClosedForm) -> Iterator[Row]:
    """Yields what DDPM makes of the prior itself."""
    exact = draw_exact(prior, config.seeds, 0)
    many = draw_exact(prior, 4096, 1)
    spread = np.asarray(many).std(0) if isinstance(prior, MixturePrior) else np.sqrt(prior.variance)
    mean = jnp.asarray(many).mean(0) if isinstance(prior, MixturePrior) else prior.mean
    reference = of_prior(mean, jnp.asarray(spread), many)
    yield assessed(names | {"steps": 0, "sampler": EXACT}, exact, reference)
    for steps in config.steps:
        run = Run(DDPM(prior), time_grid(1000, steps), {})
        yield bench_row(config, names | {"steps": steps, "sampler": UNGUIDED}, run, reference)


def posterior_rows(config: Config, names: Row, prior: ClosedForm) -> Iterator[Row]:
    """Yields what every sampler makes of one posterior; one that refuses the operator has no row."""
    operator = OPERATORS[str(names["operator"])](prior.image_shape)
    measurement = measure(jax.random.key(1), operator, prior.sample(jax.random.key(0)), config.sigma)
    exact = posterior(prior, measurement)
    reference = of_posterior(exact, measurement, draw_exact(exact, 2048, 1))
    yield assessed(names | {"steps": 0, "sampler": EXACT}, draw_exact(exact, config.seeds, 0), reference)
    for name in config.samplers:
        for steps in config.steps:
            method, chosen = SAMPLERS[name]
            with suppress(UserError):
                run = make_run(method, "inpaint", prior, measurement, steps, chosen)
                yield bench_row(config, names | {"steps": steps, "sampler": name}, run, reference)


@jax.jit
def _sample_exact(source: Any, keys: Array) -> Array:
    return jax.vmap(source.sample)(keys)


def draw_exact(source: Any, count: int, seed: int) -> Float[Array, "n h w c"]:
    """Draws from a prior or a posterior with a closed form."""
    return _sample_exact(source, jax.random.split(jax.random.key(100 + seed), count))


def bench_row(config: Config, names: Row, run: Run, reference: Reference) -> Row:
    """Draws samples and assesses them."""
    keys = jax.random.split(jax.random.key(7), config.seeds)
    # Runs of all lengths share a program, in segments of the same number of steps.
    segment = max(math.gcd(*config.steps) // 2, 1)
    started = time.monotonic()
    samples = jax.block_until_ready(sample_many(run.sampler, keys, run.times, segment=segment))
    return assessed(names, samples, reference) | {"seconds": time.monotonic() - started}


def assessed(names: Row, samples: Float[Array, "n h w c"], reference: Reference) -> Row:
    """Returns every figure with its Monte-Carlo error beside it."""
    figures, errors = assess(samples, reference)
    beside = {
        name: value for key in figures for name, value in ((key, figures[key]), (f"{key}_mc", errors.get(key, "")))
    }
    return {**names, "seeds": len(samples), "diverged": not figures, **beside}


def main(config: Config) -> None:
    """Runs the bench and writes its folder."""
    check(config)
    require("matplotlib", "plots", "drawing curves")
    console = Console()
    open_results(config, PROGRAM, flags_of(config))
    console.print(
        f"sigma_y = {describe_sigma(config.sigma)}; {config.seeds} samples of each posterior", highlight=False
    )
    store = config.out / "rows.json"
    rows: list[Row] = read_json(store, list) if store.exists() else []
    for prior_name in config.priors:
        for operator_name in (NOTHING, *config.operators):
            if any((row["prior"], row["operator"]) == (prior_name, operator_name) for row in rows):
                continue
            started = time.monotonic()
            rows += rows_of(config, prior_name, operator_name)
            write_json(store, rows)
            console.print(f"{prior_name}, {operator_name}: {time.monotonic() - started:.0f} s", highlight=False)
    write_results(config, rows, console)


def write_results(config: Config, rows: list[Row], console: Console) -> None:
    """Writes figures as CSV, tables and picture."""
    out, steps, first = config.out, max(config.steps), config.priors[0]
    every = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(out / "metrics.csv", [{name: row.get(name, "") for name in every} for row in rows])
    short = short_table(rows, first, config.operators, steps)
    ddpm = ddpm_table(rows, PRIORS, config.size)
    write_atomically(out / "table.md", f"{short}\n{ddpm}\n{full_table(rows)}")
    bench_figure(out / "figure.png", rows, steps)
    finish_folder(out, {"seconds": sum(float(row.get("seconds", 0)) for row in rows)})
    console.print(f"Prior: {first}, {steps} steps.\n\n{short}\n{ddpm}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"written to {out}: figure.png, table.md, metrics.csv", highlight=False)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
