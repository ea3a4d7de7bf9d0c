"""Exact posteriors, against dense float64 linear algebra."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from jaxdiff.measurement import Measurement, measure
from jaxdiff.noise import PoissonNoise
from jaxdiff.operators import BoxMask, GaussianBlur, Identity, adjoint
from jaxdiff.operators.masks import Masking
from jaxdiff.priors.exact import Elementwise, Factored, GaussianPosterior, Iterative, Spectral, posterior, variance
from jaxdiff.priors.gaussian import GaussianPrior, natural_spectrum
from jaxdiff.priors.mixture import MixturePrior
from jaxdiff.pytree import pytree
from jaxdiff.schedule import linear
from tests.conftest import SHAPE, SIGMA_Y, of
from tests.operators.conftest import OPERATORS, Saturation, as_real
from tests.priors.conftest import Moments, closed_form


def problem(prior_name: str, operator_name: str) -> tuple[Any, Measurement, Moments]:
    """A prior, a measurement of one of its images, and the posterior by matrices."""
    prior, moments = closed_form(prior_name)
    row = OPERATORS[operator_name]
    measurement = measure(jax.random.key(6), row.make(), prior.sample(jax.random.key(5)), SIGMA_Y)
    assert row.matrix is not None
    y = as_real(np.asarray(measurement.y).ravel()).astype(np.float64)
    return prior, measurement, by_matrices(moments, as_real(row.matrix), y)


def by_matrices(moments: Moments, a: np.ndarray, y: np.ndarray) -> Moments:
    """Weights, means and covariances of the posterior."""
    logs, means, covariances = [], [], []
    for weight, m, c in zip(*moments, strict=True):
        s = a @ c @ a.T + SIGMA_Y**2 * np.eye(len(y))
        gain, r = np.linalg.solve(s, a @ c).T, y - a @ m
        logs.append(np.log(weight) - 0.5 * (r @ np.linalg.solve(s, r) + np.linalg.slogdet(s)[1]))
        means.append(m + gain @ r)
        covariances.append(c - gain @ a @ c)
    share = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    return Moments(share, np.array(means), np.array(covariances))


summarise = jax.jit(lambda exact: (exact.mean, variance(exact)))


@pytest.mark.slow
@pytest.mark.parametrize("prior_name", ["diagonal", "dense", "stationary", "mixture"])
@pytest.mark.parametrize(
    "operator_name",
    ["random", "blur", "sums", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("identity", "fourier"))],
)
def test_equals_dense_linear_algebra(prior_name, operator_name):
    prior, measurement, wanted = problem(prior_name, operator_name)
    exact: Any = posterior(prior, measurement)
    mean, variances = summarise(exact)
    diagonal = np.diag(wanted.covariance)
    np.testing.assert_allclose(mean.ravel(), wanted.mean, atol=2e-4)
    np.testing.assert_allclose(variances.ravel(), diagonal, atol=2e-4 * diagonal.max())
    if not isinstance(exact, GaussianPosterior):
        np.testing.assert_allclose(jnp.exp(exact.log_weights), wanted.weights, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior_name", "operator_name"),
    [("diagonal", "random"), ("stationary", "blur"), ("mixture", "box"), ("dense", "fourier")],
)
def test_samples_have_the_posteriors_moments(prior_name, operator_name):
    (prior, measurement, wanted), n = problem(prior_name, operator_name), 2000
    keys = jax.random.split(jax.random.key(4), n)
    samples = np.asarray(jax.jit(jax.vmap(posterior(prior, measurement).sample))(keys), np.float64).reshape(n, -1)
    assert (np.abs(samples.mean(0) - wanted.mean) / np.sqrt(np.diag(wanted.covariance) / n)).max() < 4.5
    directions = np.random.default_rng(0).normal(size=(samples.shape[1], 20))
    along = np.einsum("ij,ik,kj->j", directions, wanted.covariance, directions)
    assert (np.abs((samples @ directions).var(0) / along - 1) / np.sqrt(2 / n)).max() < 4.5


def test_a_mixture_finds_the_component_that_made_the_data():
    prior, _ = closed_form("mixture")
    for k in range(3):
        image = prior.component(k).sample(jax.random.key(k))
        exact: Any = posterior(prior, measure(jax.random.key(6), OPERATORS["random"].make(), image, SIGMA_Y))
        assert jnp.argmax(exact.log_weights) == k


def test_structure_decides_the_solver():
    kinds = {
        ("diagonal", "identity"): Spectral,
        ("stationary", "identity"): Spectral,
        ("diagonal", "box"): Elementwise,
        ("stationary", "box"): Factored,
        ("diagonal", "blur"): Factored,
    }
    for names, kind in kinds.items():
        prior, measurement, _ = problem(*names)
        exact: Any = posterior(prior, measurement)
        assert isinstance(exact.solve, kind), names


@pytree
class Stripes(Masking):
    """A mask of the user's own: every other row is hidden."""

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return jnp.zeros_like(y).at[::2].set(1.0)


