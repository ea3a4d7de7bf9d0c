"""The UNet of `denoising-diffusion-pytorch` in Flax NNX: RMS norms, linear attention, attention to memory.

References:
    https://github.com/lucidrains/denoising-diffusion-pytorch (the architecture, version 2).
    Zhang & Sennrich, 2019, https://arxiv.org/abs/1910.07467 (RMS norm).
    Shen et al., 2018, https://arxiv.org/abs/1812.01243 (linear attention).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdiff.networks.blocks import space_to_depth
from jaxdiff.networks.convolution import Conv
from jaxdiff.networks.layers import Upsample, attend, timestep_embedding
from jaxdiff.networks.precision import Dtype, arithmetic


@dataclass(frozen=True)
class RMSUNetConfig:
    """The architecture of a UNet with RMS norms.

    Args:
        image_size: height and width the network was trained at, in pixels.
        channels: what the widths are multiples of.
        channel_mult: width that each level ends with, as a multiple of `channels`; each but the last halves the
            resolution.
        full_attention: of each level, whether every pixel attends to every pixel (else attention is linear).
        init_channels: width of the first convolution, and of the first level.
        num_heads: attention heads.
        num_head_channels: channels per attention head.
        memory: keys and values that are weights, beside those of the pixels.
        in_channels: colours of the image.
        out_channels: as many.

    Raises:
        ValueError: if there is no level, the levels' attention is not said, or a size is zero or does not fit.
    """

    image_size: int
    channels: int
    channel_mult: tuple[int, ...]
    full_attention: tuple[bool, ...]
    init_channels: int
    num_heads: int = 4
    num_head_channels: int = 32
    memory: int = 4
    in_channels: int = 3
    out_channels: int = 3

    def __post_init__(self) -> None:
        if not self.channel_mult or len(self.full_attention) != len(self.channel_mult):
            raise ValueError(
                "`channel_mult` and `full_attention` must be of the same levels, one or more, got "
                f"{self.channel_mult} and {self.full_attention}."
            )
        counts = (
            *self.widths,
            self.num_heads,
            self.num_head_channels,
            self.memory,
            self.in_channels,
            self.out_channels,
        )
        if min(counts) < 1:
            raise ValueError(f"every width and number of a UNet must be at least 1, got {self}.")
        if self.image_size % self.size_factor:
            raise ValueError(f"`image_size` must be a multiple of {self.size_factor}, got {self.image_size}.")
        if self.channels < 4 or self.channels % 2:
            raise ValueError(f"`channels` must be even and at least 4, got {self.channels}.")

    @property
    def size_factor(self) -> int:
        """What both sides of an image must be multiples of."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels before the first level and after each."""
        return (self.init_channels, *(mult * self.channels for mult in self.channel_mult))


