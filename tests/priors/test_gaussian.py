"""Priors with closed forms, against dense float64 linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.priors.gaussian import Dense, Diagonal, GaussianPrior, Stationary, natural_spectrum
from jaxdiff.priors.mixture import MixturePrior
from jaxdiff.priors.tweedie import score, tweedie
from jaxdiff.schedule import linear
from tests.conftest import SHAPE, gaussian_prior
from tests.priors.conftest import MOMENTS, PRIORS, Moments, closed_form

closed_forms = jax.jit(
    lambda p, x_t, t, v: (p.predict(x_t, t).x0_hat, p.log_density(x_t, t), p.tweedie_covariance(x_t, t, v))
)
derived = jax.jit(lambda p, x_t, t, v: (score(p, x_t, t), jax.grad(p.log_density)(x_t, t), tweedie(p, x_t, t)[1](v)))


@pytest.fixture(params=MOMENTS)
def case(request):
    return closed_form(request.param)


def by_bayes(moments: Moments, x_t: np.ndarray, t: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Log density, mean and covariance of `x0` given `x_t`, by Bayes' rule on matrices."""
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t]
    alpha, noise = np.sqrt(alpha_bar), (1 - alpha_bar) * np.eye(x_t.size)
    logs, means, covariances = [], [], []
    for weight, m, c in zip(*moments, strict=True):
        spread = alpha_bar * c + noise
        gain, r = alpha * np.linalg.solve(spread, c).T, x_t - alpha * m
        logs.append(np.log(weight) - 0.5 * (r @ np.linalg.solve(spread, r) + np.linalg.slogdet(2 * np.pi * spread)[1]))
        means.append(m + gain @ r)
        covariances.append(c - alpha * gain @ c)
    total = np.logaddexp.reduce(logs)
    given = Moments(np.exp(np.array(logs) - total), np.array(means), np.array(covariances))
    return total, given.mean, given.covariance


@pytest.mark.slow
@pytest.mark.parametrize("t", [0, 400, 999])
def test_equals_dense_linear_algebra(case, t):
    prior, moments = case
    alpha_t, sigma_t = prior.schedule(t)
    # Between two means, so that more than one component of a mixture counts.
    x0 = prior.means[:2].mean(0) if isinstance(prior, MixturePrior) else prior.sample(jax.random.key(1))
    x_t = alpha_t * x0 + sigma_t * jax.random.normal(jax.random.key(2), SHAPE)
    log_density, mean, covariance = by_bayes(moments, np.asarray(x_t, np.float64).ravel(), t)
    v = jax.random.normal(jax.random.key(3), SHAPE)
    our_mean, our_log_density, our_product = closed_forms(prior, x_t, t, v)
    np.testing.assert_allclose(our_mean.ravel(), mean, atol=2e-5)
    np.testing.assert_allclose(our_log_density, log_density, rtol=1e-4, atol=0.02)
    product = covariance @ np.asarray(v, np.float64).ravel()
    np.testing.assert_allclose(our_product.ravel(), product, atol=2e-4 * np.abs(product).max())


def test_derivatives_are_what_they_should_be(case):
    """The score is the gradient of the log density; the Jacobian of `x0_hat` gives the covariance (Tweedie)."""
    prior, _ = case
    x_t, v = jax.random.normal(jax.random.key(2), (2, *SHAPE))
    for t in (50, 400, 999):
        ours, gradient, jacobian_product = derived(prior, x_t, t, v)
        np.testing.assert_allclose(ours, gradient, atol=2e-4 * float(jnp.abs(gradient).max()))
        product = closed_forms(prior, x_t, t, v)[2]
        np.testing.assert_allclose(jacobian_product, product, atol=1e-3 * float(jnp.abs(product).max()))


@pytest.mark.slow
def test_samples_have_the_priors_moments(case):
    (prior, moments), n = case, 2000
    keys = jax.random.split(jax.random.key(4), n)
    samples = np.asarray(jax.jit(jax.vmap(prior.sample))(keys), np.float64).reshape(n, -1)
    # 144 entries: the largest of 144 standard normal scores exceeds 4.5 with probability 0.001.
    assert (np.abs(samples.mean(0) - moments.mean) / np.sqrt(np.diag(moments.covariance) / n)).max() < 4.5
    directions = np.random.default_rng(0).normal(size=(samples.shape[1], 20))
    exact = np.einsum("ij,ik,kj->j", directions, moments.covariance, directions)
    assert (np.abs((samples @ directions).var(0) / exact - 1) / np.sqrt(2 / n)).max() < 4.5


@pytest.mark.parametrize("make", [lambda shape: Diagonal(jnp.full(shape, 0.3)), natural_spectrum])
def test_float32_suffices_at_64_pixels(make):
    """`x0_hat` from a hardly noisy image, and both ends of the schedule."""
    shape = (64, 64, 3)
    prior = GaussianPrior(jnp.zeros(shape), make(shape), linear())
    x0 = prior.sample(jax.random.key(0))
    for t in (0, 999):
        alpha_t, sigma_t = (float(a) for a in prior.schedule(t))
        x_t = alpha_t * x0 + sigma_t * jax.random.normal(jax.random.key(1), shape)
        values = np.asarray(prior.covariance.eigenvalues, np.float64)
        gain = alpha_t * values / (alpha_t**2 * values + sigma_t**2)
        x = np.asarray(x_t, np.float64)
        if isinstance(prior.covariance, Stationary):
            colours = np.asarray(prior.covariance.colour_vectors, np.float64)
            exact = np.fft.ifft2(gain * np.fft.fft2(x @ colours, axes=(0, 1)), axes=(0, 1)).real @ colours.T
        else:
            exact = gain * x
        np.testing.assert_allclose(prior.predict(x_t, t).x0_hat, exact, atol=1e-5)
        assert jnp.isfinite(prior.log_density(x_t, t))


def test_natural_images_are_smooth_and_nearly_grey():
    covariance = natural_spectrum((32, 24, 3), variance=0.25, correlation=0.9)
    np.testing.assert_allclose(covariance.variance, 0.25, rtol=1e-5)
    impulse = jnp.zeros((32, 24, 3)).at[0, 0, 0].set(1.0)
    correlation = covariance.apply(lambda v: v, impulse) / 0.25
    np.testing.assert_allclose(correlation[0, 0], [1, 0.9, 0.9], rtol=1e-4)
    assert 1 > correlation[0, 1, 0] > correlation[0, 4, 0] > correlation[0, 12, 0]
    # On a torus the last column is the neighbour of the first.
    np.testing.assert_allclose(correlation[0, 1], correlation[0, -1], atol=1e-5)


def test_bad_covariances_are_refused():
    with pytest.raises(ValueError, match="symmetric"):
        Dense(np.triu(np.ones((3, 3))))
    with pytest.raises(ValueError, match="no covariance"):
        Dense(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="frequencies"):
        Stationary(np.arange(16.0).reshape(4, 4), np.eye(3))
    with pytest.raises(ValueError, match="`correlation`"):
        natural_spectrum(SHAPE, correlation=1.0)
    with pytest.raises(ValueError, match="entries"):
        GaussianPrior(jnp.zeros(SHAPE), Diagonal(jnp.ones((4, 4, 3))), linear())
    gaussian = gaussian_prior()
    with pytest.raises(ValueError, match="positive"):
        MixturePrior((1.0, 0.0), [gaussian, gaussian])
    with pytest.raises(ValueError, match="one kind"):
        MixturePrior((1.0, 1.0), [gaussian, PRIORS["dense"]()])
