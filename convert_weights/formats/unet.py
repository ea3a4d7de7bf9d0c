"""What the formats of UNets share: the weights of the network here, checks, and one class out of several."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from flax import nnx

from jaxdiff.networks.rms_unet import RMSUNetConfig
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.priors.config import KINDS, NetworkConfig

Shape = tuple[int, ...]
COLOURS = 3


@cache
def flax_shapes(config: NetworkConfig) -> dict[str, Shape]:
    """Returns the names and shapes of the weights of a network, without making it."""
    make: Any = next(kind.network for kind in KINDS.values() if isinstance(config, kind.config))
    network = nnx.eval_shape(lambda: make(config, rngs=nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return {".".join(map(str, path)): variable.shape for path, variable in state}


def check_tensors(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> None:
    """Refuses a state dict that does not fit.

    Raises:
        ValueError: naming each tensor that is missing, unexpected, of another shape or of a type that is not kept.
    """
    missing = sorted(shapes.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - shapes.keys())
    wrong = [
        f"`{name}` {tensors[name].shape} where {shape} is needed"
        for name, shape in shapes.items()
        if name in tensors and tensors[name].shape != shape
    ]
    # float64 would be rounded, and integers are no weights.
    odd = [f"`{n}` {t.dtype}" for n, t in tensors.items() if str(t.dtype) not in ("float32", "float16", "bfloat16")]
    problems = [
        f"{title} {_some(found)}"
        for title, found in (
            ("missing", [f"`{name}`" for name in missing]),
            ("unexpected", [f"`{name}`" for name in unexpected]),
            ("of another shape:", wrong),
            ("not float32, float16 or bfloat16:", odd),
        )
        if found
    ]
    if problems:
        raise ValueError(f"the tensors do not fit the network: {'; '.join(problems)}")


def _some(items: Iterable[str], shown: int = 6) -> str:
    items = list(items)
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f" and {rest} more" if rest > 0 else "")


def check_channels(network: UNetConfig | RMSUNetConfig, confirmed: int | None) -> None:
    """Refuses a network that makes no prior of colour pictures, unless its number of channels is confirmed.

    Raises:
        ValueError: saying what it takes and gives.
    """
    taken, given = network.in_channels, network.out_channels
    if confirmed not in (None, taken):
        raise ValueError(f"--channels {confirmed} does not fit a network of {taken} channels")
    if given not in (taken, 2 * taken):
        raise ValueError(
            f"the network takes {taken} channels and gives {given}; a prior gives as many or twice as many "
            "(an upsampler takes a second picture, and is no prior)"
        )
    if taken != COLOURS and confirmed is None:
        raise ValueError(
            f"the number of channels of its pictures is {taken}, `jaxdiff restore` needs {COLOURS}; "
            f"--channels {taken} converts it all the same, for the library (but an upsampler is no prior)"
        )


def of_one_class(weights: dict[str, np.ndarray], network: UNetConfig, label: int | None) -> UNetConfig:
    """Adds the embedding of a class to the bias that it is always added to, in place.

    Raises:
        ValueError: if the class is missing, out of range, or there are none.
    """
    classes = network.num_classes
    if classes is None and label is not None:
        raise ValueError("--label is given, but the network is not class-conditional")
    if classes is None:
        return network
    if label is None or not 0 <= label < classes:
        raise ValueError(f"the network is class-conditional: give --label, the class from 0 to {classes - 1} to take")
    embedding, bias = weights.pop("label_embed.embedding"), "time_embed_2.bias"
    weights[bias] = weights[bias].astype(np.float32) + embedding[label].astype(np.float32)
    return replace(network, num_classes=None)
