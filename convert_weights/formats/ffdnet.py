"""Names and layouts of the published PyTorch FFDNet, and of `jaxdiff.networks.ffdnet.FFDNet`.

References:
    https://github.com/cszn/KAIR, `models/network_ffdnet.py` (the names).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convert_weights.formats.base import Choices, Converted, Format, Tensors
from jaxdiff.networks.ffdnet import FFDNetConfig
from jaxdiff.priors.config import PriorConfig


def ffdnet_from_torch(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], FFDNetConfig]:
    """Renames and rearranges the state dict of a colour FFDNet, and reads its architecture off the shapes.

    Args:
        tensors: `0.weight`, `0.bias`, `2.weight`, ...: convolutions, with a ReLU after each but the last.

    Raises:
        ValueError: naming the first tensor that does not fit.
    """
    numbers = sorted(int(found[1]) for name in tensors if (found := re.fullmatch(r"(\d+)\.weight", name)))
    if len(numbers) < 2 or numbers != list(range(0, 2 * len(numbers), 2)):
        raise ValueError("these are not the tensors of an FFDNet: it has convolutions 0, 2, 4, ...")
    depth, channels = len(numbers), tensors["0.weight"].shape[0]
    if unexpected := sorted(tensors.keys() - {f"{i}.{leaf}" for i in numbers for leaf in ("weight", "bias")}):
        raise ValueError(f"`{unexpected[0]}` has no place in an FFDNet")
    config = FFDNetConfig(channels=channels, depth=depth)
    colours = 4 * config.in_channels
    widths = [colours + 1, *[channels] * (depth - 1), colours]
    weights = {}
    for layer, number in enumerate(numbers):
        shape = (widths[layer + 1], widths[layer], 3, 3)
        weights[f"layers.{layer}.kernel"] = _checked(tensors, f"{number}.weight", shape).transpose(2, 3, 1, 0)
        weights[f"layers.{layer}.bias"] = _checked(tensors, f"{number}.bias", shape[:1])
    return weights, config


def _checked(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in tensors:
        raise ValueError(f"`{name}` is missing; a colour FFDNet has it")
    tensor = tensors[name]
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise ValueError(f"`{name}` is {tensor.dtype} {tensor.shape}, a colour FFDNet has float32 {shape}")
    return tensor


def convert_ffdnet(tensors: Tensors, choices: Choices, folder: Path) -> Converted:
    """Makes a prior of the state dict of a colour FFDNet; see `convert_weights.formats.base.Format`."""
    weights, network = ffdnet_from_torch(tensors)
    config = PriorConfig(network, target="x0", variance="fixed_small")
    taken = [
        "target: x0, for FFDNet removes the noise",
        f"noise: sigma from 0 to {255 * network.max_sigma / 2:.0f} of 255",
        f"schedule: linear, {config.make_schedule().num_times} times",
    ]
    return Converted(weights, config, taken)


FFDNET = Format(
    name="ffdnet",
    network="a colour FFDNet",
    marks=("0.weight", "2.weight", "4.weight"),
    choices=(),
    convert=convert_ffdnet,
)
