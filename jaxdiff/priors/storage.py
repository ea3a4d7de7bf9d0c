"""Priors on disk: a folder with `config.json` and the network's weights, written by Orbax.

The weights are one flat dictionary with dotted names such as `input_blocks.0.0.kernel`, kept in the precision in which
they came; `load_prior` says in which to compute.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.disk import FolderKind, new_folder
from jaxdiff.errors import UserError, start_devices
from jaxdiff.networks.ffdnet import FFDNet, FFDNetConfig
from jaxdiff.networks.precision import Dtype
from jaxdiff.networks.unet import PUBLISHED, UNet, UNetConfig
from jaxdiff.priors.denoiser import Denoiser, Target, Variance
from jaxdiff.priors.noise_level import ByNoiseLevel
from jaxdiff.schedule import Schedule, cosine, from_betas, linear, scaled_linear, sigmoid

SHIPPED = Path(__file__).parent.parent / "weights"
"""The folder of the priors that come with the package; their names are the names of its sub-folders."""

NetworkConfig = UNetConfig | FFDNetConfig
Network = UNet | FFDNet
AnyNetwork = TypeVar("AnyNetwork", bound=nnx.Module)
Owner = TypeVar("Owner")

_SCHEDULES = {
    "linear": linear,
    "cosine": cosine,
    "scaled_linear": scaled_linear,
    "sigmoid": sigmoid,
    "betas": lambda betas: from_betas(np.asarray(betas, np.float64)),
}
_FORMAT = 1


PRIOR_FOLDER = FolderKind(("config.json", "weights"), "config.json", ("format", "network", "schedule"))
"""What the folder of a prior consists of."""


class PriorError(UserError):
    """A prior folder is missing, incomplete, corrupt, or does not fit its own configuration."""


@dataclass(frozen=True)
class PriorConfig:
    """Everything about a prior but its weights.

    Args:
        network: the architecture; its type says which kind of network it is.
        schedule: `{"kind": "linear" | "cosine" | ..., ...}` and the arguments of that function in `jaxdiff.schedule`;
            `{"kind": "betas", "betas": [...]}` for a schedule of its own.
        target: what the network predicts.
        variance: variance of an ancestral step.
        source: where the weights come from (file name and SHA-256, or the training run), for the reader.
        clip: whether estimates of the image are clipped to [-1, 1].
    """

    network: NetworkConfig
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"kind": "linear"})
    target: Target = "epsilon"
    variance: Variance = "learned_range"
    source: Mapping[str, Any] = field(default_factory=dict)
    clip: bool = True

    def make_schedule(self) -> Schedule:
        """Builds the noise schedule.

        Raises:
            ValueError: if its kind or a number is none that a schedule can have.
        """
        options = dict(self.schedule)
        if (kind := options.pop("kind", None)) not in _SCHEDULES:
            raise ValueError(f"the schedule {kind!r} is none of {', '.join(_SCHEDULES)}")
        return _SCHEDULES[kind](**options)

    @property
    def kind(self) -> str:
        """Name of the kind of network."""
        return next(name for name, kind in _KINDS.items() if isinstance(self.network, kind.config))

    def make_denoiser(self, network: Network) -> Denoiser:
        """Wraps a network of this configuration as a denoiser."""
        size, channels = self.network.image_size, self.network.in_channels
        schedule = self.make_schedule()
        of_time = _KINDS[self.kind].of_time(network, schedule)
        return Denoiser(
            network=of_time,
            schedule=schedule,
            image_shape=(size, size, channels),
            target=self.target,
            variance=self.variance,
            clip=self.clip,
            last_time=getattr(of_time, "last_time", None),
            any_size=isinstance(network, FFDNet),
        )


class _Kind(NamedTuple):
    """A kind of network.

    Attributes:
        config: class of its configuration.
        network: its class, made as `network(config, dtype=, remat=, rngs=)`.
        of_time: makes a function of `x_t` and `t` of a network, given the noise schedule.
    """

    config: type[NetworkConfig]
    network: type[Network]
    of_time: Callable[[Any, Schedule], Callable[..., jax.Array]]


_KINDS = {
    "unet": _Kind(UNetConfig, UNet, lambda network, schedule: network),
    "ffdnet": _Kind(
        FFDNetConfig, FFDNet, lambda network, schedule: ByNoiseLevel(network, schedule, network.config.max_sigma)
    ),
}


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
            "format": _FORMAT,
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


def read_config(directory: str | os.PathLike) -> PriorConfig:
    """Reads a prior's configuration without its weights.

    Raises:
        PriorError: if the folder or its `config.json` is missing or damaged.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise PriorError(
            f"{directory} is not a prior: it has no config.json. "
            "`python -m convert_weights convert CHECKPOINT FOLDER` makes one."
        )
    with _blamed_on(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError("it is no JSON object")
        if found["format"] != _FORMAT:
            raise PriorError(f"{path} has format {found['format']}, this version reads {_FORMAT}.")
        kind = found.get("kind", "unet")
        if kind not in _KINDS:
            raise PriorError(f"{path} is of kind {kind!r}, this version reads {', '.join(_KINDS)}.")
        # JSON has lists only; a configuration must stay hashable.
        network = {k: tuple(v) if isinstance(v, list) else v for k, v in found["network"].items()}
        others = {k: found[k] for k in ("schedule", "target", "variance", "source")} | {"clip": found.get("clip", True)}
        return _made(PriorConfig, others | {"network": _made(_KINDS[kind].config, network)})


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Says of what is wrong inside that the file is damaged."""
    try:
        yield
    except PriorError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        missing = isinstance(error, KeyError)
        reason = f"{error.args[0]!r} is missing" if missing else str(error).splitlines()[0].rstrip(".")
        raise PriorError(f"{path} is damaged: {reason}.") from error


def _made(owner: type[Owner], values: Mapping[str, Any]) -> Owner:
    """Makes a dataclass of values from a file, whose types are checked first."""
    for name, declared in get_type_hints(owner).items():
        if name in values and not _is_a(values[name], declared):
            raise TypeError(f"`{name}` cannot be {str(values[name])[:50]!r}")
    return owner(**values)


def _is_a(value: Any, declared: Any) -> bool:
    """Whether a value is of a declared type; whole numbers are sizes, of which none is zero or above a million."""
    if declared is int:
        return type(value) is int and 0 < value <= 1_000_000
    if declared is float:
        return type(value) in (int, float) and math.isfinite(value)
    origin, parts = get_origin(declared), get_args(declared)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(item, parts[0]) for item in value)
    if origin is UnionType:
        return any(_is_a(value, part) for part in parts)
    return isinstance(value, origin or declared)


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
    with _blamed_on(directory / "config.json"):
        config.make_schedule()
        network = _abstract(config, dtype, remat)
    return config.make_denoiser(with_parameters(network, weights))


def _abstract(config: PriorConfig, dtype: Dtype = "float32", remat: bool = False) -> Any:
    make: Any = _KINDS[config.kind].network
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
