"""What an operator is, and what is derived from any: adjoint, pseudo-inverse, observed entries."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float


@runtime_checkable
class Operator(Protocol):
    """A forward model `A`, linear or not: a PyTree that is called with an image.

    It needs nothing but `__call__`. It may offer two methods that say more: `observed(y)`, where some entries of `A(x)`
    are never measured, and `pinv(y)`, where the pseudo-inverse has a closed form.
    """

    def __call__(self, x: Float[Array, "h w c"], /) -> Array:
        """Returns what would be measured of `x` without noise."""
        ...


@runtime_checkable
class SpectralOperator(Protocol):
    """A linear operator whose singular system is known as fast maps, `A = U diag(s) V^H`, never as a matrix.

    `V` is unitary between images and spectra, which have the shape of the singular values; `U` between spectra and
    measurements, as far as the singular values are not zero. Spectra may be complex.
    """

    def __call__(self, x: Float[Array, "h w c"], /) -> Array:
        """Returns `A x`."""
        ...

    def singular_values(self, image_shape: tuple[int, int, int], /) -> Array:
        """Returns `s`, not negative."""
        ...

    def to_spectrum(self, x: Float[Array, "h w c"], /) -> Array:
        """Returns `V^H x`."""
        ...

    def from_spectrum(self, z: Array, /) -> Float[Array, "h w c"]:
        """Returns `V z`."""
        ...

    def data_spectrum(self, y: Array, /) -> Array:
        """Returns `U^H y`."""
        ...


def observed(operator: Operator, y: Array) -> Array:
    """Returns 1 where an entry of `y` is measured and 0 where it never is; the operator's own, or all ones."""
    own = getattr(operator, "observed", None)
    return jnp.ones(jnp.shape(y)) if own is None else own(y)


def checked_mask(mask: Array | np.ndarray) -> Array:
    """Returns a mask as an array.

    Raises:
        ValueError: if it has another rank than three, other values than 0 and 1, or no 1.
    """
    if jnp.ndim(mask) != 3:
        raise ValueError(f"`mask` must have shape (h, w, 1) or (h, w, c), got {jnp.shape(mask)}; add a last axis.")
    if not isinstance(mask, Tracer):
        known = np.asarray(mask)
        if not np.isin(known, (0, 1)).all():
            raise ValueError("`mask` must hold only 0 (hidden) and 1 (kept); threshold it first.")
        if not known.any():
            raise ValueError("`mask` hides everything; 1 marks what is kept.")
    return jnp.asarray(mask, jnp.float32)


def is_linear(operator: Operator, x_like: Float[Array, "h w c"] | jax.ShapeDtypeStruct) -> bool:
    """Tells whether JAX can transpose the operator, and `A(0) = 0`.

    It can if all that is done to the image is affine; `A(0)` then tells. It is taken for 0 where it is traced.
    """
    y_like = jax.eval_shape(operator, x_like)
    try:
        jax.eval_shape(lambda y: jax.linear_transpose(operator, x_like)(y), y_like)
    except Exception:  # what JAX raises depends on the primitive
        return False
    offset = operator(jnp.zeros(x_like.shape, x_like.dtype))
    return isinstance(offset, Tracer) or not np.any(np.asarray(offset))


def adjoint(operator: Operator, x_like: Float[Array, "h w c"] | jax.ShapeDtypeStruct) -> Callable[[Array], Array]:
    r"""Returns `y -> A^H y`, by the transpose that JAX derives.

    Images are real: of a complex measurement it is :math:`\mathrm{Re}(A^H y)`, the adjoint in the real inner product
    :math:`\mathrm{Re} \langle y, A x \rangle = \langle A^H y, x \rangle`.

    Args:
        operator: linear.
        x_like: an array, or shape and dtype, of the operator's input.
    """
    transpose, y_like = jax.linear_transpose(operator, x_like), jax.eval_shape(operator, x_like)
    return lambda y: transpose(jnp.conj(jnp.asarray(y, y_like.dtype)))[0]


def pinv(
    operator: Operator,
    x_like: Float[Array, "h w c"] | jax.ShapeDtypeStruct,
    *,
    ridge: float = 0.0,
    maxiter: int = 100,
    tol: float = 1e-6,
) -> Callable[[Array], Array]:
    """Returns `y -> A^+ y`: the operator's closed form or singular system, or conjugate gradients.

    Args:
        operator: linear.
        x_like: an array, or shape and dtype, of the operator's input.
        ridge: added to the diagonal of `A^T A`; not zero asks for conjugate gradients whatever the operator offers.
        maxiter: iterations of conjugate gradients, which have no reverse-mode derivative.
        tol: stops them where the residual `r` is this share of `y`, or `||A^T r|| / ||r||` this share of what it was.
    """
    own = getattr(operator, "pinv", None)
    if own is not None and ridge == 0:
        return own
    if isinstance(operator, SpectralOperator) and ridge == 0:
        return lambda y: _spectral_pinv(operator, y, x_like.shape)
    return lambda y: _least_squares(operator, y, x_like, ridge, maxiter, tol)


def _least_squares(
    operator: Operator,
    y: Array,
    x_like: Float[Array, "h w c"] | jax.ShapeDtypeStruct,
    ridge: float,
    maxiter: int,
    tol: float,
) -> Float[Array, "h w c"]:
    """Minimises `||y - A x||^2 + ridge ||x||^2` from zero on, by conjugate gradients that keep the residual of `y`.

    Those on `A A^T` would not do: that system has no solution for data that depend on each other, as those of a `Stack`
    do, and have noise. Those on `A^T A` alone lose small singular values to rounding.
    """
    transpose, y = adjoint(operator, x_like), jnp.asarray(y, jax.eval_shape(operator, x_like).dtype)

    def iterate(at: tuple[Array, ...]) -> tuple[Array, ...]:
        i, x, residual, direction, squared = at
        seen = operator(direction)
        curvature = jnp.sum(jnp.abs(seen) ** 2) + ridge * jnp.sum(direction**2)
        length = squared / jnp.where(curvature > 0, curvature, 1.0)
        x, residual = x + length * direction, residual - length * seen
        gradient = transpose(residual) - ridge * x
        after = jnp.sum(gradient**2)
        return i + 1, x, residual, gradient + after / squared * direction, after

    gradient = transpose(y)
    squared = jnp.sum(gradient**2)
    of_y = jnp.sum(jnp.abs(y) ** 2)

    def go_on(at: tuple[Array, ...]) -> Array:
        i, _, residual, _, gradient_squared = at
        left = jnp.sum(jnp.abs(residual) ** 2)
        return (i < maxiter) & (left > tol**2 * of_y) & (gradient_squared * of_y > tol**2 * squared * left)

    start = (jnp.int32(0), jnp.zeros_like(gradient), y, gradient, squared)
    return lax.while_loop(go_on, iterate, start)[1]


def _spectral_pinv(operator: SpectralOperator, y: Array, image_shape: tuple[int, ...]) -> Float[Array, "h w c"]:
    h, w, c = image_shape
    values = operator.singular_values((h, w, c))
    kept = values > 1e-6 * jnp.max(values)
    return operator.from_spectrum(jnp.where(kept, operator.data_spectrum(y) / jnp.where(kept, values, 1.0), 0.0))
