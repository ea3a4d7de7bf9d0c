"""Many chains at once: in batches, in segments, on several devices, within the memory that there is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, UInt32

from jaxdiff.chains.devices import Devices, devices_of, place, share_out
from jaxdiff.chains.memory import describe_bytes, fitting, plan
from jaxdiff.chains.program import advance_chains, start_chains, start_observing, whole_segment
from jaxdiff.pytree import as_pytree
from jaxdiff.samplers.base import Observer, Sampler, as_keys, check_times, visit_numbers

Keys = Key[Array, " n"] | UInt32[Array | np.ndarray, "n words"]
"""PRNG keys, one for every chain; legacy ones (`jax.random.PRNGKey`) too."""


class Progress(NamedTuple):
    """Where a run of many chains stands; enough to go on from.

    Attributes:
        batch: index of the batch that is running.
        num_batches: number of batches.
        step: steps done in this batch.
        num_steps: steps of a whole run.
        state: states of the batch's chains after the last step done; a last batch may end with copies.
        x0_hat: the prior's estimates in that step, `(n, h, w, c)`, before a measurement moves them.
        seen: what the observer remembers of each; None without one.
        compile_seconds: what tracing, lowering and compiling have taken since the first batch began.
    """

    batch: int
    num_batches: int
    step: int
    num_steps: int
    state: Any
    x0_hat: Any
    seen: Any = None
    compile_seconds: float = 0.0


def sample_segments(
    sampler: Sampler,
    keys: Keys,
    times: Int[Array, " n"] | np.ndarray,
    *,
    batch_size: int | None = None,
    segment: int | None = None,
    state: Any = None,
    observer: Observer | None = None,
    after: Progress | None = None,
    devices: Devices | None = None,
) -> Iterator[Progress]:
    """Draws one sample per key, in batches that bound the memory, and stops for a look after every segment.

    The sampler, with the network's weights inside, is an argument of one jitted function: new measurements and
    hyper-parameters cost no compilation, nor do further batches and segments.

    Args:
        sampler: the algorithm.
        keys: `(n,)` PRNG keys, new or legacy; sample `k` depends on `keys[k]` only, whatever the batches and segments.
        times: usually falling and ending with -1; they may rise and repeat.
        batch_size: chains that run at once; all by default. Rounded up to a multiple of the number of devices, of which
            no more are used than there are chains for. The last batch is filled up with copies.
        segment: steps between two stops; shortened to a divisor of the number of steps, so that all segments share
            one compilation. The whole run by default.
        state: where the chains start, stacked; the sampler's `init` by default.
        observer: looks at every step of every chain.
        after: where an earlier run with the same arguments stood; what follows is bit for bit what would have followed.
        devices: share the chains of every batch among them, each with its own copy of the weights and no word between
            them; by default those that hold `keys`. In a run of several processes: `jax.local_devices()`.

    Yields:
        A `Progress` after every segment of every batch.

    Raises:
        ValueError: if there is no key or fewer than two times, a time is outside of the prior's table, or a size is not
            positive.
        MemoryError: if a batch does not fit, with the size that does. Where the system has no such error (Linux, on
            CPUs) it ends the process instead; ask `plan` before.
    """
    check_times(sampler, times)
    keys, sampler, observer = as_keys(keys), as_pytree(sampler), as_pytree(observer)
    num_steps = len(times) - 1
    batch_size = len(keys) if batch_size is None else batch_size
    if num_steps < 1:
        raise ValueError(f"`times` must be at least two, got {len(times)}.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive, got {batch_size}.")
    devices = devices_of(keys) if devices is None else devices
    batch_size = min(batch_size, len(keys))
    if devices is not None:
        devices, batch_size = share_out(tuple(devices), batch_size, len(keys))
    segment = whole_segment(segment, num_steps)
    visits = jnp.asarray(visit_numbers(times))
    sampler, observer, times, visits = place((sampler, observer, jnp.asarray(times), visits), devices)
    # Inside a jitted program there is nothing to compile here.
    compile_seconds = 0.0 if isinstance(keys, Tracer) else None
    num_batches = -(-len(keys) // batch_size)
    for batch in range(after.batch if after else 0, num_batches):
        chosen = np.minimum(batch * batch_size + np.arange(batch_size), len(keys) - 1)
        batch_keys = place(keys[chosen], devices, "chains")
        done, seen = 0, None
        if observer is not None:
            seen = start_observing(observer, batch_size)
        if after and batch == after.batch:
            done, batch_state, seen = after.step, after.state, after.seen
        elif state is not None:
            batch_state = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], state)
        else:
            batch_state = start_chains(sampler, batch_keys, times[0], devices=devices)
        batch_state, seen = place((batch_state, seen), devices, "chains")
        for step in range(done, num_steps, segment):
            part = times[step : step + segment + 1], visits[step : step + segment]
            arguments = sampler, observer, batch_keys, batch_state, seen, *part
            with _out_of_memory_explained(sampler, part[0], batch_size, observer, devices):
                if compile_seconds is None:
                    compile_seconds = _compile(*arguments, devices=devices)
                batch_state, x0_hat, seen = advance_chains(*arguments, devices=devices)
                jax.block_until_ready(x0_hat)
            done_steps = step + segment
            yield Progress(batch, num_batches, done_steps, num_steps, batch_state, x0_hat, seen, compile_seconds)


def _compile(*arguments: Any, devices: Devices | None) -> float:
    """Compiles the program of a segment, which `advance_chains` then finds; returns the seconds that it took."""
    started = time.monotonic()
    advance_chains.lower(*arguments, devices=devices).compile()
    return time.monotonic() - started


@contextmanager
def _out_of_memory_explained(
    sampler: Sampler, times: Any, batch_size: int, observer: Observer | None, devices: Devices | None
) -> Iterator[None]:
    """Turns the system's "out of memory" into a sentence with the number to use."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        found = plan(sampler, times, observer=observer, devices=devices)
        fits = min(found.batch_size, batch_size - found.devices)
        advice = f"use a batch size of {fits}" if fits > 0 else "not even one chain fits"
        raise MemoryError(
            f"a batch of {batch_size} chains needs about {describe_bytes(found.peak(batch_size))}, and "
            f"{describe_bytes(found.available)} are free; {advice}."
        ) from error


