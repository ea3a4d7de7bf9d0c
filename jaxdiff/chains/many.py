"""Many chains at once: in batches, in segments, on several devices, within the memory that there is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from jaxdiff.chains.devices import Devices, devices_of, place, share_out
from jaxdiff.chains.memory import WORKSPACE, Plan, available_memory, describe_bytes
from jaxdiff.priors.denoiser import Prediction, Time
from jaxdiff.pytree import pytree
from jaxdiff.samplers.base import Observer, Sampler, check_times, sample, visit_numbers


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


@jax.jit
def _start(sampler: Sampler, keys: Key[Array, " n"], t: Array) -> Any:
    return jax.vmap(lambda key: sampler.init(jax.random.fold_in(key, jnp.int32(-1)), t))(keys)


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


@jax.jit
def _advance(
    sampler: Sampler,
    observer: Observer | None,
    keys: Key[Array, " n"],
    state: Any,
    seen: Any,
    times: Array,
    visits: Array,
) -> tuple[Any, Array, Any]:
    watched = _Watched(sampler, observer)
    first = jax.tree.map(lambda leaf: leaf[0], state)
    estimate = lambda *arguments: _step(*arguments)[1].before_guidance
    of_one = jax.eval_shape(estimate, sampler, keys[0], first, times[0], times[1])
    x0_hat = jnp.zeros((len(keys), *of_one.shape), of_one.dtype)

    def run(key: PRNGKeyArray, *state: Any) -> Any:
        return sample(watched, key, times, visits=visits, state=state)[0]

    return jax.vmap(run)(keys, state, x0_hat, seen)


def sample_segments(
    sampler: Sampler,
    keys: Key[Array, " n"],
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
        keys: `(n,)` PRNG keys; sample `k` depends on `keys[k]` only, whatever the batches and segments.
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
    num_steps = len(times) - 1
    batch_size = len(keys) if batch_size is None else batch_size
    if keys.ndim != 1 or len(keys) == 0 or num_steps < 1:
        raise ValueError(
            f"`keys` must be (n,) with n > 0, and `times` at least two, got {keys.shape} and {len(times)}."
        )
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive, got {batch_size}.")
    check_times(sampler, times)
    devices = devices_of(keys) if devices is None else devices
    batch_size = min(batch_size, len(keys))
    if devices is not None:
        devices, batch_size = share_out(devices, batch_size, len(keys))
    segment = _divisor(segment, num_steps)
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
            seen = _start_observing(observer, batch_size)
        if after and batch == after.batch:
            done, batch_state, seen = after.step, after.state, after.seen
        elif state is not None:
            batch_state = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], state)
        else:
            batch_state = _start(sampler, batch_keys, times[0])
        batch_state, seen = place((batch_state, seen), devices, "chains")
        for step in range(done, num_steps, segment):
            part = times[step : step + segment + 1], visits[step : step + segment]
            arguments = sampler, observer, batch_keys, batch_state, seen, *part
            with _out_of_memory_explained(sampler, part[0], batch_size, observer, devices):
                if compile_seconds is None:
                    compile_seconds = _compile(*arguments)
                batch_state, x0_hat, seen = _advance(*arguments)
                jax.block_until_ready(x0_hat)
            done_steps = step + segment
            yield Progress(batch, num_batches, done_steps, num_steps, batch_state, x0_hat, seen, compile_seconds)


def _compile(*arguments: Any) -> float:
    """Compiles the program of a segment, which `_advance` then finds; returns the seconds that it took."""
    started = time.monotonic()
    _advance.lower(*arguments).compile()
    return time.monotonic() - started


def _divisor(segment: int | None, num_steps: int) -> int:
    if segment is not None and segment < 1:
        raise ValueError(f"`segment` must be positive, got {segment}.")
    longest = num_steps if segment is None else min(segment, num_steps)
    return max(n for n in range(1, longest + 1) if num_steps % n == 0)


def _start_observing(observer: Observer, batch_size: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch_size, *jnp.shape(leaf))), observer.start())


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


def plan(
    sampler: Sampler,
    times: Int[Array, " n"] | np.ndarray,
    *,
    segment: int | None = None,
    observer: Observer | None = None,
    devices: Devices | None = None,
    available: int | None = None,
) -> Plan:
    """Predicts the memory that batches of chains need, from the programs compiled for one and for four, unrun.

    Args:
        sampler: as for `sample_segments`; abstract weights will do.
        times: as for `sample_segments`; their number decides nothing.
        segment: as for `sample_segments`.
        observer: as for `sample_segments`.
        devices: those that are to share a batch; the default device alone by default. CPUs share their memory: where
            it holds no chain for each of them, the plan is for fewer.
        available: bytes on each device; what is free now by default.

    Returns:
        The plan; `print` says it in a sentence.
    """
    devices = devices or jax.devices()[:1]
    times = jnp.asarray(times)[: _divisor(segment, len(times) - 1) + 1]
    # Not one and two: XLA lays small batches out in another way, which needs less memory for every chain.
    one, four = (_peak(sampler, observer, times, batch_size) for batch_size in (1, 4))
    per_chain = -(-(four - one) // 3)
    fixed = max(one - per_chain, 0)
    if available is not None or devices[0].platform != "cpu":
        return Plan(fixed, per_chain, available or available_memory(devices[0]), len(devices))
    total = available_memory(devices[0])
    plans = [Plan(fixed, per_chain, total // count, count) for count in range(len(devices), 0, -1)]
    return next((found for found in plans if found.batch_size), plans[-1])


def _lower(sampler: Sampler, observer: Observer | None, times: Array, batch_size: int) -> jax.stages.Lowered:
    """Lowers the program of `sample_segments` without arrays of the batch."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))
    state = jax.eval_shape(_start, sampler, keys, times[0])
    seen = jax.eval_shape(lambda: None if observer is None else _start_observing(observer, batch_size))
    return _advance.lower(sampler, observer, keys, state, seen, times, jnp.zeros(len(times) - 1, int))


def _peak(sampler: Sampler, observer: Observer | None, times: Array, batch_size: int) -> int:
    needed: Any = _lower(sampler, observer, times, batch_size).compile().memory_analysis()
    workspace = WORKSPACE if jax.default_backend() == "cpu" else 1.0
    kept = needed.argument_size_in_bytes + needed.output_size_in_bytes - needed.alias_size_in_bytes
    return int(kept + workspace * needed.temp_size_in_bytes)


def fitting(found: Plan, chains: int) -> int:
    """Returns the largest batch of a plan for so many chains.

    Raises:
        MemoryError: if not even one fits.
    """
    if found.batch_size < 1:
        raise MemoryError(f"{found}.")
    return min(found.batch_size, chains)


def sample_many(
    sampler: Sampler,
    keys: Key[Array, " n"],
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
    results = []
    if batch_size == "auto":
        found = plan(sampler, times, segment=segment, devices=devices)
        batch_size, devices = fitting(found, len(keys)), devices and devices[: found.devices]
    arguments = {"batch_size": batch_size, "segment": segment, "state": state, "devices": devices}
    for progress in sample_segments(sampler, keys, times, **arguments):
        report(progress)
        if progress.step == progress.num_steps:
            results.append(jax.vmap(sampler.image)(progress.state))
    return jnp.concatenate(results)[: len(keys)]