class RMSNorm(nnx.Module):
    r"""Divides the channels of a pixel by their root mean square: `\sqrt{c} x / |x|`, times a scale per channel."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Float[Array, "*space c"]) -> Float[Array, "*space c"]:
        """Computes it in float32."""
        full = x.astype(jnp.float32)
        # At least 1e-12, as in PyTorch; bounded before the root, whose derivative at zero is infinite.
        length = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(full), -1, keepdims=True), 1e-24))
        return full / length * (self.scale[...] * x.shape[-1] ** 0.5)


class RMSBlock(nnx.Module):
    """Two convolutions, each with norm and SiLU, plus a skip connection; the time scales and shifts the first norm."""

    def __init__(self, config: RMSUNetConfig, width: int, out_width: int, **products):
        self.embed = nnx.Linear(4 * config.channels, 2 * out_width, **products)
        self.conv_1 = Conv(width, out_width, **products)
        self.norm_1 = RMSNorm(out_width)
        self.conv_2 = Conv(out_width, out_width, **products)
        self.norm_2 = RMSNorm(out_width)
        self.skip = None if width == out_width else Conv(width, out_width, 1, **products)

    def __call__(self, x: Float[Array, "n h w c"], embedding: Float[Array, "n e"]) -> Float[Array, "n h w d"]:
        """Returns the sum of both branches."""
        scale, shift = jnp.split(self.embed(nnx.silu(embedding)).astype(jnp.float32)[:, None, None], 2, axis=-1)
        hidden = nnx.silu(self.norm_1(self.conv_1(x)) * (1 + scale) + shift)
        hidden = nnx.silu(self.norm_2(self.conv_2(hidden)))
        return hidden + (x if self.skip is None else self.skip(x)).astype(hidden.dtype)


class MemoryAttention(nnx.Module):
    r"""Attention to all pixels and to a memory, with a residual connection.

    Linear attention has no matrix of pixels by pixels: `q_i (\sum_j k_j v_j^T)`, with a softmax over the channels of
    `q_i` and one over the pixels `j`.
    """

    def __init__(self, config: RMSUNetConfig, width: int, *, full: bool, **products):
        heads, channels = config.num_heads, config.num_head_channels
        size = (config.memory, channels) if full else (channels, config.memory)
        self.norm = RMSNorm(width)
        self.memory = nnx.Param(nnx.initializers.normal(1.0)(products["rngs"].params(), (2, heads, *size)))
        self.qkv = nnx.Linear(width, 3 * heads * channels, use_bias=False, **products)
        self.proj = nnx.Linear(heads * channels, width, **products)
        self.out_norm = None if full else RMSNorm(width)
        self.shape = (heads, channels)
        self.precision = products["precision"]

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Lets every pixel attend."""
        n, h, w, c = x.shape
        q, k, v = jnp.moveaxis(self.qkv(self.norm(x.reshape(n, h * w, c))).reshape(n, h * w, 3, *self.shape), 2, 0)
        memory = self.memory[...].astype(k.dtype)
        memory = memory.transpose((0, 2, 1, 3) if self.out_norm is None else (0, 3, 1, 2))
        k, v = (
            jnp.concatenate([jnp.broadcast_to(kept, (n, *kept.shape)), own], axis=1)
            for kept, own in zip(memory, (k, v), strict=True)
        )
        if self.out_norm is None:
            return x + self.proj(attend(q, k, v, self.precision).reshape(n, h, w, -1)).astype(x.dtype)
        mixed = self._linear(q, k, v).reshape(n, h, w, -1)
        return x + self.out_norm(self.proj(mixed)).astype(x.dtype)

    def _linear(self, q: Array, k: Array, v: Array) -> Array:
        q = jax.nn.softmax(q.astype(jnp.float32), axis=-1).astype(v.dtype) * self.shape[1] ** -0.5
        k = jax.nn.softmax(k.astype(jnp.float32), axis=1).astype(v.dtype)
        context = jnp.einsum("nkhd,nkhe->nhde", k, v, precision=self.precision)
        return jnp.einsum("nhde,nqhd->nqhe", context, q, precision=self.precision)


