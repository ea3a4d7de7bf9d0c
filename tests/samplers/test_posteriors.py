"""Whole chains: those whose every step is affine, and those that follow data of an operator that is not linear."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from jaxdiff import DAPS, PnPDM, sample_many, time_grid
from jaxdiff.runs.methods import make_run
from jaxdiff.samplers import annealed_times
from jaxdiff.schedule import linear
from tests.conftest import SIGMA_Y, gaussian_prior, of, small_problem
from tests.operators.conftest import Saturation

pytestmark = pytest.mark.thorough
KEYS = jax.random.split(jax.random.key(0), 300)
ALPHA_BAR = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
PRIOR = np.asarray(gaussian_prior().variance, np.float64).ravel()
KNOWN = np.asarray(small_problem()[1].observed).ravel() > 0
Variances = np.ndarray


def gain(t: int) -> Variances:
    """How `x0_hat` goes with `x_t`."""
    return np.sqrt(ALPHA_BAR[t]) * PRIOR / (ALPHA_BAR[t] * PRIOR + 1 - ALPHA_BAR[t])


def nested(t: int, n: int) -> list[int]:
    """Times of the steps inside a step."""
    return [t - t * i // (n - 1) for i in range(n)]


def level(t: int) -> float:
    return np.sqrt(1 / ALPHA_BAR[t] - 1)


def gibbs(t: int, s: int, variance: Variances) -> Variances:
    """PnP-DM: the variance after DDPM's chain, then after the draw that sees the data, of `x_s`."""
    for a, b in itertools.pairwise([*nested(t, 4), -1]):
        if a > b:
            beta = 1 - ALPHA_BAR[a] / ALPHA_BAR[b]
            back = (1 - ALPHA_BAR[b]) / (1 - ALPHA_BAR[a])
            slope = beta * np.sqrt(ALPHA_BAR[b]) / (1 - ALPHA_BAR[a]) * gain(a) + back * np.sqrt(1 - beta)
            variance = slope**2 * variance + beta * back
    shrink = np.where(KNOWN, 1 / (1 + (level(s) / SIGMA_Y) ** 2), 1.0)
    return ALPHA_BAR[s] * (shrink**2 * variance + level(s) ** 2 * shrink)


def decoupled(t: int, s: int, variance: Variances) -> Variances:
    """DAPS: after Euler's steps, then after Langevin's, of `x_s`."""
    times, slope = nested(t, 3), 1 / np.sqrt(ALPHA_BAR[t]) * np.ones_like(PRIOR)
    for a, b in itertools.pairwise(times):
        slope = slope + (level(b) - level(a)) / level(a) * slope * (1 - gain(a) * np.sqrt(ALPHA_BAR[a]))
    slope = gain(times[-1]) * np.sqrt(ALPHA_BAR[times[-1]]) * slope
    precision, data = 1 / level(t) ** 2, KNOWN / SIGMA_Y**2
    size = 0.1 / (1 / SIGMA_Y**2 + precision)
    started, drawn = np.ones_like(PRIOR), np.zeros_like(PRIOR)  # how a draw goes with its start, and its own variance
    for _ in range(20):
        keep = 1 - size * (data + precision)
        started, drawn = keep * started + size * precision, keep**2 * drawn + 2 * size
    return ALPHA_BAR[s] * ((started * slope) ** 2 * variance + drawn) + 1 - ALPHA_BAR[s]


CHAINS: dict[str, tuple[Callable[..., Any], np.ndarray, Callable[..., Variances]]] = {
    "pnp-dm": (lambda *given: PnPDM(*given, prior_steps=4), annealed_times(linear(), 12, 10.0, SIGMA_Y / 3), gibbs),
    "daps": (lambda *given: DAPS(*given, ode_steps=3, langevin_steps=20), time_grid(1000, 12), decoupled),
}


@pytest.mark.parametrize("name", CHAINS)
def test_samples_have_the_variance_that_an_affine_chain_must_have(name):
    """With independent Gaussian pixels, exactly: followed through all draws of all steps."""
    make, times, follow = CHAINS[name]
    x = np.asarray(sample_many(make(*small_problem()), KEYS, times), np.float64).reshape(len(KEYS), -1)
    variance = np.full_like(PRIOR, 1 - ALPHA_BAR[times[0]])
    for t, s in itertools.pairwise(times.tolist()):
        variance = follow(t, s, variance)
    # The largest of 144 standard normal scores exceeds 4.5 with probability 0.001; a little more for a variance.
    score = (x.var(0, ddof=1) / variance - 1) / np.sqrt(2 / (len(KEYS) - 1))
    assert np.abs(score).max() < 5
    assert np.sqrt(np.mean(score**2)) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("method", ["mpgd", "dsg", "lgd", "daps", "red-diff", "fast-dips"])
def test_an_operator_that_is_not_linear_is_followed(method):
    """Samples miss the data by less than half of what images that look at the data only once do."""
    measurement = of(Saturation())
    misses = {}
    for name in ("sdedit", method):
        run = make_run(name, "inpaint", gaussian_prior(), measurement, 100)
        samples = sample_many(run.sampler, KEYS[:4], run.times)
        misses[name] = float(jax.vmap(measurement.residual_ratio)(samples).mean())
    assert misses[method] < misses["sdedit"] / 2, misses
