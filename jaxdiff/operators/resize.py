"""Downsampling: what a coarser camera would have measured."""

from collections.abc import Callable
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from jaxdiff.pytree import pytree, static


@pytree
class BlockMean:
    """The mean of blocks of `factor x factor` pixels.

    All singular values are `1 / factor`. The right singular vectors of a block are its half turn that exchanges the
    first pixel and the constant picture.

    Args:
        factor: at least 1; divides both sides of the image.

    Raises:
        ValueError: if `factor` is below 1 or, at the call, does not divide a side.
    """

    factor: int = static()

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "_ _ c"]:
        """Averages every block."""
        return self._blocks(x).mean(-1)

    def pinv(self, y: Float[Array, "h w c"]) -> Float[Array, "_ _ c"]:
        """Repeats every pixel over its block."""
        return jnp.repeat(jnp.repeat(y, self.factor, 0), self.factor, 1)

    def singular_values(self, image_shape: tuple[int, int, int]) -> Float[Array, "p q c k"]:
        """Returns `1 / factor` for the mean of a block and 0 for the rest of it."""
        blocks = self._blocks(jnp.zeros(image_shape))
        return blocks.at[..., 0].set(1 / self.factor)

    def to_spectrum(self, x: Float[Array, "h w c"]) -> Float[Array, "p q c k"]:
        """Returns the half turns of all blocks."""
        return self._turn(self._blocks(x))

    def from_spectrum(self, z: Float[Array, "p q c k"]) -> Float[Array, "h w c"]:
        """Turns all blocks back."""
        p, q, c, _ = z.shape
        blocks = self._turn(z).reshape(p, q, c, self.factor, self.factor)
        return blocks.transpose(0, 3, 1, 4, 2).reshape(p * self.factor, q * self.factor, c)

    def data_spectrum(self, y: Float[Array, "p q c"]) -> Float[Array, "p q c k"]:
        """Returns `y` as the first entries of the blocks."""
        return jnp.zeros((*y.shape, self.factor**2), y.dtype).at[..., 0].set(y)

    def _blocks(self, x: Array) -> Float[Array, "p q c k"]:
        _check_sides(self.factor, x.shape)
        (h, w, c), k = x.shape, self.factor
        return x.reshape(h // k, k, w // k, k, c).transpose(0, 2, 4, 1, 3).reshape(h // k, w // k, c, k * k)

    def _turn(self, blocks: Array) -> Array:
        axis = jnp.full(self.factor**2, 1 / self.factor, blocks.dtype).at[0].add(1)
        return jnp.sum(blocks * axis, -1, keepdims=True) * axis / (1 + 1 / self.factor) - blocks


@pytree
class Bicubic:
    r"""Bicubic downsampling with antialiasing: the cubic kernel, stretched by the factor, along each axis.

    .. math:: A = R_h \otimes R_w, \qquad R_{ij} \propto k\!\left(\frac{j + 1/2}{f} - i - \frac12\right)

    with Keys' kernel `k` (a = -0.5) and rows that sum to one. It is what Pillow's `resize` does, without its
    rounding. Pseudo-inverse and singular system are Kronecker products too; those of an axis are computed once.

    Args:
        factor: at least 1; divides both sides of the image.
        border: what a kernel meets beyond the edge: "cut", nothing, as in Pillow, PyTorch and `jax.image.resize`; or
            "mirror", the image again, as in the resizer of the DPS code.

    Raises:
        ValueError: if `factor` is below 1, `border` is another or, at the call, the factor does not divide a side.

    References:
        Keys, Cubic convolution interpolation for digital image processing, 1981.
    """

    factor: int = static()
    border: str = static(default="cut")

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        if self.border not in ("cut", "mirror"):
            raise ValueError(f"`border` must be 'cut' or 'mirror', got {self.border!r}.")

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "_ _ c"]:
        """Reduces the columns and the rows."""
        _check_sides(self.factor, x.shape)
        return self._along(_axis, x.shape, x)

    def pinv(self, y: Float[Array, "h w c"]) -> Float[Array, "_ _ c"]:
        """Returns the image of the smallest norm that is reduced to `y`."""
        return self._along(_inverse, self._larger(y), y)

    def singular_values(self, image_shape: tuple[int, int, int]) -> Float[Array, "h w c"]:
        """Returns the products of the singular values of both axes."""
        _check_sides(self.factor, image_shape)
        rows, columns = (_system(side, self.factor, self.border)[1] for side in image_shape[:2])
        return jnp.broadcast_to(jnp.asarray(np.outer(rows, columns))[..., None], image_shape)

    def to_spectrum(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `V^T x`."""
        return self._along(lambda *axis: _system(*axis)[2], x.shape, x)

    def from_spectrum(self, z: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `V z`."""
        return self._along(lambda *axis: _system(*axis)[2].T, z.shape, z)

    def data_spectrum(self, y: Float[Array, "p q c"]) -> Float[Array, "_ _ c"]:
        """Returns `U^T y`, with zeros where the image has more entries than `y`."""
        return self._along(lambda *axis: _system(*axis)[0], self._larger(y), y)

    def _larger(self, y: Array) -> tuple[int, int]:
        return y.shape[0] * self.factor, y.shape[1] * self.factor

    def _along(self, matrix: Callable[[int, int, str], np.ndarray], sides: tuple[int, ...], x: Array) -> Array:
        """Multiplies the columns by the matrix of their axis, and the rows."""
        x = x.astype(jnp.result_type(x, float))
        rows, columns = (jnp.asarray(matrix(side, self.factor, self.border), x.dtype) for side in sides[:2])
        return jnp.einsum("ih,hwc,jw->ijc", rows, x, columns, precision=lax.Precision.HIGHEST)


@lru_cache(maxsize=16)
def _axis(side: int, factor: int, border: str) -> Float[np.ndarray, "n side"]:
    """The matrix that reduces one axis."""
    places = np.arange(-2 * factor, side + 2 * factor)
    apart = np.abs((places + 0.5) / factor - np.arange(side // factor)[:, None] - 0.5)
    near, far = (1.5 * apart - 2.5) * apart**2 + 1, ((2.5 - 0.5 * apart) * apart - 4) * apart + 2
    weights = np.where(apart < 1, near, np.where(apart < 2, far, 0.0))
    if border == "cut":
        weights = weights[:, 2 * factor : side + 2 * factor]
    else:
        place = places % (2 * side)
        weights = weights @ np.eye(side)[np.minimum(place, 2 * side - 1 - place)]
    return weights / weights.sum(1, keepdims=True)


@lru_cache(maxsize=16)
def _inverse(side: int, factor: int, border: str) -> Float[np.ndarray, "side n"]:
    """Its pseudo-inverse; the rows are independent."""
    matrix = _axis(side, factor, border)
    return np.linalg.solve(matrix @ matrix.T, matrix).T


@lru_cache(maxsize=16)
def _system(side: int, factor: int, border: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Its singular system `U^T`, `s` and `V^T`, with rows of zeros and zeros up to `side` in the first two."""
    u, values, v = np.linalg.svd(_axis(side, factor, border))
    lacking = side - len(values)
    return np.pad(u.T, ((0, lacking), (0, 0))), np.pad(values, (0, lacking)), v


def _check_factor(factor: int) -> None:
    if factor < 1:
        raise ValueError(f"`factor` must be at least 1, got {factor}.")


def _check_sides(factor: int, shape: tuple[int, ...]) -> None:
    h, w = shape[:2]
    if h % factor or w % factor:
        raise ValueError(f"`factor` {factor} must divide both sides of an image of {h}x{w}; cut its edges first.")
