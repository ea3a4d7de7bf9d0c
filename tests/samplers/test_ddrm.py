"""DDRM's step against its published cases, in the singular value decomposition of a dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDRM, PoissonNoise
from jaxdiff.operators import Identity
from tests.conftest import SHAPE, SIGMA_Y, gaussian_prior, of, small_problem
from tests.operators.conftest import OPERATORS, Saturation

KEY = jax.random.key(0)
X_T = jax.random.normal(jax.random.key(2), SHAPE)
NOISE = np.asarray(jax.random.normal(KEY, SHAPE), np.float64).ravel()
ALPHA_BAR = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
step = jax.jit(lambda sampler, t, s: sampler.step(KEY, X_T, t, s))


def restated(matrix: np.ndarray, y: np.ndarray, sigma_y: float, x0: np.ndarray, t: int, s: int) -> np.ndarray:
    """Algorithm of the authors' code, direction by direction, in images divided by alpha."""
    eta, eta_b = 0.7, 0.9
    u, values, v = np.linalg.svd(matrix)
    values = np.append(values, np.zeros(len(v) - len(values)))
    r = np.sqrt(1 / ALPHA_BAR[s] - 1)
    eps = (np.asarray(X_T, np.float64).ravel() - np.sqrt(ALPHA_BAR[t]) * x0) / np.sqrt(1 - ALPHA_BAR[t])
    z0, e, n, projected = v @ x0, v @ eps, v @ NOISE, u.T @ y
    z = np.zeros(len(v))
    for i, q in enumerate(values):
        if q < 1e-5:
            z[i] = z0[i] + np.sqrt(1 - eta**2) * r * e[i] + eta * r * n[i]
        elif r < sigma_y / q:
            z[i] = z0[i] + np.sqrt(1 - eta**2) * r * (projected[i] / q - z0[i]) * q / sigma_y + eta * r * n[i]
        else:
            z[i] = (1 - eta_b) * z0[i] + eta_b * projected[i] / q
            z[i] += np.sqrt(r**2 - (sigma_y * eta_b / q) ** 2) * n[i]
    return np.sqrt(ALPHA_BAR[s]) * (v.T @ z)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sigma_y"),
    [("random", SIGMA_Y), ("random", 0.0), ("circular blur", SIGMA_Y), ("block mean", 0.0), ("bicubic", SIGMA_Y)],
)
def test_a_step_is_the_published_one_in_every_singular_direction(name, sigma_y):
    """Before, between and after the times at which the noise of the data is that of the step."""
    measurement, matrix = of(OPERATORS[name].make(), sigma_y), OPERATORS[name].matrix
    assert matrix is not None
    sampler = DDRM(gaussian_prior(), measurement, 0.7, 0.9)
    for t, s in ((700, 500), (80, 20), (20, 0), (0, -1)):
        found, prediction = step(sampler, t, s)
        x0, y = (np.asarray(a, np.float64).ravel() for a in (prediction.x0_hat, measurement.y))
        np.testing.assert_allclose(np.ravel(found), restated(matrix, y, sigma_y, x0, t, s), atol=2e-4)


@pytest.mark.parametrize("name", ["random", "circular blur"])
def test_a_chain_starts_at_the_data_with_the_noise_of_its_time(name):
    """All of it where nothing is known; where the data are, what theirs leaves."""
    measurement, matrix, t = of(OPERATORS[name].make()), OPERATORS[name].matrix, 200
    assert matrix is not None
    u, values, v = np.linalg.svd(matrix)
    alpha, sigma = np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t])
    known = values * sigma > SIGMA_Y * alpha
    safe = np.where(known, values, 1.0)
    mean = np.where(known, alpha * (u.T @ np.asarray(measurement.y, np.float64).ravel()) / safe, 0.0)
    std = np.sqrt(sigma**2 - np.where(known, alpha * SIGMA_Y / safe, 0.0) ** 2)
    found = DDRM(gaussian_prior(), measurement).init(KEY, t)
    np.testing.assert_allclose(np.ravel(found), v.T @ (mean + std * (v @ NOISE)), atol=1e-4)


def test_what_is_refused():
    prior, measurement = small_problem()
    for operator in (Saturation(), OPERATORS["blur"].make(), lambda x: 2 * x):
        with pytest.raises(ValueError, match="needs an operator with a known singular system"):
            DDRM(prior, of(operator))
    with pytest.raises(ValueError, match="Gaussian noise"):
        DDRM(prior, of(Identity(), PoissonNoise(40.0)))
    assert jnp.isfinite(DDRM(prior, measurement).init(KEY, 999)).all()
