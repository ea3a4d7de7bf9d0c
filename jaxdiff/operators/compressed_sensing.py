"""Compressed sensing: far fewer measurements than pixels, each of which looks at the whole picture."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from jaxdiff.pytree import pytree

_LARGEST = 2**26
"""Entries of a dense matrix, 256 MiB in single precision."""


@pytree
class Hadamard:
    r"""Some coefficients of a randomised Walsh-Hadamard transform, the same of every colour: `A = S H D`.

    `D` turns the signs of random pixels, `H` is the orthonormal transform along both axes, and `S` keeps random
    coefficients. The rows of `A` are orthonormal, so that all singular values are 1 or 0, and `A^T` is the
    pseudo-inverse. A call costs additions alone, `log2(h w)` for a pixel.

    Sides need not be powers of two: of `2^k m` with an odd `m`, `H` is the Kronecker product of the Hadamard matrix
    of `2^k` and the cosine transform of `m`.

    Args:
        key: decides which pixels and which coefficients.
        image_shape: `(h, w, c)`.
        keep: the fraction of coefficients kept, in (0, 1]; `round(h w keep)` of them, at least one.

    Raises:
        ValueError: if `keep` is outside (0, 1].

    References:
        Ailon & Chazelle, 2009, https://doi.org/10.1137/060673096 (signs before the transform).
        Kawar et al., 2022, https://arxiv.org/abs/2201.11793 (such a measurement, with permuted pixels for `D`).
    """

    signs: Float[Array, "h w 1"]
    kept: Int[Array, " m"]

    def __init__(self, key: PRNGKeyArray, image_shape: tuple[int, int, int], keep: float):
        if not 0 < keep <= 1:
            raise ValueError(f"`keep` must be in (0, 1], got {keep}.")
        h, w, _ = image_shape
        of_signs, of_kept = jax.random.split(key)
        order = jax.random.permutation(of_kept, h * w)
        heads = jax.random.uniform(of_signs, (h, w, 1), jnp.float32) < 0.5
        object.__setattr__(self, "signs", jnp.where(heads, 1.0, -1.0).astype(jnp.float32))
        object.__setattr__(self, "kept", jnp.sort(order[: max(round(h * w * keep), 1)]))

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "m c"]:
        """Returns the coefficients that are kept, a row for each."""
        coefficients = self.to_spectrum(x)
        return coefficients.reshape(-1, x.shape[2])[self.kept].astype(jnp.result_type(x, float))

    def singular_values(self, image_shape: tuple[int, int, int]) -> Float[Array, "h w c"]:
        """Returns 1 for coefficients that are kept and 0 elsewhere."""
        return self.data_spectrum(jnp.ones((self.kept.shape[0], image_shape[2])))

    def to_spectrum(self, x: Num[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `H D x`."""
        wide = x.astype(jnp.promote_types(jnp.result_type(x, float), jnp.float32))
        turned = self.signs.astype(wide.dtype) * wide
        return _transform(_transform(turned, 0), 1)

    def from_spectrum(self, z: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `D H^T z`."""
        return self.signs.astype(z.dtype) * _transform(_transform(z, 0, back=True), 1, back=True)

    def data_spectrum(self, y: Float[Array, "m c"]) -> Float[Array, "h w c"]:
        """Returns `y` at the places of its coefficients."""
        h, w, _ = self.signs.shape
        return jnp.zeros((h * w, y.shape[1]), y.dtype).at[self.kept].set(y).reshape(h, w, -1)


def _transform(x: Array, axis: int, back: bool = False) -> Array:
    """The orthonormal transform along one axis: sums and differences of halves, and cosines of what is odd."""
    side = x.shape[axis]
    even = side & -side
    odd = side // even
    moved = jnp.moveaxis(x, axis, 0)
    split = moved.reshape(*(2,) * (even.bit_length() - 1), odd, -1)
    for i in range(split.ndim - 2):
        first, second = jnp.split(split, 2, i)
        split = jnp.concatenate([first + second, first - second], i)
    if odd > 1:
        matrix = _cosines(odd).T if back else _cosines(odd)
        split = jnp.einsum("ij,...jk->...ik", matrix.astype(x.dtype), split, precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(split.reshape(moved.shape) / even**0.5, 0, axis)


def _cosines(side: int) -> np.ndarray:
    places = np.arange(side)
    return np.sqrt(np.where(places == 0, 1, 2) / side)[:, None] * np.cos(np.pi / side * np.outer(places, places + 0.5))


@pytree
class DenseGaussian:
    r"""Products of the image with random pictures: `A` is a matrix of independent :math:`\mathcal N(0, 1 / m)`.

    The classical matrix of compressed sensing, for small images: it is stored, and a call reads all of it. `Hadamard`
    does nearly as well at any size.

    Args:
        key: decides the matrix.
        image_shape: `(h, w, c)`.
        m: number of measurements, at least 1.

    Raises:
        ValueError: if `m` is below 1, or the matrix would have more than 67 million entries (256 MiB).

    References:
        Bora et al., 2017, https://arxiv.org/abs/1703.03208, section 6.
    """

    matrix: Float[Array, "m n"]

    def __init__(self, key: PRNGKeyArray, image_shape: tuple[int, int, int], m: int):
        h, w, c = image_shape
        n = h * w * c
        if m < 1:
            raise ValueError(f"`m` must be at least 1, got {m}.")
        if m * n > _LARGEST:
            raise ValueError(
                f"a dense matrix of {m} x {n} has more than {_LARGEST} entries; take `Hadamard`, which needs none."
            )
        object.__setattr__(self, "matrix", jax.random.normal(key, (m, n)) / m**0.5)

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, " m"]:
        """Multiplies the image by the matrix."""
        x = x.astype(jnp.result_type(x, float))
        return jnp.matmul(self.matrix.astype(x.dtype), x.reshape(-1), precision=lax.Precision.HIGHEST)
