"""The commands `jaxdiff info` and `jaxdiff list`."""

import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

import jaxdiff
from jaxdiff import guidance, operators, samplers
from jaxdiff.metrics.lpips_files import LPIPSWeightsNotFound, find_arrays
from jaxdiff.priors.config import PriorError, read_config
from jaxdiff.priors.storage import SHIPPED
from jaxdiff.runs.folder import environment
from jaxdiff.runs.methods import KNOWN_METHODS, PHOTO_METHODS, TASKS


def print_info() -> None:
    """Prints versions, devices, memory, priors and LPIPS weights."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for name, version in environment()["versions"].items():
        console.print(f"{name:<10} {version}")
    console.print(f"{'package':<10} {Path(jaxdiff.__file__).parent}")
    for device in jax.devices():
        memory = (device.memory_stats() or {}).get("bytes_limit")
        text = f", {memory / 2**30:.1f} GiB" if memory else ""
        console.print(f"{'device':<10} {device.id}: {device.device_kind} ({device.platform}){text}")
    if hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        console.print(f"{'memory':<10} {total / 2**30:.1f} GiB, {os.cpu_count()} processors")
    for prior in sorted([*SHIPPED.glob("*/"), *Path("priors").glob("*/")]):
        console.print(f"{'prior':<10} {prior_line(prior)}")
    for net in ("vgg", "alex"):
        console.print(f"{'LPIPS':<10} {lpips_line(net)}")


def lpips_line(net: str) -> str:
    """Returns where the weights of an LPIPS network lie, which are not read, or how to get them."""
    try:
        return f"{net}: {find_arrays(net)[0]}"
    except LPIPSWeightsNotFound as error:
        return str(error)


def prior_line(folder: Path) -> str:
    """Returns a prior's name, its size, and what its network predicts."""
    name = folder.name if folder.parent == SHIPPED else str(folder)
    try:
        config = read_config(folder)
    except PriorError as error:
        return f"{name}: {error}"
    size = config.network.image_size
    return f"{name}: {size}x{size}, predicts {config.target}, variance {config.variance}"


def print_list() -> None:
    """Prints tasks, methods, samplers and operators with their parameters and sources."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print("tasks of `jaxdiff restore`")
    for task, words in TASKS.items():
        console.print(f"  {task:<12} {words}; with --prior photos by {PHOTO_METHODS.get(task, 'no method')}")
    console.print(f"\nmethods of `jaxdiff restore`: {KNOWN_METHODS}")
    for title, module in (("samplers", samplers), ("guidance", guidance), ("operators", operators)):
        console.print(f"\n{title} (jaxdiff.{title})")
        for name, found in vars(module).items():
            if dataclasses.is_dataclass(found):
                console.print("\n".join(describe_class(name, found)))


def describe_class(name: str, cls: Any) -> list[str]:
    """Returns lines with a class's parameters, purpose and source, all from its docstring and signature."""
    documentation = inspect.getdoc(cls) or ""
    lines = [f"  {name}({', '.join(inspect.signature(cls).parameters)})", f"      {documentation.splitlines()[0]}"]
    _, _, references = documentation.partition("References:\n")
    return lines + [f"      {line.strip()}" for line in references.splitlines() if line.strip()]
