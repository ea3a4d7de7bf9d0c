"""Several measurements of one image: where they lie, and the posterior that they make together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import MMPS, HeteroscedasticNoise, measure
from jaxdiff.operators import BoxMask, FourierMask, Grey, Identity, Stack
from tests.conftest import SHAPE, gaussian_prior

X = jax.random.normal(jax.random.key(0), SHAPE)


def test_parts_come_back_in_their_shapes():
    stack = Stack([Grey(), lambda x: x[0], Identity()], SHAPE)
    grey, row, whole = stack.split(stack(X))
    np.testing.assert_array_equal(grey, Grey()(X))
    np.testing.assert_array_equal(row, X[0])
    np.testing.assert_array_equal(whole, X)
    np.testing.assert_array_equal(stack.join([grey, 2.0, whole]), stack.join([grey, jnp.full((6, 3), 2.0), whole]))


def test_two_noisy_pictures_of_two_levels_are_weighed_by_them():
    """With a white prior of known variance, MMPS' estimate is the mean of all three, weighed by their precision."""
    stack, levels, prior = Stack([Identity(), Identity()], SHAPE), (0.1, 0.3), gaussian_prior()
    measurement = measure(jax.random.key(1), stack, X, HeteroscedasticNoise(stack.join(levels)))
    t = 300
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    guided = MMPS(prior, measurement, iterations=30).predict(X, t).x0_hat
    estimate, v = prior.predict(X, t).x0_hat, np.asarray(prior.variance, np.float64)
    spread = v * (1 - alpha_bar) / (alpha_bar * v + 1 - alpha_bar)
    weights = [1 / spread, *(1 / level**2 for level in levels)]
    wanted = sum(w * np.asarray(a) for w, a in zip(weights, [estimate, *stack.split(measurement.y)], strict=True))
    np.testing.assert_allclose(guided, wanted / sum(weights), atol=2e-4)


def test_what_cannot_be_stacked_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Stack([], SHAPE)
    with pytest.raises(ValueError, match="complex"):
        Stack([BoxMask(0, 0, 2, 2), FourierMask(np.ones((8, 6, 1), np.float32))], SHAPE)
