"""Guided priors: their closed forms, their clip, and what they refuse."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, MMPS, TMPD, Denoiser, Measurement, PiGDM, sample_many, time_grid
from jaxdiff.noise import PoissonNoise
from jaxdiff.operators import Identity
from jaxdiff.priors.denoiser import Prior
from jaxdiff.schedule import linear
from tests.conftest import SHAPE, SIGMA_Y, Passed, gaussian_prior, of, small_problem
from tests.operators.conftest import OPERATORS, Affine, Saturation
from tests.priors.conftest import closed_form

RULES: dict[str, Any] = {"pigdm": PiGDM, "tmpd": TMPD, "mmps": functools.partial(MMPS, iterations=60)}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
predict = jax.jit(lambda prior, x_t, t: prior.predict(x_t, t))
X_T = jax.random.normal(jax.random.key(2), SHAPE)


def spread(name: str, t: int) -> tuple[np.ndarray, float, np.ndarray]:
    """`Cov[x0 | x_t]` of a Gaussian prior, `alpha_bar`, and the posterior mean, by matrices."""
    _, moments = closed_form(name)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    prior = moments.covariances[0]
    gain = np.sqrt(alpha_bar) * np.linalg.solve(alpha_bar * prior + (1 - alpha_bar) * np.eye(len(prior)), prior).T
    mean = moments.means[0] + gain @ (np.asarray(X_T, np.float64).ravel() - np.sqrt(alpha_bar) * moments.means[0])
    return prior - np.sqrt(alpha_bar) * gain @ prior, alpha_bar, mean


@pytest.mark.slow
@every_rule
@pytest.mark.parametrize("t", [50, 500])
@pytest.mark.parametrize(
    ("prior", "operator"), [("diagonal", "random"), ("stationary", "blur"), ("dense", "sums"), ("dense", "waves")]
)
def test_estimates_move_by_the_published_formula(rule, t, prior, operator):
    """In matrices: `x0_hat + V A^T M^{-1} (y - A x0_hat)`, and every rule has its own `M`."""
    a, measurement = OPERATORS[operator].matrix, of(OPERATORS[operator].make())
    assert a is not None
    y = np.ravel(measurement.y)
    if np.iscomplexobj(y):  # two real measurements for each
        a, y = (np.concatenate([np.real(part), np.imag(part)]) for part in (a, y))
    covariance, alpha_bar, mean = spread(prior, t)
    noise = SIGMA_Y**2 * np.eye(len(a))
    if rule is PiGDM:
        inverted = (1 - alpha_bar) * a @ a.T + noise
    elif rule is TMPD:
        inverted = np.diag(np.maximum(a @ covariance @ a.T @ np.ones(len(a)), 0)) + noise
    else:
        inverted = a @ covariance @ a.T + noise
    residual = y.astype(np.float64) - a @ mean
    wanted = mean + covariance @ a.T @ np.linalg.solve(inverted, residual)
    options = {"iterations": 60} if rule is PiGDM else {}
    said = predict(rule(closed_form(prior)[0], measurement, **options), X_T, t)
    # Conjugate gradients in float32; the estimates' own deviations are 0.1 and more.
    np.testing.assert_allclose(np.ravel(said.x0_hat), wanted, atol=1e-2)
    np.testing.assert_allclose(np.ravel(said.before_guidance), mean, atol=2e-5)


def test_pigdm_reckons_with_the_variance_of_its_prior():
    """`r_t^2 = v (1 - alpha_bar) / (alpha_bar v + 1 - alpha_bar)`, which for photographs is far from that of v = 1."""
    a, measurement, v = OPERATORS["random"].matrix, of(OPERATORS["random"].make()), 0.25
    covariance, alpha_bar, mean = spread("diagonal", 500)
    r_squared = v * (1 - alpha_bar) / (alpha_bar * v + 1 - alpha_bar)
    assert a is not None
    inverted = r_squared * a @ a.T + SIGMA_Y**2 * np.eye(len(a))
    wanted = mean + covariance @ a.T @ np.linalg.solve(inverted, np.ravel(measurement.y) - a @ mean)
    found, other = (predict(PiGDM(gaussian_prior(), measurement, v), X_T, 500).x0_hat for v in (v, 1.0))
    np.testing.assert_allclose(np.ravel(found), wanted, atol=1e-3)
    assert jnp.abs(found - other).max() > 1e-2


@every_rule
def test_photons_have_the_variance_of_their_own_pixel(rule):
    """`2 (x0_hat + 1) / peak` in place of `sigma_y^2`, for which no one number could stand."""
    measurement = of(Identity(), PoissonNoise(40.0))
    covariance, alpha_bar, mean = spread("diagonal", 50)
    noise = np.maximum(2 * (mean + 1) / 40, 4 * 0.01 / 40**2)
    assert noise.max() > 2 * noise.min()
    inverted = (1 - alpha_bar if rule is PiGDM else np.diag(covariance)) + noise
    wanted = mean + np.diag(covariance) / inverted * (np.ravel(measurement.y) - mean)
    found = predict(rule(gaussian_prior(), measurement), X_T, 50).x0_hat
    np.testing.assert_allclose(np.ravel(found), wanted, atol=1e-3)


@every_rule
def test_the_variance_of_a_step_stays_the_priors(rule):
    """A network that learned it says it, guided or not."""
    network = jax.tree_util.Partial(lambda x_t, t: jnp.concatenate([0.5 * x_t, 0.3 * x_t], axis=-1))
    prior = Denoiser(network, linear(), SHAPE, variance="learned_range")
    own = predict(prior, X_T, 300).variance_fraction
    guided = predict(rule(prior, Measurement(Identity(), 0.5 * X_T, 0.1)), X_T, 300).variance_fraction
    assert own is not None
    assert jnp.ptp(own) > 0.1
    np.testing.assert_allclose(guided, own, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("integrator", [DDPM, DDIM])
def test_mmps_draws_from_the_posterior_under_both_integrators(integrator):
    """Of independent pixels: mean and variance of many samples, in 250 steps; DDPM's lose a little variance."""
    prior, measurement = small_problem()
    sampler = integrator(MMPS(prior, measurement))
    x = sample_many(sampler, jax.random.split(jax.random.key(0), 500), time_grid(1000, 250))
    gain = measurement.observed * prior.variance / (prior.variance + SIGMA_Y**2)
    mean, variance = prior.mean + gain * (measurement.y - prior.mean), (1 - gain) * prior.variance
    hidden = measurement.observed == 0
    z = (x.mean(0) - mean) / jnp.sqrt(variance / 500)
    assert jnp.sqrt(jnp.mean(z[hidden] ** 2)) < 1.5
    assert jnp.mean(x.var(0)[hidden] / variance[hidden]) == pytest.approx(1, abs=0.09)
    assert jnp.sqrt(jnp.mean((x.mean(0) - mean)[~hidden] ** 2)) < 0.3 * SIGMA_Y


