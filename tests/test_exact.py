"""Exact posteriors, against dense float64 linear algebra."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.measurement import measure
from jaxdiff.operators import BoxMask, GaussianBlur, Identity, adjoint
from jaxdiff.priors.exact import Elementwise, Factored, GaussianPosterior, Iterative, Spectral, posterior, variance
from jaxdiff.priors.gaussian import GaussianPrior, natural_spectrum
from jaxdiff.priors.mixture import MixturePrior
from jaxdiff.schedule import linear
from tests.conftest import OPERATORS, SHAPE, SIGMA_Y
from tests.test_gaussian import PRIORS, SIZE, parts


def problem(prior_name: str, operator_name: str) -> tuple[Any, Any, jax.Array]:
    prior, operator = PRIORS[prior_name](), OPERATORS[operator_name]()
    return prior, operator, measure(jax.random.key(6), operator, prior.sample(jax.random.key(5)), SIGMA_Y)


def reference(prior, operator, y):
    """Weights, mean and covariance of the posterior, by matrices."""
    basis = jnp.eye(SIZE).reshape(-1, *SHAPE)
    a = np.asarray(jax.vmap(operator)(basis), np.float64).reshape(SIZE, -1).T
    y = np.asarray(y, np.float64).ravel()
    logs, means, covariances = [], [], []
    for weight, m, c in zip(*parts(prior), strict=True):
        s = a @ c @ a.T + SIGMA_Y**2 * np.eye(len(y))
        gain, r = np.linalg.solve(s, a @ c).T, y - a @ m
        logs.append(np.log(weight) - 0.5 * (r @ np.linalg.solve(s, r) + np.linalg.slogdet(s)[1]))
        means.append(m + gain @ r)
        covariances.append(c - gain @ a @ c)
    share = np.exp(np.array(logs) - max(logs))
    share /= share.sum()
    mean = share @ np.array(means)
    apart = np.array(means) - mean
    return share, mean, np.tensordot(share, np.array(covariances), 1) + (share[:, None] * apart).T @ apart


moments = jax.jit(lambda exact: (exact.mean, variance(exact)))


@pytest.mark.parametrize("prior_name", ["diagonal", "dense", "stationary", "mixture"])
@pytest.mark.parametrize("operator_name", ["identity", "random", "blur"])
def test_equals_dense_linear_algebra(prior_name, operator_name):
    prior, operator, y = problem(prior_name, operator_name)
    exact: Any = posterior(prior, operator, y, SIGMA_Y)
    share, mean, covariance = reference(prior, operator, y)
    ours, variances = moments(exact)
    np.testing.assert_allclose(ours.ravel(), mean, atol=2e-4)
    np.testing.assert_allclose(variances.ravel(), np.diag(covariance), atol=2e-4 * np.diag(covariance).max())
    if not isinstance(exact, GaussianPosterior):
        np.testing.assert_allclose(jnp.exp(exact.log_weights), share, atol=1e-3)


@pytest.mark.parametrize(
    ("prior_name", "operator_name"), [("diagonal", "random"), ("stationary", "blur"), ("mixture", "box")]
)
def test_samples_have_the_posteriors_moments(prior_name, operator_name):
    prior, operator, y = problem(prior_name, operator_name)
    exact, (_, mean, covariance) = posterior(prior, operator, y, SIGMA_Y), reference(prior, operator, y)
    n = 4000
    samples = np.asarray(jax.jit(jax.vmap(exact.sample))(jax.random.split(jax.random.key(4), n)), np.float64).reshape(
        n, -1
    )
    assert (np.abs(samples.mean(0) - mean) / np.sqrt(np.diag(covariance) / n)).max() < 4.5
    directions = np.random.default_rng(0).normal(size=(SIZE, 20))
    along = np.einsum("ij,ik,kj->j", directions, covariance, directions)
    assert (np.abs((samples @ directions).var(0) / along - 1) / np.sqrt(2 / n)).max() < 4.5


def test_a_mixture_finds_the_component_that_made_the_data():
    prior, operator, _ = problem("mixture", "random")
    for k in range(3):
        y = measure(jax.random.key(6), operator, prior.component(k).sample(jax.random.key(k)), SIGMA_Y)
        exact: Any = posterior(prior, operator, y, SIGMA_Y)
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
        prior, operator, y = problem(*names)
        exact: Any = posterior(prior, operator, y, SIGMA_Y)
        assert isinstance(exact.solve, kind), names


def test_conjugate_gradients_agree_with_the_factor():
    """Where both fit, the iterations reach the float64 factor's mean to a hundredth of a posterior deviation."""
    shape, operator = (16, 16, 3), GaussianBlur(1.0, 9)
    prior = GaussianPrior(jnp.zeros(shape), natural_spectrum(shape), linear())
    y = measure(jax.random.key(1), operator, prior.sample(jax.random.key(0)), SIGMA_Y)
    exact: Any = posterior(prior, operator, y, SIGMA_Y)
    assert isinstance(exact.solve, Factored)
    iterated = replace(exact, solve=Iterative(operator, prior.covariance, SIGMA_Y, prior.mean))
    # The posterior deviations here are 0.06 to 0.1.
    np.testing.assert_allclose(jax.jit(lambda p: p.mean)(iterated), exact.mean, atol=6e-4)


@pytest.mark.parametrize(
    "operator", [GaussianBlur(1.5, 13), BoxMask(20, 20, 24, 24), Identity()], ids=["blur", "box", "all"]
)
def test_float32_suffices_at_64_pixels(operator):
    """Without a matrix, `S u = r` is solved to a hundredth of the noise, though the condition number is about 5e4."""
    shape = (64, 64, 3)
    prior = GaussianPrior(jnp.zeros(shape), natural_spectrum(shape), linear())
    y = measure(jax.random.key(1), operator, prior.sample(jax.random.key(0)), SIGMA_Y)
    exact: Any = posterior(prior, operator, y, SIGMA_Y)
    assert isinstance(exact.solve, Spectral if isinstance(operator, Identity) else Iterative)
    u = jax.jit(lambda p: p.solve(p.y))(exact)
    product = operator(prior.covariance.apply(lambda c: c, adjoint(operator, y)(u))) + SIGMA_Y**2 * u
    assert jnp.sqrt(jnp.mean((product - y) ** 2)) < 0.01 * SIGMA_Y


def test_what_has_no_answer_is_refused():
    prior, operator, y = problem("diagonal", "random")
    with pytest.raises(ValueError, match="`sigma_y` must be positive"):
        posterior(prior, operator, y, 0.0)
    shape = (48, 48, 3)
    large = GaussianPrior(jnp.zeros(shape), natural_spectrum(shape), linear())
    with pytest.raises(ValueError, match="determinant"):
        posterior(MixturePrior((1.0, 1.0), [large, large]), BoxMask(0, 0, 8, 8), jnp.zeros(shape), SIGMA_Y)
