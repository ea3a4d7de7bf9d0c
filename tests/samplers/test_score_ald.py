"""ScoreALD: the reports' shifts, and gammas that run both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDPM, Measurement, PoissonNoise, ScoreALD, SDEdit, scale_gamma
from jaxdiff.operators import Identity
from jaxdiff.samplers import over_gamma, over_variance, twice_over_variance
from jaxdiff.schedule import linear
from tests.conftest import SHAPE, SIGMA_Y, gaussian_prior, of, small_problem

KEY = jax.random.key(0)
X_T = jax.random.normal(jax.random.key(9), SHAPE)


def shift(sampler, t=300, s=200):
    """What the data term adds to DDPM's step."""
    return sampler.step(KEY, X_T, t, s)[0] - DDPM(sampler.prior).step(KEY, X_T, t, s)[0]


@pytest.mark.parametrize(
    ("weighting", "coefficient"),
    [(over_gamma, 1 / 12.0), (over_variance, 1 / (SIGMA_Y**2 + 144)), (twice_over_variance, 2 / (SIGMA_Y**2 + 144))],
)
def test_the_shift_is_the_reports_formula(weighting, coefficient):
    prior, measurement = small_problem()
    sampler = ScoreALD(prior, measurement, 12.0, 12.0, weighting=weighting)
    back = measurement.observed * (measurement.y - X_T)
    np.testing.assert_allclose(shift(sampler), coefficient * back, rtol=1e-3, atol=1e-6)


def test_gamma_runs_both_ways():
    """By time (10 clean, 15 noisy) the pull is weaker at high noise; by iteration (15, 10) it fades."""
    prior, measurement = small_problem()
    back = float(jnp.linalg.norm(measurement.observed * (measurement.y - X_T)))

    def strength(clean, noisy, t):
        return float(jnp.linalg.norm(shift(ScoreALD(prior, measurement, clean, noisy), t, t - 1))) / back

    np.testing.assert_allclose([strength(10.0, 15.0, t) for t in (999, 0)], [1 / 15, 1 / 10], rtol=1e-3)
    np.testing.assert_allclose([strength(15.0, 10.0, t) for t in (999, 0)], [1 / 10, 1 / 15], rtol=1e-3)


class Opaque:
    """A prior that cannot be differentiated."""

    schedule, image_shape = linear(), SHAPE

    def predict(self, x_t, t):
        estimate = jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(SHAPE, jnp.float32), x_t)
        return gaussian_prior().predict(estimate, t)

    def bound(self, x0):
        return x0

    def at(self, image_shape):
        return self


def test_no_gradient_of_the_network_is_needed():
    x_s, _ = ScoreALD(Opaque(), small_problem()[1], 10.0, 15.0).step(KEY, jnp.ones(SHAPE), 300, 200)
    assert jnp.isfinite(x_s).all()


def test_gamma_scales_with_steps_and_never_past_a_whole_step():
    assert scale_gamma(12.0, over_gamma, 250) == 3.0
    assert scale_gamma(12.0, over_variance, 250) == 6.0
    for weighting in (over_gamma, over_variance, twice_over_variance):
        assert weighting(0.0, scale_gamma(12.0, weighting, 2)) == pytest.approx(1.0)


def test_a_measurement_of_another_shape_is_refused():
    prior, measurement = small_problem()
    with pytest.raises(ValueError, match="`y` must have"):
        ScoreALD(prior, Measurement(measurement.operator, measurement.y[..., :1], SIGMA_Y), 10.0, 15.0)


def test_photons_are_refused_before_anything_runs():
    prior, photons = gaussian_prior(), of(Identity(), PoissonNoise(40.0))
    with pytest.raises(ValueError, match="needs Gaussian noise of one level, got PoissonNoise"):
        ScoreALD(prior, photons, 10.0, 15.0)
    with pytest.raises(ValueError, match="needs Gaussian noise of one level, got PoissonNoise"):
        SDEdit(prior, photons, noise_counts=True)
    assert SDEdit(prior, photons).init(KEY, 300).shape == SHAPE
