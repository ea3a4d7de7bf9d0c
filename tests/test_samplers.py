"""Laws of samplers, on every row of the table."""

import itertools
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, DPS, DPSLikelihood, DPSNorm, GaussianPrior, ScoreALD, SDEdit, sample, sample_many
from jaxdiff.operators import Identity, RandomMask
from jaxdiff.samplers import over_gamma, over_variance, scale_gamma, scale_zeta, twice_over_variance
from jaxdiff.samplers.dps import residual_gradient
from jaxdiff.schedule import linear, time_grid
from tests.conftest import SAMPLERS, SHAPE, SIGMA_Y, gaussian_denoiser, small_problem

TIMES = time_grid(1000, 12)
KEYS = jax.random.split(jax.random.key(0), 3)
run = jax.jit(lambda sampler, key: sample(sampler, key, TIMES)[0])


def step_of(sampler, x_t, t=300, s=200):
    return sampler.step(KEYS[0], x_t, t, s)[0]


def test_image_is_finite_and_its_key_decides_it(sampler):
    first, again, other = run(sampler, KEYS[0]), run(sampler, KEYS[0]), run(sampler, KEYS[1])
    assert first.shape == SHAPE
    assert first.dtype == jnp.float32
    assert jnp.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 1e-2


def test_vmap_over_seeds_equals_a_loop(sampler):
    together = jax.jit(jax.vmap(lambda key: sample(sampler, key, TIMES)[0]))(KEYS)
    alone = jnp.stack([run(sampler, key) for key in KEYS])
    # Two programs round differently; a norm taken over the batch would differ in the first digit.
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_segments_and_batches_give_the_same_bits(sampler):
    whole = sample_many(sampler, KEYS, TIMES)
    np.testing.assert_array_equal(sample_many(sampler, KEYS, TIMES, segment=5), whole)
    np.testing.assert_array_equal(sample_many(sampler, KEYS[:2], TIMES, segment=3), whole[:2])
    np.testing.assert_allclose(sample_many(sampler, KEYS, TIMES, batch_size=2), whole, atol=2e-5)


def test_order_of_keys_is_order_of_samples(sampler):
    order = jnp.array([2, 0, 1])
    np.testing.assert_array_equal(sample_many(sampler, KEYS[order], TIMES), sample_many(sampler, KEYS, TIMES)[order])


def test_new_numbers_cost_no_trace(sampler):
    traces = 0

    @jax.jit
    def counted(sampler, key):
        nonlocal traces
        traces += 1
        return sample(sampler, key, TIMES)[0]

    counted(sampler, KEYS[0])
    for field in fields(sampler):
        value = getattr(sampler, field.name)
        if isinstance(value, float) or field.name == "y":
            counted(replace(sampler, **{field.name: value * 1.1}), KEYS[0])
        elif field.name == "operator":
            counted(replace(sampler, operator=RandomMask(jax.random.key(4), SHAPE, keep=0.5)), KEYS[0])
    assert traces == 1


def test_hyper_parameters_sweep_in_one_vmap(sampler):
    names = [f.name for f in fields(sampler) if isinstance(getattr(sampler, f.name), float)]
    for name in names:
        values = getattr(sampler, name) * jnp.array([0.5, 1.0])
        swept = jax.vmap(lambda value, name=name: sample(replace(sampler, **{name: value}), KEYS[0], TIMES)[0])(values)
        np.testing.assert_allclose(swept[1], run(sampler, KEYS[0]), atol=2e-5)


def unguided():
    denoiser, operator, y = small_problem()
    return [
        DPS(denoiser, operator, y, zeta=0.0),
        DPSNorm(denoiser, operator, y, zeta=0.0),
        DPSLikelihood(denoiser, operator, y, SIGMA_Y, zeta=0.0),
        ScoreALD(denoiser, operator, y, SIGMA_Y, 1e30, 1e30, weighting=over_variance),
    ]


