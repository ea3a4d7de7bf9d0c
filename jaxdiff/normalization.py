"""The standardisation inside a group norm, with sums that are fast where XLA's own are slow.

A sum over pixels is a sum down columns here, channels being last. XLA on CPUs fuses it with whatever made its input,
and then walks the columns slowly; as a product with a row of ones it is left to the library for matrix products.
The backward pass is written out so that its sums are such products too, and keeps one array instead of two.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

_EPSILON = 1e-5


def _product_with_ones(x: Array) -> Array:
    ones = jnp.ones((x.shape[0], x.shape[1]), x.dtype)
    return lax.dot_general(ones, x, (((1,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST)


@custom_vmap
def _sums(x: Array) -> Array:
    return lax.platform_dependent(x, cpu=_product_with_ones, default=lambda x: x.sum(1))


@_sums.def_vmap
def _sums_of_batches(axis_size: int, in_batched: list[bool], x: Array) -> tuple[Array, bool]:
    # A batch of batches is one batch; JAX by itself would keep the ones unbatched, and move the axes of `x` for that.
    return _sums(x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:2], -1), True


def _group_means(x: Array, groups: int) -> Array:
    """Means over pixels and the channels of a group, `(n, 1, c)`, the same in all channels of a group."""
    n, pixels, channels = x.shape
    means = _sums(x).reshape(n, groups, -1).mean(-1, keepdims=True) / pixels
    return jnp.repeat(means[..., 0], channels // groups, axis=1)[:, None]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _standardize(x: Array, groups: int) -> Array:
    return _forward(x, groups)[0]


def _forward(x: Array, groups: int) -> tuple[Array, tuple[Array, Array]]:
    centred = x - _group_means(x, groups)
    scale = lax.rsqrt(_group_means(jnp.square(centred), groups) + _EPSILON)
    z = centred * scale
    return z, (z, scale)


def _backward(groups: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    z, scale = residuals
    return ((gradient - _group_means(gradient, groups) - z * _group_means(gradient * z, groups)) * scale,)


_standardize.defvjp(_forward, _backward)


def standardize(x: Float[Array, "n pixels c"], groups: int) -> Float[Array, "n pixels c"]:
    r"""Shifts and scales every group of channels of every image to mean 0 and variance 1.

    .. math:: z = (x - \bar x) / \sqrt{\mathrm{Var}[x] + 10^{-5}}, \qquad
        g_x = (g_z - \overline{g_z} - z\, \overline{g_z z}) / \sqrt{\mathrm{Var}[x] + 10^{-5}}

    Args:
        x: in float32.
        groups: number of groups, which divides `c`.
    """
    return _standardize(x, groups)
