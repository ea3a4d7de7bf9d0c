"""A group norm with its affine map and its SiLU as one function, in few passes over memory.

JAX's own derivative keeps three arrays of the input's size; this one keeps the input, and computes the rest again.

On CPUs a pass over memory costs more than its arithmetic, and three things make XLA run more of them than are needed:
it fuses a sum with all that made its input, and then walks down the columns slowly (channels are last, so a sum over
pixels is one down columns); it looks a group's mean up again for every pixel; and it computes a cheap array anew for
every reader. So sums and means are stated as matrix products, and SiLU's gradient, which has three readers, ends in a
division of two large arrays, which XLA takes for too expensive to repeat.
"""

from functools import partial, reduce
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

_SLICES = 16
_SATURATION = 30.0


def _product_with_ones(x: Array) -> Array:
    # A sum of slices is one pass that writes little, also where `x` itself is yet to be computed.
    folded = reduce(jnp.add, jnp.split(x, gcd(x.shape[1], _SLICES), axis=1))
    ones = jnp.ones(folded.shape[:2], x.dtype)
    return lax.dot_general(ones, folded, (((1,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST)


@custom_vmap
def _sums_anew(x: Array) -> Array:
    return lax.platform_dependent(x, cpu=_product_with_ones, default=lambda x: x.sum(1))


# Traced once per shape, for all four sums of a group norm.
_jitted_sums = jax.jit(_sums_anew)


@jax.custom_jvp
def _sums(x: Array) -> Array:
    """Sums over pixels; second derivatives need a plain derivative, as a rule for batches cannot be transposed."""
    return _jitted_sums(x)


_sums.defjvp(lambda primals, tangents: (_sums(*primals), tangents[0].sum(1)))


@_sums_anew.def_vmap
def _sums_of_batches(axis_size: int, in_batched: list[bool], x: Array) -> tuple[Array, bool]:
    # A batch of batches is one batch; JAX by itself would keep the ones unbatched, and move the axes of `x` for that.
    return _jitted_sums(x.reshape(-1, *x.shape[2:])).reshape(*x.shape[:2], -1), True


def _product_with_means(sums: Array, pixels: int) -> Array:
    size = sums.shape[-1]
    average = jnp.full((size, size), 1 / (pixels * size), sums.dtype)
    return jnp.matmul(sums, average, precision=lax.Precision.HIGHEST)


def _repeated_means(sums: Array, pixels: int) -> Array:
    return jnp.broadcast_to(sums.mean(-1, keepdims=True) / pixels, sums.shape)


@partial(jax.jit, static_argnums=(1, 2))
def _group_means(sums: Array, pixels: int, groups: int) -> Array:
    """Means over pixels and the channels of a group, `(n, 1, c)`, the same in all channels of a group."""
    n, channels = sums.shape
    means = lax.platform_dependent(
        sums.reshape(n, groups, -1),
        cpu=partial(_product_with_means, pixels=pixels),
        default=partial(_repeated_means, pixels=pixels),
    )
    return means.reshape(n, 1, channels)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _group_norm(x: Array, scale: Array, bias: Array, groups: int, silu: bool, epsilon: float) -> Array:
    return _forward(x, scale, bias, groups, silu, epsilon)[0]


@partial(jax.jit, static_argnums=(3, 4, 5))
def _forward(
    x: Array, scale: Array, bias: Array, groups: int, silu: bool, epsilon: float
) -> tuple[Array, tuple[Array, ...]]:
    means = lambda sums: _group_means(sums, x.shape[1], groups)
    full = x.astype(jnp.float32)
    mean = means(_sums(full))
    std = jnp.sqrt(means(_sums(jnp.square(full - mean))) + epsilon)
    y = (full - mean) * (scale / std) + bias
    return jax.nn.silu(y) if silu else y, (x, scale, bias, mean, std)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(
    groups: int, silu: bool, epsilon: float, residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array]:
    x, scale, bias, mean, std = residuals
    means = lambda sums: _group_means(sums, x.shape[1], groups)
    centred = x.astype(jnp.float32) - mean
    if silu:
        y = jnp.clip(centred * (scale / std) + bias, -_SATURATION, _SATURATION)
        e = jnp.exp(-y)
        gradient = gradient * (1 + e + y * e) / jnp.square(1 + e)
    bias_gradient = _sums(gradient)
    scale_gradient = _sums(gradient * centred) / std[:, 0]
    z_mean = means(bias_gradient * scale[:, 0])
    z_slope = means(scale_gradient * scale[:, 0])
    x_gradient = (gradient * scale - z_mean - centred * (z_slope / std)) / std
    return x_gradient.astype(x.dtype), scale_gradient[:, None], bias_gradient[:, None]


_group_norm.defvjp(_forward, _backward)


def group_norm(
    x: Float[Array, "n *space c"],
    scale: Float[Array, "#n c"],
    bias: Float[Array, "#n c"],
    groups: int,
    *,
    silu: bool = False,
    epsilon: float = 1e-5,
) -> Float[Array, "n *space c"]:
    r"""Brings every group of channels of every image to mean 0 and variance 1, then scales and shifts each channel.

    .. math::
        z = (x - \bar x) / \sigma, \qquad \sigma = \sqrt{\mathrm{Var}[x] + \epsilon}, \qquad y = \gamma z + \beta

    and SiLU of it, :math:`y / (1 + e^{-y})`, if asked for. With `g` the gradient in `y`, that in `x` is

    .. math:: (\gamma g - \overline{\gamma g} - z\, \overline{\gamma g z}) / \sigma

    Args:
        x: the images, in any floating-point type.
        scale: :math:`\gamma`, for all images or for each.
        bias: :math:`\beta`, for all images or for each.
        groups: number of groups, which divides `c`.
        silu: whether SiLU follows.
        epsilon: :math:`\epsilon`, what keeps a group of equal values finite; PyTorch's default.

    Returns:
        the result in float32.

    Deviations:
        The derivative of SiLU at `|y| > 30` is that at 30 or -30, which differs by less than `1e-11`.
    """
    n, channels = x.shape[0], x.shape[-1]
    scale, bias = (jnp.broadcast_to(a, (n, channels))[:, None] for a in (scale, bias))
    y: Any = _group_norm(x.reshape(n, -1, channels), scale, bias, groups, silu, epsilon)
    return y.reshape(x.shape)