def test_a_mask_of_the_users_own_is_solved_elementwise():
    prior, moments = closed_form("diagonal")
    measurement = of(Stripes())
    exact: Any = posterior(prior, measurement)
    assert isinstance(exact.solve, Elementwise)
    kept = np.ones(SHAPE)
    kept[1::2] = 0
    wanted = by_matrices(moments, np.diag(kept.ravel()), np.asarray(measurement.y, np.float64).ravel())
    np.testing.assert_allclose(exact.mean.ravel(), wanted.mean, atol=2e-5)


def natural(shape: tuple[int, int, int], operator: Any) -> tuple[GaussianPrior, Measurement]:
    prior = GaussianPrior(jnp.zeros(shape), natural_spectrum(shape), linear())
    return prior, measure(jax.random.key(1), operator, prior.sample(jax.random.key(0)), SIGMA_Y)


@pytest.mark.thorough
def test_conjugate_gradients_agree_with_the_factor():
    """Where both fit, the iterations reach the float64 factor's mean to a hundredth of a posterior deviation."""
    prior, measurement = natural((16, 12, 3), GaussianBlur(1.0, 9))
    exact: Any = posterior(prior, measurement)
    assert isinstance(exact.solve, Factored)
    iterated = replace(exact, solve=Iterative(measurement.operator, prior.covariance, SIGMA_Y, prior.mean))
    # The posterior deviations here are 0.06 to 0.1.
    np.testing.assert_allclose(jax.jit(lambda p: p.mean)(iterated), exact.mean, atol=6e-4)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "operator", [GaussianBlur(1.5, 13), BoxMask(20, 20, 24, 24), Identity()], ids=["blur", "box", "all"]
)
def test_float32_suffices_at_64_pixels(operator):
    """Without a matrix, `S u = r` is solved to a hundredth of the noise, though the condition number is about 5e4."""
    prior, measurement = natural((64, 64, 3), operator)
    exact: Any = posterior(prior, measurement)
    assert isinstance(exact.solve, Spectral if isinstance(operator, Identity) else Iterative)
    y = measurement.y
    u = jax.jit(lambda p: p.solve(p.measurement.y))(exact)
    product = operator(prior.covariance.apply(lambda c: c, adjoint(operator, y)(u))) + SIGMA_Y**2 * u
    assert jnp.sqrt(jnp.mean((product - y) ** 2)) < 0.01 * SIGMA_Y


@pytest.mark.slow
def test_what_has_no_answer_is_refused():
    prior, measurement, _ = problem("diagonal", "random")
    with pytest.raises(ValueError, match="`sigma_y` must be positive"):
        posterior(prior, replace_noise(measurement, 0.0))
    with pytest.raises(ValueError, match="needs Gaussian noise"):
        posterior(prior, replace_noise(measurement, PoissonNoise(10.0)))
    with pytest.raises(ValueError, match="`y` must have the shape"):
        posterior(prior, Measurement(measurement.operator, measurement.y[..., :1], SIGMA_Y))
    with pytest.raises(ValueError, match="needs a linear operator, and Saturation is not"):
        posterior(prior, of(Saturation()))
    large, _ = natural((48, 48, 3), Identity())
    with pytest.raises(ValueError, match="determinant"):
        posterior(
            MixturePrior((1.0, 1.0), [large, large]), Measurement(BoxMask(0, 0, 8, 8), jnp.zeros((48, 48, 3)), 0.1)
        )


def replace_noise(measurement: Measurement, noise: Any) -> Measurement:
    return Measurement(measurement.operator, measurement.y, noise)
