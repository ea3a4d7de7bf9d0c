"""Fourier transforms of which a part is measured, as in magnetic resonance imaging."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Num, PRNGKeyArray

from jaxdiff.operators.base import checked_mask
from jaxdiff.pytree import pytree


@pytree
class FourierMask:
    r"""Some frequencies of every colour: `A = M F` with the orthonormal two-dimensional Fourier transform `F`.

    The measurement is complex and has the shape of the image; frequencies that are not measured are zeros.

    Frequencies of real images come in conjugate pairs, of which either one tells the other. So the singular values of
    `A` on real images are

    .. math:: s_k = \sqrt{(M_k + M_{-k}) / 2}

    that is 1 where both are measured, :math:`\sqrt{1/2}` where one is, and 0 where neither is. Noise falls on both
    parts of every entry; the mean of a pair has half of its variance.

    Args:
        mask: 1 where a frequency is measured and 0 elsewhere, `(h, w, 1)` or `(h, w, c)`, the frequency zero first as
            in `numpy.fft`; `numpy.fft.ifftshift(mask, (0, 1))` of one with the zero in its middle. See `radial_lines`
            and `cartesian_lines`.

    Raises:
        ValueError: if the mask has another rank, other values, or measures nothing.
    """

    mask: Float[Array | np.ndarray, "h w c"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", checked_mask(self.mask))

    def __call__(self, x: Num[Array, "h w c"]) -> Complex[Array, "h w c"]:
        """Returns the transform, with zeros where it is not measured."""
        return self.observed(x) * self.to_spectrum(x)

    def observed(self, y: Num[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns the mask."""
        return jnp.broadcast_to(self.mask, y.shape)

    def singular_values(self, image_shape: tuple[int, int, int]) -> Float[Array, "h w c"]:
        """Returns the root of the share that is measured of every pair."""
        mask = jnp.broadcast_to(self.mask, image_shape)
        return jnp.sqrt((mask + _partners(mask)) / 2)

    def to_spectrum(self, x: Num[Array, "h w c"]) -> Complex[Array, "h w c"]:
        """Returns `F x`."""
        wide = x.astype(jnp.promote_types(jnp.result_type(x, float), jnp.float32))
        return jnp.fft.fft2(wide, axes=(0, 1), norm="ortho")

    def from_spectrum(self, z: Complex[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `F^H z`."""
        return jnp.fft.ifft2(z, axes=(0, 1), norm="ortho").real

    def data_spectrum(self, y: Num[Array, "h w c"]) -> Complex[Array, "h w c"]:
        """Returns what is measured of every pair, averaged, with unit gain."""
        measured, values = self.observed(y) * y, self.singular_values((y.shape[0], y.shape[1], y.shape[2]))
        pairs = (measured + jnp.conj(_partners(measured))) / 2
        return pairs / jnp.where(values > 0, values, 1.0)


def _partners(z: Array) -> Array:
    """Returns the entries at the opposite frequencies."""
    return jnp.roll(jnp.flip(z, (0, 1)), 1, (0, 1))


def radial_lines(image_shape: tuple[int, int, int], lines: int) -> Float[Array, "h w 1"]:
    """Returns a mask of lines through the frequency zero, at equal angles, for `FourierMask`.

    A frequency lies on a line if it is at most half a frequency away from it.

    Args:
        image_shape: `(h, w, c)`.
        lines: at least 1; the first is horizontal.

    Raises:
        ValueError: if `lines` is below 1.
    """
    if lines < 1:
        raise ValueError(f"`lines` must be at least 1, got {lines}.")
    rows, columns = (np.fft.fftfreq(side, 1 / side) for side in image_shape[:2])
    angles = np.pi * np.arange(lines) / lines
    apart = rows[:, None, None] * np.cos(angles) - columns[:, None] * np.sin(angles)
    return jnp.asarray((np.abs(apart) <= 0.5).any(-1, keepdims=True), jnp.float32)


def cartesian_lines(
    key: PRNGKeyArray, image_shape: tuple[int, int, int], acceleration: float = 4.0, centre: float = 0.08
) -> Float[Array, "h w 1"]:
    """Returns a mask of whole columns, the lowest and random others, for `FourierMask`.

    Args:
        key: decides the others.
        image_shape: `(h, w, c)`.
        acceleration: how many times fewer columns are measured, at least 1; their number is exactly
            `round(w / acceleration)`.
        centre: share of the columns that are always measured, the lowest ones. The defaults are those of fastMRI at
            four times; at eight times it has 0.04.

    Raises:
        ValueError: if `acceleration` is below 1, `centre` is negative or more than is measured, or nothing is.

    Deviations:
        fastMRI draws every other column by itself, so that their number varies.

    References:
        Zbontar et al., 2018, https://arxiv.org/abs/1811.08839, section 4.9.
    """
    h, w, _ = image_shape
    if not (1 <= acceleration <= 2 * w and 0 <= centre <= 1 / acceleration):
        raise ValueError(
            f"`acceleration` must be between 1 and {2 * w} and `centre` at most its inverse, got {acceleration} and "
            f"{centre}."
        )
    count, lowest = max(round(w / acceleration), 1), round(w * centre)
    by_frequency = np.argsort(np.abs(np.fft.fftfreq(w)), kind="stable")
    others = jax.random.permutation(key, by_frequency[lowest:])[: count - lowest]
    columns = jnp.zeros(w).at[by_frequency[:lowest]].set(1).at[others].set(1)
    return jnp.broadcast_to(columns[None, :, None], (h, w, 1))
