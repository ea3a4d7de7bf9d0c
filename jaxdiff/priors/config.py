"""What a prior is besides its weights: `config.json`, read with every part checked."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import jax
import numpy as np

from jaxdiff.errors import UserError
from jaxdiff.networks.ffdnet import FFDNet, FFDNetConfig
from jaxdiff.networks.rms_unet import RMSUNet, RMSUNetConfig
from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.priors.denoiser import Denoiser, Target, Variance
from jaxdiff.priors.noise_level import ByNoiseLevel
from jaxdiff.schedule import Schedule, cosine, from_betas, linear, scaled_linear, sigmoid

NetworkConfig = UNetConfig | FFDNetConfig | RMSUNetConfig
Network = UNet | FFDNet | RMSUNet
Owner = TypeVar("Owner")

_SCHEDULES = {
    "linear": linear,
    "cosine": cosine,
    "scaled_linear": scaled_linear,
    "sigmoid": sigmoid,
    "betas": lambda betas: from_betas(np.asarray(betas, np.float64)),
}
FORMAT = 1
"""Of `config.json`."""


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
        source: where the weights come from, for the reader: `format`, `file`, `sha256` and `state_dict` of a
            checkpoint, or the settings of a training run; `trained_on` and `licence` where they are known.
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
        return next(name for name, kind in KINDS.items() if isinstance(self.network, kind.config))

    @property
    def any_size(self) -> bool:
        """Whether images of every height and width are as good as those of its own."""
        return isinstance(self.network, FFDNetConfig)

    def make_denoiser(self, network: Network) -> Denoiser:
        """Wraps a network of this configuration as a denoiser."""
        size, channels = self.network.image_size, self.network.in_channels
        schedule = self.make_schedule()
        of_time = KINDS[self.kind].of_time(network, schedule)
        return Denoiser(
            network=of_time,
            schedule=schedule,
            image_shape=(size, size, channels),
            target=self.target,
            variance=self.variance,
            clip=self.clip,
            last_time=getattr(of_time, "last_time", None),
            any_size=self.any_size,
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


KINDS = {
    "unet": _Kind(UNetConfig, UNet, lambda network, schedule: network),
    "ffdnet": _Kind(
        FFDNetConfig, FFDNet, lambda network, schedule: ByNoiseLevel(network, schedule, network.config.max_sigma)
    ),
    "rms_unet": _Kind(RMSUNetConfig, RMSUNet, lambda network, schedule: network),
}


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
    with blamed_on(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError("it is no JSON object")
        if found["format"] != FORMAT:
            raise PriorError(f"{path} has format {found['format']}, this version reads {FORMAT}.")
        kind = found.get("kind", "unet")
        if kind not in KINDS:
            raise PriorError(f"{path} is of kind {kind!r}, this version reads {', '.join(KINDS)}.")
        # JSON has lists only; a configuration must stay hashable.
        network = {k: tuple(v) if isinstance(v, list) else v for k, v in found["network"].items()}
        others = {k: found[k] for k in ("schedule", "target", "variance", "source")} | {"clip": found.get("clip", True)}
        return _made(PriorConfig, others | {"network": _made(KINDS[kind].config, network)})


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
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
