"""The rewritten convolution equals JAX's own in value and in every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdiff.networks.convolution import conv2d
from tests.networks.conftest import plain

CASES = [((2, 8, 8, 3), (3, 3, 3, 5), 1), ((1, 6, 10, 4), (1, 1, 4, 2), 1), ((2, 8, 8, 3), (3, 3, 3, 4), 2)]
CASES += [((1, 9, 7, 2), (5, 3, 2, 3), 1)]


@pytest.mark.parametrize(("x_shape", "kernel_shape", "stride"), CASES)
def test_value_and_gradients_equal_jax(x_shape, kernel_shape, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], x_shape), jax.random.normal(keys[1], kernel_shape)
    y, pull = jax.vjp(lambda x, k: conv2d(x, k, stride), x, kernel)
    y_plain, pull_plain = jax.vjp(lambda x, k: plain(x, k, stride), x, kernel)
    gradient = jax.random.normal(keys[2], y.shape)
    # A kernel of size one is a matrix product, which adds in another order.
    np.testing.assert_allclose(y, y_plain, rtol=0, atol=2e-6 if kernel_shape[0] == 1 else 0)
    for ours, theirs in zip(pull(gradient), pull_plain(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("x_shape", "kernel_shape", "stride"), CASES)
def test_second_derivatives_equal_jax(x_shape, kernel_shape, stride):
    keys = jax.random.split(jax.random.key(2), 3)
    x, kernel, direction = (
        jax.random.normal(key, s) for key, s in zip(keys, (x_shape, kernel_shape, x_shape), strict=True)
    )
    results = []
    for convolve in (conv2d, plain):
        gradient = jax.grad(lambda x, k, convolve=convolve: jnp.sum(jnp.sin(convolve(x, k, stride))))
        along = lambda x, k, gradient=gradient: jnp.vdot(gradient(x, k), direction)
        tangents = jax.jvp(lambda x, gradient=gradient: gradient(x, kernel), (x,), (direction,))[1]
        results.append((*jax.jit(jax.grad(along, (0, 1)))(x, kernel), tangents))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_gradients_equal_jax_under_vmap_and_scan():
    """The two transformations that samplers put around it."""
    keys = jax.random.split(jax.random.key(1), 2)
    x, kernel = jax.random.normal(keys[0], (3, 1, 8, 8, 4)), 0.2 * jax.random.normal(keys[1], (3, 3, 4, 4))

    def loss(convolve):
        def run(x, kernel):
            body = lambda x, _: (jnp.tanh(convolve(x, kernel, 1)), None)
            return jnp.sum(lax.scan(body, x, length=3)[0] ** 2)

        return lambda x, kernel: jax.vmap(run, (0, None))(x, kernel).sum()

    ours = jax.jit(jax.grad(loss(conv2d), (0, 1)))(x, kernel)
    theirs = jax.jit(jax.grad(loss(plain), (0, 1)))(x, kernel)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_input_gradient_is_an_ordinary_convolution():
    """No transposed convolution in the compiled program: XLA's slow case inside a loop on CPUs."""
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    text = jax.jit(jax.grad(lambda x: jnp.sum(conv2d(x, kernel) ** 2))).lower(x).as_text()
    assert text.count("stablehlo.convolution") == 2
    assert "[0, 1, o, i]" not in text
    assert "[0, 1, i, o]" in text


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="odd sides"):
        conv2d(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 3, 1, 1)))
