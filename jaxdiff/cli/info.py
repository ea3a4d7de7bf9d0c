"""The commands `jaxdiff info` and `jaxdiff list`."""

import dataclasses
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

import jaxdiff
from jaxdiff import guidance, operators, samplers
from jaxdiff.metrics.lpips_files import LPIPSWeightsNotFound, find_arrays
from jaxdiff.priors.config import PriorConfig, PriorError, read_config
from jaxdiff.priors.storage import SHIPPED, prior_folder
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


NOT_STORED = "not stored"
CHECKPOINT = ("format", "file", "sha256", "state_dict", "trained_on", "licence")
"""The keys of a prior's `source` that have lines of their own; others are settings of a training run."""


def print_prior(name: str) -> None:
    """Prints what is stored about a prior, a line for each fact.

    Raises:
        PriorError: if there is no such prior, or its configuration is damaged.
    """
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for title, text in prior_facts(prior_folder(name)).items():
        console.print(f"{title:<11} {text}")


def prior_facts(folder: Path) -> dict[str, str]:
    """Returns what is stored about a prior, in words, by title.

    Raises:
        PriorError: if there is no such prior, or its configuration is damaged.
    """
    config = read_config(folder)
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    source, card, count = config.source, folder / "README.md", stored.get("parameters")
    file = [source.get("file", NOT_STORED), f"weights `{source['state_dict']}`" if source.get("state_dict") else ""]
    digest = [f"SHA-256 {source['sha256']}"] if "sha256" in source else []
    training = {key: value for key, value in source.items() if key not in CHECKPOINT}
    precision = f" in {', '.join(stored['dtypes'])}" if "dtypes" in stored else ""
    facts = {
        "folder": str(folder),
        "format": source.get("format", "trained with this package" if training else NOT_STORED),
        "file": ", ".join(filter(None, [*file, *digest])) if not training else "",
        "training": _settings(training),
        "trained on": source.get("trained_on", NOT_STORED),
        "licence": source.get("licence", NOT_STORED),
        "network": f"{config.kind}: {_settings(dataclasses.asdict(config.network), ('image_size', 'in_channels'))}",
        "parameters": NOT_STORED if count is None else f"{count:,}{precision}",
        "images": _images(config),
        "predicts": f"{config.target}, variance {config.variance}, {'' if config.clip else 'not '}clipped to [-1, 1]",
        "schedule": _schedule(config),
        "card": str(card) if card.is_file() else "",
    }
    return {title: str(text) for title, text in facts.items() if text}


def _settings(values: Mapping[str, Any], without: tuple[str, ...] = ()) -> str:
    words = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
    return ", ".join(f"{key} {value}" for key, value in words.items() if key not in without and value is not None)


def _images(config: PriorConfig) -> str:
    size = config.network.image_size
    return f"{'any size' if config.any_size else f'{size}x{size} pixels'}, {config.network.in_channels} channels"


def _schedule(config: PriorConfig) -> str:
    options = {key: value for key, value in config.schedule.items() if key not in ("kind", "betas")}
    try:
        times = config.make_schedule().num_times
    except (TypeError, ValueError) as error:
        raise PriorError(f"the schedule of this prior cannot be made: {error}") from error
    return ", ".join(filter(None, [config.schedule["kind"], f"{times} times", _settings(options)]))


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
