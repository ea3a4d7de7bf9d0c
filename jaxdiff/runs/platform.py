"""The machine a script runs on: its cores, its cache of compiled programs, the optional packages that it has."""

import hashlib
import os
import platform
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import jax

from jaxdiff.disk import cache_folder
from jaxdiff.errors import UserError, start_devices

_LARGE = 64 * 64 * 3


def prepare(*, core_by_core: bool = True) -> None:
    """Sets JAX up for a command: its devices, and the cache of compiled programs.

    Args:
        core_by_core: whether every core of a CPU is a device of its own.

    Raises:
        UserError: if the devices cannot be started.
    """
    if core_by_core:
        use_all_cores()
    keep_compiled_programs()
    start_devices()


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


def keep_compiled_programs() -> Path | None:
    """Turns on JAX's persistent compilation cache, in the user's cache folder unless another is set.

    `JAX_COMPILATION_CACHE_DIR` names another folder, and `JAX_ENABLE_COMPILATION_CACHE=0` turns the cache off. The
    folder may be removed at any time.

    Returns:
        The folder; None where nothing is kept, because that is switched off or the folder cannot be written to.
    """
    if not getattr(jax.config, "jax_enable_compilation_cache"):  # noqa: B009
        return None
    if chosen := getattr(jax.config, "jax_compilation_cache_dir"):  # noqa: B009
        return Path(chosen)
    folder = cache_folder() / "programs" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def _processor() -> str:
    """Names the processor: machines that share a home must not run each other's CPU programs."""
    found = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def require(package: str, extra: str, purpose: str) -> None:
    """Ends the script with a sentence if an optional package is missing.

    Args:
        package: the name under which it is imported.
        extra: the extra of this package that brings it.
        purpose: what needs it, as the beginning of the sentence.
    """
    if find_spec(package) is None:
        raise UserError(f'{purpose} needs {package}; install it with: pip install "jaxdiff[{extra}]".')
