"""The rewritten group norm equals JAX's own in value and in every gradient."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdiff.networks.convolution
import jaxdiff.networks.layers
from jaxdiff.networks.normalization import group_norm
from jaxdiff.networks.unet import FACES_32, UNet, UNetConfig
from jaxdiff.priors.storage import with_parameters
from tests.conftest import random_weights
from tests.networks.conftest import plain as plain_convolution

IMAGE = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)


def plain(x, scale, bias, groups, *, silu=False, epsilon=1e-5):
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
    z = ((grouped - mean) / jnp.sqrt(variance + epsilon)).reshape(len(x), -1, x.shape[-1])
    y = (z * scale[:, None] + bias[:, None]).reshape(x.shape)
    return jax.nn.silu(y) if silu else y


def draw(shape, rows):
    keys = jax.random.split(jax.random.key(0), 4)
    x, gradient = 3 + 2 * jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
    scale, bias = (jax.random.normal(key, (rows, shape[-1])) for key in keys[2:])
    return x, scale, bias, gradient


SHAPES = [((2, 20, 6), 3, 1), ((1, 8, 8, 8), 8, 1), ((3, 9, 4), 1, 3), ((2, 4, 8, 6), 2, 2), ((1, 1, 4), 2, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("shape", "groups", "rows"), SHAPES)
def test_value_and_gradients_equal_jax(shape, groups, rows, silu):
    *arguments, gradient = draw(shape, rows)
    ours, jax_s = (partial(f, groups=groups, silu=silu) for f in (group_norm, plain))

    def value_and_gradients(norm, *arguments):
        y, pull = jax.vjp(norm, *arguments)
        return y, pull(gradient)

    compiled = jax.jit(value_and_gradients, static_argnums=0)
    y_plain, gradients_plain = compiled(jax_s, *arguments)
    for y, gradients in (value_and_gradients(ours, *arguments), compiled(ours, *arguments)):
        np.testing.assert_allclose(y, y_plain, rtol=1e-5, atol=5e-6)
        for a, b in zip(gradients, gradients_plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("shape", "groups", "rows"), SHAPES)
def test_second_derivatives_equal_jax(shape, groups, rows, silu):
    """Backwards and forwards over the gradient: learned step sizes, and Hessians."""
    *arguments, direction = draw(shape, rows)

    @partial(jax.jit, static_argnums=0)
    def second_derivatives(norm, x, scale, bias):
        loss = lambda x, scale, bias: jnp.sum(jnp.sin(norm(x, scale, bias, groups, silu=silu)))
        along = lambda *a: jnp.vdot(jax.grad(loss)(*a), direction)
        tangents = jax.jvp(lambda x: jax.grad(loss)(x, scale, bias), (x,), (direction,))[1]
        return *jax.grad(along, (0, 1, 2))(x, scale, bias), tangents

    results = [second_derivatives(norm, *arguments) for norm in (group_norm, plain)]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * max(1.0, float(jnp.abs(b).max())))


def test_second_derivatives_of_many_equal_those_of_one():
    x, scale, bias, direction = draw((5, 2, 16, 6), 1)

    def second(x, direction):
        gradient = jax.grad(lambda x: jnp.sum(jnp.sin(group_norm(x, scale, bias, 3, silu=True))))
        return jax.grad(lambda x: jnp.vdot(gradient(x), direction))(x)

    alone = jnp.stack([second(*pair) for pair in zip(x, direction, strict=True)])
    np.testing.assert_allclose(jax.jit(jax.vmap(second))(x, direction), alone, atol=1e-5)


@pytest.mark.parametrize(("name", "other"), [("_down", "plain_down"), ("_up", "plain_up")])
def test_resampling_has_second_derivatives(name, other):
    x, direction = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 3))
    found = []
    for resample in (getattr(jaxdiff.networks.layers, name), globals()[other]):
        gradient = jax.grad(lambda x, resample=resample: jnp.sum(jnp.sin(resample(x))))
        backwards = jax.grad(lambda x, gradient=gradient: jnp.vdot(gradient(x), direction))(x)
        found.append((backwards, jax.jvp(gradient, (x,), (direction,))[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)


def test_many_batches_are_one():
    x, scale, bias, gradient = draw((5, 2, 16, 6), 1)

    def value_and_gradient(x, gradient):
        y, pull = jax.vjp(lambda x: group_norm(x, scale, bias, 3, silu=True), x)
        return y, pull(gradient)[0]

    for mapped, one in zip(
        jax.vmap(value_and_gradient)(x, gradient),
        value_and_gradient(x.reshape(10, 16, 6), gradient.reshape(10, 16, 6)),
        strict=True,
    ):
        np.testing.assert_allclose(mapped.reshape(10, 16, 6), one, atol=1e-6)


def test_a_large_mean_costs_no_digits_of_the_variance():
    """`E[x^2] - E[x]^2` would."""
    x = 1000 + jax.random.normal(jax.random.key(2), (1, 400, 4))
    one, zero = jnp.ones((1, 4)), jnp.zeros((1, 4))
    np.testing.assert_allclose(group_norm(x, one, zero, 2).std((1,)), 1, atol=0.1)
    np.testing.assert_allclose(group_norm(x, one, zero, 2), plain(x, one, zero, 2), atol=2e-3)


@pytest.mark.parametrize("bias", [-1e30, -1e3, -31.0, -29.0, 29.0, 31.0, 1e3, 1e30])
def test_silu_saturates(bias):
    """Its derivative tends to 0 and 1, and nothing overflows on the way.

    The exponential makes the rounding of its argument, 31 here and rounded on both sides, a relative error of its size.
    """
    x = jax.random.normal(jax.random.key(3), (1, 16, 4))
    scale, shift = jnp.ones((1, 4)), jnp.full((1, 4), bias)
    y, pull = jax.vjp(lambda shift: group_norm(x, scale, shift, 2, silu=True), shift)
    rounding = 2 * 31 * float(jnp.finfo(jnp.float32).eps)
    np.testing.assert_allclose(y, jax.nn.silu(plain(x, scale, shift, 2)), rtol=rounding)
    np.testing.assert_allclose(pull(jnp.ones_like(x))[0], 16.0 * (bias > 0), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_input_is_all_that_is_kept(dtype):
    x, scale, bias, _ = draw((2, 8, 8, 8), 1)
    x = x.astype(dtype)
    y, pull = jax.vjp(lambda x: group_norm(x, scale, bias, 4, silu=True), x)
    assert y.dtype == jnp.float32
    assert [kept.dtype for kept in jax.tree.leaves(pull) if kept.size >= x.size] == [x.dtype]
    assert pull(y)[0].dtype == x.dtype


def test_on_cpus_sums_are_products_and_elsewhere_sums():
    x, scale, bias, _ = draw((2, 16, 4), 1)
    text = {
        platform: jax.jit(lambda x: group_norm(x, scale, bias, 2))
        .trace(x)
        .lower(lowering_platforms=(platform,))
        .as_text()
        for platform in ("cpu", "cuda")
    }
    assert "reduce" not in text["cpu"]
    assert text["cuda"].count("stablehlo.reduce(") == 2  # each function stands there once
    assert "dot_general" not in text["cuda"]


def plain_down(x):
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


def plain_up(x):
    return x.repeat(2, 1).repeat(2, 2)


@cache
def our_gradients():
    return network_gradients()


def network_gradients(remat=False):
    """Gradients of a loss in all weights and in the input."""
    config = UNetConfig(8, 8, (1, 2), 1, (4,), num_heads=2, out_channels=3, norm_groups=4)
    network = nnx.eval_shape(lambda: UNet(config, remat=remat, rngs=nnx.Rngs(0)))
    graph, weights = nnx.split(with_parameters(network, random_weights(config)))
    keys = jax.random.split(jax.random.key(1), 2)
    x, target = (jax.random.normal(key, (2, 8, 8, 3)) for key in keys)

    def loss(weights, x):
        return jnp.sum((nnx.merge(graph, weights).batch(x, jnp.array([3, 700])) - target) ** 2)

    gradient = jax.jit(jax.grad(loss, (0, 1))).trace(weights, x)
    assert ("prevent_cse" in str(gradient.jaxpr)) == remat
    return jax.tree.leaves(gradient.lower().compile()(weights, x))


@pytest.mark.thorough
def test_weight_gradients_of_a_network_equal_plain_jax(monkeypatch):
    """Rules written for sampling must not harm training."""
    ours = our_gradients()
    monkeypatch.setattr(jaxdiff.networks.layers, "group_norm", plain)
    monkeypatch.setattr(jaxdiff.networks.layers, "_down", plain_down)
    monkeypatch.setattr(jaxdiff.networks.layers, "_up", plain_up)
    monkeypatch.setattr(
        jaxdiff.networks.convolution,
        "conv2d",
        lambda x, kernel, stride, precision, after_only: plain_convolution(x, kernel, stride),
    )
    for a, b in zip(ours, network_gradients(), strict=True):
        assert float(jnp.abs(b).max()) > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.thorough
def test_rematerialization_changes_no_gradient():
    for a, b in zip(network_gradients(remat=True), our_gradients(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.slow
def test_rematerialization_keeps_less_for_the_gradient():
    """What a device without the room for more would have to hold, whatever its compiler does."""

    def kept(remat):
        network = nnx.eval_shape(lambda: UNet(FACES_32, remat=remat, rngs=nnx.Rngs(0)))
        graph, weights = nnx.split(network)
        pull = jax.eval_shape(lambda w, x: jax.vjp(lambda x: nnx.merge(graph, w)(x, 500), x)[1], weights, IMAGE)
        size_of_weights = sum(leaf.size for leaf in jax.tree.leaves(weights))
        return sum(leaf.size for leaf in jax.tree.leaves(pull)) - size_of_weights

    assert 0 < kept(remat=True) < 0.5 * kept(remat=False)
