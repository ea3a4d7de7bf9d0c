"""Sharing chains among devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

Devices = Sequence[Any]
"""Devices as `jax.devices()` gives them."""


def share_out(devices: Devices, batch_size: int, chains: int) -> tuple[Devices, int]:
    """Returns the devices of a batch and its size, when each has as many chains and none is there for copies alone."""
    each = -(-min(batch_size, chains) // len(devices))
    used = -(-min(each * len(devices), chains) // each)
    return devices[:used], used * each


def devices_of(keys: Key[Array, " n"]) -> Devices | None:
    """Returns the devices that hold the keys, if there are several."""
    if isinstance(keys, Tracer):
        return None
    return sorted(keys.devices(), key=lambda device: device.id) if len(keys.devices()) > 1 else None


def place(tree: Any, devices: Devices | None, *axis: str) -> Any:
    """Puts a copy of all arrays on every device, or with an axis a part of each; leaves them where they are if None."""
    return tree if devices is None else jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec(*axis)))


def on_each(function: Callable[..., Any], devices: Devices | None, axes: Sequence[str | None]) -> Callable[..., Any]:
    """Returns a function of arrays that `place` has placed, run by every device on its own part.

    Left to itself, XLA gathers all chains on every device where it cannot split an operation, as Fourier transforms.

    Args:
        function: what it returns has an entry for every chain.
        devices: as for `place`.
        axes: of every argument the axis it was placed with, None for copies.
    """
    if devices is None:
        return function
    specs = tuple(PartitionSpec(axis) if axis else PartitionSpec() for axis in axes)
    return jax.shard_map(
        function, mesh=_mesh(devices), in_specs=specs, out_specs=PartitionSpec("chains"), check_vma=False
    )


def _mesh(devices: Devices) -> Mesh:
    # Not Explicit, the default of `jax.make_mesh`: reshapes that merge the chains would have to name their sharding.
    return Mesh(np.array(devices), ("chains",), axis_types=(AxisType.Auto,))
