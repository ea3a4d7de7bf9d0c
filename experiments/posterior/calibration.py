"""How far samples are from an exact posterior, and how far each figure may be off by chance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdiff.measurement import Measurement
from jaxdiff.priors.exact import GaussianPosterior, MixturePosterior, variance

LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 10))
"""Nominal levels of the central intervals whose coverage is measured."""

GROUPS = 16
"""Groups of seeds that the jackknife leaves out, one after the other."""

DIVERGED = 100.0
"""Size of an entry, of images in about [-1, 1], that says a chain diverged."""

PROJECTIONS = 64
"""Random directions of the sliced Wasserstein distance."""

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Reference:
    """What samples should be like.

    Attributes:
        mean: the exact mean, entries in a row.
        std: the exact standard deviations.
        samples: many exact samples.
        parts: which entries are measured and which are hidden, where there are such.
        misfit: `x -> ||y - A x||^2 / (m sigma_y^2)`, zero where there is no measurement.
    """

    mean: Float[np.ndarray, " d"]
    std: Float[np.ndarray, " d"]
    samples: Float[np.ndarray, "n d"]
    parts: Mapping[str, Bool[np.ndarray, " d"]]
    misfit: Callable[[Float[Array, "h w c"]], Float[Array, ""]]


def of_posterior(exact: GaussianPosterior | MixturePosterior, measurement: Measurement, samples: Array) -> Reference:
    """Returns the reference of a posterior; an operator that mixes pixels has no hidden ones."""
    mean, variances = jax.jit(lambda posterior: (posterior.mean, variance(posterior)))(exact)
    mask = np.asarray(measurement.observed).ravel() > 0
    parts = {"seen": mask, "hidden": ~mask} if not mask.all() else {"seen": mask}
    misfit = lambda x: measurement.residual_ratio(x) ** 2
    return Reference(_rows(mean[None])[0], np.sqrt(_rows(variances[None])[0]), _rows(samples), parts, misfit)


def of_prior(mean: Array, std: Array, samples: Array) -> Reference:
    """Returns the reference of a prior, where nothing is measured."""
    parts = {"seen": np.ones(mean.size, bool)}
    return Reference(_rows(mean[None])[0], _rows(std[None])[0], _rows(samples), parts, lambda x: jnp.zeros(()))


def assess(samples: Float[Array, "n h w c"], reference: Reference) -> tuple[Figures, Figures]:
    """Returns every figure, and the Monte-Carlo errors of the main ones: a jackknife over groups of seeds.

    - `bias`: root mean square over entries of the mean's error in exact standard deviations, less what chance gives.
    - `std`: root mean square of the standard deviation over the exact one.
    - `cover50` ...: share of exact samples in the central interval of the samples.
    - `wasserstein`: distance to as many exact samples along random directions, in exact standard deviations of each.
    - `misfit`: mean of `||y - A x||^2 / (m sigma_y^2)`.

    The first three are of the measured entries (`_seen`) and of those hidden by a mask (`_hidden`). Samples that
    diverged have none.
    """
    misfit = np.asarray(jax.jit(jax.vmap(reference.misfit))(samples))
    rows = _rows(samples)
    if not (np.abs(rows) < DIVERGED).all():
        return {}, {}
    left_out = np.arange(len(rows)) % GROUPS
    without = [_figures(rows[left_out != g], misfit[left_out != g], reference, (0.5, 0.9)) for g in range(GROUPS)]
    spread = {name: np.std([found[name] for found in without]) for name in without[0]}
    errors = {name: float(value * np.sqrt(GROUPS - 1)) for name, value in spread.items()}
    return _figures(rows, misfit, reference, LEVELS), errors


def _figures(
    rows: Float[np.ndarray, "n d"], misfit: Float[np.ndarray, " n"], reference: Reference, levels: Sequence[float]
) -> Figures:
    n = len(rows)
    spread = rows.var(0, ddof=1) / reference.std**2
    bias = ((rows.mean(0) - reference.mean) / reference.std) ** 2 - spread / n
    ordered = np.sort(rows, axis=0)
    found = {"wasserstein": _sliced_wasserstein(rows, reference), "misfit": float(misfit.mean())}
    for part, where in reference.parts.items():
        found[f"bias_{part}"] = float(np.sqrt(max(bias[where].mean(), 0.0)))
        found[f"std_{part}"] = float(np.sqrt(spread[where].mean()))
        for level in levels:
            depth = max(round((n + 1) * (1 - level) / 2), 1)
            lower, upper = ordered[depth - 1, where], ordered[n - depth, where]
            exact = reference.samples[:, where]
            found[f"cover{100 * level:.0f}_{part}"] = float(np.mean((lower <= exact) & (exact <= upper)))
    return found


def _sliced_wasserstein(rows: Float[np.ndarray, "n d"], reference: Reference) -> float:
    directions = np.random.default_rng(0).normal(size=(rows.shape[1], PROJECTIONS))
    exact = reference.samples[: len(rows)] @ directions
    apart = np.sort(rows @ directions, axis=0) - np.sort(exact, axis=0)
    return float(np.mean(np.sqrt(np.mean(apart**2, axis=0)) / exact.std(0)))


def _rows(images: Float[Array, "n h w c"]) -> Float[np.ndarray, "n d"]:
    return np.asarray(images, np.float64).reshape(len(images), -1)
