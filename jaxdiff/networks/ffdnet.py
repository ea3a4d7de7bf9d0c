"""FFDNet for colour images in Flax NNX: a small denoiser of Gaussian noise, fully convolutional.

References:
    Zhang, Zuo & Zhang, 2018, "FFDNet: Toward a fast and flexible solution for CNN-based image denoising",
    https://arxiv.org/abs/1710.04026.
"""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxdiff.networks.blocks import depth_to_space, pad_to_multiple, space_to_depth
from jaxdiff.networks.convolution import Conv
from jaxdiff.networks.precision import Dtype, arithmetic

_BLOCK = 2


@dataclass(frozen=True)
class FFDNetConfig:
    """The architecture of an FFDNet.

    Args:
        image_size: height and width of images unless others are asked for; the network takes any.
        channels: width of the hidden layers.
        depth: number of convolutions.
        in_channels: colours of the image.
        max_sigma: the largest standard deviation of noise it was trained for, with images in [0, 1].

    Raises:
        ValueError: if there are fewer than two convolutions, or more than a thousand, or `max_sigma` is not positive.
    """

    image_size: int = 256
    channels: int = 96
    depth: int = 12
    in_channels: int = 3
    max_sigma: float = 75 / 255

    def __post_init__(self) -> None:
        if not 2 <= self.depth <= 1000:
            raise ValueError(f"`depth` must be from 2 to 1000, got {self.depth}.")
        if not self.max_sigma > 0:
            raise ValueError(f"`max_sigma` must be positive, got {self.max_sigma}.")


class FFDNet(nnx.Module):
    """The network `(noisy image, sigma) -> clean image`, with images in [0, 1].

    Convolutions and ReLUs on blocks of 2x2 pixels, with `sigma` as one more channel. Odd sides are continued by one
    mirrored row or column, as the original does.

    Args:
        config: the architecture.
        dtype: precision of the convolutions, see `jaxdiff.networks.precision.Dtype`.
        remat: keep only the input for a gradient, and compute the rest anew.
        rngs: random numbers for the initial weights.
    """

    def __init__(self, config: FFDNetConfig, *, dtype: Dtype = "float32", remat: bool = False, rngs: nnx.Rngs):
        colours = config.in_channels * _BLOCK**2
        widths = [colours + 1, *[config.channels] * (config.depth - 1), colours]
        products = {**arithmetic(dtype), "rngs": rngs}
        self.config = config
        self.remat = remat
        self.layers = nnx.List([Conv(a, b, **products) for a, b in pairwise(widths)])

    def __call__(self, image: Float[Array, "h w c"], sigma: Float[Array, ""] | float) -> Float[Array, "h w c"]:
        """Denoises one image of any height and width.

        Args:
            image: noisy image; the clean one lies in [0, 1].
            sigma: standard deviation of its noise.
        """
        h, w, _ = image.shape
        blocks = space_to_depth(pad_to_multiple(image, _BLOCK)[None], _BLOCK)
        level = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), (*blocks.shape[:3], 1))
        hidden = jnp.concatenate([blocks, level], -1)
        output = (jax.checkpoint(self._convolve) if self.remat else self._convolve)(hidden)
        return depth_to_space(output.astype(jnp.float32), _BLOCK)[0, :h, :w]

    def _convolve(self, hidden: Array) -> Array:
        for layer in self.layers[:-1]:
            hidden = jax.nn.relu(layer(hidden))
        return self.layers[-1](hidden)
