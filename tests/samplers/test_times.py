"""Times that fall, rise and repeat: the ancestral step, DDIM's, and the keys of a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DDIM, DDPM, MMPS, Denoiser, GaussianPrior, Measurement, plan, sample, sample_many
from jaxdiff.operators import Identity
from jaxdiff.priors.denoiser import Prediction
from jaxdiff.priors.gaussian import Diagonal
from jaxdiff.samplers.base import ancestral_step, renoise, step_key, visit_numbers
from jaxdiff.schedule import linear, time_grid
from tests.conftest import RISING, SHAPE, TIMES, gaussian_prior
from tests.samplers.conftest import bit_sampler, bits_of

ALPHA_BAR = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)
KEYS = jax.random.split(jax.random.key(0), 3)


def test_the_key_of_a_first_visit_is_that_of_the_time_and_later_visits_fold_in_their_number():
    drawn = sample(bit_sampler(), KEYS[0], RISING)[0]
    met: dict[int, int] = {}
    for bits, t in zip(drawn[1:], RISING[:-1].tolist(), strict=True):
        visit = met[t] = met.get(t, -1) + 1
        key = jax.random.fold_in(KEYS[0], t)
        key = jax.random.fold_in(key, visit) if visit else key
        np.testing.assert_array_equal(bits, bits_of(key))
    assert met[300] == 2
    assert len({bits.tobytes() for bits in np.asarray(drawn)}) == len(RISING)


def test_a_run_without_repetition_visits_every_time_once():
    assert (visit_numbers(TIMES) == 0).all()
    np.testing.assert_array_equal(jax.jit(visit_numbers)(RISING), visit_numbers(RISING))
    # The start of a chain has the key of time -1, so that a step from there is a second visit.
    assert visit_numbers(np.array([5, -1, 5, -1])).tolist() == [0, 1, 1]
    bits = lambda key: jax.random.key_data(key).tolist()
    assert bits(step_key(KEYS[0], 7, 0)) == bits(jax.random.fold_in(KEYS[0], 7))


@pytest.mark.slow
def test_a_run_in_parts_is_the_whole_run_where_times_repeat():
    sampler = DDPM(gaussian_prior())
    whole, visits = sample(sampler, KEYS[0], RISING)[0], visit_numbers(RISING)
    half, _ = sample(sampler, KEYS[0], RISING[:7], visits=visits[:6])
    rest, _ = sample(sampler, KEYS[0], RISING[6:], visits=visits[6:], state=half)
    np.testing.assert_allclose(rest, whole, atol=1e-6)
    segments = [sample_many(sampler, KEYS, RISING, segment=segment) for segment in (None, 4, 3)]
    np.testing.assert_array_equal(segments[1], segments[0])
    np.testing.assert_array_equal(segments[2], segments[0])


@pytest.mark.parametrize(("t", "s"), [(-1, 300), (300, 301), (0, 999), (400, 400)])
@pytest.mark.parametrize("rule", ["ancestral", "ddim"])
def test_where_time_rises_a_step_is_the_forward_process(rule, t, s):
    prior = gaussian_prior()
    x_t = 0.5 * jax.random.normal(jax.random.key(1), SHAPE)
    prediction = Prediction(jnp.full(SHAPE, 0.7), jnp.ones(()))

    def step(key):
        if rule == "ddim":
            return DDIM(prior, 0.5).step(key, x_t, t, s)[0]
        return ancestral_step(prior.schedule, key, x_t, prediction, t, s)

    x_s = np.asarray(jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(2), 2000)), np.float64)
    ratio = ALPHA_BAR[s] / ALPHA_BAR[t]
    mean, variance = np.sqrt(ratio) * np.asarray(x_t, np.float64), 1 - ratio
    assert np.isfinite(x_s).all()
    # 144 entries: the largest of 144 standard normal scores exceeds 4.5 with probability 0.001.
    assert np.abs(x_s.mean(0) - mean).max() < 4.5 * np.sqrt(variance / 2000) + 1e-6
    assert np.abs(x_s.var(0) - variance).max() < 4.5 * np.sqrt(2 / 2000) * variance + 1e-6


def test_up_and_down_again_leaves_the_prior_as_it_is():
    """Renoised samples of the prior at time 300, taken to 500, have the moments of time 500."""
    prior, n = gaussian_prior(), 2000
    key_image, key_noise, key_more = jax.random.split(jax.random.key(3), 3)
    x0 = jax.vmap(prior.sample)(jax.random.split(key_image, n))
    at_300 = jax.vmap(lambda key, x: renoise(prior.schedule, key, x, -1, 300))(jax.random.split(key_noise, n), x0)
    at_500 = jax.vmap(lambda key, x: renoise(prior.schedule, key, x, 300, 500))(jax.random.split(key_more, n), at_300)
    variance = ALPHA_BAR[500] * prior.variance + 1 - ALPHA_BAR[500]
    assert (jnp.abs(at_500.mean(0) - ALPHA_BAR[500] ** 0.5 * prior.mean) / jnp.sqrt(variance / n)).max() < 4.5
    assert (jnp.abs(at_500.var(0) / variance - 1) / (2 / n) ** 0.5).max() < 4.5


@pytest.mark.parametrize(("t", "s"), [(999, 998), (300, 299), (1, 0), (500, 400)])
@pytest.mark.parametrize("variance", ["learned_range", "fixed_small", "fixed_large"])
def test_ancestral_step_has_the_reference_mean_and_variance(variance, t, s):
    """Float64 restatement of guided-diffusion's q_posterior and learned-range variance, with respacing."""
    raw = jnp.array([-1.0, 0.5, 1.2])  # not clamped in the reference either
    network = jax.tree_util.Partial(lambda x_t, t: jnp.concatenate([0.3 * x_t, jnp.broadcast_to(raw, x_t.shape)], -1))
    if variance != "learned_range":
        network = jax.tree_util.Partial(lambda x_t, t: 0.3 * x_t)
    denoiser = Denoiser(network, linear(), (1, 1, 3), target="x0", variance=variance)
    x_t = jnp.array([[[0.2, -1.1, 0.8]]])
    prediction = denoiser.predict(x_t, t)
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(lambda key: ancestral_step(denoiser.schedule, key, x_t, prediction, t, s))(keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, x_t.shape))(keys)

    a_t, a_s = ALPHA_BAR[t], ALPHA_BAR[s]
    beta = 1 - a_t / a_s
    small = beta * (1 - a_s) / (1 - a_t)
    mean = beta * np.sqrt(a_s) / (1 - a_t) * (0.3 * np.asarray(x_t, np.float64))
    mean += (1 - a_s) * np.sqrt(a_t / a_s) / (1 - a_t) * np.asarray(x_t, np.float64)
    fraction = {"learned_range": (np.asarray(raw) + 1) / 2, "fixed_small": 0.0, "fixed_large": 1.0}[variance]
    std = np.exp((fraction * np.log(beta) + (1 - fraction) * np.log(small)) / 2)
    np.testing.assert_allclose(draws - std * noise, np.broadcast_to(mean, draws.shape), atol=2e-5)


