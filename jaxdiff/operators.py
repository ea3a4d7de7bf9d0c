"""Forward models `A`: PyTree callables from an image to what is measured of it.

An operator needs nothing but `__call__`; `adjoint`, `pinv`, `observed` and `measure` work on any. It may offer two
methods that say more: `observed(y)`, where some entries of `A(x)` are never measured, and `pinv(y)`, where the
pseudo-inverse has a closed form.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.pytree import pytree


class Operator(Protocol):
    """A forward model, linear or not."""

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "..."]:
        """Returns what would be measured of `x` without noise."""
        ...


@pytree
class Identity:
    """Denoising: every pixel is measured, `A(x) = x`."""

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `x`."""
        return x

    def pinv(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `y`."""
        return y


@pytree
class Mask:
    """Inpainting with any mask, `A(x) = mask * x`.

    Args:
        mask: 1 where a pixel is kept and 0 where it is hidden, `(h, w, 1)` or `(h, w, c)`.

    Raises:
        ValueError: if the mask has another rank, other values, or hides everything.
    """

    mask: Float[Array | np.ndarray, "h w c"]

    def __post_init__(self) -> None:
        mask = np.asarray(self.mask)
        if mask.ndim != 3:
            raise ValueError(f"`mask` must have shape (h, w, 1) or (h, w, c), got {mask.shape}; add a last axis.")
        if not np.isin(mask, (0, 1)).all():
            raise ValueError("`mask` must hold only 0 (hidden) and 1 (kept); threshold it first.")
        if not mask.any():
            raise ValueError("`mask` hides every pixel; 1 marks what is kept.")
        object.__setattr__(self, "mask", jnp.asarray(mask, jnp.float32))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Sets the hidden pixels to zero."""
        return jnp.asarray(self.mask) * x

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns the mask."""
        return jnp.broadcast_to(self.mask, y.shape)

    def pinv(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `mask * y`."""
        return jnp.asarray(self.mask) * y


@pytree
class BoxMask:
    """Inpainting of a rectangle: hides the rows `top ... top + height - 1` and the columns alike.

    The box is made of numbers, not of a mask, so that boxes can be swept by `jax.vmap`.

    Args:
        top: first hidden row.
        left: first hidden column.
        height: number of hidden rows.
        width: number of hidden columns.

    Raises:
        ValueError: if a number is negative or the box is empty.
    """

    top: int
    left: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.top < 0 or self.left < 0 or self.height < 1 or self.width < 1:
            raise ValueError(f"a box needs top, left >= 0 and height, width >= 1, got {self}.")

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Sets the hidden pixels to zero."""
        return self.observed(x) * x

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns 0 inside the box and 1 outside."""
        rows, columns = jnp.arange(y.shape[0])[:, None, None], jnp.arange(y.shape[1])[None, :, None]
        inside = (rows >= self.top) & (rows < self.top + self.height)
        inside &= (columns >= self.left) & (columns < self.left + self.width)
        return jnp.broadcast_to(1.0 - inside, y.shape)

    def pinv(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `y` with the hidden pixels set to zero."""
        return self(y)


@pytree
class RandomMask:
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

    def __init__(self, key: PRNGKeyArray, image_shape: tuple[int, int, int], keep: float):
        if not 0 < keep <= 1:
            raise ValueError(f"`keep` must be in (0, 1], got {keep}.")
        h, w, _ = image_shape
        # Rounding before int(): 1 - 0.3 is 0.7 less one unit in the last place.
        hidden = min(int(round(h * w * (1 - keep), 6)), h * w - 1)
        order = jax.random.permutation(key, h * w)
        object.__setattr__(self, "mask", (order >= hidden).astype(jnp.float32).reshape(h, w, 1))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Sets the hidden pixels to zero."""
        return self.mask * x

    def observed(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns 0 where a pixel is hidden and 1 elsewhere."""
        return jnp.broadcast_to(self.mask, y.shape)

    def pinv(self, y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `y` with the hidden pixels set to zero."""
        return self.mask * y


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
        kernel = np.asarray(self.kernel, np.float32)
        if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
            raise ValueError(f"`kernel` must be a matrix with odd sides, got shape {kernel.shape}; pad it with zeros.")
        if not np.isfinite(kernel).all() or not kernel.any():
            raise ValueError("`kernel` must be finite and not all zero.")
        object.__setattr__(self, "kernel", jnp.asarray(kernel))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Correlates the reflect-padded image with the kernel."""
        return _correlate(x, jnp.asarray(self.kernel))


@pytree
class GaussianBlur:
    """Gaussian blur with reflect padding, run as one pass down the columns and one along the rows.

    Args:
        std: of the Gaussian, in pixels; 3.0 at 256x256 in the reports and the DPS paper.
        size: side of the kernel, odd; 61 in the same places. Like SciPy's filter, which made that kernel, the Gaussian
            is cut at four standard deviations, so that only 25 of the 61 taps differ from zero.

    Raises:
        ValueError: if `std` is not positive or `size` is not odd and positive.
    """

    taps: Float[Array, " k"]

    def __init__(self, std: float = 3.0, size: int = 61):
        if not std > 0 or size < 1 or size % 2 == 0:
            raise ValueError(f"`std` must be positive and `size` odd, got {std} and {size}.")
        radius = min(int(4 * std + 0.5), size // 2)
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / std) ** 2)
        object.__setattr__(self, "taps", jnp.asarray(taps / taps.sum(), jnp.float32))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Blurs down the columns, then along the rows."""
        return _correlate(_correlate(x, self.taps[:, None]), self.taps[None, :])

    @property
    def kernel(self) -> Float[Array, "k k"]:
        """The dense kernel that the two passes amount to."""
        return jnp.outer(self.taps, self.taps)


def _correlate(x: Array, kernel: Array) -> Array:
    (kh, kw), (h, w, _) = kernel.shape, x.shape
    if kh // 2 >= h or kw // 2 >= w:
        raise ValueError(f"`kernel` of {kh}x{kw} is too large to reflect an image of {h}x{w}; use a smaller one.")
    padded = jnp.pad(x, ((kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)), mode="reflect")
    # Colours go to the batch axis: every one is blurred alike.
    planes = lax.conv_general_dilated(
        jnp.moveaxis(padded, -1, 0)[:, None],
        kernel[None, None],
        (1, 1),
        "VALID",
        precision=lax.Precision.HIGHEST,  # what was measured must not depend on the accelerator
    )
    return jnp.moveaxis(planes[:, 0], 0, -1)


def observed(operator: Operator, y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns 1 where an entry of `y` is measured and 0 where it never is; the operator's own, or all ones."""
    own = getattr(operator, "observed", None)
    return jnp.ones_like(y) if own is None else own(y)


def measure(key: PRNGKeyArray, operator: Operator, x: Float[Array, "h w c"], sigma_y: float) -> Float[Array, "..."]:
    """Simulates a measurement, `y = A(x) + sigma_y * eps`.

    Args:
        key: for the noise.
        operator: the forward model.
        x: image in [-1, 1].
        sigma_y: standard deviation of the noise in [-1, 1] units; twice its value in [0, 1] units.

    Raises:
        ValueError: if `sigma_y` is negative or not finite.

    Deviations:
        Entries that the operator never measures carry no noise. The DPS code, DAPS and InverseBench add noise to hidden
        pixels too, which changes the length of their residual.
    """
    if not 0 <= sigma_y < np.inf:
        raise ValueError(f"`sigma_y` must be zero or positive, got {sigma_y}.")
    clean = operator(x)
    return clean + sigma_y * observed(operator, clean) * jax.random.normal(key, clean.shape)


def residual_ratio(
    operator: Operator, y: Float[Array, "..."], x: Float[Array, "h w c"], sigma_y: float
) -> Float[Array, ""]:
    """Returns `||y - A(x)|| / (sigma_y sqrt(m))` over the `m` measured entries.

    About 1 for the true image; far above, the data were ignored; far below, their noise was fitted.
    """
    seen = observed(operator, y)
    residual = jnp.sum(seen * (y - operator(x)) ** 2)
    return jnp.sqrt(residual / jnp.sum(seen)) / sigma_y


def adjoint(operator: Operator, x_like: Float[Array, "h w c"] | jax.ShapeDtypeStruct) -> Callable[[Array], Array]:
    """Returns `y -> A^T y`, the transpose that JAX derives.

    Args:
        operator: linear.
        x_like: an array, or shape and dtype, of the operator's input.
    """
    transpose = jax.linear_transpose(operator, x_like)
    return lambda y: transpose(y)[0]


def pinv(
    operator: Operator,
    x_like: Float[Array, "h w c"] | jax.ShapeDtypeStruct,
    *,
    ridge: float = 0.0,
    maxiter: int = 100,
    tol: float = 1e-6,
) -> Callable[[Array], Array]:
    """Returns `y -> A^+ y`: the operator's closed form, or conjugate gradients on `A A^T`.

    Args:
        operator: linear.
        x_like: an array, or shape and dtype, of the operator's input.
        ridge: added to the diagonal of `A A^T`; not zero asks for conjugate gradients whatever the operator offers.
        maxiter: iterations of conjugate gradients.
        tol: relative residual at which they stop.
    """
    own = getattr(operator, "pinv", None)
    if own is not None and ridge == 0:
        return own
    transpose = adjoint(operator, x_like)
    normal = lambda u: operator(transpose(u)) + ridge * u
    return lambda y: transpose(cg(normal, y, maxiter=maxiter, tol=tol)[0])
