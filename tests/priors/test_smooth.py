"""The smoothest image that fits the data, against dense least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Measurement
from jaxdiff.operators import Identity, Mask
from jaxdiff.priors.smooth import GRADIENT_STD, fill_holes, laplacian, smoothest
from tests.conftest import SHAPE, of
from tests.operators.conftest import CHEQUERED, OPERATORS


def differences(shape: tuple[int, int, int]) -> np.ndarray:
    """The differences of neighbouring pixels as a matrix, one row each."""
    index = np.arange(np.prod(shape)).reshape(shape)
    pairs = [(index[1:], index[:-1]), (index[:, 1:], index[:, :-1])]
    rows = [(a, b) for first, second in pairs for a, b in zip(first.ravel(), second.ravel(), strict=True)]
    matrix = np.zeros((len(rows), index.size))
    for row, (a, b) in enumerate(rows):
        matrix[row, a], matrix[row, b] = 1, -1
    return matrix


def test_the_laplacian_is_that_of_neighbours() -> None:
    """Minus `D^T D` of the differences."""
    x = np.asarray(jax.random.normal(jax.random.key(0), SHAPE))
    matrix = differences(SHAPE)
    np.testing.assert_allclose(np.asarray(laplacian(jnp.asarray(x))).ravel(), -matrix.T @ matrix @ x.ravel(), atol=1e-5)


def test_holes_are_filled_biharmonically() -> None:
    """The hidden pixels solve the normal equations; the known ones are the same numbers."""
    x = 0.3 * np.asarray(jax.random.normal(jax.random.key(0), SHAPE))
    known = np.broadcast_to(np.asarray(CHEQUERED), SHAPE) * np.ones(SHAPE, np.float32)
    found = np.asarray(fill_holes(jnp.asarray(x), jnp.asarray(known), 500))
    np.testing.assert_array_equal(found[known > 0], x[known > 0])
    matrix, seen = differences(SHAPE), known.ravel() > 0
    bend = matrix.T @ matrix
    hidden = np.linalg.lstsq(bend[:, ~seen], -bend[:, seen] @ x.ravel()[seen], rcond=None)[0]
    np.testing.assert_allclose(found.ravel()[~seen], np.clip(hidden, -1, 1), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 3), (17, 5, 3), (40, 33, 3)])
def test_a_plane_is_filled_exactly_at_any_size(shape: tuple[int, int, int]) -> None:
    """One grey is continued as that grey, whatever the hole."""
    mask = np.ones((*shape[:2], 1), np.float32)
    mask[shape[0] // 3 :, shape[1] // 3 : shape[1] // 2] = 0
    measurement = Measurement(Mask(mask) if mask.any() else Identity(), jnp.full(shape, 0.25) * mask, 0.0)
    np.testing.assert_allclose(np.asarray(smoothest(measurement, shape)), 0.25, atol=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["identity", "blur", "bicubic", "random"])
def test_with_noise_it_is_the_regularised_solution(name: str) -> None:
    """The normal equations of the formula, by a dense solver."""
    measurement = of(OPERATORS[name].make(), 0.1)
    matrix, bend = np.asarray(OPERATORS[name].matrix), differences(SHAPE)
    normal = matrix.T @ matrix + (0.1 / GRADIENT_STD) ** 2 * bend.T @ bend
    expected = np.linalg.solve(normal, matrix.T @ np.asarray(measurement.y, np.float64).ravel())
    found = np.asarray(smoothest(measurement, SHAPE, 500)).ravel()
    np.testing.assert_allclose(found, np.clip(expected, -1, 1), atol=5e-3)
