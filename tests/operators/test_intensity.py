"""Overexposure and few levels: nearest images, derivatives, and DDNM with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDNM, sample
from jaxdiff.operators import HighDynamicRange, Quantisation
from jaxdiff.schedule import time_grid
from tests.conftest import SHAPE, gaussian_prior, of

KEYS = jax.random.split(jax.random.key(0), 6)
TRUTH, X = (0.8 * jax.random.normal(key, SHAPE) for key in KEYS[:2])
both = pytest.mark.parametrize("operator", [HighDynamicRange(), Quantisation(4)], ids=["exposure", "levels"])


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_every_value_becomes_the_nearest_level(levels):
    grid = np.linspace(-1, 1, levels)
    nearest = grid[np.abs(np.asarray(X)[..., None] - grid).argmin(-1)]
    np.testing.assert_allclose(Quantisation(levels)(X), nearest, atol=1e-6)


@both
def test_the_projection_is_the_nearest_image_that_is_measured_so(operator):
    """It is measured as `y` and stays where it is, and the others that are lie on its far side."""
    y = operator(TRUTH)
    nearest = operator.project(X, y)
    np.testing.assert_allclose(operator(nearest), y, atol=1e-6)
    np.testing.assert_allclose(operator.project(nearest, y), nearest, atol=1e-6)
    inside = operator.project(TRUTH, y)
    np.testing.assert_allclose(inside, TRUTH, atol=1e-3)
    for key in KEYS[2:]:
        other = operator.project(jax.random.normal(key, SHAPE), y)
        assert float(jnp.vdot(X - nearest, other - nearest)) < 1e-4


def test_levels_with_noise_are_taken_for_the_nearest():
    operator = Quantisation(4)
    noisy = operator(TRUTH) + 0.1 * jnp.sign(X)
    np.testing.assert_allclose(operator.project(X, noisy), operator.project(X, operator(TRUTH)), atol=1e-6)


def test_rounding_has_derivative_one_and_clipping_zero():
    slope = jax.grad(lambda x: Quantisation(3)(x).sum())(X)
    np.testing.assert_array_equal(slope, jnp.abs(X) < 1)


@both
def test_ddnm_draws_images_that_are_measured_so(operator):
    measurement = of(operator, 0.0)
    x, _ = sample(DDIM(DDNM(gaussian_prior(), measurement)), KEYS[0], time_grid(1000, 4))
    np.testing.assert_allclose(operator(x), measurement.y, atol=1e-5)


def test_numbers_are_leaves():
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(Quantisation, (2, 9)))
    together = jax.vmap(lambda operator: operator(X))(stacked)
    np.testing.assert_allclose(together, jnp.stack([Quantisation(2)(X), Quantisation(9)(X)]), atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: HighDynamicRange(0.0), lambda: HighDynamicRange(float("nan")), lambda: Quantisation(1)]
)
def test_bad_numbers_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()
