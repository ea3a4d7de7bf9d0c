"""Every sampler follows the official code, restated in `tests/reference.py`, over all its steps.

Both draw the same noise. What remains is the rounding of float32: 1e-5 in `x_t`, and 4e-5 in the first estimates, each
1/alpha, up to 157, times a difference of two numbers.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, DPS, Denoiser, DPSLikelihood, DPSNorm, Measurement, ScoreALD, SDEdit, sample
from jaxdiff.operators import Blur, Mask
from jaxdiff.priors.denoiser import Variance
from jaxdiff.samplers import over_gamma, over_variance, twice_over_variance
from jaxdiff.schedule import linear, time_grid
from tests import reference
from tests.conftest import SIGMA_Y
from tests.operators.conftest import lopsided_kernel

SHAPE, STEPS, BOUND = (6, 5, 3), 50, 1e-4
KEY = jax.random.key(0)
NETWORK = reference.draw_network(SHAPE)
CHAIN, HALF = reference.Chain(reference.respace(STEPS)), reference.Chain(reference.respace(STEPS, 500))


def network(weights, x_t, t):
    """The network of the reference, for the library."""
    h, w, c = x_t.shape
    hidden = jnp.tanh(weights["first"] @ x_t.ravel() + weights["time"][t])
    output = (weights["second"] @ hidden + weights["bias"]).reshape(h, w, 2 * c)
    return jnp.concatenate([weights["skip"][t] * x_t + weights["scale"][t] * output[..., :c], output[..., c:]], axis=-1)


def network_without_variance(weights, x_t, t):
    return network(weights, x_t, t)[..., : x_t.shape[-1]]


def make_prior(variance: Variance = "learned_range") -> Denoiser:
    weights = {name: jnp.asarray(array, jnp.float32) for name, array in NETWORK._asdict().items()}
    function = network if variance == "learned_range" else network_without_variance
    return Denoiser(jax.tree_util.Partial(function, weights), linear(), SHAPE, variance=variance, clip=True)


class Problem(NamedTuple):
    """An operator in both forms, and a measurement that, like the authors', has noise on hidden pixels too."""

    operator: Any
    matrix: np.ndarray
    y: np.ndarray

    def given(self, sigma_y: float = SIGMA_Y) -> tuple[Denoiser, Measurement]:
        """The arguments of the library's samplers."""
        return make_prior(), Measurement(self.operator, jnp.asarray(self.y, jnp.float32), sigma_y)

    @property
    def restated(self) -> tuple[np.ndarray, np.ndarray]:
        """The arguments of the reference."""
        return self.matrix, self.y.ravel()


def make_problem(operator, matrix):
    rng = np.random.default_rng(1)
    truth, noise = rng.uniform(-1, 1, SHAPE), SIGMA_Y * rng.normal(size=SHAPE)
    y = (matrix @ truth.ravel()).reshape(SHAPE) + noise
    return Problem(operator, matrix, y.astype(np.float32).astype(np.float64))


KEPT = (np.random.default_rng(2).random((*SHAPE[:2], 1)) < 0.6).astype(np.float32)
KERNEL = lopsided_kernel()
MASK = make_problem(Mask(KEPT), reference.mask_matrix(KEPT, SHAPE))
BLUR = make_problem(Blur(KERNEL), reference.blur_matrix(KERNEL, SHAPE))


def ddpm(guide=reference.no_guide):
    return reference.ddpm(CHAIN, NETWORK, guide=guide)


def ald(gammas, weight):
    return ddpm(reference.score_ald(CHAIN, *MASK.restated, gammas, weight))


CASES = {
    "ddpm": (lambda: DDPM(make_prior()), ddpm()),
    "ddpm_small": (lambda: DDPM(make_prior("fixed_small")), reference.ddpm(CHAIN, NETWORK, "fixed_small")),
    "ddpm_large": (lambda: DDPM(make_prior("fixed_large")), reference.ddpm(CHAIN, NETWORK, "fixed_large")),
    "ddim_0": (lambda: DDIM(make_prior(), eta=0.0), reference.ddim(CHAIN, NETWORK, 0.0)),
    "ddim_half": (lambda: DDIM(make_prior(), eta=0.5), reference.ddim(CHAIN, NETWORK, 0.5)),
    "ddim_1": (lambda: DDIM(make_prior(), eta=1.0), reference.ddim(CHAIN, NETWORK, 1.0)),
    "sdedit": (lambda: SDEdit(*MASK.given()), reference.ddpm(HALF, NETWORK)),
    "dps_norm_mask": (lambda: DPSNorm(*MASK.given(), 0.5), ddpm(reference.dps_official(*MASK.restated, 0.5))),
    "dps_norm_blur": (lambda: DPSNorm(*BLUR.given(), 0.3), ddpm(reference.dps_official(*BLUR.restated, 0.3))),
    "dps_mask": (lambda: DPS(*MASK.given(), 0.5), ddpm(reference.dps_reports(*MASK.restated, 0.5))),
    "dps_blur": (lambda: DPS(*BLUR.given(), 0.3), ddpm(reference.dps_reports(*BLUR.restated, 0.3))),
    "dps_likelihood_mask": (
        lambda: DPSLikelihood(*MASK.given(1.0)),
        ddpm(reference.dps_likelihood(CHAIN, *MASK.restated, 1.0)),
    ),
    "dps_likelihood_blur": (
        lambda: DPSLikelihood(*BLUR.given(0.8)),
        ddpm(reference.dps_likelihood(CHAIN, *BLUR.restated, 0.8)),
    ),
    "score_ald_over_gamma": (
        lambda: ScoreALD(*MASK.given(), 3.0, 5.0, weighting=over_gamma),
        ald((3.0, 5.0), lambda gamma: 1 / gamma),
    ),
    "score_ald_over_variance": (
        lambda: ScoreALD(*MASK.given(0.5), 2.0, 1.5, weighting=over_variance),
        ald((2.0, 1.5), lambda gamma: 1 / (0.5**2 + gamma**2)),
    ),
    "score_ald_twice_over_variance": (
        lambda: ScoreALD(*BLUR.given(0.5), 2.0, 3.0, weighting=twice_over_variance),
        ddpm(reference.score_ald(CHAIN, *BLUR.restated, (2.0, 3.0), lambda gamma: 2 / (0.5**2 + gamma**2))),
    ),
}


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def follow(sampler, key, times):
    return sample(sampler, key, times, trace=lambda x_s, prediction: (x_s, prediction.x0_hat))[1]


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("float32"):
        yield