@pytest.mark.parametrize("sampler", unguided(), ids=lambda sampler: type(sampler).__name__)
def test_no_guidance_is_exactly_ddpm(sampler):
    ddpm = DDPM(sampler.denoiser)
    x_t = jax.random.normal(jax.random.key(9), SHAPE)
    for t, s in ((999, 900), (300, 299), (0, -1)):
        np.testing.assert_array_equal(step_of(sampler, x_t, t, s), step_of(ddpm, x_t, t, s))
    # Compiled as a whole, the two programs are fused differently and round differently.
    np.testing.assert_allclose(run(sampler, KEYS[0]), run(ddpm, KEYS[0]), atol=1e-6)


def chain_moments(denoiser: GaussianPrior, times, eta=None):
    """Exact mean and variance of the end of a chain: with a Gaussian prior every step is affine."""
    schedule = denoiser.schedule
    log_alpha_bar = np.append(np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, 1000))), 0.0)
    alpha_bar = lambda t: np.exp(log_alpha_bar[t])
    m, v = np.asarray(denoiser.mean, np.float64), np.asarray(denoiser.variance, np.float64)
    mean, variance = np.zeros_like(m), np.full_like(m, 1 - alpha_bar(times[0]))
    for t, s in itertools.pairwise(times):
        a_t, a_s = alpha_bar(t), alpha_bar(s)
        gain = np.sqrt(a_t) * v / (a_t * v + 1 - a_t)
        beta = 1 - a_t / a_s
        small = beta * (1 - a_s) / (1 - a_t)
        noise = small if eta is None else eta**2 * small
        # x_s = from_x0 * x0_hat + from_x_t * x_t + noise, with x0_hat = m + gain (x_t - sqrt(a_t) m)
        if eta is None:
            from_x0, from_x_t = beta * np.sqrt(a_s) / (1 - a_t), (1 - a_s) * np.sqrt(a_t / a_s) / (1 - a_t)
        else:
            from_x_t = np.sqrt((1 - a_s - noise) / (1 - a_t))
            from_x0 = np.sqrt(a_s) - from_x_t * np.sqrt(a_t)
        slope = from_x0 * gain + from_x_t
        mean = slope * mean + from_x0 * (1 - gain * np.sqrt(a_t)) * m
        variance = slope**2 * variance + noise
    assert schedule.num_times == 1000
    return mean, variance


@pytest.mark.parametrize(("name", "eta"), [("ddpm", None), ("ddim0", 0.0), ("ddim5", 0.5), ("ddim1", 1.0)])
def test_prior_sampling_has_the_chains_exact_moments(name, eta):
    denoiser = gaussian_denoiser()
    times = time_grid(1000, 50)
    chain = DDPM(denoiser) if eta is None else DDIM(denoiser, eta=eta)
    n = 512
    x = np.asarray(sample_many(chain, jax.random.split(jax.random.key(7), n), times), np.float64)
    mean, variance = chain_moments(denoiser, times, eta)
    # 192 pixels: the largest of 192 standard normal scores exceeds 4.5 with probability 0.0013.
    assert (np.abs(x.mean(0) - mean) / np.sqrt(variance / n)).max() < 4.5
    assert (np.abs(x.var(0, ddof=1) / variance - 1) / np.sqrt(2 / (n - 1))).max() < 4.5


