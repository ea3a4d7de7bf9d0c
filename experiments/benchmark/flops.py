"""Counts what a UNet has to compute, from its layers and not from the algorithm that runs them."""

import re
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from convert_weights.formats.unet import flax_shapes
from jaxdiff.networks.unet import UNetConfig

_BLOCK = re.compile(r"(input|middle|output)_blocks?\.(\d+)\.(?:(\d+)\.)?(.*)")


class Work(NamedTuple):
    """What one layer computes for one image.

    Attributes:
        name: of its weight; attention's two products are named after the block.
        side: height and width of what it gives, in blocks of `patch` pixels; 1 where there is one vector per image.
        multiply_adds: how many.
    """

    name: str
    side: int
    multiply_adds: int


def network_work(config: UNetConfig) -> Iterator[Work]:
    """Lists what every convolution, linear layer and attention product costs for one image of the network's size."""
    for name, shape in flax_shapes(config).items():
        if not name.endswith("kernel"):
            continue
        side = 1 if _is_embedding(name) else config.image_size // config.patch >> _level(config, name)
        yield Work(name, side, prod(shape) * side**2)
        if name.endswith("qkv.kernel"):
            # Queries with keys, and weights with values.
            yield Work(name.replace("qkv.kernel", "attention"), side, 2 * side**4 * shape[0])


def forward_flop(config: UNetConfig) -> int:
    """Returns the floating-point operations of one image's way through the network: two per multiply-add.

    The gradient in the input costs as much again, so that a step of DPS is twice this.
    """
    return 2 * sum(layer.multiply_adds for layer in network_work(config))


def _is_embedding(name: str) -> bool:
    return name.startswith("time_embed") or name.endswith(".embed.kernel")


def _level(config: UNetConfig, name: str) -> int:
    """How often the image was halved where a layer works, by the numbers of its block."""
    found = _BLOCK.fullmatch(name)
    if found is None:
        return 0
    kind, block, part, layer = found.groups()
    deepest, per_level = len(config.channel_mult) - 1, config.num_res_blocks + 1
    if kind == "middle":
        return deepest
    level = int(block) // per_level
    if kind == "input":
        # The last block of a level halves the image before its convolutions.
        return level
    resamples = part != "0" and not layer.startswith(("qkv", "proj"))
    return deepest - level - resamples
