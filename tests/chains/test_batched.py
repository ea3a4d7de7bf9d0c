"""Chains of one program that differ in numbers are the chains that each would be alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import DPS, Diagnose, sample_many, sample_segments
from jaxdiff.chains.batched import StackedObserver, stack
from jaxdiff.operators import BoxMask, Mask
from jaxdiff.priors.split import SplitPrior
from tests.conftest import RISING, SHAPE, TIMES, of, sampler_of, small_problem
from tests.operators.conftest import CHEQUERED, COLOURED, Sums

KEYS = jax.random.split(jax.random.key(0), 3)


def with_zetas(measurements, zetas=(0.1, 0.2, 0.3)):
    prior, _ = small_problem()
    return prior, [DPS(prior, one, zeta) for one, zeta in zip(measurements, zetas, strict=True)]


def alone(samplers, times):
    return jnp.concatenate([sample_many(sampler, KEYS[k : k + 1], times) for k, sampler in enumerate(samplers)])


@pytest.mark.thorough
@pytest.mark.parametrize("times", [TIMES, RISING], ids=["falling", "rising"])
@pytest.mark.parametrize("kind", ["boxes", "no image"])
def test_stacked_chains_are_those_alone(kind, times):
    """Masks, measurements of any shape, and step sizes, all their own."""
    operators = [BoxMask(k, 1, 3, 2) for k in range(3)] if kind == "boxes" else [Sums(1.0 + k) for k in range(3)]
    prior, samplers = with_zetas([of(operator) for operator in operators])
    stacked, states = stack(samplers, KEYS, int(times[0]), shared=prior)
    together = sample_many(stacked, KEYS, times, state=states)
    assert together.shape == (3, *SHAPE)
    np.testing.assert_allclose(together, alone(samplers, times), atol=5e-5)
    np.testing.assert_array_equal(sample_many(stacked, KEYS, times, state=states, segment=4), together)


def test_observers_belong_to_their_chains():
    prior, samplers = with_zetas([of(BoxMask(k, 1, 3, 2)) for k in range(3)])
    observers = [Diagnose(prior.schedule, sampler.measurement) for sampler in samplers]
    stacked, states = stack(samplers, KEYS, int(TIMES[0]), shared=prior, observers=observers)
    *_, last = sample_segments(stacked, KEYS, TIMES, state=states, observer=StackedObserver(observers[0]))
    for k, (sampler, observer) in enumerate(zip(samplers, observers, strict=True)):
        *_, own = sample_segments(sampler, KEYS[k : k + 1], TIMES, observer=observer)
        for found, expected in zip(last.seen, own.seen, strict=True):
            np.testing.assert_allclose(found[k], expected[0], rtol=2e-3, atol=1e-6)


def test_a_state_that_is_no_image_may_be_stacked():
    sampler = sampler_of("no image as state")
    samplers = [replace(sampler, momentum=momentum) for momentum in (0.0, 0.2, 0.4)]
    stacked, states = stack(samplers, KEYS, int(TIMES[0]), shared=sampler.prior)
    together = sample_many(stacked, KEYS, TIMES, state=states)
    np.testing.assert_allclose(together, alone(samplers, TIMES), atol=5e-5)


def test_shared_leaves_are_not_copied():
    prior, samplers = with_zetas([of(Sums()) for _ in range(3)])
    _, states = stack(samplers, KEYS, int(TIMES[0]), shared=prior)
    weights = {leaf.shape for leaf in jax.tree.leaves(prior)}
    assert not weights & {leaf.shape[1:] for leaf in states.own}


@pytest.mark.parametrize("tops", [(4, 5, 6), (5, 4, 6), (4, 4, 5), (4, 5, 4)])
def test_numbers_that_the_prior_has_too_belong_to_their_chains(tops):
    """Python keeps one object of a small number: a box's first row may be a number of the prior, or of two boxes."""
    bare, _ = small_problem()
    prior = SplitPrior(bare, SplitPrior(bare, bare, 5), 4)
    samplers = [DPS(prior, of(BoxMask(top, 1, 2, 2)), 0.1) for top in tops]
    stacked, states = stack(samplers, KEYS, int(TIMES[0]), shared=prior)
    np.testing.assert_allclose(sample_many(stacked, KEYS, TIMES, state=states), alone(samplers, TIMES), atol=5e-5)


def test_a_prior_of_its_own_belongs_to_its_chain():
    prior, samplers = with_zetas([of(Sums()) for _ in range(3)])
    samplers[1] = replace(samplers[1], prior=replace(prior, mean=-prior.mean))
    stacked, states = stack(samplers, KEYS, int(TIMES[0]), shared=prior)
    np.testing.assert_allclose(sample_many(stacked, KEYS, TIMES, state=states), alone(samplers, TIMES), atol=5e-5)


def test_samplers_that_differ_in_more_are_refused():
    prior, samplers = with_zetas([of(Sums()) for _ in range(3)])
    with pytest.raises(ValueError, match="alike in everything but numbers"):
        stack([samplers[0], sampler_of("ddpm")], KEYS[:2], 999, shared=prior)
    masks = [DPS(prior, of(Mask(mask)), 0.1) for mask in (CHEQUERED, COLOURED)]
    with pytest.raises(ValueError, match="shapes of all numbers"):
        stack(masks, KEYS[:2], 999, shared=prior)
