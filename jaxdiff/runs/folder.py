"""Result folders: what a run was asked for, what it wrote, and whether it may be continued."""

import io
import json
import platform
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxdiff import __version__
from jaxdiff.disk import claim_folder, write_atomically
from jaxdiff.errors import UserError
from jaxdiff.priors.denoiser import Denoiser
from jaxdiff.priors.storage import parameters

Content = TypeVar("Content")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON; what it does not know (paths) as text."""
    write_atomically(path, json.dumps(content, indent=2, default=str) + "\n")


def read_json(path: Path, kind: type[Content]) -> Content:
    """Reads what `write_json` wrote.

    Raises:
        UserError: if it is damaged, or nothing of this kind.
    """
    with suppress(ValueError, RecursionError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, kind):
            return found
    raise UserError(f"{path} is damaged; choose another --out, or replace all with --overwrite.")


def write_npz(path: Path, **arrays: ArrayLike) -> None:
    """Writes named arrays."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(buffer, **named)
    write_atomically(path, buffer.getvalue())


def environment() -> dict[str, Any]:
    """Returns versions and hardware; with the settings, everything that decides the numbers."""
    found = {"jaxdiff": __version__, "python": platform.python_version()}
    for name in ("jax", "jaxlib", "flax", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    devices = jax.devices()
    return {"versions": found, "device": devices[0].device_kind, "devices": len(devices), "machine": platform.machine()}


def digest(*arrays: ArrayLike) -> str:
    """Returns the SHA-256 of arrays."""
    found = sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def describe_prior(prior: Denoiser) -> dict[str, Any]:
    """Returns what to write down about a prior: what it predicts, and a fingerprint of its weights."""
    # A denoiser of noise levels wraps its network.
    network: Any = getattr(prior.network, "network", prior.network)
    weights = parameters(network)
    return {
        "target": prior.target,
        "variance": prior.variance,
        "image_shape": list(prior.image_shape),
        "weights_sha256": digest(*(weights[name] for name in sorted(weights))),
    }


def command_line(program: str, config: Any) -> str:
    """Returns the command that gives a script its settings: what must be given, and what is not the default.

    Args:
        program: how the script is called.
        config: the dataclass of its flags; required ones are given by position.
    """
    words = program.split()
    for flag in fields(config):
        value = getattr(config, flag.name)
        if flag.default is MISSING:
            words.append(str(value))
        elif value != flag.default and flag.name not in ("resume", "overwrite"):
            words.append(f"--{flag.name.replace('_', '-')}")
            words += [] if value is True else map(str, value) if isinstance(value, tuple) else [str(value)]
    return shlex.join(words)


def open_folder(
    path: Path,
    program: str,
    settings: Mapping[str, Any],
    *,
    command: str,
    resume: bool | None,
    overwrite: bool,
    inputs: Iterable[Path | None] = (),
) -> None:
    """Makes a result folder with `config.json`, `command.txt` and `env.json`, or finds the one to go on with.

    Args:
        path: the folder.
        program: how the script is called; only its own folders are written into.
        settings: everything that decides the numbers, beside the environment. Files count by their name, as their path
            is another from elsewhere; digests of what they hold belong to the settings too.
        command: what makes these results again.
        resume: go on with what an interrupted run of the same settings has left; None if the script cannot.
        overwrite: remove what an earlier run of the program has written there, and nothing else.
        inputs: files that the script reads, none of which may lie in the folder.

    Raises:
        UserError: if both flags are given, the folder is not the program's, holds results and neither flag is given, or
            they are of other settings.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with results and --overwrite removes them; give one of them.")
    settings = json.loads(json.dumps({**settings, "environment": environment()}, default=_name))
    config = path / "config.json"
    known = claim_folder(path, program, inputs=inputs, clear=overwrite)
    if known and config.exists():
        if not resume:
            go_on = "" if resume is None else "--resume goes on with them, "
            raise UserError(f"{path} holds results already; {go_on}--overwrite replaces them.")
        others = _differences(_read_settings(config), settings)
        if others:
            raise UserError(
                f"{path} holds results of other settings ({', '.join(others)}); repeat the command in "
                f"{path / 'command.txt'}, choose another --out, or replace them with --overwrite."
            )
    write_json(path / "env.json", environment())
    write_atomically(path / "command.txt", command + "\n")
    write_json(config, {"settings": settings})


def finish_folder(path: Path, found: Mapping[str, Any]) -> None:
    """Adds what followed from the settings to `config.json`."""
    config = path / "config.json"
    write_json(config, {"settings": _read_settings(config), **found})


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads an `.npz` file.

    Raises:
        UserError: if it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:  # a damaged archive raises many types
        raise UserError(f"{path} is damaged; remove it and its part is made again.") from error


def _name(value: Any) -> str:
    return value.resolve().name if isinstance(value, Path) else str(value)


def _read_settings(config: Path) -> dict[str, Any]:
    settings = read_json(config, dict).get("settings")
    if not isinstance(settings, dict):
        raise UserError(f"{config} is damaged; choose another --out, or replace all with --overwrite.")
    return settings


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
