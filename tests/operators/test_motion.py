"""Kernels of motion blur: straight ones against bilinear views of a picture, random ones by what all of them share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.operators import Blur, motion_kernel, motion_kernel_from_key
from tests.operators.conftest import smeared


@pytest.mark.thorough
@pytest.mark.parametrize(("length", "angle"), [(9, 0), (7.5, 90), (12, 33), (5, -60), (0.5, 10), (15, 210)])
def test_a_straight_motion_is_the_mean_of_bilinear_views(length, angle):
    kernel = motion_kernel(length, angle)
    x = np.random.default_rng(0).normal(size=(40, 30, 2))
    np.testing.assert_allclose(Blur(kernel)(jnp.asarray(x, jnp.float32)), smeared(x, length, angle), atol=1e-4)
    assert kernel.shape[0] % 2 == 1
    assert kernel.any(0)[0] or kernel.any(1)[0]
    np.testing.assert_allclose([kernel.sum(), kernel.min()], [1, 0], atol=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


def test_along_an_axis_every_pixel_gets_its_share():
    eighth = 1 / 72
    wanted = [eighth, 7 * eighth, *[8 * eighth] * 7, 7 * eighth, eighth]
    np.testing.assert_allclose(motion_kernel(9, 0)[5], wanted, atol=2e-5)
    np.testing.assert_allclose(motion_kernel(9, 90)[:, 5], wanted, atol=2e-5)
    np.testing.assert_allclose(motion_kernel(9, 120), jnp.rot90(motion_kernel(9, 30)), atol=1e-5)


def test_no_length_is_no_blur():
    np.testing.assert_allclose(motion_kernel(0, 45), [[1.0]])


@pytest.mark.slow
@pytest.mark.parametrize("intensity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 3, 21, 61])
def test_random_motions_sum_to_one_around_the_middle(size, intensity):
    keys = jax.random.split(jax.random.key(0), 8)
    kernels = np.asarray(jax.vmap(lambda key: motion_kernel_from_key(key, size, intensity))(keys))
    assert kernels.shape == (8, size, size)
    assert (kernels >= 0).all()
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-5)
    away = np.arange(size) - size // 2
    middles = [kernels.sum(2) @ away, kernels.sum(1) @ away]
    np.testing.assert_allclose(middles, 0, atol=1e-3 * size)
    reach = [np.abs(away)[kernel.any(axis)].max() for kernel in kernels for axis in (0, 1)]
    assert all(max(pair) >= size // 4 for pair in zip(reach[::2], reach[1::2], strict=True))
    assert size == 1 or len({kernel.tobytes() for kernel in kernels}) == 8


@pytest.mark.slow
def test_intensity_bends_the_path():
    """The share of the variance across the main direction: none of a line, much of a scribble."""
    keys, away = jax.random.split(jax.random.key(1), 16), np.arange(41) - 20
    thin = []
    for intensity in (0.0, 0.3, 1.0):
        kernels = jax.vmap(lambda key, i=intensity: motion_kernel_from_key(key, 41, i))(keys)
        grid = np.stack(np.meshgrid(away, away, indexing="ij")).reshape(2, -1)
        spread = np.linalg.eigvalsh([(grid * kernel.ravel()) @ grid.T for kernel in np.asarray(kernels)])
        thin.append((spread[:, 0] / spread.sum(1)).mean())
    assert thin[0] < 0.005 < 2 * thin[0] + 0.005 < thin[1] < thin[2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: motion_kernel(-1, 0),
        lambda: motion_kernel(float("nan"), 0),
        lambda: motion_kernel(3, float("inf")),
        lambda: motion_kernel_from_key(jax.random.key(0), 4),
        lambda: motion_kernel_from_key(jax.random.key(0), 5, 1.5),
    ],
)
def test_bad_numbers_are_refused(make):
    with pytest.raises(ValueError, match=r"finite|odd"):
        make()
