"""DDPM and DDIM: with a Gaussian prior every step is affine, so that the moments of a chain's end are known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, DPS, DPSLikelihood, DPSNorm, GaussianPrior, ScoreALD, sample, sample_many
from jaxdiff.samplers import over_variance
from jaxdiff.schedule import time_grid
from tests.conftest import SHAPE, TIMES, gaussian_prior, sampler_of, small_problem

KEY = jax.random.key(0)


def chain_moments(prior: GaussianPrior, times, eta=None):
    """Exact mean and variance of the end of a chain."""
    alpha_bar = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
    m, v = np.asarray(prior.mean, np.float64), np.asarray(prior.variance, np.float64)
    mean, variance = np.zeros_like(m), np.full_like(m, 1 - alpha_bar[times[0]])
    for t, s in itertools.pairwise(times):
        a_t, a_s = alpha_bar[t], alpha_bar[s]
        gain = np.sqrt(a_t) * v / (a_t * v + 1 - a_t)
        beta = 1 - a_t / a_s
        small = beta * (1 - a_s) / (1 - a_t)
        noise = small if eta is None else eta**2 * small
        # x_s = from_x0 * x0_hat + from_x_t * x_t + noise, with x0_hat = m + gain (x_t - sqrt(a_t) m)
        if eta is None:
            from_x0, from_x_t = beta * np.sqrt(a_s) / (1 - a_t), (1 - a_s) * np.sqrt(a_t / a_s) / (1 - a_t)
        else:
            from_x_t = np.sqrt((1 - a_s - noise) / (1 - a_t))
            from_x0 = np.sqrt(a_s) - from_x_t * np.sqrt(a_t)
        slope = from_x0 * gain + from_x_t
        mean = slope * mean + from_x0 * (1 - gain * np.sqrt(a_t)) * m
        variance = slope**2 * variance + noise
    return mean, variance


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "eta"), [("ddpm", None), ("ddim0", 0.0), ("ddim5", 0.5), ("ddim1", 1.0)])
def test_prior_sampling_has_the_chains_exact_moments(name, eta):
    prior, times, n = gaussian_prior(), time_grid(1000, 50), 512
    chain = DDPM(prior) if eta is None else DDIM(prior, eta=eta)
    x = np.asarray(sample_many(chain, jax.random.split(jax.random.key(7), n), times), np.float64)
    mean, variance = chain_moments(prior, times, eta)
    # 144 pixels: the largest of 144 standard normal scores exceeds 4.5 with probability 0.001.
    assert (np.abs(x.mean(0) - mean) / np.sqrt(variance / n)).max() < 4.5
    assert (np.abs(x.var(0, ddof=1) / variance - 1) / np.sqrt(2 / (n - 1))).max() < 4.5


def unguided():
    problem = small_problem()
    return [
        DPS(*problem, zeta=0.0),
        DPSNorm(*problem, zeta=0.0),
        DPSLikelihood(*problem, zeta=0.0),
        ScoreALD(*problem, 1e30, 1e30, weighting=over_variance),
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("sampler", unguided(), ids=lambda sampler: type(sampler).__name__)
def test_no_guidance_is_exactly_ddpm(sampler):
    ddpm, x_t = sampler_of("ddpm"), jax.random.normal(jax.random.key(9), SHAPE)
    for t, s in ((999, 900), (300, 299), (0, -1)):
        np.testing.assert_array_equal(sampler.step(KEY, x_t, t, s)[0], ddpm.step(KEY, x_t, t, s)[0])
    # Compiled as a whole, the two programs are fused differently and round differently.
    ends = [jax.jit(lambda sampler: sample(sampler, KEY, TIMES)[0])(one) for one in (sampler, ddpm)]
    np.testing.assert_allclose(*ends, atol=1e-6)


@pytest.mark.thorough
def test_guided_samplers_approach_the_data():
    prior, measurement = small_problem()
    keys, times = jax.random.split(KEY, 3), time_grid(1000, 250)
    samplers = {
        "ddpm": DDPM(prior),
        "score-ald": ScoreALD(prior, measurement, 10.0, 15.0),
        "dps": DPS(prior, measurement, 0.1),
        "dps-norm": DPSNorm(prior, measurement, 0.1),
        "dps-likelihood": DPSLikelihood(prior, measurement),
    }
    miss = {
        name: float(jnp.mean((measurement.observed * measurement.residual(x)) ** 2) ** 0.5)
        for name, sampler in samplers.items()
        for x in [sample_many(sampler, keys, times).mean(0)]
    }
    for name in list(miss)[1:]:
        assert miss[name] < 0.5 * miss["ddpm"], miss
