"""One step of a method beside its published loop in NumPy: dense matrices, derivatives by hand, the same noise."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DAPS, DSG, LGD, MCG, MPGD, DPSLikelihood, GaussianPrior, PnPDM, REDDiff, RePaint
from jaxdiff.noise import PoissonNoise
from jaxdiff.operators import Identity
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.samplers import annealed_times, repaint_times
from jaxdiff.schedule import linear
from tests.conftest import SHAPE, gaussian_prior, of
from tests.operators.conftest import OPERATORS, Saturation, Sums, as_real

SIGMA_Y = 0.4
KEY = jax.random.key(0)
X_T = jax.random.normal(jax.random.key(2), SHAPE)
ALPHA_BAR = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
T, S = 600, 450
A_T, A_S = ALPHA_BAR[T], ALPHA_BAR[S]
BETA = 1 - A_T / A_S
step = jax.jit(lambda sampler, key, state, t, s: sampler.step(key, state, t, s)[0])


def vector(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64).ravel()


def normal(*folds: int, key: Any = KEY) -> np.ndarray:
    """What the key of a step gives, or one that numbers are folded into."""
    for number in folds:
        key = jax.random.fold_in(key, number)
    return vector(jax.random.normal(key, SHAPE))


X, NOISE = vector(X_T), normal()
PRIOR_MEAN, PRIOR_VARIANCE = vector(gaussian_prior().mean), vector(gaussian_prior().variance)


def estimate(x: np.ndarray, a: float) -> tuple[np.ndarray, np.ndarray]:
    """`E[x0 | x_t]` of independent Gaussian pixels, and its derivative."""
    gain = np.sqrt(a) * PRIOR_VARIANCE / (a * PRIOR_VARIANCE + 1 - a)
    return PRIOR_MEAN + gain * (x - np.sqrt(a) * PRIOR_MEAN), gain


X0, GAIN = estimate(X, A_T)
EPS = (X - np.sqrt(A_T) * X0) / np.sqrt(1 - A_T)
DDPM_STD = np.sqrt(BETA * (1 - A_S) / (1 - A_T))
DDPM_STEP = BETA * np.sqrt(A_S) / (1 - A_T) * X0 + (1 - A_S) * np.sqrt(A_T / A_S) / (1 - A_T) * X + DDPM_STD * NOISE


class Problem:
    """A measurement, and what the formulas need of it."""

    def __init__(self, name: str):
        matrix = OPERATORS[name].matrix
        assert matrix is not None
        self.measurement, self.matrix = of(OPERATORS[name].make(), SIGMA_Y), as_real(np.asarray(matrix))
        self.y = as_real(np.ravel(self.measurement.y)).astype(np.float64)
        self.residual = self.y - self.matrix @ X0
        self.back = self.matrix.T @ self.residual
        self.given = gaussian_prior(), self.measurement


BLUR, MASK, SUMS = Problem("blur"), Problem("random"), Problem("sums")


def mpgd() -> np.ndarray:
    """The estimate moved by c / alpha_s against the gradient in itself; the noise estimate is that of the other."""
    moved = X0 + 0.7 / np.sqrt(A_S) * BLUR.back / np.linalg.norm(BLUR.residual)
    std = 0.5 * DDPM_STD
    return np.sqrt(A_S) * moved + np.sqrt(1 - A_S - std**2) * EPS + std * NOISE


def dsg() -> np.ndarray:
    """The drawn direction mixed with that of the gradient, at the radius of the noise."""
    mean = np.sqrt(A_S) * X0 + np.sqrt(1 - A_S - DDPM_STD**2) * EPS
    radius, g = np.sqrt(len(X)) * DDPM_STD, -2 * GAIN * BLUR.back
    best = -radius * g / np.linalg.norm(g)
    mixed = DDPM_STD * NOISE + 0.3 * (best - DDPM_STD * NOISE)
    return mean + radius * mixed / np.linalg.norm(mixed)


def lgd() -> np.ndarray:
    """Weights of four images by their likelihood; derivative of the logarithm of its mean."""
    noises = np.asarray(jax.random.normal(jax.random.fold_in(KEY, 1), (4, *SHAPE)), np.float64).reshape(4, -1)
    residuals = BLUR.y - (X0 + 0.1 * np.sqrt(1 - A_T) * noises) @ BLUR.matrix.T
    logs = -np.sum(residuals**2, 1) / (2 * SIGMA_Y**2)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    assert 0.1 < weights.max() < 0.99
    score = GAIN * (BLUR.matrix.T @ (weights @ residuals)) / SIGMA_Y**2
    return DDPM_STEP + 0.5 * BETA / np.sqrt(1 - BETA) * score


def mcg() -> np.ndarray:
    """The gradient of the norm, then what is measured in the place of the sums of the image."""
    moved = DDPM_STEP + 0.7 * GAIN * SUMS.back / np.linalg.norm(SUMS.residual)
    data = np.sqrt(A_S) * SUMS.y + np.sqrt(1 - A_S) * SUMS.matrix @ normal(1)
    return moved + np.linalg.pinv(SUMS.matrix, rcond=1e-5) @ (data - SUMS.matrix @ moved)


def repaint() -> np.ndarray:
    """Known pixels from the forward process, the others from DDPM."""
    known = np.diag(MASK.matrix) > 0
    return np.where(known, np.sqrt(A_S) * MASK.y + np.sqrt(1 - A_S) * normal(1), DDPM_STEP)


def daps() -> np.ndarray:
    """Euler's steps in images divided by alpha, Langevin's with a gradient written out, and noise."""
    times = [600, 300, 0]
    levels = [np.sqrt(1 / ALPHA_BAR[t] - 1) for t in times] + [0.0]
    x = X / np.sqrt(A_T)
    for t, level, following in zip(times, levels[:-1], levels[1:], strict=True):
        d = (x - estimate(np.sqrt(ALPHA_BAR[t]) * x, ALPHA_BAR[t])[0]) / level
        x = x + (following - level) * d
    start, h = x, 0.2 / (1 / SIGMA_Y**2 + 1 / levels[0] ** 2)
    for i in range(3):
        score = BLUR.matrix.T @ (BLUR.y - BLUR.matrix @ x) / SIGMA_Y**2 + (start - x) / levels[0] ** 2
        x = x + h * score + np.sqrt(2 * h) * normal(1, i)
    return np.sqrt(A_S) * x + np.sqrt(1 - A_S) * NOISE


STEPS: dict[str, tuple[Callable[[], Any], Callable[[], np.ndarray]]] = {
    "mpgd": (lambda: MPGD(*BLUR.given, 0.7), mpgd),
    "dsg": (lambda: DSG(*BLUR.given, 0.3), dsg),
    "lgd": (lambda: LGD(*BLUR.given, 0.5, num_images=4, kappa=0.1), lgd),
    "mcg": (lambda: MCG(*SUMS.given, 0.7), mcg),
    "repaint": (lambda: RePaint(*MASK.given), repaint),
    "daps": (lambda: DAPS(*BLUR.given, ode_steps=3, langevin_steps=3, step_size=0.2), daps),
}


@cache
def taken() -> dict[str, np.ndarray]:
    """A step of every sampler, in one program."""
    samplers = {name: make() for name, (make, _) in STEPS.items()}
    step_all = jax.jit(lambda samplers: {name: one.step(KEY, X_T, T, S)[0] for name, one in samplers.items()})
    return {name: vector(x_s) for name, x_s in step_all(samplers).items()}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_the_published_one(name):
    np.testing.assert_allclose(taken()[name], STEPS[name][1](), atol=1e-4)


def test_the_steps_of_red_diff_are_adams_on_its_loss():
    """From the damped pseudo-inverse on; two of them, so that Adam has something to remember."""
    sampler, matrix, y = REDDiff(*MASK.given, lambda_=0.3, rate=0.2), MASK.matrix, MASK.y
    state = sampler.init(KEY, T)
    mean = vector(sampler.image(state))
    start = np.linalg.solve(matrix.T @ matrix + 0.01 * np.eye(len(mean)), matrix.T @ y)
    np.testing.assert_allclose(mean, start, atol=1e-5)
    first, second = np.zeros_like(mean), np.zeros_like(mean)
    for count, (t, key) in enumerate([(600, KEY), (300, jax.random.key(1))], 1):
        noise, a = normal(key=key), ALPHA_BAR[t]
        x_t = np.sqrt(a) * mean + np.sqrt(1 - a) * noise
        eps_hat = (x_t - np.sqrt(a) * estimate(x_t, a)[0]) / np.sqrt(1 - a)
        gradient = -matrix.T @ (y - matrix @ mean) / len(y)
        gradient += 0.3 * np.sqrt(1 / a - 1) * (eps_hat - noise) / len(mean)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        corrected = first / (1 - 0.9**count), second / (1 - 0.99**count)
        mean = mean - 0.2 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        state = step(sampler, key, state, t, t - 300)
        np.testing.assert_allclose(vector(sampler.image(state)), mean, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "circular blur",
        "sums",
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("random", "blur", "waves", "fourier")),
    ],
)
def test_pnp_dm_draws_exactly_what_fits_image_and_data(name):
    """Of an image that the prior knows: mean and covariance of 1000 draws, in directions where they should be 0 and 1.

    In the singular system, by conjugate gradients, and with complex measurements.
    """
    problem, n = Problem(name), 1000
    certain = GaussianPrior(gaussian_prior().mean, Diagonal(jnp.full(SHAPE, 1e-12)), linear())
    sampler = PnPDM(certain, problem.measurement, prior_steps=2, iterations=60)
    draw = jax.vmap(lambda key: sampler.step(key, X_T, T, S)[0])
    x = np.asarray(jax.jit(draw)(jax.random.split(KEY, n)), np.float64).reshape(n, -1) / np.sqrt(A_S)
    r_squared = 1 / A_S - 1
    precision = problem.matrix.T @ problem.matrix / SIGMA_Y**2 + np.eye(144) / r_squared
    mean = np.linalg.solve(precision, problem.matrix.T @ problem.y / SIGMA_Y**2 + PRIOR_MEAN / r_squared)
    z = (x - mean) @ np.linalg.cholesky(precision)
    # The largest of 144 standard normal scores exceeds 4.5 with probability 0.001; of 144 * 143 / 2, 5.5 with 4e-4.
    assert np.abs(z.mean(0)).max() < 4.5 / np.sqrt(n)
    off = np.abs(z.T @ z / n - np.eye(144))
    assert np.diag(off).max() < 4.5 * np.sqrt(2 / n)
    assert off.max() < 5.5 * np.sqrt(2 / n)


@pytest.mark.thorough
def test_pnp_dm_draws_images_of_the_prior_and_ends_with_one():
    """To the clean image it looks at no data; mean and spread are those of `x0` given `x_t`, but for 3 % of DDPM's."""
    sampler, n, a = PnPDM(*MASK.given, prior_steps=201), 500, ALPHA_BAR[200]
    x_t = jnp.sqrt(a) * gaussian_prior().sample(jax.random.key(3))
    x0 = jax.jit(jax.vmap(lambda key: sampler.step(key, x_t, 200, -1)[0]))(jax.random.split(KEY, n))
    x0 = np.asarray(x0, np.float64).reshape(n, -1)
    mean, gain = estimate(vector(x_t), a)
    variance = gain * (1 - a) / np.sqrt(a)
    assert np.sqrt(np.mean((x0.mean(0) - mean) ** 2 / (variance / n))) < 1.3
    assert np.mean(x0.var(0) / variance) == pytest.approx(0.97, abs=0.03)


