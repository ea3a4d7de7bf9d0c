"""Blurs."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Complex, Float, Num

from jaxdiff.pytree import Number, pytree


@pytree
class Blur:
    """Blur by any kernel, the same for every colour, with reflect padding.

    Args:
        kernel: odd sides, smaller than twice the image; correlated with the image (not flipped).

    Raises:
        ValueError: if a side is even, or the kernel is not a matrix of finite numbers.
    """

    kernel: Float[Array | np.ndarray, "kh kw"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", _checked_kernel(self.kernel))

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Correlates the reflect-padded image with the kernel."""
        return _correlate(x, jnp.asarray(self.kernel))


@pytree
class GaussianBlur:
    """Gaussian blur with reflect padding.

    Args:
        std: of the Gaussian, in pixels; 3.0 at 256x256 in the reports and the DPS paper.
        size: side of the kernel, odd; 61 in the same places. Like SciPy's filter, which made that kernel, the Gaussian
            is cut at four standard deviations, so that only 25 of the 61 taps differ from zero.

    Raises:
        ValueError: if `std` is not positive or `size` is not odd and positive.
    """

    taps: Float[Array, " k"]

    def __init__(self, std: Number = 3.0, size: int = 61):
        traced = isinstance(std, Tracer)
        if size < 1 or size % 2 == 0 or not (traced or std > 0):
            raise ValueError(f"`std` must be positive and `size` odd, got {std} and {size}.")
        xp, cut = (jnp, jnp.floor(4 * std + 0.5)) if traced else (np, int(4 * std + 0.5))
        radius = size // 2 if traced else min(int(cut), size // 2)
        distance = np.abs(np.arange(-radius, radius + 1))
        taps = xp.where(distance <= cut, xp.exp(-0.5 * (distance / std) ** 2), 0.0)
        object.__setattr__(self, "taps", jnp.asarray(taps / taps.sum(), jnp.float32))

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Correlates the reflect-padded image with the kernel."""
        return _correlate(x, self.kernel)

    @property
    def kernel(self) -> Float[Array, "k k"]:
        """The outer product of the taps."""
        return jnp.outer(self.taps, self.taps)


def _correlate(x: Array, kernel: Array) -> Array:
    (kh, kw), (h, w, _) = kernel.shape, x.shape
    if kh // 2 >= h or kw // 2 >= w:
        raise ValueError(f"`kernel` of {kh}x{kw} is too large to reflect an image of {h}x{w}; use a smaller one.")
    x = x.astype(jnp.result_type(x, float))
    padded = jnp.pad(x, ((kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)), mode="reflect")
    # By Fourier transforms, 5 to 100 times as fast as XLA's convolution on a CPU, and its transpose; of kernels of 3x3
    # too. What is wrapped around lies below and right of the image.
    wide = padded.astype(jnp.promote_types(padded.dtype, jnp.float32))
    transfer = jnp.conj(jnp.fft.rfft2(kernel.astype(wide.dtype), s=wide.shape[:2]))[..., None]
    waves = transfer * jnp.fft.rfft2(wide, axes=(0, 1))
    return jnp.fft.irfft2(waves, s=wide.shape[:2], axes=(0, 1))[:h, :w].astype(x.dtype)


@pytree
class CircularBlur:
    """Blur by any kernel, the same for every colour, on a torus: what leaves the image at one side enters at the other.

    Every wave is only scaled, so that the singular system is known: `A = F^H diag(k) F` with the unitary Fourier
    transform `F` and the kernel's transfer function `k`.

    Args:
        kernel: odd sides, no larger than the image; correlated with the image (not flipped).

    Raises:
        ValueError: if a side is even, or the kernel is not a matrix of finite numbers.
    """

    kernel: Float[Array | np.ndarray, "kh kw"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", _checked_kernel(self.kernel))

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Multiplies every wave by the transfer function."""
        waves = jnp.fft.fft2(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axes=(0, 1))
        blurred = jnp.fft.ifft2(self._transfer(x.shape) * waves, axes=(0, 1)).real
        return blurred.astype(jnp.result_type(x, float))

    def singular_values(self, image_shape: tuple[int, int, int]) -> Float[Array, "h w c"]:
        """Returns the absolute values of the transfer function."""
        return jnp.broadcast_to(jnp.abs(self._transfer(image_shape)), image_shape)

    def to_spectrum(self, x: Float[Array, "h w c"]) -> Complex[Array, "h w c"]:
        """Returns `F x`."""
        return jnp.fft.fft2(x, axes=(0, 1), norm="ortho")

    def from_spectrum(self, z: Complex[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `F^H z`."""
        return jnp.fft.ifft2(z, axes=(0, 1), norm="ortho").real

    def data_spectrum(self, y: Float[Array, "h w c"]) -> Complex[Array, "h w c"]:
        """Returns `F y`, without the phases of the transfer function."""
        phase = jnp.exp(-1j * jnp.angle(self._transfer(y.shape)))
        return phase * jnp.fft.fft2(y, axes=(0, 1), norm="ortho")

    def _transfer(self, image_shape: tuple[int, ...]) -> Complex[Array, "h w 1"]:
        (kh, kw), (h, w) = self.kernel.shape, image_shape[:2]
        if kh > h or kw > w:
            raise ValueError(f"`kernel` of {kh}x{kw} is larger than an image of {h}x{w}; use a smaller one.")
        placed = jnp.zeros((h, w), jnp.float32).at[:kh, :kw].set(jnp.asarray(self.kernel))
        # A correlation has the conjugate of the convolution's transfer function.
        return jnp.conj(jnp.fft.fft2(jnp.roll(placed, (-(kh // 2), -(kw // 2)), (0, 1))))[..., None]


def _checked_kernel(kernel: Array | np.ndarray) -> Array:
    shape = jnp.shape(kernel)
    if len(shape) != 2 or shape[0] % 2 == 0 or shape[1] % 2 == 0:
        raise ValueError(f"`kernel` must be a matrix with odd sides, got shape {shape}; pad it with zeros.")
    if not isinstance(kernel, Tracer):
        values = np.asarray(kernel)
        if not np.isfinite(values).all() or not values.any():
            raise ValueError("`kernel` must be finite and not all zero.")
    return jnp.asarray(kernel, jnp.float32)
