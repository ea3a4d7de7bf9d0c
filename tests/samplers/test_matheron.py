"""Matheron's draws against dense linear algebra, and its chains against the exact posterior in few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Matheron, exact, sample_many, time_grid
from jaxdiff.operators import Identity
from jaxdiff.priors.tweedie import tweedie
from tests.conftest import SHAPE, SIGMA_Y, gaussian_prior, of, small_problem
from tests.operators.conftest import OPERATORS, Saturation, as_real

T = 300
ROWS = ("random", "box", "waves", "sums")
MATRIX = np.random.default_rng(0).normal(size=(144, 144)) / 12
COVARIANCE = (MATRIX @ MATRIX.T).astype(np.float32)
product = lambda v: (jnp.asarray(COVARIANCE) @ v.ravel()).reshape(SHAPE)
Z = jax.random.normal(jax.random.key(1), SHAPE)


def test_the_root_is_that_of_the_matrix():
    values, vectors = np.linalg.eigh(COVARIANCE.astype(np.float64))
    wanted = (vectors * np.sqrt(values.clip(0))) @ vectors.T @ np.asarray(Z, np.float64).ravel()
    sampler = Matheron(*small_problem(), draws=40)
    root = jax.jit(lambda z: sampler.root(z, product, jnp.float32(values[-1])))(Z)
    assert np.linalg.norm(np.ravel(root) - wanted) < 0.01 * np.linalg.norm(wanted)


def test_eigenvalues_above_the_bound_and_below_zero_count_as_the_bound_and_zero():
    signs = jnp.sign(Z)
    sampler = Matheron(*small_problem(), draws=2)
    root = jax.jit(lambda z: sampler.root(z, lambda v: 5 * signs * v, jnp.float32(4.0)))(Z)
    np.testing.assert_allclose(root, np.where(signs > 0, 2 * Z, 0.0), atol=1e-5)


@pytest.mark.parametrize("row", ROWS)
def test_the_correction_solves_the_system(row):
    measurement = of(OPERATORS[row].make())
    r = measurement.y * measurement.observed
    dense = OPERATORS[row].matrix
    assert dense is not None
    matrix, residual = as_real(dense), as_real(np.ravel(r))
    system = matrix @ COVARIANCE @ matrix.T + SIGMA_Y**2 * np.eye(len(matrix))
    wanted = COVARIANCE @ matrix.T @ np.linalg.solve(system, residual)
    sampler = Matheron(gaussian_prior(), measurement, fits=150)
    found = jax.jit(lambda r: sampler.correction(r, product, SIGMA_Y**2, Z))(r)
    assert np.linalg.norm(np.ravel(found) - wanted) < 2e-3 * np.linalg.norm(wanted)


def test_draws_are_those_of_the_posterior_of_the_step():
    """Of a prior of independent pixels all is known in closed form, entry by entry."""
    prior, measurement = small_problem()
    alpha, sigma = map(float, prior.schedule(T))
    x_t = jax.random.normal(jax.random.key(2), SHAPE)
    sampler = Matheron(prior, measurement, draws=12, fits=12)

    @jax.jit
    def draw(keys):
        prediction, covariance = tweedie(prior, x_t, T)
        largest = jnp.float32((sigma / alpha) ** 2)
        return jax.vmap(lambda key: sampler.draw(key, prediction.x0_hat, covariance, largest))(keys)

    count = 4000
    draws = np.asarray(draw(jax.random.split(jax.random.key(3), count)), np.float64)
    given = np.asarray(prior.covariance.variance, np.float64) * sigma**2
    given /= alpha**2 * np.asarray(prior.covariance.variance) + sigma**2
    seen = np.asarray(measurement.observed, bool) & np.ones(SHAPE, bool)
    gain = np.where(seen, given / (given + SIGMA_Y**2), 0.0)
    x0_hat = np.asarray(prior.predict(x_t, T).x0_hat, np.float64)
    mean = x0_hat + gain * (np.asarray(measurement.y) - x0_hat)
    std = np.sqrt((1 - gain) * given)
    assert np.abs((draws.mean(0) - mean) / std).max() < 5 / count**0.5
    np.testing.assert_allclose(draws.std(0) / std, 1.0, atol=5 / (2 * count) ** 0.5)


def test_ten_steps_have_the_moments_of_the_posterior():
    prior, measurement = small_problem()
    posterior = exact.posterior(prior, measurement)
    keys = jax.random.split(jax.random.key(4), 1000)
    samples = np.asarray(sample_many(Matheron(prior, measurement), keys, time_grid(1000, 10)), np.float64)
    std = np.sqrt(np.asarray(exact.variance(posterior), np.float64))
    bias = (samples.mean(0) - np.asarray(posterior.mean)) / std
    assert np.sqrt(np.mean(bias**2)) < 0.1
    assert 0.97 < np.sqrt(np.mean((samples.std(0) / std) ** 2)) < 1.03


def test_what_it_cannot_take_is_refused():
    prior = gaussian_prior()
    with pytest.raises(ValueError, match="linear"):
        Matheron(prior, of(Saturation()))
    with pytest.raises(ValueError, match="draws"):
        Matheron(prior, of(Identity()), draws=0)
