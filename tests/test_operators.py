"""Laws of operators, on every row of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.measurement import measure
from jaxdiff.operators import Blur, BoxMask, GaussianBlur, Identity, Mask, RandomMask, adjoint, observed, pinv
from tests.conftest import SHAPE, lopsided_kernel


def images(seed, n=2):
    return jax.random.normal(jax.random.key(seed), (n, *SHAPE))


def dense(operator):
    """The operator as a matrix, column by column."""
    basis = jnp.eye(np.prod(SHAPE)).reshape(-1, *SHAPE)
    return np.asarray(jax.vmap(operator)(basis)).reshape(len(basis), -1).T.astype(np.float64)


def test_linear(operator):
    x, z = images(0)
    np.testing.assert_allclose(operator(2.0 * x - 3.0 * z), 2.0 * operator(x) - 3.0 * operator(z), atol=5e-6)


def test_adjoint_is_the_transpose(operator):
    x, u = images(1)
    y = operator(x) + u
    left, right = jnp.vdot(operator(x), y), jnp.vdot(x, adjoint(operator, x)(y))
    np.testing.assert_allclose(left, right, rtol=2e-6)
    np.testing.assert_allclose(np.ravel(adjoint(operator, x)(y)), dense(operator).T @ np.ravel(y), atol=5e-6)


def test_equals_its_dense_matrix(operator):
    (x,) = images(2, 1)
    np.testing.assert_allclose(np.ravel(operator(x)), dense(operator) @ np.ravel(x), atol=5e-6)


def test_pseudo_inverse(operator):
    (x,) = images(3, 1)
    y = operator(x)
    # Conjugate gradients meet the smallest singular values last; 1e-3 of an image is their residual here.
    np.testing.assert_allclose(operator(pinv(operator, x, maxiter=300)(y)), y, atol=1e-3)


def test_closed_pseudo_inverse_equals_conjugate_gradients(operator):
    if not hasattr(operator, "pinv"):
        assert isinstance(operator, Blur | GaussianBlur)
        return
    x, y = images(4)
    iterative = pinv(operator, x, ridge=1e-7, maxiter=300)(observed(operator, y) * y)
    np.testing.assert_allclose(pinv(operator, x)(y), iterative, atol=1e-5)


def test_vmap_over_stacked_operators(operator):
    x = images(5)
    stacked = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 2), operator)
    together = jax.vmap(lambda a, x: a(x))(stacked, x) if jax.tree.leaves(operator) else jax.vmap(operator)(x)
    np.testing.assert_allclose(together, jnp.stack([operator(x[0]), operator(x[1])]), atol=1e-6)


def test_unobserved_entries_carry_no_noise(operator):
    (x,) = images(6, 1)
    y = measure(jax.random.key(0), operator, x, 0.5)
    noise, seen = y - operator(x), observed(operator, y)
    assert (noise[seen == 0] == 0).all()
    assert (noise[seen == 1] != 0).all()


def test_noise_has_the_declared_unit():
    x = jnp.zeros((64, 64, 3))
    y = measure(jax.random.key(0), Identity(), x, 0.05)
    # 12288 draws: the standard error of a standard deviation is 0.64 %; the bound is four of them.
    assert abs(float(y.std()) / 0.05 - 1) < 4 * 0.0064
    assert abs(float(residual_ratio(Identity(), y, x, 0.05)) - 1) < 4 * 0.0064


@pytest.mark.parametrize("sigma_y", [-0.1, float("nan"), float("inf")])
def test_bad_sigma_is_refused(sigma_y):
    with pytest.raises(ValueError, match="sigma_y"):
        measure(jax.random.key(0), Identity(), jnp.zeros(SHAPE), sigma_y)


def test_box_hides_exactly_its_pixels():
    y = BoxMask(top=2, left=1, height=4, width=5)(jnp.ones(SHAPE))
    assert (y[2:6, 1:6] == 0).all()
    assert y.sum() == 3 * (64 - 20)


@pytest.mark.parametrize(("keep", "hidden"), [(0.3, 44), (0.08, 58), (1.0, 0), (0.5, 32)])
def test_random_mask_hides_an_exact_number_of_whole_pixels(keep, hidden):
    y = RandomMask(jax.random.key(0), SHAPE, keep)(jnp.ones(SHAPE))
    assert (y.min(-1) == y.max(-1)).all()
    assert (y[..., 0] == 0).sum() == hidden


def test_gaussian_blur_equals_scipys_kernel_and_the_dense_blur():
    """The 61x61 kernel of the DPS code: SciPy's filter of a delta, 25x25 taps, maximum 0.0176849."""
    from scipy.ndimage import gaussian_filter

    delta = np.zeros((61, 61))
    delta[30, 30] = 1
    wanted = gaussian_filter(delta, 3.0)
    blur = GaussianBlur()
    padded = np.pad(np.asarray(blur.kernel), (61 - blur.kernel.shape[0]) // 2)
    np.testing.assert_allclose(padded, wanted, atol=1e-8)
    assert blur.kernel.shape == (25, 25)
    np.testing.assert_allclose(blur.kernel.max(), 0.0176849, atol=1e-7)
    x = jax.random.normal(jax.random.key(0), (64, 48, 3))
    np.testing.assert_allclose(blur(x), Blur(wanted)(x), atol=2e-6)


def test_blur_reflects_without_repeating_the_edge():
    x = jax.random.normal(jax.random.key(0), SHAPE)
    padded = np.pad(np.asarray(x), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    kernel = lopsided_kernel()
    wanted = sum(kernel[i, j] * padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3))
    np.testing.assert_allclose(Blur(kernel)(x), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Mask(np.ones((4, 4))), "add a last axis"),
        (lambda: Mask(np.full((4, 4, 1), 0.5)), "threshold"),
        (lambda: Mask(np.zeros((4, 4, 1))), "hides every pixel"),
        (lambda: BoxMask(0, 0, 0, 4), "box"),
        (lambda: BoxMask(-1, 0, 2, 4), "box"),
        (lambda: RandomMask(jax.random.key(0), SHAPE, 0.0), "keep"),
        (lambda: Blur(np.ones((4, 4))), "odd"),
        (lambda: Blur(np.full((3, 3), np.nan)), "finite"),
        (lambda: GaussianBlur(std=0.0), "std"),
        (lambda: GaussianBlur(std=3.0)(jnp.zeros(SHAPE)), "too large"),
    ],
)
def test_bad_operators_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
