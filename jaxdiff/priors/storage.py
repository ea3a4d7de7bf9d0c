"""Priors on disk: a folder with `config.json` and the network's weights, written by Orbax.

The weights are one flat dictionary with dotted names such as `input_blocks.0.0.kernel`, kept in the precision in which
they came; `load_prior` says in which to compute.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.disk import FolderKind, new_folder
from jaxdiff.errors import start_devices
from jaxdiff.networks.precision import Dtype
from jaxdiff.networks.unet import PUBLISHED
from jaxdiff.priors.config import FORMAT, KINDS, PriorConfig, PriorError, blamed_on, read_config
from jaxdiff.priors.denoiser import Denoiser

SHIPPED = Path(__file__).parent.parent / "weights"
"""The folder of the priors that come with the package; their names are the names of its sub-folders."""

AnyNetwork = TypeVar("AnyNetwork", bound=nnx.Module)

PRIOR_FOLDER = FolderKind(("config.json", "weights"), "config.json", ("format", "network", "schedule"))
"""What the folder of a prior consists of."""


def parameters(network: nnx.Module) -> dict[str, jax.Array]:
    """Returns a network's weights as a flat dictionary with dotted names."""
    flat = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return {".".join(map(str, path)): variable[...] for path, variable in flat}


def with_parameters(network: AnyNetwork, weights: Mapping[str, Any]) -> AnyNetwork:
    """Returns a copy of `network` (which may be abstract) that holds `weights`, strictly checked.

    Raises:
        PriorError: naming every weight that is missing, unexpected, or of another shape.
    """
    graph, state = nnx.split(network)
    wanted = {".".join(map(str, path)): v for path, v in nnx.to_flat_state(state)}
    problems = [f"missing {name}" for name in sorted(wanted.keys() - weights.keys())]
    problems += [f"unexpected {name}" for name in sorted(weights.keys() - wanted.keys())]
    problems += [
        f"{name} has shape {np.shape(weights[name])}, not {v.shape}"
        for name, v in wanted.items()
        if name in weights and np.shape(weights[name]) != v.shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (" ..." if len(problems) > 8 else "")
        raise PriorError(f"weights do not fit the network ({len(problems)} problems): {shown}")
    flat = [
        (path, v.replace(jnp.asarray(weights[".".join(map(str, path))], v.dtype)))
        for path, v in nnx.to_flat_state(state)
    ]
    complete: AnyNetwork = nnx.merge(graph, nnx.from_flat_state(flat))
    complete.eval()
    return complete


def save_prior(
    directory: str | os.PathLike,
    weights: Mapping[str, Any],
    config: PriorConfig,
    *,
    overwrite: bool = False,
) -> None:
    """Writes a prior; the folder appears complete or not at all.

    Raises:
        FileExistsError: if `directory` may not be replaced: it is not empty and `overwrite` is not set, or it holds
            anything that is no part of a prior.
        PriorError: if the weights do not fit the configuration.
    """
    with_parameters(_abstract(config), weights)
    description = (
        {"kind": config.kind}
        | asdict(config)
        | {
            "format": FORMAT,
            "parameters": int(sum(np.size(w) for w in weights.values())),
            "dtypes": sorted({str(np.asarray(w).dtype) for w in weights.values()}),
        }
    )
    with new_folder(directory, PRIOR_FOLDER, overwrite=overwrite) as partial:
        _write_weights(partial / "weights", weights)
        (partial / "config.json").write_text(json.dumps(description, indent=2) + "\n")


def read_prior(directory: str | os.PathLike) -> tuple[dict[str, np.ndarray], PriorConfig]:
    """Reads the weights, in their stored precision, and the configuration of a prior.

    Raises:
        PriorError: if the folder is missing, incomplete or corrupt.
    """
    import orbax.checkpoint as ocp  # importing Orbax takes as long as the rest of the package

    config = read_config(directory)
    start_devices()
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            weights = checkpointer.restore(Path(directory).resolve() / "weights")
    except Exception as error:  # Orbax and TensorStore raise many types for a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PriorError(f"the weights in {directory} cannot be read: {reason[0][:200]}") from error
    return {name: np.asarray(w) for name, w in weights.items()}, config


def prior_folder(name: str | os.PathLike) -> Path:
    """Returns the folder of a shipped prior, given its name, or the folder that is named."""
    directory = Path(name)
    # A folder of photographs, or of results, may well be called photos.
    shipped = not PRIOR_FOLDER.is_one(directory) and (SHIPPED / directory).is_dir()
    return SHIPPED / directory if shipped else directory


def load_prior(
    name: str | os.PathLike = "faces-32",
    *,
    dtype: Dtype = "float32",
    remat: bool = False,
    channels: int | None = None,
) -> Denoiser:
    """Loads a shipped prior by name, or a converted one by folder.

    Args:
        name: a shipped prior, or a folder written by `convert_weights` or `experiments.train_faces`.
        dtype: precision of the network's convolutions and matrix products, see `jaxdiff.networks.precision.Dtype`.
        remat: whether the network trades time for memory in its gradient, see `jaxdiff.networks.unet.UNet`.
        channels: how many channels its images must have, 3 for colour; any number by default.

    Raises:
        PriorError: if there is no such prior, it is damaged, its images have another number of channels, or its
            network needs labels.
        ValueError: if `dtype` is unknown.
    """
    directory = prior_folder(name)
    if not directory.exists():
        shipped = ", ".join(sorted(p.name for p in SHIPPED.glob("*/")))
        published = directory.name in PUBLISHED
        hint = f"; `jaxdiff convert download {directory.name} {name}` makes this one" if published else ""
        raise PriorError(f"no prior named {str(name)!r}: not a folder, and shipped are: {shipped}{hint}.")
    weights, config = read_prior(directory)
    if channels not in (None, config.network.in_channels):
        raise PriorError(
            f"{directory} is a prior of images with {config.network.in_channels} channels, not {channels}."
        )
    if getattr(config.network, "num_classes", None) is not None:
        raise PriorError(
            f"{directory} is class-conditional; `jaxdiff convert` with --label makes it the prior of one class."
        )
    with blamed_on(directory / "config.json"):
        config.make_schedule()
        network = _abstract(config, dtype, remat)
    return config.make_denoiser(with_parameters(network, weights))


def _abstract(config: PriorConfig, dtype: Dtype = "float32", remat: bool = False) -> Any:
    make: Any = KINDS[config.kind].network
    return nnx.eval_shape(lambda: make(config.network, dtype=dtype, remat=remat, rngs=nnx.Rngs(0)))


def _write_weights(path: Path, weights: Mapping[str, Any]) -> None:
    import orbax.checkpoint as ocp

    # Not StandardCheckpointer: its background threads would go on writing after a failure, into a folder being removed.
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        try:
            checkpointer.save(path, args=ocp.args.StandardSave({name: np.asarray(w) for name, w in weights.items()}))
        except Exception as error:  # TensorStore raises many types when a disk is full
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise OSError(f"the weights cannot be written to {path.parent.parent}: {reason[0][:200]}") from error
