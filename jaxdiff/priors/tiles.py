"""Large images in overlapping tiles, so that a network needs the memory of one tile only."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdiff.networks.blocks import pad_to_multiple
from jaxdiff.priors.denoiser import Image, Prediction, Prior, Time, WrappedPrior
from jaxdiff.pytree import pytree, static

CONTEXT = 24
"""Pixels at a tile's edge whose estimates are not used: the receptive field of twelve 3x3 layers on 2x2 blocks."""

RAMP = 16
"""Pixels over which one tile goes over into the next."""

MULTIPLE = 2
"""Tiles begin at multiples of this, and odd sides are continued by their mirror image: as networks on 2x2 blocks do."""


@pytree
class Tiled(WrappedPrior):
    r"""A prior that looks at a large image tile by tile.

    .. math::
        \hat x_0 = \sum_i w_i\, \hat x_0^{(i)} / \sum_i w_i

    The weights are 0 on the outer `CONTEXT` pixels of a tile, but for those at the edge of the image, and rise to 1
    over the next `RAMP`. So the estimate is that of the whole image if the prior's receptive field is no wider than
    `CONTEXT`. Noise, measurement and guidance are on the whole image: guide the tiled prior, do not tile a guided one.

    The tiles are looked at one after the other. Where no tile is, the estimate is `x_t / alpha_t`.

    Args:
        prior: the prior, for images of the tile's shape.
        corners: row and column of the first pixel of every tile, multiples of `MULTIPLE`.
        shape: `(h, w, c)` of the image.

    Deviations:
        The variance of an ancestral step is its lower bound.
    """

    prior: Prior
    corners: Int[Array, "n 2"]
    shape: tuple[int, int, int] = static()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)` of the whole image."""
        return self.shape

    def predict(self, x_t: Image, t: Time) -> Prediction:
        """Estimates `x0` tile by tile; every tile costs a network call."""
        canvas = pad_to_multiple(x_t, MULTIPLE)
        side, width, _ = tile = self.prior.image_shape

        def add(sums: tuple[Array, Array], corner: Array) -> tuple[tuple[Array, Array], None]:
            start = (corner[0], corner[1], 0)
            estimate = self.prior.predict(jax.lax.dynamic_slice(canvas, start, tile), t).before_clip
            down = edge_weights(side, corner[0], canvas.shape[0])
            across = edge_weights(width, corner[1], canvas.shape[1])
            weight = (down[:, None] * across)[..., None]
            added = []
            for total, values in zip(sums, (weight * estimate, weight), strict=True):
                here = jax.lax.dynamic_slice(total, start, values.shape)
                added.append(jax.lax.dynamic_update_slice(total, here + values, start))
            return (added[0], added[1]), None

        sums, _ = jax.lax.scan(add, (jnp.zeros_like(canvas), jnp.zeros_like(canvas[..., :1])), self.corners)
        total, weight = (a[: self.shape[0], : self.shape[1]] for a in sums)
        alpha_t, _ = self.schedule(t)
        x0_hat = jnp.where(weight > 0, total / jnp.maximum(weight, 1e-6), x_t / alpha_t)
        return Prediction(self.bound(x0_hat), unclipped=x0_hat)

    def at(self, image_shape: tuple[int, int, int]) -> Prior:
        """Returns the prior for images of another size, with tiles all over it."""
        return tiled(self.prior, image_shape, max(self.prior.image_shape[:2]))


def edge_weights(side: int, corner: Int[Array, ""] | int, length: int) -> Float[Array, " side"]:
    """Returns the weights of a tile along one axis.

    Args:
        side: pixels of the tile.
        corner: where it begins.
        length: pixels of the image; its own edges need no context.
    """
    place = jnp.arange(side)
    before = jnp.where(jnp.asarray(corner) == 0, CONTEXT + RAMP, place)
    after = jnp.where(jnp.asarray(corner) + side == length, CONTEXT + RAMP, side - 1 - place)
    return jnp.clip((jnp.minimum(before, after) - CONTEXT + 1) / RAMP, 0.0, 1.0)


def tile_corners(
    size: tuple[int, int], side: int, wanted: Bool[np.ndarray, "h w"] | None = None
) -> Int[np.ndarray, "n 2"]:
    """Returns where the tiles of an image begin.

    Args:
        size: `(h, w)` of the image.
        side: pixels along each side of a tile.
        wanted: pixels whose estimate is needed; tiles that give none of them are left out.
    """
    spans = []
    for length in size:
        padded = length + -length % MULTIPLE
        last = max(padded - side, 0)
        count = -(-last // ((side - 2 * CONTEXT - RAMP) // MULTIPLE * MULTIPLE)) + 1
        spans.append(np.unique(np.linspace(0, last // MULTIPLE, count).astype(int)) * MULTIPLE)
    corners = np.stack(np.meshgrid(*spans, indexing="ij"), -1).reshape(-1, 2)
    if wanted is None:
        return corners
    padded = np.pad(wanted, [(0, -length % MULTIPLE) for length in size])
    used = [padded[_used(r, side, padded.shape[0]), _used(c, side, padded.shape[1])].any() for r, c in corners.tolist()]
    return corners[np.array(used)]


def _used(corner: int, side: int, length: int) -> slice:
    before, after = CONTEXT * (corner > 0), CONTEXT * (corner + side < length)
    return slice(corner + before, corner + side - after)


def tiled(
    prior: Prior, image_shape: tuple[int, int, int], side: int, wanted: Bool[np.ndarray, "h w"] | None = None
) -> Prior:
    """Returns a prior of any size for an image, in tiles if they save memory or calls.

    Args:
        prior: a prior that takes any size.
        image_shape: `(h, w, c)` of the image.
        side: pixels along each side of a tile, a multiple of `MULTIPLE`.
        wanted: pixels whose estimate is needed; all by default.

    Raises:
        ValueError: if a tile is too small for its own context.
    """
    if side % MULTIPLE or side <= 2 * CONTEXT + RAMP + MULTIPLE:
        raise ValueError(f"`side` must be a multiple of {MULTIPLE} above {2 * CONTEXT + RAMP + MULTIPLE}, got {side}.")
    h, w, c = image_shape
    height, width = (min(side, length + -length % MULTIPLE) for length in (h, w))
    corners = tile_corners((h, w), side, wanted)
    if len(corners) * height * width >= h * w and h * w <= 4 * side**2:
        return prior.at(image_shape)
    return Tiled(prior.at((height, width, c)), jnp.asarray(corners), image_shape)