def sample_many(
    sampler: Sampler,
    keys: Keys,
    times: Int[Array, " n"] | np.ndarray,
    *,
    batch_size: int | Literal["auto"] | None = None,
    segment: int | None = None,
    state: Any = None,
    devices: Devices | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Float[Array, "n h w c"]:
    """Draws one sample per key.

    Args:
        sampler: as in `sample_segments`, which does the work.
        keys: `(n,)` PRNG keys.
        times: as in `sample_segments`.
        batch_size: as in `sample_segments`, or `"auto"` for the largest that `plan` finds to fit.
        segment: as in `sample_segments`.
        state: as in `sample_segments`.
        devices: as in `sample_segments`.
        report: called after every segment.

    Returns:
        The samples `(n, h, w, c)`.

    Raises:
        ValueError: as `sample_segments`.
        MemoryError: if a batch, or not even one chain, fits.
    """
    results, keys, sampler = [], as_keys(keys), as_pytree(sampler)
    if batch_size == "auto":
        found = plan(sampler, times, segment=segment, devices=devices)
        batch_size, devices = fitting(found, len(keys)), devices and devices[: found.devices]
    arguments = {"batch_size": batch_size, "segment": segment, "state": state, "devices": devices}
    for progress in sample_segments(sampler, keys, times, **arguments):
        report(progress)
        if progress.step == progress.num_steps:
            results.append(jax.vmap(sampler.image)(progress.state))
    return jnp.concatenate(results)[: len(keys)]