def test_repaints_times_are_those_of_the_published_schedule():
    """Whose loop climbs step by step."""
    for n, jump, repeats in ((250, 10, 10), (20, 3, 2), (7, 1, 3), (5, 9, 4)):
        left = dict.fromkeys(range(0, n - jump, jump), repeats - 1)
        place, places = n, []
        while place >= 1:
            place -= 1
            places.append(place)
            if left.get(place, 0) > 0:
                left[place] -= 1
                places.append(place + jump)
                place += jump
        times = repaint_times(1000, n, jump, repeats)
        kept = np.round(np.linspace(0, 999, n)).astype(int)
        assert times.tolist() == [*kept[places].tolist(), -1]
    # The authors': 250 + 24 * 9 * 10 network calls, of which 24 * 9 here are climbs that need none there.
    assert len(repaint_times(1000, 250)) - 1 == 250 + 24 * 9 * 10 + 24 * 9
    with pytest.raises(ValueError, match="must be positive"):
        repaint_times(1000, 250, jump=0)


def test_annealed_times_have_levels_of_equal_ratio():
    times = annealed_times(linear(), 20, 10.0, 0.1)
    levels = np.sqrt(1 / ALPHA_BAR[times[:-1]] - 1)
    np.testing.assert_allclose(levels, 0.01 ** (np.arange(20) / 19) * 10, rtol=0.05)
    assert times[-1] == -1
    assert len(annealed_times(linear(), 400, 0.012, 0.01)) < 10


