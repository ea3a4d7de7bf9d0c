"""JPEG compression: what a file keeps of a picture."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from jaxdiff.pytree import pytree, static

# Tables K.1 and K.2 of the standard.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_RED, _GREEN, _BLUE = np.eye(3)
_Y = np.array([0.299, 0.587, 0.114])
_TO_YCC = 127.5 * np.stack([_Y, (_BLUE - _Y) / 1.772, (_RED - _Y) / 1.402])
_TO_RGB = np.linalg.inv(_TO_YCC)
_MIDDLE = np.array([0.5, 0.0, 0.0])  # 127.5, the middle of 0 to 255, is half a level below that of the standard
_DCT = np.sqrt(np.where(np.arange(8) == 0, 1, 2) / 8)[:, None] * np.cos(
    np.pi / 8 * np.outer(np.arange(8), np.arange(8) + 0.5)
)
_INVERSE_TAPS = 2**0.5 * (8**0.5 - 3) ** np.abs(np.arange(-9.0, 10))
"""Undo `(1/8, 3/4, 1/8)`, which is smooth doubling followed by means of pairs."""
_HALF_STEP = 0.499
"""Half the width of a cell, less a thousandth, so that rounding finds the same coefficient again."""


SUBSAMPLING = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:4:0": (2, 1), "4:2:0": (2, 2), "4:1:1": (1, 4)}
"""How many pixels share a chroma sample, down and across."""

_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""How a stored picture becomes upright, by the orientation in its EXIF: rows and columns exchanged, then the order of
rows, then that of columns turned round."""


class Coefficients(NamedTuple):
    """Planes of rounded coefficients in units of their tables; every 8x8 block holds its own transform."""

    luma: Float[Array, "h8 w8 1"]
    chroma: Float[Array, "_ _ 2"]


