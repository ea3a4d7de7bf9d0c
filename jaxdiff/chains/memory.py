"""How much memory there is, and how many chains fit into it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxdiff.chains.devices import Devices
from jaxdiff.chains.program import advance_chains, start_chains, start_observing, whole_segment
from jaxdiff.pytree import as_pytree
from jaxdiff.samplers.base import Observer, Sampler, check_times

WORKSPACE = 1.1
"""On CPUs the library for convolutions takes memory of its own while a program runs, which XLA does not count: 2 to
20 % of what it does count, most for small networks and few chains."""

MARGIN = 0.9
"""Share of the memory that is planned with: other programs, and the arrays of this one, grow."""


@dataclass(frozen=True)
class Plan:
    """What a batch of chains needs, and what there is, on each device.

    Attributes:
        fixed: bytes that any batch needs: weights, measurement, and what the program holds once.
        per_chain: bytes that every chain adds.
        available: bytes that there are.
        devices: number of devices that share a batch.
    """

    fixed: int
    per_chain: int
    available: int
    devices: int = 1

    @property
    def batch_size(self) -> int:
        """The largest batch that fits into 90 % of what there is, on all devices together; 0 if none does."""
        return max(int(MARGIN * self.available - self.fixed) // self.per_chain, 0) * self.devices

    def peak(self, batch_size: int) -> int:
        """Returns the bytes that a batch needs on each device."""
        return self.fixed + -(-batch_size // self.devices) * self.per_chain

    def __str__(self) -> str:
        advice = f"batch_size={self.batch_size} fits" if self.batch_size else "not even one chain fits"
        each = " on each device" if self.devices > 1 else ""
        return (
            f"{describe_bytes(self.fixed)} and {describe_bytes(self.per_chain)} for every chain, of "
            f"{describe_bytes(self.available)}{each}: {advice}"
        )


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
    check_times(sampler, times)
    sampler, observer = as_pytree(sampler), as_pytree(observer)
    devices = devices or jax.devices()[:1]
    times = jnp.asarray(times)[: whole_segment(segment, len(times) - 1) + 1]
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
    state = jax.eval_shape(start_chains, sampler, keys, times[0])
    seen = jax.eval_shape(lambda: None if observer is None else start_observing(observer, batch_size))
    return advance_chains.lower(sampler, observer, keys, state, seen, times, jnp.zeros(len(times) - 1, int))


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


def describe_bytes(count: int) -> str:
    """Returns a number of bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def available_memory(device: Any) -> int:
    """Returns the bytes that a device has left for this process.

    On accelerators this is what is left of JAX's own pool (by default three quarters of a GPU); on CPUs what the
    system says is available, within the limits of the control group.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    left = [_meminfo("MemAvailable"), *_control_group()]
    return min(bytes_left for bytes_left in left if bytes_left is not None)


def _meminfo(name: str) -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):  # not Linux
        return 8 * 2**30


def _control_group() -> list[int | None]:
    """What containers and batch systems leave, in both versions of control groups."""
    left: list[int | None] = []
    for group, limit, used in _memory_groups():
        try:
            # Of what is used, files that were read are given up when memory is short.
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            in_use = int((group / used).read_text()) - int(stat.get("inactive_file", 0))
            left.append(int((group / limit).read_text()) - in_use)
        except (OSError, ValueError):  # no such file, or no limit: "max"
            left.append(None)
    return left


def _memory_groups(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> list[Any]:
    """Folders of the groups of this process, from the innermost outwards, and the names of their files."""
    try:
        lines = [line.split(":", 2) for line in process.read_text().splitlines()]
    except OSError:  # not Linux
        return []
    found = []
    for _, controllers, path in lines:
        if controllers == "":
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inner = base / path.strip("/")
        # A container may see its own group at the root, under the path that it has outside.
        found += [(folder, *names) for folder in (inner, *inner.parents) if folder.is_relative_to(base)]
    return found
