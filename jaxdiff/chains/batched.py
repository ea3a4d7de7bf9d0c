"""Chains of one program that differ in numbers: each with its own measurement, step size, or other leaves.

A sampler is a PyTree, so that any of its numbers can belong to the chain and not to the program. `stack` puts them into
the state; everything else, the network's weights above all, is shared.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from jaxdiff.priors.denoiser import Prediction, Time
from jaxdiff.pytree import pytree, static
from jaxdiff.samplers.base import Observer, Sampler, start_chain


class OwnState(NamedTuple):
    """State of a chain.

    Attributes:
        own: the chain's own leaves of sampler and observer.
        inner: the sampler's state.
    """

    own: list[Array]
    inner: Any


@pytree
class Stacked:
    """A sampler whose chains each have numbers of their own, found in their state.

    Args:
        sampler: the algorithm, with the numbers of any chain.
        observer: what looks at it, with the numbers of any chain; None for nothing.
        is_own: which of the leaves of both are the chain's own.
    """

    sampler: Any
    observer: Any
    is_own: tuple[bool, ...] = static()

    def init(self, key: PRNGKeyArray, t: Time) -> OwnState:
        """Starts a chain with the numbers at hand."""
        own = [jnp.asarray(leaf) for leaf, is_own in zip(self._leaves(), self.is_own, strict=True) if is_own]
        return OwnState(own, self.sampler.init(key, t))

    def step(self, key: PRNGKeyArray, state: OwnState, t: Time, s: Time) -> tuple[OwnState, Prediction]:
        """Takes a step of the algorithm with the chain's numbers."""
        inner, prediction = self.of(state.own)[0].step(key, state.inner, t, s)
        return OwnState(state.own, inner), prediction

    def image(self, state: OwnState) -> Float[Array, "h w c"]:
        """Returns the algorithm's image."""
        return self.of(state.own)[0].image(state.inner)

    @property
    def prior(self) -> Any:
        """The algorithm's."""
        return self.sampler.prior

    def _leaves(self) -> list[Any]:
        return jax.tree.leaves((self.sampler, self.observer))

    def of(self, own: Sequence[Array]) -> tuple[Any, Any]:
        """Returns the sampler and the observer of the chain that has these leaves."""
        others = iter(own)
        leaves = [next(others) if is_own else leaf for leaf, is_own in zip(self._leaves(), self.is_own, strict=True)]
        return jax.tree.unflatten(jax.tree.structure((self.sampler, self.observer)), leaves)


@pytree
class StackedObserver:
    """The observer of the chains of `Stacked`, each of which has an observer of its own in its state.

    Args:
        observer: that of any chain.
    """

    observer: Any

    def start(self) -> Any:
        """Returns what any chain's observer knows before the first step."""
        return self.observer.start()

    def look(
        self,
        seen: Any,
        stacked: Stacked,
        state: OwnState,
        prediction: Prediction,
        after: OwnState,
        t: Time,
        s: Time,
    ) -> Any:
        """Takes in one step of a chain."""
        sampler, observer = stacked.of(state.own)
        return observer.look(seen, sampler, state.inner, prediction, after.inner, t, s)


def stack(
    samplers: Sequence[Sampler], keys: Key[Array, " n"], t: Time, *, shared: Any, observers: Sequence[Observer] = ()
) -> tuple[Stacked, OwnState]:
    """Makes one sampler of several that differ in numbers only.

    Args:
        samplers: one per chain, alike in structure.
        keys: one per chain.
        t: the first time.
        shared: a PyTree, such as the prior, whose leaves all chains share; every other leaf is each chain's own.
        observers: one per chain, alike in structure; none by default.

    Returns:
        The sampler, and the states with which its chains start, each as it would alone.

    Raises:
        ValueError: if the samplers differ in structure, or in the shape of a number.
    """
    pairs = list(zip(samplers, observers or [None] * len(samplers), strict=True))
    leaves, structures = zip(*(jax.tree.flatten(pair) for pair in pairs), strict=True)
    if len(set(structures)) > 1:
        raise ValueError("`samplers` must be alike in everything but numbers.")
    common = {id(leaf) for leaf in jax.tree.leaves(shared)}
    columns = list(zip(*leaves, strict=True))
    # Small whole numbers are one object wherever they stand, so that a leaf is shared only if all chains have the same.
    is_own = tuple(len(found := {id(leaf) for leaf in column}) > 1 or not found <= common for column in columns)
    columns = [column for column, own in zip(columns, is_own, strict=True) if own]
    if any(len({jnp.shape(leaf) for leaf in column}) > 1 for column in columns):
        raise ValueError("`samplers` must be alike in the shapes of all numbers.")
    own = [jnp.stack([jnp.asarray(leaf) for leaf in column]) for column in columns]
    stacked = Stacked(*pairs[0], is_own)
    return stacked, _start(stacked, own, keys, jnp.asarray(t))


@jax.jit
def _start(stacked: Stacked, own: list[Array], keys: Key[Array, " n"], t: Array) -> OwnState:
    def start(own: list[Array], key: PRNGKeyArray) -> OwnState:
        return OwnState(own, start_chain(stacked.of(own)[0], key, t))

    return jax.vmap(start)(own, keys)
