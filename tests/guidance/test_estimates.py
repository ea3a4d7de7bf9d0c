"""Priors guided by what they estimate, without a gradient: against dense matrices, and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDNM, FASTDIPS, DiffPIR, PoissonNoise
from jaxdiff.operators import BoxMask, Identity
from jaxdiff.priors.denoiser import Prediction, Prior
from jaxdiff.pytree import pytree
from tests.conftest import SHAPE, SIGMA_Y, Passed, gaussian_prior, of
from tests.operators.conftest import OPERATORS, Saturation, as_real

X_T = jax.random.normal(jax.random.key(2), SHAPE)
LINEAR = [name for name, row in OPERATORS.items() if row.matrix is not None and name != "waves"]


predict = jax.jit(lambda prior, x_t, t: prior.predict(x_t, t))


def both(rule: object, t: int) -> tuple[np.ndarray, np.ndarray, Prediction]:
    """The estimate before and after it was moved, as vectors in double precision."""
    prediction = predict(rule, X_T, t)
    before, after = prediction.before_guidance, prediction.x0_hat
    return np.asarray(before, np.float64).ravel(), np.asarray(after, np.float64).ravel(), prediction


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("t", [pytest.param(50, marks=pytest.mark.thorough), 500])
def test_diffpir_is_the_regularised_least_squares_solution(name: str, t: int) -> None:
    """The solution of the normal equations, written with the matrix of the operator."""
    measurement = of(OPERATORS[name].make(), 0.3)
    before, after, _ = both(DiffPIR(gaussian_prior(), measurement, iterations=150), t)
    matrix = as_real(np.asarray(OPERATORS[name].matrix))
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    rho = 0.3**2 * alpha_bar / (1 - alpha_bar)
    y = as_real(np.ravel(measurement.y)).astype(np.float64)
    expected = np.linalg.solve(matrix.T @ matrix + rho * np.eye(144), matrix.T @ y + rho * before)
    np.testing.assert_allclose(after, expected, atol=2e-3)


@pytest.mark.parametrize("name", [name for name in LINEAR if name not in ("gaussian blur", "motion blur")])
def test_ddnm_without_noise_agrees_with_the_data_and_keeps_the_null_space(name: str) -> None:
    """`A x = A A^+ y`, and what `A` does not see is the prior's.

    The smallest singular values of two blurs, 7e-3 and 4e-4, lie at the cut-off of a pseudo-inverse in single
    precision, so that it has no one answer.
    """
    measurement = of(OPERATORS[name].make(), 0.0)
    before, after, _ = both(DDNM(gaussian_prior(), measurement), 400)
    matrix = as_real(np.asarray(OPERATORS[name].matrix))
    inverse = np.linalg.pinv(matrix, rcond=1e-5)
    y = as_real(np.ravel(measurement.y)).astype(np.float64)
    np.testing.assert_allclose(after, before + inverse @ (y - matrix @ before), atol=5e-3)


def test_ddnm_with_noise_weighs_the_data() -> None:
    """The weight is 1 where the noise of the time exceeds that of the data, and their ratio below."""
    measurement = of(Identity(), 0.3)
    for t in (20, 500):
        alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
        before, after, _ = both(DDNM(gaussian_prior(), measurement), t)
        weight = min(1.0, ((1 - alpha_bar) / alpha_bar) ** 0.5 / 0.3)
        y = as_real(np.ravel(measurement.y)).astype(np.float64)
        np.testing.assert_allclose(after, before + weight * (y - before), atol=1e-5)


def test_ddnm_asks_an_operator_for_its_own_projection() -> None:
    """Then the operator need not be linear."""

    class Rounded:
        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.round(4 * x) / 4

        def project(self, x: jax.Array, y: jax.Array) -> jax.Array:
            return jnp.clip(x, y - 0.125, y + 0.125)

    measurement = of(Rounded(), 0.0)
    _, after, prediction = both(DDNM(gaussian_prior(), measurement), 400)
    assert np.abs(after - np.asarray(measurement.y).ravel()).max() <= 0.125 + 1e-6
    assert prediction.unguided is not None


@pytest.mark.parametrize(
    ("name", "t"), [("blur", 500), pytest.param("waves", 500, marks=pytest.mark.thorough), ("random", 5)]
)
def test_fast_dips_takes_the_published_iterations(name: str, t: int) -> None:
    """ADMM in matrices: exact steps, the projection onto the ball of the noise, and the multiplier."""
    measurement = of(OPERATORS[name].make(), 0.3)
    rule = FASTDIPS(gaussian_prior(), measurement, rho=7.0, iterations=3, gradient_steps=2)
    before, after, _ = both(rule, t)
    matrix, y = as_real(np.asarray(OPERATORS[name].matrix)), as_real(np.ravel(measurement.y)).astype(np.float64)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    precision = alpha_bar / (1 - alpha_bar)
    # Imaginary parts that are zero for every image have noise too.
    radius = 0.3 * np.sqrt(len(y) if name == "waves" else np.count_nonzero(matrix.any(1)))

    def ball(v: np.ndarray) -> np.ndarray:
        return y + (v - y) * min(1.0, radius / np.linalg.norm(v - y))

    x, u = before, np.zeros(len(y))
    p = ball(matrix @ x)
    assert np.linalg.norm(matrix @ x - y) > radius
    for _ in range(3):
        for _ in range(2):
            g = precision * (x - before) + 7.0 * matrix.T @ (matrix @ x - p + u)
            x = x - g @ g / (precision * g @ g + 7.0 * np.sum((matrix @ g) ** 2)) * g
        p = ball(matrix @ x + u)
        u = u + matrix @ x - p
    np.testing.assert_allclose(after, x, atol=1e-4)


def test_fast_dips_finds_the_data_of_an_operator_that_is_not_linear() -> None:
    """With the estimate's weight gone, the residual becomes as long as the noise."""
    measurement = of(Saturation(), 0.1)
    before, after, _ = both(FASTDIPS(gaussian_prior(), measurement, iterations=20, gradient_steps=5), 900)
    ratios = [float(measurement.residual_ratio(jnp.asarray(x, jnp.float32).reshape(SHAPE))) for x in (before, after)]
    assert ratios[0] > 3
    assert ratios[1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rule", [DDNM, DiffPIR, FASTDIPS])
def test_one_forward_call_and_no_derivative_of_the_network(rule: type) -> None:
    """A network that cannot be differentiated will do."""

    @pytree
    class Opaque(Passed):
        def predict(self, x_t: jax.Array, t: jax.Array) -> Prediction:
            return jax.tree.map(jax.lax.stop_gradient, self.prior.predict(x_t, t))

    measurement = of(BoxMask(2, 1, 4, 3))
    whole, opaque = (both(rule(prior, measurement), 300)[1] for prior in (gaussian_prior(), Opaque(gaussian_prior())))
    np.testing.assert_array_equal(whole, opaque)
    calls = []

    @pytree
    class Counted(Passed):
        def predict(self, x_t: jax.Array, t: jax.Array) -> Prediction:
            calls.append(t)
            return self.prior.predict(x_t, t)

    counted: Prior = rule(Counted(gaussian_prior()), measurement)
    counted.predict(X_T, 300)
    assert len(calls) == 1


@pytest.mark.parametrize("rule", [DDNM, DiffPIR, FASTDIPS])
def test_what_is_refused(rule: type) -> None:
    """Operators that are not linear, but where a Jacobian will do, and noise that is not Gaussian."""
    if rule is not FASTDIPS:
        with pytest.raises(ValueError, match="linear operator"):
            rule(gaussian_prior(), of(Saturation(), SIGMA_Y))
    with pytest.raises(ValueError, match="Gaussian noise"):
        rule(gaussian_prior(), of(Identity(), PoissonNoise(40.0)))
