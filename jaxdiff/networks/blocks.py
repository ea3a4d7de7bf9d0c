"""Blocks of pixels as channels and back, and the padding that makes a picture a whole number of blocks."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def space_to_depth(x: Float[Array, "n h w c"], size: int) -> Float[Array, "n h2 w2 d"]:
    """Turns blocks of `size x size` pixels into channels, one colour after the other, as PyTorch does."""
    n, h, w, c = x.shape
    blocks = x.reshape(n, h // size, size, w // size, size, c)
    return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // size, w // size, c * size**2)


def depth_to_space(x: Float[Array, "n h w d"], size: int) -> Float[Array, "n h2 w2 c"]:
    """Turns channels into blocks of `size x size` pixels; the inverse of `space_to_depth`."""
    n, h, w, d = x.shape
    blocks = x.reshape(n, h, w, d // size**2, size, size)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(n, h * size, w * size, d // size**2)


def pad_to_multiple(x: Float[Array, "*n h w c"], multiple: int) -> Float[Array, "*n h2 w2 c"]:
    """Continues images by their mirror image, below and to the right, to sides that are multiples of a number."""
    below, right = (-side % multiple for side in x.shape[-3:-1])
    if not below and not right:
        return x
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(0, below), (0, right), (0, 0)], mode="symmetric")