class ShuffleDown(nnx.Module):
    """Halves the resolution: blocks of 2x2 pixels become channels, and these are mixed."""

    def __init__(self, width: int, out_width: int, **products):
        self.conv = Conv(4 * width, out_width, 1, **products)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Returns the smaller image."""
        return self.conv(space_to_depth(x, 2))


class RMSUNet(nnx.Module):
    """The network `(x_t, t) -> prediction`, for one image or (`batch`) for several.

    Args:
        config: the architecture.
        dtype: precision of convolutions and matrix products, see `jaxdiff.networks.precision.Dtype`.
        remat: keep only the inputs of levels for a gradient, and compute the rest anew.
        rngs: random numbers for the initial weights.

    Deviations:
        No dropout (it has no effect when sampling), self-conditioning, learned frequencies or learned variance.
    """

    def __init__(self, config: RMSUNetConfig, *, dtype: Dtype = "float32", remat: bool = False, rngs: nnx.Rngs):
        self.config, self.remat = config, remat
        products: dict[str, Any] = {**arithmetic(dtype), "rngs": rngs}
        widths, last = config.widths, len(config.channel_mult) - 1
        self.time_embed_1 = nnx.Linear(config.channels, 4 * config.channels, **products)
        self.time_embed_2 = nnx.Linear(4 * config.channels, 4 * config.channels, **products)
        self.init_conv = Conv(config.in_channels, widths[0], 7, **products)
        self.downs: nnx.List[Any] = nnx.List()
        self.ups: nnx.List[Any] = nnx.List()
        for level, full in enumerate(config.full_attention):
            width, wide = widths[level : level + 2]
            blocks = [RMSBlock(config, width, width, **products) for _ in range(2)]
            resample = (Conv if level == last else ShuffleDown)(width, wide, **products)
            self.downs.append(nnx.List([*blocks, MemoryAttention(config, width, full=full, **products), resample]))
        for level, full in reversed(list(enumerate(config.full_attention))):
            width, wide = widths[level : level + 2]
            blocks = [RMSBlock(config, width + wide, wide, **products) for _ in range(2)]
            resample = (Conv if level == 0 else Upsample)(wide, width, **products)
            self.ups.append(nnx.List([*blocks, MemoryAttention(config, wide, full=full, **products), resample]))
        self.mid_block_1 = RMSBlock(config, widths[-1], widths[-1], **products)
        self.mid_attention = MemoryAttention(config, widths[-1], full=True, **products)
        self.mid_block_2 = RMSBlock(config, widths[-1], widths[-1], **products)
        self.final_block = RMSBlock(config, 2 * widths[0], widths[0], **products)
        self.final_conv = Conv(widths[0], config.out_channels, 1, **products)

    def __call__(self, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int) -> Float[Array, "h w d"]:
        """Runs the network on one image.

        Args:
            x_t: noisy image, signal part in [-1, 1].
            t: integer time of the training schedule.
        """
        return self.batch(x_t[None], jnp.asarray(t)[None])[0]

    def batch(self, x_t: Float[Array, "n h w c"], t: Int[Array, " n"]) -> Float[Array, "n h w d"]:
        """Runs the network on several images, each with its own time.

        Raises:
            ValueError: if the image size does not fit the levels.
        """
        factor = self.config.size_factor
        if x_t.shape[1] % factor or x_t.shape[2] % factor or x_t.shape[3] != self.config.in_channels:
            raise ValueError(
                f"`x_t` must be (h, w, {self.config.in_channels}) with sides that are multiples of {factor}, "
                f"got {x_t.shape[1:]}."
            )
        waves = timestep_embedding(t, self.config.channels, shift=1.0, sin_first=True)
        embedding = self.time_embed_2(jax.nn.gelu(self.time_embed_1(waves), approximate=False)).astype(jnp.float32)
        first = hidden = self.init_conv(x_t).astype(jnp.float32)
        stack = []
        for level in range(len(self.downs)):
            hidden, kept = self._run(partial(self._down, level), hidden, embedding)
            stack += kept
        hidden = self._run(self._middle, hidden, embedding)
        for level in range(len(self.ups)):
            hidden = self._run(partial(self._up, level), hidden, stack.pop(), stack.pop(), embedding)
        hidden = self.final_block(jnp.concatenate([hidden, first], -1), embedding)
        return self.final_conv(hidden).astype(jnp.float32)

    def _run(self, part: Callable[..., Any], *arrays: Array) -> Any:
        return (jax.checkpoint(part) if self.remat else part)(*arrays)

    def _down(self, level: int, x: Array, embedding: Array) -> tuple[Array, list[Array]]:
        block_1, block_2, attention, resample = self.downs[level]
        first = block_1(x, embedding)
        second = attention(block_2(first, embedding))
        return resample(second), [first, second]

    def _middle(self, x: Array, embedding: Array) -> Array:
        return self.mid_block_2(self.mid_attention(self.mid_block_1(x, embedding)), embedding)

    def _up(self, level: int, x: Array, later: Array, earlier: Array, embedding: Array) -> Array:
        block_1, block_2, attention, resample = self.ups[level]
        hidden = block_1(jnp.concatenate([x, later], -1), embedding)
        return resample(attention(block_2(jnp.concatenate([hidden, earlier], -1), embedding)))
