"""Masks: inpainting, where some pixels are not measured."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.operators.base import checked_mask
from jaxdiff.pytree import Number, pytree

Whole = int | Int[Array, ""]
"""A whole number: known, or traced where it is swept."""


class Masking:
    """Base of operators that hide entries of the image: `A(x) = mask * x`, with what `observed` says as the mask.

    Hidden entries stay in the measurement as zeros, so that it has the shape of an image.
    """

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns 0 where an entry is hidden and 1 elsewhere."""
        raise NotImplementedError

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Sets the hidden entries to zero."""
        return (self.observed(x) * x).astype(jnp.result_type(x, float))

    def pinv(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `y` with the hidden entries set to zero."""
        return self(y)

    def singular_values(self, image_shape: tuple[int, int, int]) -> Float[Array, "h w c"]:
        """Returns the mask: every entry is a singular direction of its own."""
        return self.observed(jnp.zeros(image_shape))

    def to_spectrum(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `x`."""
        return x

    def from_spectrum(self, z: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `z`."""
        return z

    def data_spectrum(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `y`."""
        return y


@pytree
class Identity(Masking):
    """Denoising: every pixel is measured, `A(x) = x`."""

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns ones."""
        return jnp.ones_like(y)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `x`."""
        return x


@pytree
class Mask(Masking):
    """Inpainting with any mask.

    Args:
        mask: 1 where a pixel is kept and 0 where it is hidden, `(h, w, 1)` or `(h, w, c)`.

    Raises:
        ValueError: if the mask has another rank, other values, or hides everything.
    """

    mask: Float[Array | np.ndarray, "h w c"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", checked_mask(self.mask))

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns the mask."""
        return jnp.broadcast_to(self.mask, y.shape)


@pytree
class BoxMask(Masking):
    """Inpainting of a rectangle: hides `height` rows from `top` on, in `width` columns from `left` on.

    The box is made of numbers, not of a mask, so that boxes can be swept by `jax.vmap`.

    Args:
        top: first hidden row.
        left: first hidden column.
        height: number of hidden rows.
        width: number of hidden columns.

    Raises:
        ValueError: if a number is negative or the box is empty.
    """

    top: Whole
    left: Whole
    height: Whole
    width: Whole

    def __post_init__(self) -> None:
        known = [n for n in (self.top, self.left, self.height, self.width) if not isinstance(n, Tracer)]
        sides = [n for n in (self.height, self.width) if not isinstance(n, Tracer)]
        if any(np.any(np.asarray(n) < 0) for n in known) or any(np.any(np.asarray(n) < 1) for n in sides):
            raise ValueError(f"a box needs top, left >= 0 and height, width >= 1, got {self}.")

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns 0 inside the box and 1 outside."""
        rows, columns = jnp.arange(y.shape[0])[:, None, None], jnp.arange(y.shape[1])[None, :, None]
        inside = (rows >= self.top) & (rows < self.top + self.height)
        inside &= (columns >= self.left) & (columns < self.left + self.width)
        return jnp.broadcast_to(jnp.float32(1) - inside, y.shape)


@pytree
class RandomMask(Masking):
    """Inpainting of pixels hidden at random, all colours of a pixel together.

    Args:
        key: decides which pixels.
        image_shape: `(h, w, c)`.
        keep: the fraction of pixels kept, in (0, 1]. The number hidden is exactly `int(h w (1 - keep))`, as in the
            DPS code. Published values of `1 - keep` are 0.92 (DPS paper), 0.7 (DAPS) and 0.5 (DiffPIR).

    Raises:
        ValueError: if `keep` is outside (0, 1].
    """

    mask: Float[Array, "h w 1"]

    def __init__(self, key: PRNGKeyArray, image_shape: tuple[int, int, int], keep: Number):
        h, w, _ = image_shape
        # 1 - 0.3 is 0.7 less one unit in the last place, which must not hide a pixel less.
        if isinstance(keep, Tracer):
            hidden = jnp.minimum(jnp.floor(h * w * (1 - keep) + 0.01), h * w - 1)
        elif 0 < keep <= 1:
            hidden = min(int(round(h * w * (1 - float(keep)), 6)), h * w - 1)
        else:
            raise ValueError(f"`keep` must be in (0, 1], got {keep}.")
        order = jax.random.permutation(key, h * w)
        object.__setattr__(self, "mask", (order >= hidden).astype(jnp.float32).reshape(h, w, 1))

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns 0 where a pixel is hidden and 1 elsewhere."""
        return jnp.broadcast_to(self.mask, y.shape)


@pytree
class FreeFormMask(Masking):
    r"""Inpainting of brush strokes, as somebody would paint over what is to be removed.

    A stroke begins at a uniform point. It has eight pieces, of lengths between 5 and 20 % of the image's shorter side,
    and turns by :math:`\mathcal N(0, 1)` radians between them. All sizes are shares of the shorter side, so that a key
    has the same strokes at every size.

    Args:
        key: decides the strokes.
        image_shape: `(h, w, c)`.
        strokes: how many, at least 1; with the defaults about a fifth of a square image is hidden, from 5 to 35 %.
        width: of the brush, over the shorter side, in (0, 0.5].

    Raises:
        ValueError: if `strokes` or `width` is out of its range, or everything is hidden.

    References:
        Yu et al., 2019, https://arxiv.org/abs/1806.03589 (free-form masks; their strokes follow another law).
    """

    mask: Float[Array, "h w 1"]

    def __init__(self, key: PRNGKeyArray, image_shape: tuple[int, int, int], strokes: int = 4, width: float = 1 / 12):
        if strokes < 1 or not 0 < width <= 0.5:
            raise ValueError(f"`strokes` must be at least 1 and `width` in (0, 0.5], got {strokes} and {width}.")
        h, w, _ = image_shape
        shorter = min(h, w)
        pixels = (jnp.stack(jnp.mgrid[:h, :w], -1) + 0.5) / shorter
        hidden = jnp.zeros((h, w), bool)
        for one in jax.random.split(key, strokes):
            hidden |= _to_path(pixels, _stroke(one, jnp.array([h, w]) / shorter)) <= width / 2
        object.__setattr__(self, "mask", checked_mask(jnp.where(hidden, 0.0, 1.0)[..., None]))

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns 0 where a pixel is hidden and 1 elsewhere."""
        return jnp.broadcast_to(self.mask, y.shape)


def _stroke(key: PRNGKeyArray, sides: Float[Array, "2"]) -> Float[Array, "9 2"]:
    """The corners of a stroke."""
    of_start, of_direction, of_turns, of_lengths = jax.random.split(key, 4)
    start = sides * jax.random.uniform(of_start, (1, 2))
    turns = jax.random.normal(of_turns, (8,)).at[0].set(jax.random.uniform(of_direction, maxval=2 * jnp.pi))
    lengths = jax.random.uniform(of_lengths, (8, 1), minval=0.05, maxval=0.2)
    pieces = lengths * jnp.stack([jnp.sin(jnp.cumsum(turns)), jnp.cos(jnp.cumsum(turns))], 1)
    return jnp.concatenate([start, start + jnp.cumsum(pieces, 0)])


def _to_path(points: Float[Array, "h w 2"], corners: Float[Array, "n 2"]) -> Float[Array, "h w"]:
    """The distance of every point from a path."""
    from_start, piece = points[..., None, :] - corners[:-1], jnp.diff(corners, axis=0)
    along = jnp.clip(jnp.sum(from_start * piece, -1) / jnp.sum(piece**2, -1), 0, 1)
    return jnp.linalg.norm(from_start - along[..., None] * piece, axis=-1).min(-1)
