"""How much memory there is, and how many chains fit into it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
