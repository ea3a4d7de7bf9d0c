"""Compiled programs on disk, so that a second start need not compile again."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from jaxdiff.lpips import cache_folder


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
    """Tells processors apart: machines that share a home must not run each other's CPU programs."""
    told = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