def quality_tables(quality: int) -> Float[np.ndarray, "2 8 8"]:
    """Returns the tables of the standard, scaled as the Independent JPEG Group's library does.

    Raises:
        ValueError: if `quality` is not from 1 to 100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"`quality` must be from 1 to 100, got {quality}.")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((np.array([_LUMA, _CHROMA]) * scale + 50) // 100, 1, 255).astype(np.float32)


@pytree
class JPEG:
    r"""Compression to JPEG and back: a measurement that is not linear.

    .. math:: A(x) = D^{-1} \left( T \cdot \mathrm{round} \left( D x / T \right) \right)

    with `D` the change to luma and chroma (JFIF), means of the chroma samples that share one, and cosine transforms of
    8x8 blocks; `T` are the tables. Edges are repeated up to whole blocks, and chroma is doubled smoothly or repeated
    four times, all as in libjpeg. The derivative of rounding is taken for one (straight-through), so that rules with
    gradients work.

    Pixels are neither rounded nor clipped, so that `A(x)` tells the coefficients. From a decoded file they are found
    too, but for pixels at black or white that were clipped, and steps of about one level.

    Args:
        quality: from 1 to 100, as Pillow's and libjpeg's.
        subsampling: a key of `SUBSAMPLING`: "4:2:0", chroma at half size; "4:2:2" or "4:4:0", at half the width or
            height; "4:1:1", at a quarter of the width; "4:4:4", all at full size.
        tables: a file's own, of luma and chroma in rows, in place of those of `quality`; Pillow has them in
            `image.quantization`.
        orientation: of the stored picture, 1 to 8 as in EXIF; images here are upright.

    Raises:
        ValueError: if `quality`, `subsampling` or `orientation` is another, `tables` are not two of 64 positive
            numbers, or, at the call, the image does not have three colours.

    References:
        ITU-T Recommendation T.81, annex K; T.871 (JFIF).
    """

    tables: Float[Array, "2 8 8"]
    subsampling: str = static()
    orientation: int = static()

    def __init__(self, quality: int = 75, subsampling: str = "4:2:0", *, tables: Any = None, orientation: int = 1):
        if subsampling not in SUBSAMPLING:
            raise ValueError(f"`subsampling` must be one of {', '.join(SUBSAMPLING)}, got {subsampling!r}.")
        if orientation not in _TURNS:
            raise ValueError(f"`orientation` must be from 1 to 8, got {orientation}.")
        known = quality_tables(quality) if tables is None else np.asarray(tables, np.float32)
        if known.size != 128 or not (np.isfinite(known) & (known > 0)).all():
            raise ValueError(f"`tables` must be two of 64 positive numbers, got the shape {known.shape}.")
        object.__setattr__(self, "tables", jnp.asarray(known.reshape(2, 8, 8)))
        object.__setattr__(self, "subsampling", subsampling)
        object.__setattr__(self, "orientation", orientation)

    def __call__(self, x: Num[Array, "h w 3"]) -> Float[Array, "h w 3"]:
        """Compresses and decodes."""
        decoded = self.decode(self.encode(x), (x.shape[0], x.shape[1]))
        return decoded.astype(jnp.result_type(x, float))

    def encode(self, x: Num[Array, "h w 3"]) -> Coefficients:
        """Returns the rounded coefficients."""
        luma, chroma = _ycc(self._stored(x))
        return self._rounded(luma, _means(chroma, *self._shared))

    def decode(self, coefficients: Coefficients, sides: tuple[int, int]) -> Float[Array, "h w 3"]:
        """Returns the image of given height and width that the coefficients stand for."""
        (h, w), shared = sides[::-1] if _TURNS[self.orientation][0] else sides, self._shared
        scaled = [plane * _tiled(table, plane) for plane, table in zip(coefficients, self.tables, strict=True)]
        luma, chroma = (_transform(plane, _DCT.T) for plane in scaled)
        chroma = chroma[: -(-h // shared[0]), : -(-w // shared[1])]
        for axis, times in enumerate(shared):
            chroma = _doubled(chroma, axis) if times == 2 else chroma.repeat(times, axis)
        ycc = jnp.concatenate([luma[:h, :w], chroma[:h, :w]], -1)
        return self._upright(_colours(ycc + _MIDDLE.astype(ycc.dtype), _TO_RGB))

    def read(self, y: Num[Array, "h w 3"]) -> Coefficients:
        """Returns the coefficients that decode to `y`; those of blocks that its edges cut are not known from it."""
        luma, full = _ycc(self._stored(y))
        (h, w, _), shared = full.shape, self._shared
        chroma = _means(full, *shared)[: -(-h // shared[0]), : -(-w // shared[1])]
        for axis in (axis for axis in (0, 1) if shared[axis] == 2):
            chroma = _undoubled(chroma, axis)
        return self._rounded(luma, chroma)

    def project(self, x: Float[Array, "h w 3"], y: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
        """Returns the image nearest to `x`, in luma and chroma, that is compressed to `y`.

        Its coefficients lie within half a step of the measured ones: exactly the images that the file can be of. In
        blocks that the right and lower edge cut it is `x + y - A(x)`.
        """
        luma, chroma = _ycc(self._stored(x))
        (h, w, _), shared = chroma.shape, self._shared
        small = _means(chroma, *shared)
        moves = [
            _transform(_into_cells(plane, known, table), _DCT.T)[: old.shape[0], : old.shape[1]]
            for plane, known, table, old in zip(
                self._transforms(luma, small), self.read(y), self.tables, (luma, small), strict=True
            )
        ]
        moves[1] = moves[1].repeat(shared[0], 0).repeat(shared[1], 1)
        moved = x + self._upright(_colours(jnp.concatenate([move[:h, :w] for move in moves], -1), _TO_RGB))
        rows, columns = (jnp.arange(side) < side - side % (8 * n) for side, n in zip((h, w), shared, strict=True))
        whole = self._upright(rows[:, None, None] & columns[:, None])
        return jnp.where(whole, moved, x + y - self(x)).astype(x.dtype)

    @property
    def _shared(self) -> tuple[int, int]:
        return SUBSAMPLING[self.subsampling]

    def _upright(self, stored: Array) -> Array:
        exchanged, rows, columns = _TURNS[self.orientation]
        turned = stored.swapaxes(0, 1) if exchanged else stored
        return turned[:: -1 if rows else 1, :: -1 if columns else 1]

    def _stored(self, upright: Array) -> Array:
        exchanged, rows, columns = _TURNS[self.orientation]
        turned = upright[:: -1 if rows else 1, :: -1 if columns else 1]
        return turned.swapaxes(0, 1) if exchanged else turned

    def _transforms(self, luma: Array, chroma: Array) -> list[Array]:
        return [_transform(_padded(plane, 8, 8), _DCT) for plane in (luma, chroma)]

    def _rounded(self, luma: Array, chroma: Array) -> Coefficients:
        steps = [
            plane / _tiled(table, plane)
            for plane, table in zip(self._transforms(luma, chroma), self.tables, strict=True)
        ]
        return Coefficients(*(step + lax.stop_gradient(jnp.round(step) - step) for step in steps))


def _ycc(x: Array) -> tuple[Array, Array]:
    """Luma and chroma in levels around zero."""
    if x.shape[-1] != 3:
        raise ValueError(f"JPEG needs an image of three colours, got the shape {x.shape}; repeat a grey one.")
    wide = x.astype(jnp.promote_types(jnp.result_type(x, float), jnp.float32))
    ycc = _colours(wide, _TO_YCC) - _MIDDLE.astype(wide.dtype)
    return ycc[..., :1], ycc[..., 1:]


def _colours(x: Array, matrix: np.ndarray) -> Array:
    return jnp.einsum("kc,hwc->hwk", matrix.astype(x.dtype), x, precision=lax.Precision.HIGHEST)


def _transform(plane: Array, matrix: np.ndarray) -> Array:
    """Multiplies the rows and columns of every block by the matrix."""
    h, w, c = plane.shape
    matrix = matrix.astype(plane.dtype)
    blocks = plane.reshape(h // 8, 8, w // 8, 8, c)
    turned = jnp.einsum("ui,piqjc,vj->puqvc", matrix, blocks, matrix, precision=lax.Precision.HIGHEST)
    return turned.reshape(plane.shape)


def _into_cells(plane: Array, known: Array, table: Array) -> Array:
    """What must be added to transforms so that they round to the known coefficients."""
    step = _tiled(table, plane)
    return jnp.clip(plane, (known - _HALF_STEP) * step, (known + _HALF_STEP) * step) - plane


def _tiled(table: Array, plane: Array) -> Array:
    return jnp.tile(table, (plane.shape[0] // 8, plane.shape[1] // 8))[..., None].astype(plane.dtype)


def _padded(plane: Array, rows: int, columns: int) -> Array:
    """Repeats the last row and column up to multiples."""
    return jnp.pad(plane, ((0, -plane.shape[0] % rows), (0, -plane.shape[1] % columns), (0, 0)), mode="edge")


def _means(plane: Array, down: int, across: int) -> Array:
    wide = _padded(plane, down, 8 * across)  # libjpeg fills blocks of chroma before the means, to the right only
    h, w, c = wide.shape
    return wide.reshape(h // down, down, w // across, across, c).mean((1, 3))


def _doubled(plane: Array, axis: int) -> Array:
    """Three quarters of the nearest sample and a quarter of the next, along one axis."""
    wide = jnp.pad(plane, [(1, 1) if i == axis else (0, 0) for i in range(3)], mode="edge")
    before, after = (lax.slice_in_dim(wide, i, i + plane.shape[axis], axis=axis) for i in (0, 2))
    pair = jnp.stack([(3 * plane + before) / 4, (3 * plane + after) / 4], axis + 1)
    return pair.reshape(*(side * (1 + (i == axis)) for i, side in enumerate(plane.shape)))


def _undoubled(plane: Array, axis: int) -> Array:
    wide = jnp.pad(plane, [(9, 9) if i == axis else (0, 0) for i in range(3)], mode="symmetric")
    shifted = (lax.slice_in_dim(wide, i, i + plane.shape[axis], axis=axis) for i in range(19))
    return sum((float(tap) * view for tap, view in zip(_INVERSE_TAPS, shifted, strict=True)), jnp.zeros_like(plane))
