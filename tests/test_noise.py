"""Laws of noise models: moments of draws, and likelihoods against SciPy's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiff.measurement import Measurement
from jaxdiff.noise import GaussianNoise, HeteroscedasticNoise, PoissonGaussianNoise, PoissonNoise
from jaxdiff.operators import Identity
from tests.conftest import NOISES, SIGMA_Y

CLEAN = jnp.array([-0.9, -0.2, 1.0])
COUNT = 20_000


def log_probability(name: str, y: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Of one draw, by SciPy."""
    if name == "gaussian":
        return stats.norm.logpdf(y, clean, SIGMA_Y)
    if name == "level of a colour":
        return stats.norm.logpdf(y, clean, [0.02, SIGMA_Y, 0.2])
    if name == "camera":
        return stats.norm.logpdf(y, clean, np.sqrt((clean + 1) / 20 + SIGMA_Y**2))
    peak = {"poisson": 40.0, "few photons": 3.0}[name]
    return stats.poisson.logpmf(np.round(peak * (y + 1) / 2), peak * (clean + 1) / 2)


@pytest.fixture(scope="module", params=NOISES)
def case(request):
    noise = NOISES[request.param]()
    draws = jax.vmap(lambda key: noise.sample(key, CLEAN))(jax.random.split(jax.random.key(0), COUNT))
    return request.param, noise, np.asarray(draws, np.float64)


def test_draws_have_the_clean_mean_and_the_stated_variance(case):
    _, noise, draws = case
    variance = np.broadcast_to(noise.variance(CLEAN), CLEAN.shape)
    assert (np.abs(draws.mean(0) - CLEAN) / np.sqrt(variance / COUNT)).max() < 4.5
    # The variance of a sample variance, from the fourth moment of the draws.
    spread = (draws - draws.mean(0)) ** 2
    assert (np.abs(spread.mean(0) - variance) / (spread.std(0) / COUNT**0.5)).max() < 4.5


def test_likelihoods_and_their_slopes_are_scipys(case):
    name, noise, draws = case
    y, clean = draws[0], np.asarray(CLEAN, np.float64)
    other = 0.8 * clean - 0.05
    found = noise.log_likelihood(jnp.asarray(y, jnp.float32), CLEAN) - noise.log_likelihood(
        jnp.asarray(y, jnp.float32), jnp.asarray(other, jnp.float32)
    )
    wanted = log_probability(name, y, clean) - log_probability(name, y, other)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-3)
    slope = jax.grad(lambda clean: noise.log_likelihood(jnp.asarray(y, jnp.float32), clean).sum())(CLEAN)
    step = 1e-5
    exact = (log_probability(name, y, clean + step) - log_probability(name, y, clean - step)) / (2 * step)
    np.testing.assert_allclose(slope, exact, rtol=2e-3, atol=2e-3)


def test_many_photons_and_reading_noise_are_nearly_gaussian():
    """Against the sum over all counts: 20 photons, read with a noise of one, within two standard deviations."""
    noise, clean, counts = PoissonGaussianNoise(peak=40.0, sigma_y=0.05), 0.0, np.arange(100)
    y = np.linspace(-2, 2, 41) * 21**0.5 / 20
    exact = np.log(stats.poisson.pmf(counts, 20) @ stats.norm.pdf(y, counts[:, None] / 20 - 1, 0.05))
    found = noise.log_likelihood(jnp.asarray(y, jnp.float32), jnp.full(41, clean)) - 0.5 * np.log(2 * np.pi)
    assert np.abs(found - exact).max() < 0.1


@pytest.mark.usefixtures("unchecked")
def test_levels_suit_the_measurement_and_are_refused_where_one_is_needed():
    noise = HeteroscedasticNoise(np.full(4, 0.1, np.float32))
    with pytest.raises(ValueError, match="broadcast"):
        noise.sample(jax.random.key(0), CLEAN)
    with pytest.raises(ValueError, match="needs Gaussian noise of one level, got HeteroscedasticNoise"):
        _ = Measurement(Identity(), jnp.zeros((4, 4, 4)), noise).sigma_y
    with pytest.raises(ValueError, match="take `HeteroscedasticNoise`"):
        Measurement(Identity(), jnp.zeros((4, 4, 3)), jnp.full((4, 4, 3), 0.1))


def test_a_black_pixel_may_receive_a_photon():
    noise = PoissonNoise(peak=40.0)
    value, slope = jax.value_and_grad(lambda clean: noise.log_likelihood(jnp.float32(-0.9), clean))(jnp.float32(-1.2))
    assert np.isfinite([value, slope]).all()
    assert (noise.sample(jax.random.key(0), jnp.full(50, -1.5)) == -1).all()


def test_both_parts_of_a_complex_measurement_have_the_level():
    y = GaussianNoise(SIGMA_Y).sample(jax.random.key(0), jnp.zeros(COUNT, jnp.complex64))
    for part in (y.real, y.imag):
        np.testing.assert_allclose(part.std(), SIGMA_Y, rtol=4.5 / (2 * COUNT) ** 0.5)


def test_complex_numbers_are_no_counts_of_photons():
    for noise in (PoissonNoise(10.0), PoissonGaussianNoise(10.0, 0.1)):
        with pytest.raises(ValueError, match="photons are counted"):
            noise.sample(jax.random.key(0), 1j * CLEAN)


@pytest.mark.parametrize("sigma_y", [-0.1, float("nan"), float("inf")])
def test_a_bad_level_is_refused(sigma_y):
    for make in (
        GaussianNoise,
        lambda level: HeteroscedasticNoise(np.array([0.1, level])),
        partial(PoissonGaussianNoise, 9),
    ):
        with pytest.raises(ValueError, match="`sigma_y` must be"):
            make(sigma_y)


@pytest.mark.parametrize("peak", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_peak_is_refused(peak):
    for make in (PoissonNoise, lambda peak: PoissonGaussianNoise(peak, 0.1)):
        with pytest.raises(ValueError, match="`peak` must be"):
            make(peak)
