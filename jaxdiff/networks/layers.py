"""The layers of the guided-diffusion UNet, see `jaxdiff.networks.unet`."""

from math import log

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdiff.networks.convolution import Conv
from jaxdiff.networks.normalization import group_norm


def timestep_embedding(
    t: Int[Array, " n"], width: int, *, shift: float = 0.0, sin_first: bool = False
) -> Float[Array, "n width"]:
    """Sinusoidal embedding of integer times: `[cos(t f), sin(t f)]` with `f = 10000^(-k / (half - shift))`.

    Args:
        t: the times.
        width: numbers for each, `2 half`.
        shift: 0 in guided-diffusion, 1 in DDPM: whether the last frequency is 1 / 10000.
        sin_first: the sines before the cosines, as in DDPM.
    """
    half = width // 2
    frequencies = jnp.exp(-log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    parts = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(parts[::-1] if sin_first else parts, axis=-1)


def _means_of_four(x: Array) -> Array:
    n, h, w, c = x.shape
    pixels = x.reshape(n, h // 2, 2, w // 2, 2, c)
    # Sums of slices, whose own derivative would be padded slices.
    return (pixels[:, :, 0, :, 0] + pixels[:, :, 0, :, 1] + pixels[:, :, 1, :, 0] + pixels[:, :, 1, :, 1]) / 4


def _repeated(x: Array) -> Array:
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


# The rules are plain functions, so that they have derivatives of both modes again.
_down, _up = jax.custom_vjp(_means_of_four), jax.custom_vjp(_repeated)
_down.defvjp(lambda x: (_means_of_four(x), None), lambda _, gradient: (_repeated(gradient) / 4,))
_up.defvjp(lambda x: (_repeated(x), None), lambda _, gradient: (4 * _means_of_four(gradient),))


class GroupNorm(nnx.Module):
    """Group norm with the statistics in float32, as PyTorch has it."""

    def __init__(self, channels: int, groups: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.groups = groups
        self.epsilon = epsilon

    def __call__(
        self,
        x: Float[Array, "n *space c"],
        scale: Float[Array, "n c"] | float = 1.0,
        shift: Float[Array, "n c"] | float = 0.0,
        *,
        silu: bool = False,
    ) -> Float[Array, "n *space c"]:
        """Computes `scale * norm(x) + shift`, and SiLU of it if `silu`."""
        scale, shift = self.scale[...][None] * scale, self.bias[...][None] * scale + shift
        return group_norm(x, scale, shift, self.groups, silu=silu, epsilon=self.epsilon)


class ResBlock(nnx.Module):
    """Two convolutions with the time embedding in between, plus a skip connection.

    Args:
        resample: None, or "down"/"up", done to both branches before the first convolution.
    """

    def __init__(self, config, width, out_width, *, resample=None, **products):
        emb_width = 4 * config.channels
        self.in_norm = GroupNorm(width, config.norm_groups, config.norm_epsilon)
        self.in_conv = Conv(width, out_width, **products)
        self.embed = nnx.Linear(emb_width, out_width * (2 if config.scale_shift_norm else 1), **products)
        self.out_norm = GroupNorm(out_width, config.norm_groups, config.norm_epsilon)
        self.out_conv = Conv(out_width, out_width, zero=True, **products)
        same = out_width == width
        self.skip = None if same else Conv(width, out_width, 1, **products)
        # A name and not the function, which could neither be pickled nor copied.
        self.resample = resample
        self.scale_shift_norm = config.scale_shift_norm

    def __call__(self, x: Float[Array, "n h w c"], embedding: Float[Array, "n e"]) -> Float[Array, "n h2 w2 d"]:
        """Returns the sum of both branches."""
        hidden = self.in_norm(x, silu=True)
        if self.resample is not None:
            resample = _down if self.resample == "down" else _up
            hidden, x = resample(hidden), resample(x)
        hidden = self.in_conv(hidden)
        shift = self.embed(nnx.silu(embedding)).astype(jnp.float32)
        if self.scale_shift_norm:
            scale, shift = jnp.split(shift, 2, axis=-1)
            hidden = self.out_norm(hidden, 1 + scale, shift, silu=True)
        else:
            hidden = self.out_norm(hidden + shift[:, None, None], silu=True)
        hidden = self.out_conv(hidden)
        return hidden + (x if self.skip is None else self.skip(x)).astype(hidden.dtype)


def attend(
    q: Float[Array, "n q h c"],
    k: Float[Array, "n k h c"],
    v: Float[Array, "n k h c"],
    precision: jax.lax.Precision | None,
) -> Float[Array, "n q h c"]:
    """Attention of every query to all keys, head by head."""
    # Scaling q and k apart, not their product, is the original's guard against float16 overflow.
    scale = q.shape[-1] ** -0.25
    logits = jnp.einsum(
        "nqhc,nkhc->nhqk", q * scale, k * scale, precision=precision, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("nhqk,nkhc->nqhc", weights, v, precision=precision)


class AttentionBlock(nnx.Module):
    """Multi-head self-attention over all pixels, with a residual connection."""

    def __init__(self, config, width, **products):
        self.norm = GroupNorm(width, config.norm_groups, config.norm_epsilon)
        self.qkv = nnx.Linear(width, 3 * width, **products)
        self.proj = nnx.Linear(width, width, kernel_init=nnx.initializers.zeros, **products)
        self.heads = config.heads(width)
        self.new_order = config.new_attention_order
        self.precision = products["precision"]

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Lets every pixel attend to all pixels."""
        n, h, w, c = x.shape
        width = c // self.heads
        qkv = self.qkv(self.norm(x.reshape(n, h * w, c)))
        if self.new_order:
            q, k, v = jnp.moveaxis(qkv.reshape(n, h * w, 3, self.heads, width), 2, 0)
        else:
            q, k, v = jnp.moveaxis(qkv.reshape(n, h * w, self.heads, 3, width), 3, 0)
        mixed = attend(q, k, v, self.precision).reshape(n, h * w, c)
        return x + self.proj(mixed).reshape(n, h, w, c).astype(x.dtype)


class Downsample(nnx.Module):
    """Halves the resolution by a strided convolution, padded on both sides or (`after_only`) below and to the right."""

    def __init__(self, width, *, after_only=False, **products):
        self.conv = Conv(width, width, stride=2, after_only=after_only, **products)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Returns the smaller image."""
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles the resolution by nearest neighbours and a convolution, to the same width or another."""

    def __init__(self, width, out_width=None, **products):
        self.conv = Conv(width, out_width or width, **products)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Returns the larger image."""
        return self.conv(_up(x))