@pytest.mark.thorough
def test_one_image_makes_lgd_dps_with_the_likelihood():
    prior, measurement = BLUR.given
    alone = LGD(prior, measurement, 0.5, num_images=1, kappa=0.0)
    np.testing.assert_allclose(
        step(alone, KEY, X_T, T, S), step(DPSLikelihood(prior, measurement, 0.5), KEY, X_T, T, S), atol=1e-5
    )


def test_what_is_refused():
    prior, photons = gaussian_prior(), of(Identity(), PoissonNoise(40.0))
    with pytest.raises(ValueError, match="needs a mask, and Sums is none"):
        RePaint(prior, of(Sums()))
    for make in (lambda given: MCG(prior, given, 0.1), lambda given: PnPDM(prior, given)):
        with pytest.raises(ValueError, match="needs a linear operator, and Saturation is not"):
            make(of(Saturation()))
    for make in (DAPS, PnPDM):
        with pytest.raises(ValueError, match="Gaussian noise"):
            make(prior, photons)
    for make in (
        lambda: LGD(*MASK.given, num_images=0),
        lambda: DAPS(*MASK.given, ode_steps=0),
        lambda: PnPDM(*MASK.given, prior_steps=0),
    ):
        with pytest.raises(ValueError, match="must be at least 1"):
            make()
