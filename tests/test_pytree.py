"""Frozen dataclasses as PyTrees."""

import copy
import dataclasses
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DPS, Measurement, sample, sample_many
from jaxdiff.operators import Identity
from jaxdiff.pytree import pytree, static
from tests.conftest import SHAPE, SIGMA_Y, TIMES, gaussian_prior, network_prior


@pytree
class Point:
    x: float
    name: str = static(default="a")

    def __post_init__(self):
        if self.x < 0:
            raise ValueError("negative")


def test_checks_at_construction_only():
    with pytest.raises(ValueError, match="negative"):
        Point(-1.0)
    moved = jax.tree.map(lambda x: -x, Point(1.0, "b"))
    assert (moved.x, moved.name) == (-1.0, "b")
    assert jax.tree.structure(Point(1.0, "a")) != jax.tree.structure(Point(1.0, "b"))
    assert jax.jit(lambda p: p.x * 2)(Point(3.0)) == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        moved.x = 2.0


def test_priors_and_samplers_can_be_pickled_and_copied(faces):
    sampler = DPS(faces, Measurement(Identity(), jnp.zeros(faces.image_shape), SIGMA_Y), 0.5)
    for again in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        assert jax.tree.structure(again) == jax.tree.structure(sampler)
        jax.tree.map(np.testing.assert_array_equal, again, sampler)


def test_a_plain_function_is_an_operator_for_many_chains():
    measurement = Measurement(lambda x: x.mean(-1, keepdims=True), jnp.zeros((*SHAPE[:2], 1)), SIGMA_Y)
    sampler, keys = DPS(gaussian_prior(), measurement, 0.5), jax.random.split(jax.random.key(0), 2)
    drawn = sample_many(sampler, keys, TIMES)
    np.testing.assert_allclose(drawn[0], sample(sampler, keys[0], TIMES)[0], atol=2e-5)


@pytest.mark.slow
def test_a_guided_chain_has_a_derivative():
    """A data step takes a gradient through the network already: learning its size needs the second derivative."""
    prior, measurement = network_prior(), Measurement(Identity(), jnp.zeros(SHAPE), SIGMA_Y)
    x_t = jax.random.normal(jax.random.key(1), SHAPE)

    def loss(zeta):
        times = np.array([200, 100, -1])
        return jnp.sum(sample(DPS(prior, measurement, zeta), jax.random.key(0), times, state=x_t)[0] ** 2)

    quickly = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    gradient, value = quickly(jax.grad(loss))(0.5), quickly(loss)
    slope = (value(0.52) - value(0.48)) / 0.04
    assert abs(float(gradient)) > 0.1
    assert float(gradient) == pytest.approx(float(slope), rel=2e-2)
