"""Diagnostics: what is remembered is right, seeded faults are named, and healthy runs are not."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDPM, DPS, Denoiser, DPSLikelihood, ScoreALD, sample_segments, time_grid
from jaxdiff.measurement import measure
from jaxdiff.metrics.diagnosis import Diagnose, Diagnosis, verdict
from jaxdiff.operators import Mask, RandomMask
from jaxdiff.samplers import over_gamma, over_variance, scale_gamma
from jaxdiff.samplers.base import ancestral_step
from tests.conftest import SHAPE, SIGMA_Y, gaussian_denoiser

PRIOR = gaussian_denoiser()
KEYS = jax.random.split(jax.random.key(0), 4)
TIMES = time_grid(1000, 200)
ratios_of = jax.jit(jax.vmap(residual_ratio, (None, None, 0, None)))


def box(top, left):
    mask = np.ones((8, 8, 1), np.float32)
    mask[top : top + 4, left : left + 4] = 0
    return Mask(mask)


MASKS = {"box": box(2, 2), "random": Mask(RandomMask(jax.random.key(3), SHAPE, 0.3).mask)}
WRONG = {"box": box(0, 1), "random": Mask(RandomMask(jax.random.key(4), SHAPE, 0.3).mask)}


def draw_truth(key):
    return PRIOR.mean + jnp.sqrt(PRIOR.variance) * jax.random.normal(key, SHAPE)


def measured(task):
    return measure(jax.random.key(6), MASKS[task], draw_truth(jax.random.key(5)), SIGMA_Y)


def posterior(key, mask, y):
    """Draws from the exact posterior of one image."""
    gain = mask.mask * PRIOR.variance / (PRIOR.variance + SIGMA_Y**2)
    mean, variance = PRIOR.mean + gain * (y - PRIOR.mean), (1 - gain) * PRIOR.variance
    return mean + jnp.sqrt(variance) * jax.random.normal(key, SHAPE)


def run(sampler, operator, y, sigma_y=SIGMA_Y, times=TIMES):
    observer = Diagnose(sampler.denoiser.schedule, operator, y, sigma_y)
    *_, last = sample_segments(sampler, KEYS, times, observer=observer)
    return last, verdict(np.asarray(ratios_of(operator, y, last.state, sigma_y)), last.seen, sigma_y)


def likelihood(operator, y, sigma_y=SIGMA_Y, zeta=0.3):
    return DPSLikelihood(PRIOR, operator, y, sigma_y, zeta)


def langevin(operator, y, power):
    """ScoreALD with weights `1 / (sigma_y^2 + gamma^2)`, of gammas meant for the weights `1 / gamma` to some power."""
    clean, noisy = (scale_gamma(gamma, over_gamma, len(TIMES) - 1) ** power for gamma in (28.0, 33.0))
    return ScoreALD(PRIOR, operator, y, SIGMA_Y, clean, noisy, over_variance)


def test_every_step_is_remembered_as_it_was():
    operator, y, zeta, times = MASKS["random"], measured("random"), 0.4, TIMES[60:64]
    sampler = DPS(PRIOR, operator, y, zeta)
    start = jax.vmap(lambda key: 1.5 * jax.random.normal(key, SHAPE))(KEYS)
    observer = Diagnose(PRIOR.schedule, operator, y, SIGMA_Y)
    *_, last = sample_segments(sampler, KEYS, times, state=start, observer=observer, segment=1)

    @jax.jit
    def step(x_t, t, s):
        key = jax.random.fold_in(KEYS[1], t)
        x_s, prediction = sampler.step(key, x_t, t, s)
        own = ancestral_step(PRIOR.schedule, key, x_t, PRIOR.predict(x_t, t), t, s)
        return x_s, prediction, jnp.linalg.norm(own - x_t)

    x_t, lengths = start[1], []
    for t, s in pairwise(times):
        x_t, prediction, length = step(x_t, t, s)
        lengths.append(zeta / float(length))
    seen = Diagnosis(*(leaf[1] for leaf in last.seen))
    assert seen.guidance == pytest.approx(lengths[-1], rel=1e-3)
    assert seen.mean_guidance == pytest.approx(np.mean(lengths), rel=1e-3)
    assert seen.residual == pytest.approx(float(residual_ratio(operator, y, prediction.x0_hat, SIGMA_Y)), rel=1e-3)
    assert seen.clipped == pytest.approx(float((jnp.abs(last.x0_hat[1]) >= 1).mean()))
    assert 0 < seen.clipped < 1
    assert (seen.steps, seen.first_bad, seen.zeros) == (3, -1, 0)


def test_an_unguided_chain_has_no_guidance_and_ignores_the_data():
    last, found = run(DDPM(PRIOR), MASKS["box"], measured("box"))
    # The same arithmetic on the same noise; a compiler may still round the two differently.
    assert float(last.seen.mean_guidance.max()) < 1e-5
    assert found.word == "data ignored"
    assert "looks at the data at its start at most" in found.sentence


def test_draws_from_the_posterior_have_the_residual_of_the_noise():
    """`m ratio^2` is chi-square on average over the prior: its mean is `m`, its variance `2 m`."""
    mask, n = MASKS["random"], 400

    def one(key):
        keys = jax.random.split(key, 3)
        y = measure(keys[1], mask, draw_truth(keys[0]), SIGMA_Y)
        return residual_ratio(mask, y, posterior(keys[2], mask, y), SIGMA_Y)

    ratios = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), n))
    m = 3 * float(mask.mask.sum())
    assert float(jnp.mean(ratios**2)) == pytest.approx(1, abs=4 * (2 / m / n) ** 0.5)
    assert float(jnp.var(m * ratios**2)) == pytest.approx(2 * m, rel=0.5)
    words = {verdict(np.asarray(ratios[k : k + 1]), None, SIGMA_Y).word for k in range(n)}
    assert words == {"healthy"}


@pytest.mark.parametrize("task", MASKS)
def test_healthy_runs_are_called_healthy(task):
    operator, y = MASKS[task], measured(task)
    for sampler in (likelihood(operator, y), langevin(operator, y, 0.5)):
        last, found = run(sampler, operator, y)
        assert found.word == "healthy", found
        assert 0.1 < float(last.seen.mean_guidance.mean()) < 0.5


@pytest.mark.parametrize("task", MASKS)
def test_a_wrong_mask_is_named_although_the_residual_hides_it(task):
    y, wrong = measured(task), WRONG[task]
    last, found = run(likelihood(wrong, y), wrong, y)
    assert verdict(np.asarray(ratios_of(wrong, y, last.state, SIGMA_Y)), None, SIGMA_Y).word == "healthy"
    zeros = float((1 - MASKS[task].mask)[wrong.mask > 0].mean())
    assert found.word == "data over-fitted"
    assert f"{zeros:.0%} of the entries" in found.sentence
    assert "check the mask" in found.sentence
    assert not Diagnose(PRIOR.schedule, wrong, y, 0.0).start().zeros


@pytest.mark.parametrize("task", MASKS)
def test_seeded_faults_are_named(task):
    operator, y = MASKS[task], measured(task)
    found = {
        "zeta x 100": run(likelihood(operator, y, zeta=30.0), operator, y)[1],
        "gamma squared": run(langevin(operator, y, 1), operator, y)[1],
        "sigma_y too small": run(likelihood(operator, y, SIGMA_Y / 5), operator, y, SIGMA_Y / 5)[1],
        "sigma_y too large": run(DPS(PRIOR, operator, y, 0.6), operator, y, 5 * SIGMA_Y)[1],
        "unit steps x 100": run(DPS(PRIOR, operator, y, 60.0), operator, y)[1],
    }
    assert {fault: said.word for fault, said in found.items()} == {
        "zeta x 100": "diverged",
        "gamma squared": "data ignored",
        "sigma_y too small": "diverged",
        "sigma_y too large": "data over-fitted",
        "unit steps x 100": "diverged",
    }
    assert "check σ, which may be too large" in found["sigma_y too large"].sentence
    assert "lower gamma" in found["gamma squared"].sentence


def test_a_nan_in_the_weights_is_named_with_the_first_step():
    weights = jnp.ones(SHAPE).at[3, 3, 0].set(jnp.nan)
    network = jax.tree_util.Partial(lambda weights, x_t, t: weights * x_t, weights)
    sampler = DDPM(Denoiser(network, PRIOR.schedule, SHAPE))
    last, found = run(sampler, MASKS["box"], measured("box"), times=np.array([700, 350, -1]))
    assert np.asarray(last.seen.first_bad).tolist() == [700] * 4
    assert found.word == "diverged"
    assert "not finite from time 700 on" in found.sentence


def diagnosis(n=1, **changes):
    fine = {"residual": 1.0, "guidance": 0.1, "mean_guidance": 0.1, "clipped": 0.0, "zeros": 0.0, "steps": 100}
    return Diagnosis(**{name: np.full(n, value) for name, value in {**fine, "first_bad": -1, **changes}.items()})


@pytest.mark.parametrize(
    ("ratios", "sigma_y", "word", "part"),
    [
        ([0.9, 1.2], 0.05, "healthy", "is 1.05, averaged over 2 seeds: about 1"),
        ([2.0, 1.2], 0.05, "data ignored", "is 1.60, averaged over 2 seeds: too far above 1, so the data were ignored"),
        ([0.3, 0.5], 0.05, "data over-fitted", "is 0.40, averaged over 2 seeds: too far below 1, so the noise"),
        ([0.04], 0.0, "healthy", "by 5.1 of 255 steps (root mean square): little"),
        ([0.2], 0.0, "data ignored", "by 25.5 of 255 steps (root mean square): too much"),
        ([np.nan, 1.0], 0.05, "diverged", "not finite"),
    ],
)
def test_the_residual_is_judged_in_words(ratios, sigma_y, word, part):
    found = verdict(np.array(ratios), None, sigma_y)
    assert found.word == word
    assert part in found.sentence
    if np.isfinite(ratios).all():
        assert verdict(np.array(ratios), diagnosis(len(ratios)), sigma_y) == found


def test_what_the_residual_hides_comes_first():
    for changes, word in (
        ({"mean_guidance": 4.0}, "diverged"),
        ({"first_bad": 30}, "diverged"),
        ({"zeros": 0.2}, "data over-fitted"),
    ):
        assert verdict(np.ones(3), diagnosis(3, **changes), 0.05).word == word
