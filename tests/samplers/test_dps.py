"""The three forms of DPS: closed forms of their gradient, and the lengths of their steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDPM, DPS, DPSLikelihood, DPSNorm, Measurement, PoissonNoise, scale_zeta
from jaxdiff.operators import Identity
from jaxdiff.samplers.base import residual_gradient
from tests.conftest import SHAPE, SIGMA_Y, gaussian_prior, of, small_problem
from tests.operators.conftest import OPERATORS

KEY = jax.random.key(0)
X_T = jax.random.normal(jax.random.key(9), SHAPE)
ALPHA_BAR = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)


def step_of(sampler, t=300, s=200):
    return sampler.step(KEY, X_T, t, s)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "sums", "waves", "saturation"])
def test_the_gradient_equals_the_closed_form(name):
    """With a Gaussian prior `x0_hat` is affine in `x_t`: the gradient is `-2 gain Re(J^H (y - A(x0_hat)))`."""
    prior, measurement = gaussian_prior(), of(OPERATORS[name].make())
    mean, variance = (np.asarray(a, np.float64).ravel() for a in (prior.mean, prior.variance))
    for t in (0, 300, 900):
        squared, gradient, _ = residual_gradient(prior, measurement, X_T, t)
        gain = np.sqrt(ALPHA_BAR[t]) * variance / (ALPHA_BAR[t] * variance + 1 - ALPHA_BAR[t])
        x0_hat = mean + gain * (np.asarray(X_T, np.float64).ravel() - np.sqrt(ALPHA_BAR[t]) * mean)
        jacobian = np.diag(2 / np.cosh(2 * x0_hat) ** 2) if name == "saturation" else np.asarray(OPERATORS[name].matrix)
        clean = np.tanh(2 * x0_hat) if name == "saturation" else jacobian @ x0_hat
        r = np.asarray(measurement.y, np.complex128).ravel() - clean
        wanted = -2 * gain * (jacobian.conj().T @ r).real
        np.testing.assert_allclose(np.ravel(gradient), wanted, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(squared, np.vdot(r, r).real, rtol=1e-4)


def test_the_three_forms_share_a_direction_and_have_their_lengths():
    prior, measurement = small_problem()
    plain = step_of(DDPM(prior))
    squared, gradient, _ = residual_gradient(prior, measurement, X_T, 300)
    beta = 1 - ALPHA_BAR[300] / ALPHA_BAR[200]
    length = float(jnp.linalg.norm(gradient))
    shifts = {
        "unit": (DPS(prior, measurement, 0.7), 0.7),
        "norm": (DPSNorm(prior, measurement, 0.7), 0.7 * length / (2 * float(squared) ** 0.5)),
        "likelihood": (DPSLikelihood(prior, measurement), beta / np.sqrt(1 - beta) * length / (2 * SIGMA_Y**2)),
    }
    for sampler, expected in shifts.values():
        shift = step_of(sampler) - plain
        np.testing.assert_allclose(jnp.linalg.norm(shift), expected, rtol=1e-4)
        cosine = -jnp.vdot(shift, gradient) / (jnp.linalg.norm(shift) * length)
        np.testing.assert_allclose(cosine, 1.0, atol=1e-5)


def test_the_likelihood_of_photons_has_its_own_gradient():
    """`d/dx (n log rate - rate) = peak / 2 (n / rate - 1)`, pulled back through an affine `x0_hat`."""
    prior, peak = gaussian_prior(), 40.0
    photons = of(Identity(), PoissonNoise(peak))
    said, beta = prior.predict(X_T, 300), 1 - ALPHA_BAR[300] / ALPHA_BAR[200]
    rate = np.asarray(peak * (said.x0_hat + 1) / 2, np.float64)
    slope = np.where(rate > 0.01, peak / 2 * (peak * (np.asarray(photons.y) + 1) / 2 / rate - 1), 0.0)
    gain = np.sqrt(ALPHA_BAR[300]) * prior.variance / (ALPHA_BAR[300] * prior.variance + 1 - ALPHA_BAR[300])
    shift = step_of(DPSLikelihood(prior, photons, zeta=0.5)) - step_of(DDPM(prior))
    np.testing.assert_allclose(shift, 0.5 * beta / np.sqrt(1 - beta) * gain * slope, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("make", [DPS, DPSNorm])
def test_guidance_is_safe_at_zero_residual(make):
    prior = gaussian_prior()
    exact = Measurement(Identity(), prior.predict(X_T, 300).x0_hat, 0.0)
    np.testing.assert_allclose(step_of(make(prior, exact, zeta=0.5)), step_of(DDPM(prior)), atol=1e-6)


@pytest.mark.parametrize("make", [DPS, DPSNorm, DPSLikelihood])
def test_measurements_of_another_shape_are_refused(make):
    prior, measurement = small_problem()
    wrong = Measurement(measurement.operator, measurement.y[..., :1], SIGMA_Y)
    with pytest.raises(ValueError, match="`y` must have"):
        make(prior, wrong, zeta=1.0)


def test_zeta_scales_with_size_and_steps():
    assert scale_zeta(1.0, (256, 256, 3), 1000) == 1.0
    assert scale_zeta(1.0, (32, 32, 3), 250) == pytest.approx(0.5)
    assert scale_zeta(1.0, (32, 128, 3), 250) == pytest.approx(1.0)
