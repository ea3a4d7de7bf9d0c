"""The table of operators, on which every law of operators runs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float
from PIL import Image

from jaxdiff.operators import (
    Bicubic,
    BlockMean,
    Blur,
    BoxMask,
    CircularBlur,
    Composition,
    FourierMask,
    GaussianBlur,
    Grey,
    Hadamard,
    HighDynamicRange,
    Identity,
    Mask,
    PhaseRetrieval,
    RandomMask,
    Stack,
    motion_kernel,
)
from jaxdiff.pytree import pytree
from tests import reference

SHAPE = (8, 6, 3)
"""Of the images of all tables; not square, so that an exchange of height and width would show."""


def lopsided_kernel() -> np.ndarray:
    """A well-conditioned kernel without symmetries, so that a flip or a transpose would show."""
    return np.array([[0.05, 0.1, 0.0], [0.15, 0.5, 0.05], [0.0, 0.1, 0.05]], np.float32)


@pytree
class Sums:
    """A linear operator whose measurement is no image: the sums of all rows and of all columns, as one vector."""

    scale: float = 1.0

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, " m"]:
        return self.scale * jnp.concatenate([x.sum(1).ravel(), x.sum(0).ravel()])


@pytree
class Waves:
    """A linear operator whose measurement is complex: the unitary Fourier transform of every colour."""

    def __call__(self, x: Float[Array, "h w c"]) -> Complex[Array, "h w c"]:
        return jnp.fft.fft2(x, axes=(0, 1), norm="ortho")


def waves_matrix(shape: tuple[int, int, int]) -> np.ndarray:
    """`Waves` as a matrix."""
    rows, columns = (np.exp(-2j * np.pi * np.outer(*[np.arange(n)] * 2) / n) / n**0.5 for n in shape[:2])
    return np.kron(np.kron(rows, columns), np.eye(shape[2]))


@pytree
class Affine:
    """An operator that is linear but for an offset: the image in the range from 0 to 1."""

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return (x + 1) / 2


@pytree
class Saturation:
    """A non-linear operator: a camera whose sensor fills."""

    gain: float = 2.0

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return jnp.tanh(self.gain * x)


def as_real(matrix: np.ndarray) -> np.ndarray:
    """A complex matrix, or vector, as a real one of twice as many rows; a real one as it is."""
    return np.concatenate([np.real(matrix), np.imag(matrix)]) if np.iscomplexobj(matrix) else matrix


def amplitudes(x: np.ndarray, margins: tuple[int, int]) -> np.ndarray:
    """Absolute values of the Fourier transform of a picture with zeros around it, by a matrix."""
    wide = np.pad(x, [(side, side) for side in (*margins, 0)])
    return np.abs(waves_matrix(wide.shape) @ wide.ravel())


def hadamard_matrix() -> np.ndarray:
    """Rows and columns of 8 = 8 x 1 and 6 = 2 x 3 pixels, by SciPy."""
    from scipy.fft import dct
    from scipy.linalg import hadamard

    columns = np.kron(hadamard(2) / 2**0.5, np.asarray(dct(np.eye(3), axis=0, norm="ortho")))
    signs = [1 if sign == "+" else -1 for row in SIGNS for sign in row]
    return np.kron(np.kron(hadamard(8) / 8**0.5, columns)[COEFFICIENTS] * signs, np.eye(3))


def sums_matrix(shape: tuple[int, int, int]) -> np.ndarray:
    """`Sums` as a matrix."""
    h, w, c = shape
    place = np.arange(h * w * c).reshape(shape)
    lines = [place[i, :, k] for i in range(h) for k in range(c)] + [place[:, j, k] for j in range(w) for k in range(c)]
    return np.stack([np.isin(np.arange(h * w * c), line).astype(float) for line in lines])


def reduced(x: np.ndarray, factor: int, method: Image.Resampling, margin: int = 0) -> np.ndarray:
    """What Pillow makes of a picture, plane by plane, if it is made smaller by `factor`.

    Args:
        x: `(h, w, c)`.
        factor: divides the sides.
        method: Pillow's.
        margin: pixels of the result that are laid around it first, as a mirror image, and cut off again.
    """
    wide = np.pad(x, [(factor * margin, factor * margin)] * 2 + [(0, 0)], mode="symmetric").astype(np.float32)
    size = (wide.shape[1] // factor, wide.shape[0] // factor)
    planes = [np.asarray(Image.fromarray(plane).resize(size, method)) for plane in np.moveaxis(wide, -1, 0)]
    return np.stack(planes, -1)[margin : size[1] - margin, margin : size[0] - margin]


def smeared(x: np.ndarray, length: float, angle: float) -> np.ndarray:
    """The mean of bilinear views of a picture from 640 places along a line, mirrored beyond its edges."""
    from scipy.ndimage import map_coordinates

    along = length * (np.arange(0.5, 640) / 640 - 0.5)
    rows, columns = np.indices(x.shape[:2])[:, None]
    up, right = np.sin(np.deg2rad(angle)) * along, np.cos(np.deg2rad(angle)) * along
    places = rows - up[:, None, None], columns + right[:, None, None]
    views = [map_coordinates(plane, places, order=1, mode="mirror") for plane in np.moveaxis(x, -1, 0)]
    return np.stack(views, -1).mean(0)


def matrix_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A linear function of images as a matrix, column by column."""
    return np.stack([function(unit.reshape(SHAPE)).ravel() for unit in np.eye(144)], 1).astype(np.float64)


