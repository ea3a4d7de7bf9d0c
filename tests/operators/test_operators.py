"""Laws of operators, on every row of the table, against matrices and functions written down by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.operators import (
    Blur,
    BoxMask,
    CircularBlur,
    GaussianBlur,
    Hadamard,
    Identity,
    Mask,
    RandomMask,
    SpectralOperator,
    adjoint,
    observed,
    pinv,
)
from jaxdiff.operators.base import is_linear
from tests.conftest import SHAPE
from tests.operators.conftest import OPERATORS, OperatorRow, as_real

LINEAR = {name: row for name, row in OPERATORS.items() if row.matrix is not None}
SPECTRAL = {name: row for name, row in LINEAR.items() if isinstance(row.make(), SpectralOperator)}
all_rows = pytest.mark.parametrize("row", OPERATORS.values(), ids=OPERATORS)
linear_rows = pytest.mark.parametrize("row", LINEAR.values(), ids=LINEAR)
spectral_rows = pytest.mark.parametrize("row", SPECTRAL.values(), ids=SPECTRAL)


def images(seed: int, count: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), (count, *SHAPE))


def expected(row: OperatorRow, x: Any) -> np.ndarray:
    x64 = np.asarray(x, np.float64)
    return row.function(x64).ravel() if row.function else row.matrix @ x64.ravel()  # pyright: ignore


@pytest.mark.slow
@all_rows
def test_equals_its_definition_as_it_is_and_compiled(row):
    operator, (x,) = row.make(), images(2)
    for apply in (operator, jax.jit(lambda x: operator(x))):
        np.testing.assert_allclose(np.ravel(apply(x)), expected(row, x), atol=5e-6)


@all_rows
def test_the_shape_of_a_measurement_is_known_before_and_so_is_what_is_observed(row):
    operator, (x,) = row.make(), images(3)
    y = operator(x)
    assert jax.eval_shape(operator, jax.ShapeDtypeStruct(SHAPE, jnp.float32)).shape == y.shape
    seen = np.ravel(observed(operator, y))
    wanted = np.ones(y.size) if row.matrix is None else (row.matrix != 0).any(1)
    np.testing.assert_array_equal(seen, wanted)


@pytest.mark.slow
@all_rows
def test_gradients_are_those_of_finite_differences(row):
    operator, (x, direction) = row.make(), images(4, 2)
    loss = lambda x: jnp.sum(jnp.abs(operator(x)) ** 2) / 2
    slope, step, x64 = float(jnp.vdot(jax.grad(loss)(x), direction)), 1e-5, np.asarray(x, np.float64)
    ahead, behind = (expected(row, x64 + sign * step * np.asarray(direction)) for sign in (1, -1))
    np.testing.assert_allclose(
        slope, (np.linalg.norm(ahead) ** 2 - np.linalg.norm(behind) ** 2) / (4 * step), rtol=1e-4
    )


@pytest.mark.slow
@all_rows
def test_stacked_operators_run_in_one_vmap(row):
    operator, x = row.make(), images(5, 2)
    leaves = lambda scale: jax.tree.map(lambda leaf: jnp.asarray(leaf) * scale, operator)
    numbers = [1, 1] if isinstance(operator, BoxMask | Hadamard) else [1.0, 0.5]
    if not jax.tree.leaves(operator):
        together, alone = jax.vmap(operator)(x), [operator(image) for image in x]
    else:
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *map(leaves, numbers))
        together = jax.vmap(lambda one, image: one(image))(stacked, x)
        alone = [leaves(scale)(image) for scale, image in zip(numbers, x, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-6)


@all_rows
def test_only_the_linear_ones_are_called_linear(row):
    assert is_linear(row.make(), jax.ShapeDtypeStruct(SHAPE, jnp.float32)) == (row.matrix is not None)


@pytest.mark.slow
@linear_rows
def test_the_adjoint_is_that_of_the_matrix_in_the_real_inner_product(row):
    operator, (x, z) = row.make(), images(1, 2)
    y = operator(z) * (0.8 + 0.6j if jnp.iscomplexobj(operator(z)) else 1)
    back = adjoint(operator, x)(y)
    assert back.dtype == x.dtype
    np.testing.assert_allclose(jnp.vdot(operator(x), y).real, jnp.vdot(x, back), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.ravel(back), (row.matrix.conj().T @ np.ravel(y)).real, atol=1e-5)


@linear_rows
def test_the_second_derivative_of_the_misfit_is_that_of_the_matrix(row):
    operator, (x, direction) = row.make(), images(8, 2)
    slope = jax.grad(lambda x: jnp.sum(jnp.abs(operator(x)) ** 2) / 2)
    curved = jax.jit(lambda x, v: jax.jvp(slope, (x,), (v,))[1])(x, direction)
    exact = (row.matrix.conj().T @ (row.matrix @ np.ravel(direction))).real
    np.testing.assert_allclose(np.ravel(curved), exact, atol=2e-5)


@all_rows
def test_two_are_equal_where_their_numbers_are(row):
    operator, again = row.make(), row.make()
    assert operator == again
    assert hash(operator) == hash(again)
    assert [row.make() for row in OPERATORS.values()].count(operator) == 1
    assert jax.tree.map(lambda leaf: leaf * 2, operator) != operator or not jax.tree.leaves(operator)


FLOATING = ("float64", "float32", "bfloat16", "float16")


@pytest.mark.thorough
@all_rows
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [*FLOATING, "int32", "uint8"])
def test_pixels_of_any_type_are_taken_and_the_type_is_kept(row, dtype):
    """Whole numbers become floating point."""
    if dtype.endswith("16") and row.matrix is not None and np.iscomplexobj(row.matrix):
        return  # no complex numbers are so narrow
    with jax.enable_x64(True):
        pixels = jnp.round(8 * jnp.abs(images(7)[0])).astype(dtype)
        y = row.make()(pixels)
        if dtype in FLOATING and not jnp.iscomplexobj(y):
            assert y.dtype == dtype
        wanted, bound = expected(row, pixels), 0.02 if dtype.endswith("16") else 1e-6
        np.testing.assert_allclose(np.ravel(y).astype(complex), wanted, atol=bound * np.abs(wanted).max())


@pytest.mark.slow
@linear_rows
def test_the_pseudo_inverse_is_that_of_the_matrix(row):
    operator, (x,) = row.make(), images(3)
    y = operator(x)
    found = pinv(operator, x, maxiter=300)(y)
    # Conjugate gradients meet the smallest singular values last; 1e-3 of an image is their residual here.
    np.testing.assert_allclose(operator(found), y, atol=1e-3)
    exact = np.linalg.pinv(as_real(row.matrix), rcond=1e-10) @ as_real(np.ravel(y))
    np.testing.assert_allclose(np.ravel(found), exact, atol=2e-2)


@pytest.mark.parametrize(
    "name", ["sums", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("stack of box and grey", "waves"))]
)
def test_noise_that_no_image_explains_is_left_out_by_the_pseudo_inverse(name):
    """Rows and columns have one total, and a real image's waves come in pairs; noise does not know."""
    row, (x,) = OPERATORS[name], images(3)
    clean = row.make()(x)
    noisy = clean + 0.4 * jax.random.normal(jax.random.key(1), clean.shape, clean.dtype)
    exact = np.linalg.pinv(as_real(np.asarray(row.matrix)), rcond=1e-5) @ as_real(np.ravel(noisy))
    np.testing.assert_allclose(np.ravel(pinv(row.make(), x)(noisy)), exact, atol=1e-5)


