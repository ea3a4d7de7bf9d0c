"""SDEdit: where its chains start, and when they draw from the posterior."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import Measurement, SDEdit, sample_many, time_grid
from jaxdiff.operators import Identity
from tests.conftest import SHAPE, gaussian_prior, of, small_problem
from tests.operators.conftest import Sums


def test_a_chain_starts_at_the_perturbed_measurement():
    (prior, measurement), t, n = small_problem(), 400, 400
    keys = jax.random.split(jax.random.key(0), n)
    starts = jax.vmap(lambda key: SDEdit(prior, measurement).init(key, t))(keys)
    alpha_t, sigma_t = prior.schedule(t)
    assert (jnp.abs(starts.mean(0) - alpha_t * measurement.y) / (sigma_t / n**0.5)).max() < 4.5
    assert (jnp.abs(starts.var(0) / sigma_t**2 - 1) / (2 / n) ** 0.5).max() < 4.5


@pytest.mark.thorough
def test_from_the_noise_of_the_measurement_it_draws_from_the_posterior():
    """With independent Gaussian pixels the posterior of denoising is known: 88 steps reach 97 % of its variance."""
    prior, sigma_y, n = gaussian_prior(), 0.3, 500
    noisy = jnp.sqrt(prior.variance + sigma_y**2) * jax.random.normal(jax.random.key(2), SHAPE)
    measurement = Measurement(Identity(), prior.mean + noisy, sigma_y)
    share = prior.variance / (prior.variance + sigma_y**2)
    mean, variance = prior.mean + share * noisy, share * sigma_y**2
    # sigma_88 / alpha_88 is the first to exceed 0.3.
    keys, times = jax.random.split(jax.random.key(0), n), time_grid(1000, start=88)
    x = sample_many(SDEdit(prior, measurement, noise_counts=True), keys, times)
    z = (x.mean(0) - mean) / jnp.sqrt(variance / n)
    assert jnp.sqrt(jnp.mean(z**2)) < 1.25
    assert jnp.mean(x.var(0) / variance) == pytest.approx(0.97, abs=0.03)
    # Where its noise does not count, the perturbation is twice what it should be.
    assert jnp.mean(sample_many(SDEdit(prior, measurement), keys, times).var(0) / variance) > 1.5


def test_a_measurement_that_is_no_image_is_refused():
    with pytest.raises(ValueError, match="`y` must have the image's shape"):
        SDEdit(gaussian_prior(), of(Sums()))
