"""Dead leaves drawn from a key: an endless, licence-free set of edges and textures to train with.

Discs and polygons of random size lie over each other, the sizes after a power law: such pictures share the statistics
of edges and of the spectrum with photographs.

References:
    Lee, Mumford, Huang, 2001, "Occlusion models for natural images" (the power law of sizes).
    Baradad et al., 2021, https://arxiv.org/abs/2106.05963 (learning to see from noise).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

NUM_LEAVES = 80
_CORNERS = 7
_SMALLEST = 2.5
_TONES = 5


class _Leaf(NamedTuple):
    """One leaf: where it lies (pixels), its shape, its colour and what is on it."""

    centre: Float[Array, "2"]
    radius: Float[Array, ""]
    stretch: Float[Array, "2"]
    angle: Float[Array, ""]
    corners: Float[Array, " k"]
    sides: Float[Array, " k"]
    round: Float[Array, ""]
    colour: Float[Array, "3"]
    shade: Float[Array, "3"]
    wave: Float[Array, "2"]
    stripes: Float[Array, ""]
    grain: Float[Array, ""]
    softness: Float[Array, ""]


def draw_leaves(key: PRNGKeyArray, size: int, num_leaves: int = NUM_LEAVES) -> Float[Array, "h w 3"]:
    """Draws one picture in [-1, 1], of `size x size` pixels.

    Args:
        key: decides everything.
        size: height and width.
        num_leaves: leaves, the last one on top.
    """
    key_tones, key_grain, key_leaves, key_light = jax.random.split(key, 4)
    tones = _palette(key_tones)
    grain = _coloured_noise(key_grain, size)
    leaves = jax.vmap(_sample_leaf, (0, None, None))(jax.random.split(key_leaves, num_leaves), size, tones)
    y, x = jnp.meshgrid(jnp.arange(size) - 0.5 * (size - 1), jnp.arange(size) - 0.5 * (size - 1), indexing="ij")

    def lay(canvas: Array, leaf: _Leaf) -> tuple[Array, None]:
        paint, opacity = _paint(leaf, x, y, grain)
        return canvas + opacity[..., None] * (paint - canvas), None

    background = tones[0] + 0.15 * grain[..., None]
    canvas, _ = jax.lax.scan(lay, background, leaves)
    slope = 0.25 * jax.random.normal(key_light, (2,)) / size
    return jnp.clip(canvas * (1 + slope[0] * x + slope[1] * y)[..., None], -1, 1)


def _palette(key: PRNGKeyArray) -> Float[Array, "k 3"]:
    """A few colours that differ in brightness more than in hue, as those of one scene do."""
    key_mean, key_spread, key_light, key_hue = jax.random.split(key, 4)
    mean = jax.random.uniform(key_mean, (), minval=-0.6, maxval=0.5)
    spread = jax.random.uniform(key_spread, (), minval=0.1, maxval=0.7)
    light = mean + spread * jax.random.normal(key_light, (_TONES, 1))
    return jnp.clip(light + 0.5 * spread * jax.random.normal(key_hue, (_TONES, 3)), -1, 1)


def _coloured_noise(key: PRNGKeyArray, size: int) -> Float[Array, "h w"]:
    """Periodic noise with a spectrum between white and that of clouds, of variance 1."""
    key_slope, key_noise = jax.random.split(key)
    slope = jax.random.uniform(key_slope, (), minval=0.0, maxval=2.0)
    frequency = jnp.hypot(jnp.fft.fftfreq(size)[:, None], jnp.fft.rfftfreq(size)[None])
    weight = jnp.where(frequency > 0, jnp.maximum(frequency, 1 / size) ** -slope, 0)
    noise = jnp.fft.irfft2(jnp.fft.rfft2(jax.random.normal(key_noise, (size, size))) * weight, (size, size))
    return noise / (noise.std() + 1e-6)


def _sample_leaf(key: PRNGKeyArray, size: int, tones: Float[Array, "k 3"]) -> _Leaf:
    keys = iter(jax.random.split(key, 17))
    uniform = lambda low, high, shape=(): jax.random.uniform(next(keys), shape, minval=low, maxval=high)
    # The inverse of the distribution function of a density r^-3 between the smallest and the largest radius.
    low, high = _SMALLEST**-2, float(size) ** -2
    radius = (low + uniform(0, 1) * (high - low)) ** -0.5
    colour = tones[jax.random.randint(next(keys), (), 0, len(tones))]
    often = lambda probability: jax.random.bernoulli(next(keys), probability).astype(jnp.float32)
    return _Leaf(
        centre=uniform(-0.5, 0.5, (2,)) * (size + radius),
        radius=radius,
        stretch=jnp.exp(uniform(-0.7, 0.7, (2,))),
        angle=uniform(0, 2 * jnp.pi),
        corners=2 * jnp.pi * (jnp.arange(_CORNERS) + uniform(-0.5, 0.5, (_CORNERS,))) / _CORNERS,
        sides=uniform(0.5, 1.5, (_CORNERS,)),
        round=often(0.5),
        colour=colour + 0.08 * jax.random.normal(next(keys), (3,)),
        shade=0.25 * jax.random.normal(next(keys), (3,)),
        wave=jnp.exp(uniform(-1.5, 1.1)) * jnp.array([1.0, uniform(-0.5, 0.5)]),
        stripes=often(0.25) * uniform(0, 0.4),
        grain=often(0.6) * uniform(0, 0.25),
        softness=jnp.exp(uniform(0.0, 1.0) ** 3 * 1.6),
    )


def _paint(leaf: _Leaf, x: Array, y: Array, grain: Array) -> tuple[Float[Array, "h w 3"], Float[Array, "h w"]]:
    """The colours of a leaf everywhere, and its opacity."""
    cos, sin = jnp.cos(leaf.angle), jnp.sin(leaf.angle)
    dx, dy = x - leaf.centre[0], y - leaf.centre[1]
    u, v = (cos * dx + sin * dy) / leaf.stretch[0], (cos * dy - sin * dx) / leaf.stretch[1]
    disc = jnp.hypot(u, v) - leaf.radius
    polygon = jnp.full_like(u, -jnp.inf)
    for k in range(_CORNERS):
        side = jnp.cos(leaf.corners[k]) * u + jnp.sin(leaf.corners[k]) * v - leaf.sides[k] * leaf.radius
        polygon = jnp.maximum(polygon, side)
    distance = jnp.where(leaf.round > 0, disc, polygon)
    opacity = jnp.clip(0.5 - distance / leaf.softness, 0, 1)
    across = u / leaf.radius
    along = leaf.shade[0] * across + leaf.shade[1] * v / leaf.radius
    pattern = leaf.stripes * jnp.sin(leaf.wave[0] * u + leaf.wave[1] * v) + leaf.grain * grain
    return leaf.colour + (along + pattern)[..., None], opacity