def test_dps_gradient_equals_the_closed_form():
    """For a Gaussian prior `x0_hat` is affine in `x_t`, so that the gradient is `-2 gain A^T (y - A x0_hat)`."""
    denoiser, operator, y = small_problem()
    x_t = jax.random.normal(jax.random.key(8), SHAPE)
    for t in (0, 300, 900):
        squared, gradient, prediction = residual_gradient(denoiser, operator, y, x_t, t)
        alpha_t, sigma_t = denoiser.schedule(t)
        gain = alpha_t * denoiser.variance / (alpha_t**2 * denoiser.variance + sigma_t**2)
        residual = y - operator(prediction.x0_hat)
        np.testing.assert_allclose(gradient, -2 * gain * operator.mask * residual, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(squared, (residual**2).sum(), rtol=1e-5)


def test_the_three_forms_of_dps_share_a_direction_and_have_their_lengths():
    denoiser, operator, y = small_problem()
    x_t = jax.random.normal(jax.random.key(9), SHAPE)
    plain = step_of(DDPM(denoiser), x_t)
    squared, gradient, _ = residual_gradient(denoiser, operator, y, x_t, 300)
    alpha_bar = denoiser.schedule.alpha_bar
    beta = 1 - alpha_bar(300) / alpha_bar(200)
    shifts = {
        "unit": (DPS(denoiser, operator, y, 0.7), 0.7),
        "norm": (DPSNorm(denoiser, operator, y, 0.7), 0.7 * jnp.linalg.norm(gradient) / (2 * jnp.sqrt(squared))),
        "likelihood": (
            DPSLikelihood(denoiser, operator, y, SIGMA_Y),
            beta / jnp.sqrt(1 - beta) * jnp.linalg.norm(gradient) / (2 * SIGMA_Y**2),
        ),
    }
    for sampler, length in shifts.values():
        shift = step_of(sampler, x_t) - plain
        np.testing.assert_allclose(jnp.linalg.norm(shift), length, rtol=1e-4)
        cosine = -jnp.vdot(shift, gradient) / (jnp.linalg.norm(shift) * jnp.linalg.norm(gradient))
        np.testing.assert_allclose(cosine, 1.0, atol=1e-5)


@pytest.mark.parametrize("make", [DPS, DPSNorm])
def test_guidance_is_safe_at_zero_residual(make):
    denoiser = gaussian_denoiser()
    x_t = jax.random.normal(jax.random.key(2), SHAPE)
    y = denoiser.predict(x_t, 300).x0_hat
    x_s = step_of(make(denoiser, Identity(), y, zeta=0.5), x_t)
    np.testing.assert_allclose(x_s, step_of(DDPM(denoiser), x_t), atol=1e-6)


@pytest.mark.parametrize(
    ("weighting", "coefficient"),
    [(over_gamma, 1 / 12.0), (over_variance, 1 / (SIGMA_Y**2 + 144)), (twice_over_variance, 2 / (SIGMA_Y**2 + 144))],
)
def test_score_ald_shift_is_the_reports_formula(weighting, coefficient):
    denoiser, operator, y = small_problem()
    x_t = jax.random.normal(jax.random.key(9), SHAPE)
    sampler = ScoreALD(denoiser, operator, y, SIGMA_Y, 12.0, 12.0, weighting=weighting)
    shift = step_of(sampler, x_t) - step_of(DDPM(denoiser), x_t)
    np.testing.assert_allclose(shift, coefficient * operator.mask * (y - x_t), rtol=1e-3, atol=1e-6)


def test_gamma_runs_both_ways():
    """By time (10 clean, 15 noisy) the pull is weaker at high noise; by iteration (15, 10) it fades."""
    denoiser, operator, y = small_problem()
    x_t = jax.random.normal(jax.random.key(9), SHAPE)

    def strength(clean, noisy, t):
        sampler = ScoreALD(denoiser, operator, y, SIGMA_Y, clean, noisy)
        shift = step_of(sampler, x_t, t, t - 1) - step_of(DDPM(denoiser), x_t, t, t - 1)
        return float(jnp.linalg.norm(shift) / jnp.linalg.norm(operator.mask * (y - x_t)))

    np.testing.assert_allclose([strength(10.0, 15.0, t) for t in (999, 0)], [1 / 15, 1 / 10], rtol=1e-3)
    np.testing.assert_allclose([strength(15.0, 10.0, t) for t in (999, 0)], [1 / 10, 1 / 15], rtol=1e-3)


def test_score_ald_needs_no_gradient_of_the_network():
    class Opaque:
        """A denoiser that cannot be differentiated."""

        schedule, image_shape = linear(), SHAPE

        def predict(self, x_t, t):
            estimate = jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(SHAPE, jnp.float32), x_t)
            return gaussian_denoiser().predict(estimate, t)

    _, operator, y = small_problem()
    x_s, _ = ScoreALD(Opaque(), operator, y, SIGMA_Y, 10.0, 15.0).step(KEYS[0], jnp.ones(SHAPE), 300, 200)
    assert jnp.isfinite(x_s).all()


