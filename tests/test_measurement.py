"""Measurements: their noise, residual and likelihood, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff.measurement import Measurement, measure
from jaxdiff.noise import GaussianNoise, PoissonNoise
from jaxdiff.operators import Identity
from jaxdiff.samplers import SDEdit
from tests.conftest import NOISES, SHAPE, SIGMA_Y, gaussian_prior, of
from tests.operators.conftest import OPERATORS, Waves

X = 0.5 * jax.random.normal(jax.random.key(6), SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_noise_falls_on_what_is_observed_and_on_nothing_else(name):
    operator = OPERATORS[name].make()
    measurement = measure(jax.random.key(0), operator, X, 0.5)
    noise = measurement.residual(X)
    np.testing.assert_array_equal(noise != 0, measurement.observed == 1)
    assert measurement.y.shape == operator(X).shape


# A sum may be below -1, where there is no light to count.
PAIRS = [(name, noise) for name in ("random", "saturation") for noise in NOISES]


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "noise"), [*PAIRS, ("sums", "gaussian"), ("waves", "gaussian")])
def test_the_truth_is_one_deviation_from_the_data(operator, noise):
    """Averaged over 200 measurements, whose entries are many, the mean square is 1."""
    one = lambda key: measure(key, OPERATORS[operator].make(), X, NOISES[noise]()).residual_ratio(X) ** 2
    squares = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 200))
    assert abs(squares.mean() - 1) < 4.5 * squares.std() / 200**0.5


def test_the_likelihood_counts_the_observed_entries():
    measurement = of(OPERATORS["random"].make())
    clean, seen = np.asarray(measurement.operator(X), np.float64), np.asarray(measurement.observed, bool)
    wanted = stats.norm.logpdf(np.asarray(measurement.y)[seen], clean[seen], SIGMA_Y).sum()
    constant = stats.norm.logpdf(0, 0, SIGMA_Y) * seen.sum()
    np.testing.assert_allclose(measurement.log_likelihood(X), wanted - constant, rtol=1e-4)


def test_a_complex_measurement_has_two_parts():
    waves = lambda x: jnp.fft.fft2(x, axes=(0, 1))
    x = jax.random.normal(jax.random.key(0), (64, 48, 3))
    ratio = measure(jax.random.key(1), waves, x, 0.3).residual_ratio(x)
    # 18432 draws: the standard error of a standard deviation is 0.52 %.
    assert abs(float(ratio) - 1) < 4 * 0.0052


def test_a_complex_measurement_is_no_start_for_sdedit():
    with pytest.raises(ValueError, match="`y` must be an image, got complex numbers"):
        SDEdit(gaussian_prior(), of(Waves()))


def test_a_number_is_gaussian_noise_and_zero_is_none():
    measurement = of(Identity())
    assert isinstance(measurement.noise, GaussianNoise)
    assert (measurement.sigma_y, measurement.noiseless) == (SIGMA_Y, False)
    exact = Measurement(Identity(), X, 0)
    assert exact.noiseless
    np.testing.assert_allclose(exact.residual_ratio(X + 0.1), 0.1, rtol=1e-5)
    with pytest.raises(ValueError, match="needs Gaussian noise of one level, got PoissonNoise"):
        _ = Measurement(Identity(), X, PoissonNoise(10.0)).sigma_y


def test_shapes_and_linearity_are_checked():
    prior, y = gaussian_prior(), jnp.zeros(SHAPE)
    with pytest.raises(ValueError, match=r"`y` must have the shape \(8, 6, 3\).*got \(8, 6, 1\)"):
        Measurement(Identity(), y[..., :1], 0.1).check(prior.image_shape)
    curved = Measurement(OPERATORS["saturation"].make(), y, 0.1)
    curved.check(prior.image_shape)
    with pytest.raises(ValueError, match="needs a linear operator, and Saturation is not"):
        curved.check(prior.image_shape, linear=True)