class OperatorRow(NamedTuple):
    """An operator, and what it should be: a matrix written down from its definition, or else a function."""

    make: Callable[[], Any]
    matrix: np.ndarray | None = None
    function: Callable[[np.ndarray], np.ndarray] | None = None


CHEQUERED = (np.add.outer(np.arange(8), 2 * np.arange(6))[..., None] % 3 > 0).astype(np.float32)
COLOURED = (np.arange(144).reshape(SHAPE) % 5 > 1).astype(np.float32)
KEPT_ROWS = ("101100", "001001", "001010", "001010", "000000", "100011", "000001", "100001")
KEPT = np.array([[[float(kept)] for kept in row] for row in KEPT_ROWS], np.float32)
SIGNS = ("++++--", "-+-++-", "+-+---", "+-+-++", "-----+", "-+---+", "+-++++", "+-+---")
COEFFICIENTS = [0, 2, 4, 6, 7, 10, 11, 15, 16, 27, 28, 32, 33, 37, 38, 39, 41, 43, 47]
BOX = np.ones((8, 6, 1), np.float32)
BOX[2:6, 1:4] = 0
# Of some pairs of opposite frequencies both are measured, of some one, of some none.
FREQUENCIES = np.array([[[float(i * j % 4 < 2)] for j in range(6)] for i in range(8)], np.float32)
TAPS = np.exp(-0.5 * (np.arange(-3, 4) / 0.8) ** 2)
GAUSSIAN_KERNEL = np.outer(TAPS, TAPS) / TAPS.sum() ** 2

BLUR_MATRIX = reference.blur_matrix(lopsided_kernel(), SHAPE)
LUMA = np.kron(np.eye(48), [[0.299, 0.587, 0.114]])

OPERATORS: dict[str, OperatorRow] = {
    "identity": OperatorRow(Identity, np.eye(144)),
    "mask": OperatorRow(lambda: Mask(CHEQUERED), reference.mask_matrix(CHEQUERED, SHAPE)),
    "mask of colours": OperatorRow(lambda: Mask(COLOURED), reference.mask_matrix(COLOURED, SHAPE)),
    "box": OperatorRow(lambda: BoxMask(top=2, left=1, height=4, width=3), reference.mask_matrix(BOX, SHAPE)),
    "random": OperatorRow(lambda: RandomMask(jax.random.key(3), SHAPE, keep=0.3), reference.mask_matrix(KEPT, SHAPE)),
    "blur": OperatorRow(lambda: Blur(lopsided_kernel()), BLUR_MATRIX),
    "motion blur": OperatorRow(
        lambda: Blur(motion_kernel(3, 20)),
        np.kron(smeared(np.eye(48).reshape(8, 6, 48), 3, 20).reshape(48, 48), np.eye(3)),
    ),
    "gaussian blur": OperatorRow(lambda: GaussianBlur(0.8, 7), reference.blur_matrix(GAUSSIAN_KERNEL, SHAPE)),
    "circular blur": OperatorRow(
        lambda: CircularBlur(lopsided_kernel()), reference.blur_matrix(lopsided_kernel(), SHAPE, reference.wrap)
    ),
    "block mean": OperatorRow(lambda: BlockMean(2), matrix_of(lambda x: reduced(x, 2, Image.Resampling.BOX))),
    "bicubic": OperatorRow(lambda: Bicubic(2), matrix_of(lambda x: reduced(x, 2, Image.Resampling.BICUBIC))),
    "mirrored bicubic": OperatorRow(
        lambda: Bicubic(2, "mirror"), matrix_of(lambda x: reduced(x, 2, Image.Resampling.BICUBIC, margin=2))
    ),
    "grey": OperatorRow(Grey, LUMA),
    "mean of colours": OperatorRow(lambda: Grey((1 / 3, 1 / 3, 1 / 3)), np.kron(np.eye(48), np.full((1, 3), 1 / 3))),
    "grey after blur": OperatorRow(lambda: Composition(Grey(), Blur(lopsided_kernel())), LUMA @ BLUR_MATRIX),
    "block mean after blur": OperatorRow(
        lambda: Composition(BlockMean(2), Blur(lopsided_kernel())),
        matrix_of(lambda x: reduced(x, 2, Image.Resampling.BOX)) @ BLUR_MATRIX,
    ),
    "stack of box and grey": OperatorRow(
        lambda: Stack([BoxMask(top=2, left=1, height=4, width=3), Grey()], SHAPE),
        np.concatenate([reference.mask_matrix(BOX, SHAPE), LUMA]),
    ),
    "sums": OperatorRow(Sums, sums_matrix(SHAPE)),
    "waves": OperatorRow(Waves, waves_matrix(SHAPE)),
    "fourier": OperatorRow(
        lambda: FourierMask(FREQUENCIES), reference.mask_matrix(FREQUENCIES, SHAPE) @ waves_matrix(SHAPE)
    ),
    "hadamard": OperatorRow(lambda: Hadamard(jax.random.key(3), SHAPE, keep=0.4), hadamard_matrix()),
    "affine": OperatorRow(Affine, function=lambda x: (x + 1) / 2),
    "high dynamic range": OperatorRow(HighDynamicRange, function=lambda x: np.clip(2 * x, -1, 1)),
    "phase retrieval": OperatorRow(PhaseRetrieval, function=lambda x: amplitudes((x + 1) / 2, (2, 1))),
    "saturation": OperatorRow(Saturation, function=lambda x: np.tanh(2.0 * x)),
}
