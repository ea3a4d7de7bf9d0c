"""How often the verdicts on samples are right, for many methods, strengths and integrators.

    python -m experiments.verdicts
    python -m experiments.verdicts --priors natural --faces 100

DPS, DPSNorm, DPSLikelihood and ScoreALD run at several strengths, from far too weak to far too strong, on held-out
faces and on Gaussian posteriors; unguided chains and PiGDM run under three integrators. What is right needs the truth,
which a verdict does not see:

- a run is good if its error is at most 1.3 times what is possible: on faces the smallest root mean square error of all
  runs of the problem, on Gaussian priors the exact posterior (distance to its mean in its standard deviations, of the
  measured entries, at most 1.3 and at least 1 / 1.3);
- otherwise it is too weak or too strong, as its strength is below or above that of the method's best run. An unguided
  run is too weak.

Writes `table.md` (how often each verdict was given to each kind of run), `metrics.csv` (a row per run) and
`config.json`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from experiments.posterior.__main__ import OPERATORS, PRIORS
from experiments.shared.command import run_script
from experiments.shared.problems import PROBLEMS, held_out_face, make_problem
from experiments.shared.setup import flags_of, open_results
from jaxdiff import (
    DDIM,
    DDPM,
    Diagnose,
    Diagnosis,
    Measurement,
    load_prior,
    measure,
    sample_segments,
    time_grid,
    verdict,
)
from jaxdiff.disk import write_atomically
from jaxdiff.errors import check_names, check_positive
from jaxdiff.guidance import PiGDM
from jaxdiff.priors.denoiser import Prior
from jaxdiff.priors.exact import posterior, variance
from jaxdiff.runs.methods import HyperParameters, make_run
from jaxdiff.runs.runner import sample_keys
from jaxdiff.runs.tables import Row, markdown, write_csv

PROGRAM = "python -m experiments.verdicts"
FACES = "faces-32"
WORDS = ("healthy", "data ignored", "data over-fitted", "diverged")
GOOD = 1.3
"""Largest ratio of errors of a good run."""

Error = Callable[[Float[np.ndarray, "n h w c"]], float]


@dataclass(frozen=True)
class Config:
    """Settings of the check of verdicts."""

    priors: tuple[str, ...] = (FACES, "natural", "independent")
    """Some of: faces-32, natural, independent, dense, mixture."""
    faces: tuple[int, ...] = (101,)
    """Which held-out faces; the bounds of the verdicts were chosen on others."""
    steps: int = 100
    """Diffusion steps of a whole chain."""
    seeds: int = 2
    """Samples of every run, judged together."""
    seed: int = 1
    """Decides the Gaussian truths, their measurements, and the noise of all chains."""
    sigma: float = 0.05
    """Standard deviation of the measurement noise, in [-1, 1] units."""
    out: Path = Path("results/verdicts")
    """Folder of the results."""
    overwrite: bool = False
    """Replace the results in that folder."""


@dataclass(frozen=True)
class Trial:
    """One sampler on one problem.

    Attributes:
        family: runs that differ only in strength.
        strength: larger follows the data more; 0 is unguided.
        sampler: the algorithm.
    """

    family: str
    strength: float
    sampler: Any


@dataclass(frozen=True)
class KnownProblem:
    """A problem whose truth is known.

    Attributes:
        prior_name: the prior, as in `--priors`.
        name: prior or face, and operator, in words.
        task: the key in `jaxdiff.runs.methods.TASKS`.
        prior: the prior.
        measurement: what was measured.
        error: of samples, `(n, h, w, c) -> number`.
        relative: whether errors are relative to the best run, or else to 1.
    """

    prior_name: str
    name: str
    task: str
    prior: Prior
    measurement: Measurement
    error: Error
    relative: bool


def trials(problem: KnownProblem, steps: int) -> Iterator[Trial]:
    """Yields everything that is tried on one problem."""
    prior, measurement = problem.prior, problem.measurement
    integrators: dict[str, Callable[[Prior], Any]] = {
        "DDPM": DDPM,
        "DDIM, eta 0": lambda prior: DDIM(prior, 0.0),
        "DDIM, eta 0.5": lambda prior: DDIM(prior, 0.5),
    }
    for name, integrate in integrators.items():
        yield Trial(name, 0.0, integrate(prior))
        yield Trial(f"PiGDM, {name}", 1.0, integrate(PiGDM(prior, measurement, 0.25)))
    asked = {
        "dps": [(z, HyperParameters(zeta=z)) for z in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)],
        "dps-norm": [(z, HyperParameters(zeta=z)) for z in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)],
        "dps-likelihood": [(z, HyperParameters(zeta=z)) for z in (0.02, 0.1, 0.5, 2.0, 10.0)],
    }
    for weighting in ("over_gamma", "over_variance"):
        asked[f"score-ald, {weighting}"] = [
            (1 / g, HyperParameters(gamma=(g, 1.2 * g), weighting=weighting)) for g in (3.0, 10.0, 30.0, 100.0, 1000.0)
        ]
    for family, settings in asked.items():
        method = family.split(",")[0]
        for strength, chosen in settings:
            run = make_run(method, problem.task, prior, measurement, steps, chosen)
            yield Trial(family, strength, run.sampler)


def problems(config: Config) -> Iterator[KnownProblem]:
    """Yields every problem."""
    for name in config.priors:
        if name == FACES:
            prior = load_prior(FACES)
            for face in config.faces:
                truth = held_out_face(face, prior.image_shape[0])
                for key in PROBLEMS:
                    made = make_problem(key, truth, config.sigma, seed=face)
                    title = f"face {face}, {key}"
                    yield KnownProblem(FACES, title, made.task, prior, made.measurement, rms_error(truth), True)
            continue
        prior = PRIORS[name]((8, 8, 3))
        for operator, make in OPERATORS.items():
            key_truth, key_noise = jax.random.split(jax.random.key(config.seed))
            measurement = measure(key_noise, make(prior.image_shape), prior.sample(key_truth), config.sigma)
            error = distance(prior, measurement)
            yield KnownProblem(name, f"{name}, {operator}", "inpaint", prior, measurement, error, False)


def rms_error(truth: Array) -> Error:
    """Returns the root mean square error of samples, clipped to [-1, 1]."""
    return lambda samples: float(np.sqrt(np.mean((np.clip(samples, -1, 1) - np.asarray(truth)) ** 2)))


def distance(prior: Any, measurement: Measurement) -> Error:
    """Returns the distance of samples to the exact posterior mean, in exact standard deviations; 1 for right ones."""
    exact = posterior(prior, measurement)
    mean, std, seen = np.asarray(exact.mean), np.sqrt(np.asarray(variance(exact))), np.asarray(measurement.observed) > 0
    return lambda samples: float(np.sqrt(np.mean((((samples - mean) / std)[:, seen]) ** 2)))


def judged(config: Config, problem: KnownProblem, trial: Trial) -> Row:
    """Returns the error of a run, and the verdict on it."""
    samples, diagnosis = run_trial(config, problem, trial)
    shown = np.clip(samples, -1, 1) if problem.relative else samples
    ratios = np.asarray(jax.vmap(problem.measurement.residual_ratio)(jnp.asarray(shown)))
    return {
        "prior": problem.prior_name,
        "problem": problem.name,
        "family": trial.family,
        "strength": trial.strength,
        "error": problem.error(samples),
        "residual_ratio": float(np.mean(ratios)),
        "mean_noise_level": float(np.mean(diagnosis.mean_noise_level)),
        "verdict": verdict(ratios, problem.measurement, diagnosis).word,
    }


def run_trial(config: Config, problem: KnownProblem, trial: Trial) -> tuple[np.ndarray, Diagnosis]:
    """Draws the samples; what is not finite or far outside counts as 1000."""
    keys, times = sample_keys(config.seed, config.seeds), time_grid(1000, config.steps)
    observer = Diagnose(problem.prior.schedule, problem.measurement)
    *_, last = sample_segments(trial.sampler, keys, times, observer=observer)
    images = np.asarray(jax.vmap(trial.sampler.image)(last.state))
    return np.clip(np.nan_to_num(images, nan=1e3), -1e3, 1e3), Diagnosis(*map(np.asarray, last.seen))


def label(found: Sequence[Row], relative: bool) -> list[str]:
    """Returns what the runs of one problem truly are, from their errors and strengths."""
    least = min(float(row["error"]) for row in found) if relative else 1.0
    off = lambda row: abs(np.log(max(float(row["error"]), 1e-9) / least))
    labels = []
    for row in found:
        family = [other for other in found if other["family"] == row["family"]]
        best = min(family, key=off)
        if off(row) <= np.log(GOOD):
            labels.append("good")
        elif row["strength"] == 0 or float(row["strength"]) < float(best["strength"]):
            labels.append("too weak")
        elif float(row["strength"]) > float(best["strength"]):
            labels.append("too strong")
        else:
            labels.append("off at its best")
    return labels


def confusion(rows: Sequence[Row]) -> str:
    """Returns how often each verdict was given, a line per prior and kind of run."""
    lines: list[list[object]] = [["prior", "runs that are", "number", *WORDS]]
    kinds = ("good", "too weak", "too strong", "off at its best")
    for prior in dict.fromkeys(row["prior"] for row in rows):
        for kind in kinds:
            here = [row for row in rows if (row["prior"], row["truth"]) == (prior, kind)]
            counts = [sum(row["verdict"] == word for row in here) for word in WORDS]
            if here:
                lines.append([prior, kind, len(here), *counts])
    return markdown(lines)


def main(config: Config) -> None:
    """Runs all trials and writes the folder."""
    check_positive(steps=config.steps, seeds=config.seeds)
    check_names(config.priors, [FACES, *PRIORS], "prior")
    console, rows = Console(), []
    open_results(config, PROGRAM, flags_of(config))
    for problem in problems(config):
        found = [judged(config, problem, trial) for trial in trials(problem, config.steps)]
        rows += [{**row, "truth": truth} for row, truth in zip(found, label(found, problem.relative), strict=True)]
        write_csv(config.out / "metrics.csv", rows)
        right = sum(row["truth"] == "good" and row["verdict"] == "healthy" for row in rows)
        console.print(f"{problem.name}: {len(found)} runs; so far {right} good runs called healthy", highlight=False)
    table = confusion(rows)
    write_atomically(config.out / "table.md", table)
    console.print(table, soft_wrap=True, highlight=False, markup=False)
    console.print(f"written to {config.out}: table.md, metrics.csv", highlight=False)


if __name__ == "__main__":
    run_script(main, Config, __doc__, "nothing was kept; the same command with --overwrite starts anew")
