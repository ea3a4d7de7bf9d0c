"""PSNR and SSIM of one image against a reference, both in [-1, 1]."""

import dm_pix
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

SSIM_WINDOW = 11


def psnr(x: Float[ArrayLike, "h w c"], reference: Float[ArrayLike, "h w c"]) -> Float[Array, ""]:
    """Returns the peak signal-to-noise ratio of an image.

    `psnr = -10 log10(mean((a - b)^2))` with `a, b` the images mapped from [-1, 1] to [0, 1], so
    that the peak is 1.

    Nothing is clipped here. A sample may leave [-1, 1] slightly; whoever reports a number clips it
    first, `jnp.clip(x, -1, 1)`, to judge what a saved picture shows.

    Args:
        x: the image to judge, in [-1, 1].
        reference: the true image, in [-1, 1].

    Returns:
        The ratio in dB; infinite when both images are equal.

    Raises:
        ValueError: if the shapes differ, or an image is not a float array `(h, w, c)`.

    >>> x = jnp.zeros((4, 4, 3))
    >>> print(f"{psnr(x, x + 0.2):.2f}")
    20.00
    """
    return jnp.asarray(dm_pix.psnr(*_unit_range(x, reference)))


def ssim(x: Float[ArrayLike, "h w c"], reference: Float[ArrayLike, "h w c"]) -> Float[Array, ""]:
    """Returns the structural similarity of an image, averaged over pixels and colours.

    The variant of the original paper: an 11 x 11 Gaussian window of standard deviation 1.5, only
    windows inside the image, `K1 = 0.01`, `K2 = 0.03`, data range 1 (both images are mapped from
    [-1, 1] to [0, 1]), each colour on its own. Libraries that pad the border or use a uniform
    window give other numbers. Nothing is clipped here, see `psnr`.

    Args:
        x: the image to judge, in [-1, 1], at least 11 pixels high and wide.
        reference: the true image, in [-1, 1].

    Returns:
        The similarity, at most 1 (equal images).

    Raises:
        ValueError: if the shapes differ, an image is not a float array `(h, w, c)`, or a side is
            under 11 pixels.

    References:
        Wang, Bovik, Sheikh & Simoncelli, 2004, "Image quality assessment: from error visibility to
        structural similarity".
    """
    a, b = _unit_range(x, reference)
    if min(a.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"`x` must be at least {SSIM_WINDOW} pixels high and wide for SSIM, got {a.shape}; "
            "its window does not fit into a smaller image."
        )
    with jax.default_matmul_precision("highest"):
        value = dm_pix.ssim(a, b, max_val=1.0, filter_size=SSIM_WINDOW, filter_sigma=1.5)
    return jnp.asarray(value)


def _unit_range(x: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    x, reference = jnp.asarray(x), jnp.asarray(reference)
    for name, image in (("x", x), ("reference", reference)):
        if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                f"`{name}` must be one float image (h, w, c) in [-1, 1], got {image.dtype} "
                f"{image.shape}; use `jax.vmap` for a batch."
            )
    if x.shape != reference.shape:
        raise ValueError(f"`x` and `reference` must have equal shapes, got {x.shape} and {reference.shape}.")
    return (x + 1) / 2, (reference + 1) / 2
