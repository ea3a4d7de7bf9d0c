"""A 2-d convolution whose backward pass is written as ordinary convolutions.

XLA on CPUs runs the transposed convolution that JAX derives for the input gradient many times slower inside a
loop body (`lax.scan`) than outside it: its swapped kernel labels keep it away from the fast library.
The same gradient, stated as a plain convolution with a flipped kernel, has no such penalty on any backend.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

_LABELS = ("NHWC", "HWIO", "NHWC")


def _plain(x: Array, kernel: Array, stride: int, precision: lax.Precision | None, after_only: bool = False) -> Array:
    # PyTorch pads both sides by k // 2 whatever the stride; "SAME" would not for stride 2.
    padding = [(0 if after_only else k // 2, k // 2) for k in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_LABELS, precision=precision
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _same(x: Array, kernel: Array, precision: lax.Precision | None) -> Array:
    return _plain(x, kernel, 1, precision)


def _same_forward(x: Array, kernel: Array, precision: lax.Precision | None) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, 1, precision), (x, kernel)


@partial(jax.jit, static_argnums=0)
def _same_backward(
    precision: lax.Precision | None, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    # Without the barrier XLA would fold the flip into the convolution, which then is not an ordinary one any more.
    flipped = lax.optimization_barrier(lax.rev(kernel, (0, 1)).swapaxes(2, 3))
    (kernel_gradient,) = jax.linear_transpose(lambda k: _plain(x, k, 1, precision), kernel)(gradient)
    return _plain(gradient, flipped, 1, precision), kernel_gradient


_same.defvjp(_same_forward, _same_backward)


def conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw c d"],
    stride: int = 1,
    precision: lax.Precision | None = None,
    after_only: bool = False,
) -> Float[Array, "n h2 w2 d"]:
    """Cross-correlates a batch with a kernel of odd size, zero-padded by half the kernel size.

    Equal to `lax.conv_general_dilated` in value and in both gradients; only the way it is stated differs, and only for
    `stride = 1`: the input gradient as above, and a kernel of size one as a matrix product.

    Args:
        x: the batch.
        kernel: of odd size.
        stride: 1 or 2.
        precision: of the products, forwards and backwards; the device's default if None.
        after_only: for `stride = 2`, pad below and to the right alone.

    Raises:
        ValueError: if a kernel side is even.
    """
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"`kernel` must have odd sides, got {kernel.shape[:2]}.")
    if stride != 1:
        return _plain(x, kernel, stride, precision, after_only)
    if kernel.shape[:2] == (1, 1):
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), precision=precision)
    return _same(x, kernel, precision)


class Conv(nnx.Module):
    """A convolution of odd size with zero padding of half that size, with bias; see `conv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int = 3,
        *,
        stride: int = 1,
        after_only: bool = False,
        zero: bool = False,
        dtype: Any,
        precision: jax.lax.Precision,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.zeros if zero else nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels))
        self.stride = stride
        self.after_only = after_only
        self.dtype = dtype
        self.precision = precision

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Convolves a batch."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        x = x.astype(self.dtype)
        return conv2d(x, kernel, self.stride, self.precision, self.after_only) + bias[None, None, None]
