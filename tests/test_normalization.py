"""The rewritten standardisation equals JAX's own in value and in every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdiff.unet
from jaxdiff.checkpoint import with_parameters
from jaxdiff.normalization import standardize
from jaxdiff.unet import UNet, UNetConfig
from tests.conftest import random_weights
from tests.test_convolution import plain as plain_convolution


def plain(x, groups):
    grouped = x.reshape(*x.shape[:2], groups, -1)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
    return ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)


@pytest.mark.parametrize(("shape", "groups"), [((2, 20, 6), 3), ((1, 64, 8), 8), ((3, 9, 4), 1)])
def test_value_and_gradient_equal_jax(shape, groups):
    keys = jax.random.split(jax.random.key(0), 2)
    x, gradient = 3 + 2 * jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
    for run in (lambda f: f, lambda f: jax.jit(f)):
        z, pull = jax.vjp(run(lambda x: standardize(x, groups)), x)
        z_plain, pull_plain = jax.vjp(run(lambda x: plain(x, groups)), x)
        np.testing.assert_allclose(z, z_plain, rtol=1e-5, atol=5e-6)
        np.testing.assert_allclose(pull(gradient)[0], pull_plain(gradient)[0], rtol=1e-5, atol=5e-6)


def test_a_large_mean_costs_no_digits_of_the_variance():
    """`E[x^2] - E[x]^2` would."""
    x = 1000 + jax.random.normal(jax.random.key(2), (1, 400, 4))
    np.testing.assert_allclose(standardize(x, 2).std((1,)), 1, atol=0.1)
    np.testing.assert_allclose(standardize(x, 2), plain(x, 2), atol=2e-3)


def test_on_cpus_sums_are_products_and_elsewhere_sums():
    x = jnp.ones((2, 16, 4))
    text = {
        platform: jax.jit(lambda x: standardize(x, 2)).trace(x).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda")
    }
    assert text["cpu"].count("dot_general") == 2
    assert "dot_general" not in text["cuda"]


def network_gradients(remat=False):
    """Gradients of a loss in all weights and in the input."""
    config = UNetConfig(8, 8, (1, 2), 1, (4,), num_heads=2, out_channels=3, norm_groups=4)
    network = nnx.eval_shape(lambda: UNet(config, remat=remat, rngs=nnx.Rngs(0)))
    graph, weights = nnx.split(with_parameters(network, random_weights(config)))
    keys = jax.random.split(jax.random.key(1), 2)
    x, target = (jax.random.normal(key, (2, 8, 8, 3)) for key in keys)

    def loss(weights, x):
        return jnp.sum((nnx.merge(graph, weights).batch(x, jnp.array([3, 700])) - target) ** 2)

    gradient = jax.jit(jax.grad(loss, (0, 1)), compiler_options={"xla_backend_optimization_level": 0}).trace(weights, x)
    assert ("prevent_cse" in str(gradient.jaxpr)) == remat
    return jax.tree.leaves(gradient.lower().compile()(weights, x))


def test_weight_gradients_of_a_network_equal_plain_jax(monkeypatch):
    """Rules written for sampling must not harm training."""
    ours = network_gradients()
    monkeypatch.setattr(jaxdiff.unet, "standardize", plain)
    monkeypatch.setattr(
        jaxdiff.unet, "conv2d", lambda x, kernel, stride, precision: plain_convolution(x, kernel, stride)
    )
    for a, b in zip(ours, network_gradients(), strict=True):
        assert float(jnp.abs(b).max()) > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_rematerialization_changes_no_gradient():
    for a, b in zip(network_gradients(remat=True), network_gradients(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))
