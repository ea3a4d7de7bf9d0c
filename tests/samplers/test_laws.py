"""Laws of samplers, on every row of the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Diagnose, sample, sample_many
from jaxdiff.samplers.base import Sampler, renoise, visit_numbers
from tests.conftest import RISING, SAMPLERS, SHAPE, TIMES, sampler_of, small_problem

KEYS = jax.random.split(jax.random.key(0), 3)
every_sampler = pytest.mark.parametrize("name", SAMPLERS)
# Two programs round differently; a norm taken over the batch, or another noise, would differ in the first digit.
ROUNDING = 5e-5


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def run(sampler, key, times, visits):
    return sampler.image(sample(sampler, key, times, visits=visits)[0])


def image(name, key, times=TIMES):
    return run(sampler_of(name), key, times, visit_numbers(times))


@every_sampler
def test_an_image_is_finite_and_its_key_decides_it(name):
    assert isinstance(sampler_of(name), Sampler)
    first, again, other = (image(name, key) for key in (KEYS[0], KEYS[0], KEYS[1]))
    assert first.shape == SHAPE
    assert first.dtype == jnp.float32
    assert jnp.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 1e-2


@every_sampler
def test_many_are_a_loop_over_keys_in_any_batches_segments_and_order(name):
    sampler = sampler_of(name)
    whole = sample_many(sampler, KEYS, TIMES)
    np.testing.assert_allclose(whole, jnp.stack([image(name, key) for key in KEYS]), atol=ROUNDING)
    cut = sample_many(sampler, KEYS[np.array([2, 0, 1])], TIMES, segment=4)
    np.testing.assert_array_equal(cut, whole[np.array([2, 0, 1])])
    again = sample_many(sampler, KEYS, RISING)
    np.testing.assert_array_equal(sample_many(sampler, KEYS, RISING, segment=4), again)


@every_sampler
def test_times_may_rise_and_repeat_with_fresh_noise(name):
    up_and_down = image(name, KEYS[0], RISING)
    assert jnp.isfinite(up_and_down).all()
    # With the noise of the first visits again, another image.
    stale = run(sampler_of(name), KEYS[0], RISING, np.zeros(len(RISING) - 1, int))
    assert jnp.abs(up_and_down - stale).max() > 1e-2


@every_sampler
@pytest.mark.parametrize(("t", "s"), [(300, 600), (-1, 400), (500, 500)])
def test_where_time_rises_a_step_is_that_of_the_forward_process_and_nothing_is_guided(name, t, s):
    sampler, prior = sampler_of(name), small_problem()[0]
    state = sampler.init(KEYS[0], 300)
    after, _ = jax.jit(lambda *arguments: sampler.step(*arguments))(KEYS[1], state, t, s)
    wanted = renoise(prior.schedule, KEYS[1], sampler.image(state), t, s)
    np.testing.assert_allclose(sampler.image(after), wanted, atol=2e-6)


@every_sampler
def test_new_numbers_cost_no_trace(name):
    traces = 0

    @jax.jit
    def step(sampler, key, t):
        nonlocal traces
        traces += 1
        return sampler.step(key, sampler.init(key, t), t, t - 50)

    sampler = sampler_of(name)
    step(sampler, KEYS[0], 500)
    step(jax.tree.map(lambda leaf: leaf * 1.01, sampler), KEYS[1], 400)
    assert traces == 1


@every_sampler
def test_a_step_keeps_all_types_in_double_precision(name):
    """With `JAX_ENABLE_X64`, as a scan asks, under observation too."""
    prior, measurement = small_problem()
    with jax.enable_x64(True):
        sampler, observer = SAMPLERS[name](prior, measurement), Diagnose(prior.schedule, measurement)

        def steps(key, t):
            state, seen = sampler.init(key, t), observer.start()
            after, prediction = sampler.step(key, state, t, t - 50)
            return (state, seen), (after, observer.look(seen, sampler, state, prediction, after, t, t - 50))

        before, after = jax.eval_shape(steps, KEYS[0], jnp.int32(400))
    types = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert types(before) == types(after)