@pytest.mark.slow
@spectral_rows
def test_a_closed_pseudo_inverse_equals_conjugate_gradients(row):
    """Whatever stands where nothing is measured."""
    operator, (x, z) = row.make(), images(4, 2)
    y = operator(z)
    iterative = pinv(operator, x, ridge=1e-7, maxiter=300)(y)
    np.testing.assert_allclose(pinv(operator, x)(y + 1 - observed(operator, y)), iterative, atol=1e-4)


@spectral_rows
def test_the_singular_system_is_one(row):
    """`V` is unitary, `A x = U s V^H x`, and the singular values are those of the matrix."""
    operator, (x, z) = row.make(), images(6, 2)
    spectrum, values = operator.to_spectrum(x), operator.singular_values(SHAPE)
    np.testing.assert_allclose(operator.from_spectrum(spectrum), x, atol=1e-5)
    inner = jnp.vdot(operator.to_spectrum(z), spectrum)
    np.testing.assert_allclose(inner, jnp.vdot(z, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(operator.data_spectrum(operator(x)), values * spectrum, atol=1e-5)
    exact = np.linalg.svd(as_real(row.matrix), compute_uv=False)[: values.size]
    exact = np.pad(exact, (0, values.size - exact.size))
    np.testing.assert_allclose(np.sort(np.ravel(values)), np.sort(exact), atol=1e-5)


def test_box_and_random_masks_hide_exactly_their_pixels():
    y = BoxMask(top=2, left=1, height=4, width=3)(jnp.ones(SHAPE))
    assert (y[2:6, 1:4] == 0).all()
    assert y.sum() == 3 * (48 - 12)
    for keep, hidden in ((0.3, 44), (0.08, 58), (1.0, 0), (0.5, 32)):
        y = RandomMask(jax.random.key(0), (8, 8, 3), keep)(jnp.ones((8, 8, 3)))
        assert (y.min(-1) == y.max(-1)).all()
        assert (y[..., 0] == 0).sum() == hidden


def test_gaussian_blur_has_scipys_kernel_and_is_scipys_filter():
    """The 61x61 kernel of the DPS code: SciPy's filter of a delta, 25x25 taps, maximum 0.0176849."""
    from scipy.ndimage import gaussian_filter

    delta = np.zeros((61, 61))
    delta[30, 30] = 1
    blur = GaussianBlur()
    padded = np.pad(np.asarray(blur.kernel), (61 - blur.kernel.shape[0]) // 2)
    np.testing.assert_allclose(padded, gaussian_filter(delta, 3.0), atol=1e-8)
    assert blur.kernel.shape == (25, 25)
    np.testing.assert_allclose(blur.kernel.max(), 0.0176849, atol=1e-7)
    x = np.random.default_rng(0).normal(size=(64, 48, 3))
    filtered = gaussian_filter(x, 3.0, mode="mirror", axes=(0, 1))
    np.testing.assert_allclose(blur(jnp.asarray(x, jnp.float32)), filtered, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(20, 14), (333, 257), (17, 400), (3, 3), (1, 5), (1, 1)])
@pytest.mark.parametrize("kernel_sides", [(3, 3), (1, 31), (31, 5), (1, 1)])
def test_blurs_equal_scipys_with_both_borders(sides, kernel_sides):
    """Sides that are odd, prime or one; a kernel that does not fit is refused."""
    from scipy.ndimage import correlate

    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(*sides, 3)), rng.normal(size=kernel_sides).astype(np.float32)
    for make, mode, reach in ((Blur, "mirror", 2), (CircularBlur, "wrap", 1)):
        blurred = lambda make=make: make(kernel)(jnp.asarray(x, jnp.float32))
        if any(taps // reach >= side + reach % 2 for taps, side in zip(kernel_sides, sides, strict=True)):
            with pytest.raises(ValueError, match=r"too large|larger than"):
                blurred()
        else:
            exact = correlate(x, kernel.astype(np.float64)[:, :, None], mode=mode)
            np.testing.assert_allclose(blurred(), exact, atol=3e-6 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Mask(np.full((4, 4, 1), 0.5, np.float32)), "threshold"),
        (lambda: Mask(np.zeros((4, 4, 1), np.float32)), "hides everything"),
        (lambda: BoxMask(0, 0, 0, 4), "box"),
        (lambda: BoxMask(-1, 0, 2, 4), "box"),
        (lambda: RandomMask(jax.random.key(0), SHAPE, 0.0), "keep"),
        (lambda: Blur(np.ones((4, 4), np.float32)), "odd"),
        (lambda: Blur(np.full((3, 3), np.nan, np.float32)), "finite"),
        (lambda: CircularBlur(np.ones((9, 9), np.float32))(jnp.zeros(SHAPE)), "larger than an image"),
        (lambda: GaussianBlur(std=0.0), "std"),
        (lambda: GaussianBlur(std=3.0)(jnp.zeros(SHAPE)), "too large"),
    ],
)
def test_bad_operators_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_mask_without_colours_is_refused_with_what_to_do():
    flat: Any = np.ones((4, 4), np.float32)
    with pytest.raises(Exception, match=r"add a last axis|h w c"):
        Mask(flat)


def test_identity_measures_everything():
    (x,) = images(0)
    np.testing.assert_array_equal(Identity()(x), x)
