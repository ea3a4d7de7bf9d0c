"""The compiled program that takes many chains a segment further."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

from jaxdiff.chains.devices import Devices, on_each
from jaxdiff.priors.denoiser import Prediction, Time
from jaxdiff.pytree import pytree
from jaxdiff.samplers.base import Observer, Sampler, sample, start_chain


@partial(jax.jit, static_argnames="devices")
def start_chains(sampler: Sampler, keys: Key[Array, " n"], t: Array, *, devices: Devices | None = None) -> Any:
    """Returns the states that chains start from, stacked."""

    def start(sampler: Sampler, keys: Array, t: Array) -> Any:
        return jax.vmap(lambda key: start_chain(sampler, key, t))(keys)

    return on_each(start, devices, (None, "chains", None))(sampler, keys, t)


@jax.jit
def _step(sampler: Sampler, key: PRNGKeyArray, state: Any, t: Array, s: Array) -> tuple[Any, Prediction]:
    # Jitted so that asking for its shapes and scanning over it trace it once.
    return sampler.step(key, state, t, s)


@pytree
class _Watched:
    """A sampler whose state also holds the last estimate, so that a scan need not stack all, and what was seen."""

    sampler: Sampler
    observer: Observer | None

    def init(self, key: PRNGKeyArray, t: Time) -> Any:
        raise NotImplementedError("always continues a state")

    def step(
        self, key: PRNGKeyArray, state: tuple[Any, Array, Any], t: Time, s: Time
    ) -> tuple[tuple[Any, Array, Any], Prediction]:
        before, _, seen = state
        after, prediction = _step(self.sampler, key, before, t, s)
        if self.observer is not None:
            seen = self.observer.look(seen, self.sampler, before, prediction, after, t, s)
        return (after, prediction.before_guidance, seen), prediction

    def image(self, state: tuple[Any, Array, Any]) -> Array:
        return self.sampler.image(state[0])


@partial(jax.jit, static_argnames="devices")
def advance_chains(
    sampler: Sampler,
    observer: Observer | None,
    keys: Key[Array, " n"],
    state: Any,
    seen: Any,
    times: Array,
    visits: Array,
    *,
    devices: Devices | None = None,
) -> tuple[Any, Array, Any]:
    """Returns states, last estimates `x0_hat` and what was seen after a segment; the one program of many chains.

    With `devices` each of them runs its own part of the chains.
    """
    axes = (None, None, "chains", "chains", "chains", None, None)
    return on_each(_advance, devices, axes)(sampler, observer, keys, state, seen, times, visits)


def _advance(
    sampler: Sampler, observer: Observer | None, keys: Array, state: Any, seen: Any, times: Array, visits: Array
) -> tuple[Any, Array, Any]:
    watched = _Watched(sampler, observer)
    first = jax.tree.map(lambda leaf: leaf[0], state)
    estimate = lambda *arguments: _step(*arguments)[1].before_guidance
    of_one = jax.eval_shape(estimate, sampler, keys[0], first, times[0], times[1])
    x0_hat = jnp.zeros((len(keys), *of_one.shape), of_one.dtype)

    def run(key: PRNGKeyArray, *state: Any) -> Any:
        return sample(watched, key, times, visits=visits, state=state)[0]

    return jax.vmap(run)(keys, state, x0_hat, seen)


def start_observing(observer: Observer, batch_size: int) -> Any:
    """Returns what an observer knows at the start, once for every chain."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch_size, *jnp.shape(leaf))), observer.start())


def whole_segment(segment: int | None, num_steps: int) -> int:
    """Returns the largest divisor of the number of steps that is no longer than a segment.

    Raises:
        ValueError: if `segment` is not positive.
    """
    if segment is not None and segment < 1:
        raise ValueError(f"`segment` must be positive, got {segment}.")
    longest = num_steps if segment is None else min(segment, num_steps)
    return max(n for n in range(1, longest + 1) if num_steps % n == 0)
