"""The smoothest image that fits a measurement: a linear estimate from which a chain may start at a low noise level."""

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from jaxdiff.measurement import Measurement
from jaxdiff.operators import adjoint
from jaxdiff.operators.masks import Masking

GRADIENT_STD = 0.08
"""Standard deviation of the difference of neighbouring pixels of a photograph, in [-1, 1] units."""


def smoothest(
    measurement: Measurement, image_shape: tuple[int, int, int], iterations: int = 200
) -> Float[Array, "h w c"]:
    r"""Returns the smoothest image that fits the data.

    Where pixels are hidden and the rest has no noise, the hidden ones are filled such that

    .. math:: \sum (\Delta x)^2

    is least (the biharmonic fill), starting from means over ever larger squares. Otherwise it is the posterior mean of
    the prior that neighbouring pixels differ by `N(0, g^2)` each,

    .. math:: \arg\min_x\ \lVert y - A x \rVert^2 + (\sigma_y / g)^2 \lVert \nabla x \rVert^2

    with `g = GRADIENT_STD`, by conjugate gradients from `A^T y`.

    Args:
        measurement: of a linear operator, with Gaussian noise.
        image_shape: `(h, w, c)` of the image.
        iterations: of conjugate gradients, at most. Holes too wide for them keep a trace of the squares.
    """
    regularised = lambda: _regularised(measurement, image_shape, iterations)
    if not isinstance(measurement.operator, Masking):
        return regularised()
    fill = lambda: fill_holes(measurement.y, measurement.observed, iterations)
    return jax.lax.cond(jnp.asarray(measurement.sigma_y) == 0, fill, regularised)


def _regularised(measurement: Measurement, image_shape: tuple[int, int, int], iterations: int) -> Float[Array, "h w c"]:
    operator, y = measurement.operator, measurement.y
    sigma_y = jnp.maximum(jnp.asarray(measurement.sigma_y), 1 / 255)
    x_like = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    transpose, weight = adjoint(operator, x_like), (sigma_y / GRADIENT_STD) ** 2
    normal = lambda x: transpose(operator(x)) - weight * laplacian(x)
    right = transpose(y)
    start = right / jnp.maximum(transpose(operator(jnp.ones(image_shape))), 0.1)
    return jnp.clip(cg(normal, right, x0=start, tol=1e-4, maxiter=iterations)[0], -1, 1)


def fill_holes(y: Float[Array, "h w c"], known: Float[Array, "h w c"], iterations: int = 200) -> Float[Array, "h w c"]:
    """Fills the entries that are not known such that the sum of squared Laplacians is least.

    Args:
        y: the image; what it holds at unknown entries plays no part.
        known: 1 where an entry is known, 0 elsewhere.
        iterations: of conjugate gradients, at most.
    """
    hidden = 1 - known
    bend = lambda x: laplacian(laplacian(x))
    start = hidden * _fill_coarsely(known * y, known)
    filled, _ = cg(
        lambda u: hidden * bend(hidden * u), -hidden * bend(known * y), x0=start, tol=1e-4, maxiter=iterations
    )
    return known * y + hidden * jnp.clip(filled, -1, 1)


def laplacian(x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Returns the sum of differences to the four neighbours, with none beyond the edges; symmetric, not positive."""
    down, right = jnp.diff(x, axis=0), jnp.diff(x, axis=1)
    return (
        jnp.pad(down, ((0, 1), (0, 0), (0, 0)))
        - jnp.pad(down, ((1, 0), (0, 0), (0, 0)))
        + jnp.pad(right, ((0, 0), (0, 1), (0, 0)))
        - jnp.pad(right, ((0, 0), (1, 0), (0, 0)))
    )


def _fill_coarsely(total: Array, weight: Array) -> Array:
    """Fills what has no weight from means over squares of twice the side, and so on."""
    h, w, c = total.shape
    if max(h, w) == 1:
        return total / jnp.maximum(weight, 1e-6)
    pad = ((0, h % 2), (0, w % 2), (0, 0))
    halve = lambda a: jnp.pad(a, pad).reshape((h + 1) // 2, 2, (w + 1) // 2, 2, c).sum((1, 3))
    coarse = _fill_coarsely(halve(total), halve(weight))
    fine = jax.image.resize(coarse, (2 * coarse.shape[0], 2 * coarse.shape[1], c), "linear")[:h, :w]
    return jnp.where(weight > 0, total / jnp.maximum(weight, 1e-6), fine)
