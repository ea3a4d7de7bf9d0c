"""Many chains in one program, each with hyper-parameters of its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxdiff.priors.denoiser import Prediction, Time
from jaxdiff.pytree import pytree, static
from jaxdiff.runs.methods import Run


@pytree
class PerChain:
    """A sampler some of whose numbers are part of the state, so that each chain of one `vmap` has its own.

    Args:
        sampler: the algorithm, with the numbers that `init` starts with.
        names: which of its fields the state holds.
    """

    sampler: Any
    names: tuple[str, ...] = static()

    def init(self, key: PRNGKeyArray, t: Time) -> tuple[dict[str, Array], Any]:
        """Starts the algorithm, and puts its numbers beside its state."""
        numbers = {name: jnp.asarray(getattr(self.sampler, name), jnp.float32) for name in self.names}
        return numbers, self.sampler.init(key, t)

    def step(
        self, key: PRNGKeyArray, state: tuple[dict[str, Array], Any], t: Time, s: Time
    ) -> tuple[tuple[dict[str, Array], Any], Prediction]:
        """Takes a step of the algorithm with the state's numbers."""
        numbers, inner = state
        inner, prediction = replace(self.sampler, **numbers).step(key, inner, t, s)
        return (numbers, inner), prediction


def join(runs: Sequence[Run], names: Sequence[str], keys: PRNGKeyArray) -> tuple[Run, PRNGKeyArray]:
    """Makes one run of several that differ in a few numbers only: a chain per run and key, and every run has all keys.

    Args:
        runs: as from `make_run`.
        names: the fields of their samplers that differ.
        keys: one per seed.

    Returns:
        The run with its chains' starts, and the chains' keys: first all of the first run, then all of the second.
    """
    sampler, times = runs[0].sampler, runs[0].times
    numbers = {
        name: jnp.repeat(jnp.array([getattr(run.sampler, name) for run in runs], jnp.float32), len(keys))
        for name in names
    }
    chains = keys[np.tile(np.arange(len(keys)), len(runs))]

    def start(numbers: Mapping[str, Array], key: PRNGKeyArray) -> Any:
        # The key of `sample`'s own start, so that a chain is what it would be alone.
        key = jax.random.fold_in(key, jnp.int32(-1))
        return PerChain(replace(sampler, **numbers), tuple(names)).init(key, int(times[0]))

    return Run(PerChain(sampler, tuple(names)), times, {}, jax.vmap(start)(numbers, chains)), chains


@dataclass
class Compilations:
    """How often the program that advances the chains was compiled."""

    count: int = 0


@contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Counts in the block, from JAX's own event for every executable that XLA makes."""
    found = Compilations()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        # Should JAX stop naming the functions, every program counts: too many rather than too few.
        name = str(kwargs.get("fun_name", "_advance"))
        found.count += event == "/jax/core/compile/backend_compile_duration" and "_advance" in name

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