def noise(t):
    """What the key of a step, or with -1 the key of the start, gives."""
    return np.asarray(jax.random.normal(jax.random.fold_in(KEY, jnp.int32(t)), SHAPE), np.float64)


@functools.cache
def run_reference(name):
    """Returns every `x`, every estimate, and every estimate before its clip."""
    chain = HALF if name == "sdedit" else CHAIN
    mean = np.sqrt(chain.alpha_bar[-1]) * MASK.y if name == "sdedit" else 0.0
    start = mean + np.sqrt(1 - chain.alpha_bar[-1]) * noise(-1)
    images, estimates = reference.run(chain, CASES[name][1], start, {t: noise(t) for t in chain.times})
    return images, np.stack([said.x0 for said in estimates]), np.stack([said.unclipped for said in estimates])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_step_is_that_of_the_official_code(name):
    images, x0_hats = follow(CASES[name][0](), KEY, time_grid(1000, STEPS, 500 if name == "sdedit" else None))
    expected_images, expected_x0_hats, _ = run_reference(name)
    off = np.stack([np.abs(images - expected_images), np.abs(x0_hats - expected_x0_hats)]).max((2, 3, 4))
    assert off.shape == (2, STEPS)
    assert off.max() < BOUND, off


@pytest.mark.parametrize("name", CASES)
def test_the_clip_matters_in_every_step(name):
    """It holds some entries and not others, and none is so near the edge that rounding would decide."""
    unclipped = run_reference(name)[2]
    clipped = (np.abs(unclipped) > 1).mean((1, 2, 3))
    assert 0.05 < clipped.min() < clipped.max() < 0.8
    assert np.abs(np.abs(unclipped) - 1).min() > 1e-5


@pytest.mark.parametrize("problem", [MASK, BLUR], ids=["mask", "blur"])
def test_gradients_of_the_reference_are_those_of_finite_differences(problem: Problem):
    rng = np.random.default_rng(3)
    for i in (0, 5, 25, STEPS - 1):
        x_t, direction, step = rng.normal(size=SHAPE), rng.normal(size=SHAPE), 1e-6

        def squared(x_t, i=i):
            r = problem.y.ravel() - problem.matrix @ reference.estimate(CHAIN, NETWORK, i, x_t).x0.ravel()
            return r @ r

        said = reference.estimate(CHAIN, NETWORK, i, x_t)
        gradient = said.pull_back(-2 * reference.residual(*problem.restated, said.x0)[1])
        expected = (squared(x_t + step * direction) - squared(x_t - step * direction)) / (2 * step)
        assert 0.05 < (np.abs(said.unclipped) > 1).mean() < 0.8
        np.testing.assert_allclose(np.vdot(gradient, direction), expected, rtol=1e-6)


def test_tables_of_the_reference_have_the_published_values():
    chain = reference.Chain(range(1000))
    np.testing.assert_allclose(
        chain.alpha_bar[[0, 300, 500, 999]], [0.9999, 0.394011, 0.0777967, 4.03583e-5], rtol=5e-6
    )
    logarithms = [chain.log_variance[0], np.log(chain.betas[0]), np.log(chain.betas[999])]
    np.testing.assert_allclose(logarithms, [-9.8167, -9.2103, -3.9120], atol=5e-5)


def test_a_chain_starts_from_the_official_noise():
    """Which is 2e-5 longer than the forward process makes it at time 999."""
    start = DDPM(make_prior()).init(jax.random.fold_in(KEY, jnp.int32(-1)), 999)
    np.testing.assert_allclose(start, noise(-1), rtol=2.1e-5)
