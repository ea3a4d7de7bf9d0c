"""Compressed sensing: against SciPy's Hadamard matrices, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

from jaxdiff.operators import DenseGaussian, Hadamard, adjoint
from tests.conftest import SHAPE

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (16, 8, 2))


def test_sides_that_are_powers_of_two_have_scipys_matrix():
    operator = Hadamard(KEY, (16, 8, 2), 0.25)
    both = np.kron(hadamard(16), hadamard(8)) / 128**0.5
    turned = (operator.signs * X).reshape(128, 2)
    assert operator.kept.shape == (32,)
    np.testing.assert_allclose(operator(X), both[np.asarray(operator.kept)] @ np.asarray(turned), atol=2e-6)


def test_signs_and_places_are_drawn_without_repetition():
    one, other = (Hadamard(jax.random.key(seed), (64, 64, 3), 0.1) for seed in (0, 1))
    assert len(np.unique(one.kept)) == 410
    assert (jnp.abs(one.signs) == 1).all()
    assert abs(float(one.signs.mean())) < 4.5 / 64
    for name in ("signs", "kept"):
        assert (getattr(one, name) != getattr(other, name)).any()


def test_a_dense_matrix_has_entries_of_variance_one_over_its_rows():
    operator = DenseGaussian(KEY, SHAPE, 60)
    assert abs(float(operator.matrix.var()) * 60 - 1) < 4.5 * (2 / operator.matrix.size) ** 0.5
    x = jax.random.normal(jax.random.key(1), SHAPE)
    y = np.asarray(operator.matrix, np.float64) @ np.ravel(x)
    np.testing.assert_allclose(operator(x), y, atol=1e-5)
    np.testing.assert_allclose(np.ravel(adjoint(operator, x)(operator(x))), operator.matrix.T @ y, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Hadamard(KEY, SHAPE, 0.0), "keep"),
        (lambda: Hadamard(KEY, SHAPE, 1.1), "keep"),
        (lambda: DenseGaussian(KEY, SHAPE, 0), "at least 1"),
        (lambda: DenseGaussian(KEY, (256, 256, 3), 1000), "take `Hadamard`"),
    ],
)
def test_bad_numbers_of_measurements_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
