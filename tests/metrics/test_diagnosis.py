"""Diagnosis: what is remembered is right, healthy chains are called so under every integrator, and faults are named."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import (
    DDIM,
    DDPM,
    DPS,
    MMPS,
    Denoiser,
    Diagnose,
    Diagnosis,
    DPSLikelihood,
    Measurement,
    ScoreALD,
    measure,
    sample_segments,
    time_grid,
    verdict,
)
from jaxdiff.guidance import TMPD
from jaxdiff.metrics.diagnosis import LARGEST_EXCESS, Remedies, exact_zeros
from jaxdiff.noise import PoissonNoise
from jaxdiff.operators import BoxMask, Identity, Mask
from jaxdiff.priors.exact import posterior
from jaxdiff.runs.methods import METHODS
from jaxdiff.samplers import over_gamma, over_variance, scale_gamma
from tests.conftest import RISING, SHAPE, SIGMA_Y, Momentum, gaussian_prior, of
from tests.operators.conftest import BOX, KEPT, Sums

PRIOR = gaussian_prior()
KEYS = jax.random.split(jax.random.key(0), 4)
TIMES = time_grid(1000, 200)
MASKS = {"box": BOX, "random": KEPT}
WRONG = {"box": np.roll(BOX, (-2, -1), (0, 1)), "random": KEPT[::-1].copy()}
ratios_of = jax.jit(lambda measurement, images: jax.vmap(measurement.residual_ratio)(images))
CLEAN = Measurement(Identity(), jnp.full(SHAPE, 0.5), SIGMA_Y)
both_tasks = pytest.mark.parametrize("task", MASKS)


def measured(task):
    return of(Mask(MASKS[task]))


def run(sampler, measurement, times=TIMES):
    *_, last = sample_segments(sampler, KEYS, times, observer=Diagnose(PRIOR.schedule, measurement))
    images = jax.vmap(sampler.image)(last.state)
    return last.seen, verdict(np.asarray(ratios_of(measurement, images)), measurement, last.seen)


def likelihood(measurement, zeta=0.2):
    return DPSLikelihood(PRIOR, measurement, zeta)


def with_sigma(measurement, sigma_y):
    return Measurement(measurement.operator, measurement.y, sigma_y)


def with_zeros(count):
    """A measurement of 200 entries of which so many are exactly 0."""
    return Measurement(Identity(), jnp.full(200, 0.5).at[:count].set(0.0).reshape(10, 20, 1), SIGMA_Y)


def langevin(measurement, power):
    """ScoreALD with weights `1 / (sigma_y^2 + gamma^2)`, of gammas meant for the weights `1 / gamma` to some power."""
    clean, noisy = (scale_gamma(gamma, over_gamma, len(TIMES) - 1) ** power for gamma in (28.0, 33.0))
    return ScoreALD(PRIOR, measurement, clean, noisy, over_variance)


@pytest.mark.thorough
def test_every_step_is_remembered_as_it_was():
    measurement, times = measured("random"), TIMES[150:154]
    sampler = DPS(PRIOR, measurement, 0.4)
    start = jax.vmap(lambda key: 1.5 * jax.random.normal(key, SHAPE))(KEYS)
    observer = Diagnose(PRIOR.schedule, measurement)
    *_, last = sample_segments(sampler, KEYS, times, state=start, observer=observer, segment=1)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x_t, levels, prediction = start[1], [], None
    for t, s in pairwise(times.tolist()):
        before = np.asarray(x_t, np.float64)
        x_t, prediction = sampler.step(jax.random.fold_in(KEYS[1], t), x_t, t, s)
        noise = before - np.sqrt(alpha_bar[t]) * np.asarray(prediction.x0_hat, np.float64)
        levels.append(np.sqrt(np.mean(noise**2) / (1 - alpha_bar[t])))
    assert prediction is not None
    seen = Diagnosis(*(leaf[1] for leaf in last.seen))
    assert seen.noise_level == pytest.approx(levels[-1], rel=1e-3)
    assert seen.mean_noise_level == pytest.approx(np.mean(levels), rel=1e-3)
    assert seen.residual == pytest.approx(float(measurement.residual_ratio(prediction.x0_hat)), rel=1e-3)
    assert seen.clipped == pytest.approx(float((jnp.abs(last.x0_hat[1]) >= 1).mean()))
    assert 0 < seen.clipped < 1
    assert (seen.steps, seen.first_bad) == (3, -1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "times"),
    [(DDPM, TIMES), (DDIM, TIMES), (lambda prior: DDIM(prior, 0.5), TIMES), (Momentum, TIMES), (DDIM, RISING)],
    ids=["ddpm", "ddim", "ddim with noise", "no image as state", "rising times"],
)
@pytest.mark.parametrize("measurement", [measured("box"), of(Sums())], ids=["box", "no image"])
def test_unguided_chains_hold_the_noise_of_their_times_under_every_integrator(make, times, measurement):
    """They are not called diverged, but ignorant of the data."""
    seen, found = run(make(PRIOR), measurement, times)
    assert (np.asarray(seen.mean_noise_level) < 1.1).all()
    assert found.word == "data ignored"


def test_draws_from_the_posterior_have_the_residual_of_the_noise():
    """`m ratio^2` is chi-square on average over the prior: its mean is `m`, its variance `2 m`."""
    n = 400

    def one(key):
        keys = jax.random.split(key, 3)
        measurement = measure(keys[1], Mask(KEPT), PRIOR.sample(keys[0]), SIGMA_Y)
        gain = measurement.observed * PRIOR.variance / (PRIOR.variance + SIGMA_Y**2)
        mean, variance = PRIOR.mean + gain * (measurement.y - PRIOR.mean), (1 - gain) * PRIOR.variance
        return measurement.residual_ratio(mean + jnp.sqrt(variance) * jax.random.normal(keys[2], SHAPE))

    ratios = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), n))
    m = 3 * float(KEPT.sum())
    assert float(jnp.mean(ratios**2)) == pytest.approx(1, abs=4 * (2 / m / n) ** 0.5)
    assert float(jnp.var(m * ratios**2)) == pytest.approx(2 * m, rel=0.5)
    words = [verdict(np.asarray(ratios[k : k + 1]), CLEAN, None).word for k in range(n)]
    assert words.count("healthy") > 0.99 * n


@pytest.mark.thorough
@both_tasks
def test_exact_draws_and_healthy_runs_are_called_healthy(task):
    measurement = measured(task)
    exact = jax.vmap(posterior(PRIOR, measurement).sample)(KEYS)
    assert verdict(np.asarray(ratios_of(measurement, exact)), measurement, None).word == "healthy"
    guided = MMPS(PRIOR, measurement)
    for sampler in (likelihood(measurement), langevin(measurement, 0.5), DDPM(guided), DDIM(guided)):
        seen, found = run(sampler, measurement)
        assert found.word == "healthy", (type(sampler), found)
        # Below 1 where the data already say what the image is.
        assert 0.5 < float(seen.mean_noise_level.mean()) < LARGEST_EXCESS


def linear_network():
    """A network whose estimates are half of `x_t`."""
    network = jax.tree_util.Partial(lambda x_t, t: 0.5 * x_t)
    return Denoiser(network, PRIOR.schedule, SHAPE, target="x0")


def test_the_prior_alone_is_looked_at_where_it_is_guided():
    prior, measurement = linear_network(), Measurement(Identity(), jnp.full(SHAPE, 0.9), 0.1)
    x_t = jax.random.normal(jax.random.key(2), SHAPE)
    sampler, observer = DDPM(TMPD(prior, measurement)), Diagnose(PRIOR.schedule, measurement)
    *_, last = sample_segments(sampler, KEYS[:1], np.array([300, -1]), state=x_t[None], observer=observer)
    own = prior.predict(x_t, 300).x0_hat
    assert jnp.abs(sampler.prior.predict(x_t, 300).x0_hat - own).max() > 0.1
    np.testing.assert_allclose(last.x0_hat[0], own, atol=1e-5)
    np.testing.assert_allclose(last.seen.residual[0], measurement.residual_ratio(own), rtol=1e-4)
    alpha_bar = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[:301])
    noise = np.asarray(x_t, np.float64) - alpha_bar**0.5 * np.asarray(own, np.float64)
    np.testing.assert_allclose(last.seen.noise_level[0], np.sqrt(np.mean(noise**2) / (1 - alpha_bar)), rtol=1e-4)


def test_a_chain_whose_steps_overshoot_a_little_is_not_called_diverged():
    """DPSLikelihood at 0.3 in 200 steps of a box: the images held more noise than their times, and came back."""
    measurement = of(BoxMask(2, 1, 4, 3))
    seen, found = run(likelihood(measurement, zeta=0.3), measurement)
    assert LARGEST_EXCESS < float(seen.mean_noise_level.mean()) < 3
    assert found.word == "healthy"


@both_tasks
def test_a_wrong_mask_is_named_although_the_residual_hides_it(task):
    truth = measured(task)
    wrong = Measurement(Mask(WRONG[task]), truth.y, SIGMA_Y)
    *_, last = sample_segments(likelihood(wrong), KEYS, TIMES)
    assert verdict(np.asarray(ratios_of(wrong, last.state)), CLEAN, None).word == "healthy"
    _, found = run(likelihood(wrong), wrong)
    zeros = float((1 - MASKS[task])[WRONG[task] > 0].mean())
    assert found.word == "data over-fitted"
    assert f"{zeros:.0%} of the entries" in found.sentence
    assert "check the mask" in found.sentence


@both_tasks
def test_seeded_faults_are_named(task):
    measurement = measured(task)
    small, large = (with_sigma(measurement, factor * SIGMA_Y) for factor in (0.2, 5.0))
    found = {
        "zeta x 100": run(likelihood(measurement, zeta=20.0), measurement)[1],
        "gamma squared": run(langevin(measurement, 1), measurement)[1],
        "sigma_y too small": run(likelihood(small), small)[1],
        "sigma_y too large": run(DPS(PRIOR, large, 0.6), large)[1],
        "unit steps x 100": run(DPS(PRIOR, measurement, 60.0), measurement)[1],
    }
    assert {fault: said.word for fault, said in found.items()} == {
        "zeta x 100": "diverged",
        "gamma squared": "data ignored",
        "sigma_y too small": "diverged",
        "sigma_y too large": "data over-fitted",
        "unit steps x 100": "diverged",
    }
    assert "check σ, which may be too large" in found["sigma_y too large"].sentence


def test_a_nan_in_the_weights_is_named_with_the_first_step():
    weights = jnp.ones(SHAPE).at[3, 3, 0].set(jnp.nan)
    network = jax.tree_util.Partial(lambda weights, x_t, t: weights * x_t, weights)
    sampler = DDPM(Denoiser(network, PRIOR.schedule, SHAPE))
    seen, found = run(sampler, measured("box"), times=np.array([700, 350, -1]))
    assert np.asarray(seen.first_bad).tolist() == [700] * 4
    assert found.word == "diverged"
    assert "not finite from time 700 on" in found.sentence


def diagnosis(n=1, **changes):
    fine = {"residual": 1.0, "noise_level": 1.0, "mean_noise_level": 1.0, "clipped": 0.0}
    whole = {"steps": 100, "first_bad": -1}
    numbers = {name: np.full(n, value, np.float32) for name, value in {**fine, **changes}.items() if name in fine}
    counts = {name: np.full(n, value) for name, value in {**whole, **changes}.items() if name in whole}
    return Diagnosis(**numbers, **counts)


@pytest.mark.parametrize(
    ("ratios", "noiseless", "word", "part"),
    [
        ([0.9, 1.2], False, "healthy", "is 1.05, averaged over 2 seeds: about 1"),
        (
            [2.0, 1.2],
            False,
            "data ignored",
            "is 1.60, averaged over 2 seeds: too far above 1, so the data were ignored",
        ),
        ([0.3, 0.5], False, "data over-fitted", "is 0.40, averaged over 2 seeds: too far below 1, so the noise"),
        ([0.04], True, "healthy", "by 5.1 of 255 steps (root mean square): little"),
        ([0.2], True, "data ignored", "by 25.5 of 255 steps (root mean square): too much"),
        ([np.nan, 1.0], False, "diverged", "not finite"),
    ],
)
def test_the_residual_has_words(ratios, noiseless, word, part):
    measurement = with_sigma(CLEAN, 0.0) if noiseless else CLEAN
    found = verdict(np.array(ratios), measurement, None)
    assert found.word == word
    assert part in found.sentence
    if np.isfinite(ratios).all():
        assert verdict(np.array(ratios), measurement, diagnosis(len(ratios))) == found


def test_what_the_residual_hides_comes_first():
    for changes, measurement, word in (
        ({"mean_noise_level": 40.0}, CLEAN, "diverged"),
        ({"first_bad": 30}, CLEAN, "diverged"),
        ({}, with_zeros(40), "data over-fitted"),
    ):
        assert verdict(np.ones(3), measurement, diagnosis(3, **changes)).word == word


BESIDE_BOUNDS = [
    (0.65, 1.0, "data over-fitted"),
    (0.75, 1.0, "healthy"),
    (1.45, 1.0, "healthy"),
    (1.55, 1.0, "data ignored"),
    (1.55, 1.45, "data ignored"),
    (1.55, 1.55, "diverged"),
    (1.45, 1.55, "healthy"),
    (1.0, 9.5, "healthy"),
    (1.0, 10.5, "diverged"),
    (0.65, 9.5, "data over-fitted"),
    (1.0, np.inf, "diverged"),
]


@pytest.mark.parametrize(("ratio", "level", "word"), BESIDE_BOUNDS)
def test_words_change_at_the_bounds(ratio, level, word):
    assert verdict(np.full(2, ratio), CLEAN, diagnosis(2, mean_noise_level=level)).word == word


@pytest.mark.parametrize(("ratio", "level", "word"), [
    (0.001, 1.0, "healthy"),
    (0.09, 1.0, "healthy"),
    (0.11, 1.0, "data ignored"),
    (0.09, 1.55, "healthy"),
    (0.11, 1.55, "diverged"),
])  # fmt: skip
def test_words_change_at_the_bounds_without_noise(ratio, level, word):
    assert verdict(np.full(2, ratio), with_sigma(CLEAN, 0.0), diagnosis(2, mean_noise_level=level)).word == word


def test_a_chain_that_overshot_and_came_back_is_healthy_with_a_caveat():
    steady, came_back = (
        verdict(np.ones(2), CLEAN, diagnosis(2, mean_noise_level=level), remedies=Remedies("lower --zeta")).sentence
        for level in (1.45, 2.04)
    )
    assert steady.endswith("agree with the data.")
    assert "held 2.0 times the noise of their times, so doubt what was hidden: lower --zeta, and take more" in came_back


def test_zeros_count_where_there_is_noise():
    """Of 200 entries: 1 is half a per cent, 4 are two."""
    assert exact_zeros(with_zeros(4)) == pytest.approx(0.02)
    assert exact_zeros(with_sigma(with_zeros(4), 0.0)) == 0
    assert exact_zeros(Measurement(Identity(), with_zeros(4).y, PoissonNoise(40.0))) == 0
    words = [verdict(np.ones(1), with_zeros(count), None).word for count in (1, 4)]
    assert words == ["healthy", "data over-fitted"]
    assert verdict(np.zeros(1), with_sigma(with_zeros(4), 0.0), None).word == "healthy"


@pytest.mark.parametrize("method", METHODS)
def test_remedies_name_flags_that_the_method_has_and_no_others(method):
    row = METHODS[method]
    remedies = Remedies(row.weaker, row.stronger, row.sees_data)
    bad = [(np.full(2, ratio), diagnosis(2, **changes)) for ratio, changes in (
        (9.0, {}), (0.1, {}), (1.0, {"mean_noise_level": 4.0}), (1.0, {"mean_noise_level": 40.0}),
        (np.nan, {"first_bad": 30}),
    )]  # fmt: skip
    for ratios, seen in bad:
        sentence = verdict(ratios, CLEAN, seen, remedies=remedies).sentence
        flags = {word.strip(".,;:") for word in sentence.split() if word.startswith("--")}
        assert flags <= {f"--{flag}" for flag in row.flags}, sentence
    ignored = verdict(np.full(2, 9.0), CLEAN, diagnosis(2), remedies=remedies).sentence
    assert row.stronger in ignored
    assert ("take a method that looks at the data in every step" in ignored) == (method == "sdedit")
    for advice in (row.weaker, row.stronger):
        assert bool(advice) == ("--" in advice)