HALF = GaussianPrior(jnp.zeros(SHAPE), Diagonal(jnp.ones(SHAPE)), linear(500, 2e-4, 0.04))
BAD_TIMES = [time_grid(1000, 4), [499, -2], [499.0, -1.0], [True, False], ["a"], [], 7, [[5, 3]], jnp.array([500, 2])]
guided = DDIM(MMPS(HALF, Measurement(Identity(), jnp.zeros(SHAPE), 0.1)))
TAKE_TIMES = {
    "sample": lambda times: sample(DDPM(HALF), KEYS[0], times),
    "sample_many": lambda times: sample_many(DDPM(HALF), KEYS, times),
    "guided": lambda times: sample_many(guided, KEYS, times),
    "plan": lambda times: plan(DDPM(HALF), times),
    "compiled": lambda times: jax.jit(lambda keys: sample_many(DDPM(HALF), keys, times))(KEYS),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("take", TAKE_TIMES.values(), ids=TAKE_TIMES)
def test_times_that_no_table_has_are_refused(take):
    for times in BAD_TIMES:
        with pytest.raises(ValueError, match="`times` must be"):
            take(times)


@pytest.mark.usefixtures("unchecked")
def test_legacy_keys_give_the_numbers_of_new_ones():
    legacy = jax.random.split(jax.random.PRNGKey(0), 3)
    wanted = sample_many(DDPM(HALF), KEYS, time_grid(500, 3))
    for keys in (legacy, np.asarray(legacy)):
        np.testing.assert_array_equal(sample_many(DDPM(HALF), keys, time_grid(500, 3)), wanted)
        one = sample(DDPM(HALF), keys[0], time_grid(500, 3))[0]
        np.testing.assert_array_equal(one, sample(DDPM(HALF), KEYS[0], time_grid(500, 3))[0])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "keys", [KEYS[0], jax.random.PRNGKey(0), KEYS[:0], KEYS.reshape(1, 3), 3, [1, 2], None, np.arange(3)]
)
def test_what_is_no_list_of_keys_is_refused_with_how_to_make_one(keys):
    with pytest.raises(ValueError, match=r"`keys` must be \(n,\), `jax.random.split\(key, n\)`, got"):
        sample_many(DDPM(HALF), keys, time_grid(500, 3))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("key", [KEYS, 3, None, jax.random.split(jax.random.PRNGKey(0), 3)])
def test_one_chain_needs_one_key(key):
    with pytest.raises(ValueError, match=r"`key` must be one key, `jax.random.key\(0\)`, got"):
        sample(DDPM(HALF), key, time_grid(500, 3))


def test_last_step_adds_no_noise():
    x_t = jnp.ones((1, 1, 3))
    for fraction in (None, jnp.ones(())):
        steps = [
            ancestral_step(linear(), jax.random.key(i), x_t, Prediction(0.5 * x_t, fraction), 0, -1) for i in (0, 1)
        ]
        np.testing.assert_array_equal(steps[0], steps[1])
        np.testing.assert_allclose(steps[0], 0.5, atol=1e-6)
