"""Kernels of motion blur, for `Blur` and `CircularBlur`: what becomes of a point of light while the camera moves."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.pytree import Number

_PIECES = 32
"""Of a random path, between which the hand changes its direction and its speed."""


def motion_kernel(length: float, angle: float) -> Float[Array, "k k"]:
    """Returns the kernel of a straight, even motion.

    The blurred pixel is the mean of the image, interpolated bilinearly, along a line through the pixel's centre.

    Args:
        length: of the line, in pixels; 0 is no blur.
        angle: of the line in degrees, counter-clockwise from the horizontal.

    Returns:
        A kernel of the smallest odd side that holds the line; it sums to one.

    Raises:
        ValueError: if a number is not finite, or `length` is negative.
    """
    if not (np.isfinite(length) and np.isfinite(angle) and length >= 0):
        raise ValueError(f"`length` must be finite and not negative and `angle` finite, got {length} and {angle}.")
    step = length * np.array([-np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
    radius = int(np.ceil(np.abs(step).max() / 2))
    # Between the lines of pixel centres the tents are linear along the path: two Gauss nodes integrate their product.
    whole = np.arange(-radius, radius + 1)
    crossed = np.concatenate([whole / side for side in step if abs(side) > 1e-6] + [np.array([-0.5, 0.5])])
    corners = np.sort(np.clip(crossed, -0.5, 0.5))
    middle, half = (corners[1:] + corners[:-1]) / 2, np.diff(corners) / 2
    along = np.concatenate([middle - half / 3**0.5, middle + half / 3**0.5])
    return _drawn(jnp.asarray(along[:, None] * step), 2 * radius + 1, jnp.asarray(np.tile(half, 2)))


def motion_kernel_from_key(key: PRNGKeyArray, size: int = 61, intensity: Number = 0.5) -> Float[Array, "k k"]:
    r"""Draws the kernel of a shaken camera.

    The path has 32 pieces of equal time. Its direction is uniform at first and turns by
    :math:`\mathcal N(0, (\pi \cdot \text{intensity} / 4)^2)` from piece to piece; the length of a piece is
    :math:`1 - \text{intensity} + \text{intensity} \cdot \mathrm{Exp}(1)`. The whole is scaled so that its point
    furthest from the mean, which stands in the middle, is between a half and the whole of the kernel's radius away.

    Args:
        key: decides the path.
        size: side of the kernel, odd; 61 in the DPS paper.
        intensity: from 0, a straight and even motion, to 1, a scribble; 0.5 in the DPS paper.

    Returns:
        A kernel that sums to one.

    Raises:
        ValueError: if `size` is not odd and positive, or `intensity` is outside [0, 1].

    Deviations:
        The DPS code draws its kernels with the package `motionblur`, whose path follows other laws.
    """
    if size < 1 or size % 2 == 0 or not (isinstance(intensity, Tracer) or 0 <= intensity <= 1):
        raise ValueError(f"`size` must be odd and `intensity` in [0, 1], got {size} and {intensity}.")
    of_start, of_turns, of_lengths, of_reach = jax.random.split(key, 4)
    turns = jnp.pi * intensity / 4 * jax.random.normal(of_turns, (_PIECES,))
    direction = jax.random.uniform(of_start, maxval=2 * jnp.pi) + jnp.cumsum(turns)
    lengths = 1 - intensity + intensity * jax.random.exponential(of_lengths, (_PIECES,))
    corners = jnp.cumsum(lengths[:, None] * jnp.stack([jnp.sin(direction), jnp.cos(direction)], 1), 0)
    corners = jnp.concatenate([jnp.zeros((1, 2)), corners])
    times = (jnp.arange(64 * _PIECES) + 0.5) / 64
    path = jnp.stack([jnp.interp(times, jnp.arange(_PIECES + 1.0), corner) for corner in corners.T], 1)
    path -= path.mean(0)
    reach = jax.random.uniform(of_reach, minval=0.5) * (size // 2)
    return _drawn(path * reach / jnp.abs(path).max(), size)


def _drawn(path: Float[Array, "n 2"], size: int, weights: Float[Array, " n"] | float = 1.0) -> Float[Array, "k k"]:
    """The weighted mean of the tents of all points: what each pixel receives of them if images are bilinear."""
    pixels = jnp.arange(size) - size // 2
    rows, columns = (jnp.maximum(1 - jnp.abs(path[:, i] - pixels[:, None]), 0) for i in (0, 1))
    kernel = jnp.matmul(weights * rows, columns.T, precision=jax.lax.Precision.HIGHEST)
    return kernel / kernel.sum()
