"""The posterior variance of `x0` given `x_t`, from Tweedie's formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Denoiser, tweedie_variance
from jaxdiff.schedule import linear
from tests.conftest import gaussian_prior

estimate_variance = jax.jit(tweedie_variance, static_argnames="num_probes")


@pytest.mark.parametrize("num_probes", [1, 3])
def test_tweedie_variance_is_exact_where_pixels_are_independent(num_probes):
    prior = gaussian_prior()
    x_t = jax.random.normal(jax.random.key(0), prior.image_shape)
    for t in (0, 300, 999):
        alpha_t, sigma_t = prior.schedule(t)
        posterior = prior.variance * sigma_t**2 / (alpha_t**2 * prior.variance + sigma_t**2)
        found = estimate_variance(prior, jax.random.key(1), x_t, t, num_probes)
        np.testing.assert_allclose(found, posterior, rtol=1e-5)


def test_tweedie_variance_is_unbiased_with_the_stated_error_and_sees_no_clip():
    shape, t, num_probes = (2, 2, 3), 300, 4000
    matrix = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    network = lambda x_t, t: (matrix @ x_t.ravel()).reshape(shape)
    prior = Denoiser(network, linear(), shape, target="x0", clip=True)
    x_t = 10 * jax.random.normal(jax.random.key(0), shape)
    assert jnp.all(jnp.abs(network(x_t, t)) > 1)
    found = np.ravel(tweedie_variance(prior, jax.random.key(1), x_t, t, num_probes))
    alpha_t, sigma_t = prior.schedule(t)
    covariance = np.asarray(sigma_t**2 / alpha_t * matrix)
    # The transpose is what the estimate multiplies by.
    rest = (covariance**2).sum(0) - np.diag(covariance) ** 2
    z = (found - np.diag(covariance)) / np.sqrt(rest / num_probes)
    assert np.abs(z).max() < 4
    with pytest.raises(ValueError, match="num_probes"):
        tweedie_variance(prior, jax.random.key(1), x_t, t, 0)
