"""Every core of a CPU as a device of its own."""

import os
from math import prod
from typing import Any

import jax

_LARGE = 64 * 64 * 3


def use_all_cores() -> None:
    """Lets JAX see every core of a CPU that this process may use as a device, so that each core draws its own chains.

    As one device, the cores share every single operation instead, and those of a small network are too small for that:
    most of the cores wait. Samples are the same but for rounding.

    `JAX_NUM_CPU_DEVICES` sets another number, 1 for JAX's usual ways. Does nothing once JAX has started its devices,
    and nothing to GPUs and TPUs.
    """
    chosen = getattr(jax.config, "jax_num_cpu_devices") > 0  # noqa: B009
    if chosen or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        jax.config.update("jax_num_cpu_devices", cores or 1)
    except RuntimeError:
        return


def devices_for(image_shape: tuple[int, ...]) -> list[Any]:
    """Returns the devices of this process that chains of such images should share.

    On CPUs images above 64 x 64 pixels are left to one device: their operations keep all cores busy, and every further
    device would hold a copy of the weights.
    """
    devices = jax.local_devices()
    large = prod(image_shape) > _LARGE
    return devices[:1] if large and devices[0].platform == "cpu" else devices