def test_sdedit_starts_at_the_perturbed_measurement():
    denoiser, _, y = small_problem()
    t = 400
    n = 400
    starts = jax.vmap(lambda key: SDEdit(denoiser, y).init(key, t))(jax.random.split(jax.random.key(0), n))
    alpha_t, sigma_t = denoiser.schedule(t)
    assert (jnp.abs(starts.mean(0) - alpha_t * y) / (sigma_t / n**0.5)).max() < 4.5


def test_guided_samplers_approach_the_data():
    denoiser, operator, y = small_problem()
    times = time_grid(1000, 250)
    residual = {}
    for name in ("ddpm", "score_ald_over_gamma", "dps", "dps_norm", "dps_likelihood"):
        sampler = SAMPLERS[name](denoiser, operator, y)
        sampler = replace(sampler, zeta=1.0) if name == "dps_likelihood" else sampler
        x = sample_many(sampler, KEYS, times)
        residual[name] = float(jnp.mean((operator.mask * (y - x)) ** 2) ** 0.5)
    for name in list(residual)[1:]:
        assert residual[name] < 0.5 * residual["ddpm"], residual


def test_measurements_of_another_shape_are_refused():
    denoiser, operator, y = small_problem()
    for make in (
        lambda y: DPS(denoiser, operator, y, 1.0),
        lambda y: DPSNorm(denoiser, operator, y, 1.0),
        lambda y: DPSLikelihood(denoiser, operator, y, SIGMA_Y),
        lambda y: ScoreALD(denoiser, operator, y, SIGMA_Y, 10.0, 15.0),
        lambda y: SDEdit(denoiser, y),
    ):
        with pytest.raises(ValueError, match="`y` must have"):
            make(y[..., :1])


def test_defaults_scale_with_size_and_steps():
    assert scale_zeta(1.0, (256, 256, 3), 1000) == 1.0
    assert scale_zeta(1.0, (32, 32, 3), 250) == pytest.approx(0.5)
    assert scale_gamma(12.0, over_gamma, 250) == 3.0
    assert scale_gamma(12.0, over_variance, 250) == 6.0
    for weighting in (over_gamma, over_variance, twice_over_variance):
        gamma = scale_gamma(12.0, weighting, 2)
        assert weighting(0.0, gamma) == pytest.approx(1.0)


def test_sdedit_from_the_noise_of_the_measurement_draws_from_the_posterior():
    """With independent Gaussian pixels the posterior of denoising is known: 88 steps reach 97 % of its variance."""
    denoiser, sigma_y, seeds = gaussian_denoiser(), 0.3, 1000
    noisy = jnp.sqrt(denoiser.variance + sigma_y**2) * jax.random.normal(jax.random.key(2), SHAPE)
    y = denoiser.mean + noisy
    share = denoiser.variance / (denoiser.variance + sigma_y**2)
    mean, variance = denoiser.mean + share * noisy, share * sigma_y**2
    # sigma_88 / alpha_88 is the first to exceed 0.3.
    keys, times = jax.random.split(jax.random.key(0), seeds), time_grid(1000, start=88)
    samples = sample_many(SDEdit(denoiser, y, sigma_y), keys, times)
    z = (samples.mean(0) - mean) / jnp.sqrt(variance / seeds)
    assert jnp.sqrt(jnp.mean(z**2)) < 1.2
    assert jnp.mean(samples.var(0) / variance) == pytest.approx(0.97, abs=0.03)
    # Where its noise does not count, the perturbation is twice what it should be.
    assert jnp.mean(sample_many(SDEdit(denoiser, y), keys, times).var(0) / variance) > 1.5