ROOT = np.random.default_rng(0).normal(size=(144, 144)).astype(np.float32) / 12
MATRIX = 3 * ROOT @ ROOT.T


def steep() -> Denoiser:
    """A linear network whose estimates are mostly out of range."""
    network = jax.tree_util.Partial(lambda x_t, t: (MATRIX @ x_t.ravel()).reshape(SHAPE))
    return Denoiser(network, linear(), SHAPE, target="x0")


@every_rule
def test_a_wrapped_prior_is_guided_bit_for_bit_like_the_bare_one(rule):
    """Nothing is clipped inside the Jacobian, and the moved estimate is."""
    bare, measurement = steep(), Measurement(Identity(), 0.8 * X_T, 0.1)
    assert jnp.mean(jnp.abs(bare.predict(X_T, 300).before_clip) > 1) > 0.5
    said, wrapped = (predict(rule(prior, measurement), X_T, 300) for prior in (bare, Passed(bare)))
    jax.tree.map(np.testing.assert_array_equal, wrapped, said)
    assert jnp.abs(said.x0_hat).max() == 1
    assert jnp.abs(said.before_clip).max() > 1
    np.testing.assert_array_equal(said.before_guidance, bare.predict(X_T, 300).x0_hat)
    free = predict(rule(replace(bare, clip=False), measurement), X_T, 300)
    np.testing.assert_allclose(said.before_clip, free.x0_hat, rtol=1e-5, atol=1e-5)


def test_a_guided_prior_is_a_prior_at_every_size_that_its_measurement_has():
    prior, measurement = small_problem()
    guided = TMPD(prior, measurement)
    assert isinstance(guided, Prior)
    assert (guided.image_shape, guided.schedule) == (SHAPE, prior.schedule)


@every_rule
def test_a_measurement_that_does_not_fit_is_refused(rule):
    prior, measurement = small_problem()
    with pytest.raises(ValueError, match="needs a linear operator, and Saturation is not"):
        rule(prior, of(Saturation()))
    with pytest.raises(ValueError, match="needs a linear operator, and Affine is not"):
        rule(prior, of(Affine()))
    with pytest.raises(ValueError, match="`y` is complex"):
        rule(prior, Measurement(Identity(), 1j * X_T, SIGMA_Y))
    with pytest.raises(ValueError, match="`y` must have the shape"):
        rule(prior, Measurement(measurement.operator, measurement.y[..., :1], SIGMA_Y))
