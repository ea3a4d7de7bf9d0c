"""Laws of samplers, on every row of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import Diagnose, sample_many
from jaxdiff.samplers.base import Sampler, renoise
from tests.conftest import RISING, SAMPLERS, SHAPE, TIMES, sampler_of, small_problem, with_marks
from tests.samplers.conftest import image_of, run

KEYS = jax.random.split(jax.random.key(0), 3)
every_sampler = pytest.mark.parametrize("name", with_marks(SAMPLERS))
# Two programs round differently; a norm taken over the batch, or another noise, would differ in the first digit.
ROUNDING = 5e-5


def image(name, key, times=TIMES):
    return np.asarray(image_of(sampler_of(name), key, times))


TRACED = []


@jax.jit
def start_and_step(sampler, keys, start, t, s):
    TRACED.append(sampler)
    state = sampler.init(keys[0], start)
    return sampler.image(state), sampler.image(sampler.step(keys[1], state, t, s)[0])


later = jax.jit(renoise)


@pytest.mark.slow
@every_sampler
def test_an_image_is_finite_and_its_key_decides_it(name):
    assert isinstance(sampler_of(name), Sampler)
    first, again, other = (image(name, key) for key in (KEYS[0], KEYS[0], KEYS[1]))
    assert first.shape == SHAPE
    assert first.dtype == jnp.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


@pytest.mark.slow
@every_sampler
def test_many_are_a_loop_over_keys_in_any_batches_segments_and_order(name):
    """In another order every sample has another place and other neighbours, and the same bits."""
    sampler, order = sampler_of(name), np.array([2, 0, 1, 1])
    for times in (TIMES, RISING):
        drawn = np.asarray(sample_many(sampler, KEYS, times, batch_size=2, segment=4))
        np.testing.assert_allclose(drawn, [image(name, key, times) for key in KEYS], atol=ROUNDING)
        again = sample_many(sampler, KEYS[order], times, batch_size=2, segment=4)
        np.testing.assert_array_equal(again, drawn[order])


@pytest.mark.slow
@every_sampler
def test_times_may_rise_and_repeat_with_fresh_noise(name):
    up_and_down = image(name, KEYS[0], RISING)
    assert np.isfinite(up_and_down).all()
    # With the noise of the first visits again, another image.
    stale = run(sampler_of(name), KEYS[0], RISING, np.zeros(len(RISING) - 1, int))
    assert np.abs(up_and_down - stale).max() > 1e-2


@pytest.mark.slow
@every_sampler
@pytest.mark.parametrize(("t", "s"), [(300, 600), (-1, 400), (500, 500)])
def test_where_time_rises_a_step_is_that_of_the_forward_process_and_nothing_is_guided(name, t, s):
    """A clean image that is optimised, whatever the time, stays as it is."""
    sampler = sampler_of(name)
    before, after = start_and_step(sampler, KEYS, 300, t, s)
    if name == "red-diff":
        np.testing.assert_array_equal(after, before)
        return
    np.testing.assert_allclose(after, later(sampler.prior.schedule, KEYS[1], before, t, s), atol=2e-6)


@pytest.mark.slow
@every_sampler
def test_new_numbers_cost_no_trace(name):
    sampler = sampler_of(name)
    start_and_step(sampler, KEYS, 300, 300, 600)
    traced = len(TRACED)
    assert traced > 0
    start_and_step(jax.tree.map(lambda leaf: leaf * 1.01, sampler), KEYS[::-1], 400, 400, 350)
    assert len(TRACED) == traced


@pytest.mark.thorough
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
