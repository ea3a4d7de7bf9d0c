"""The precision of a network: three names, and what each means for a product."""

from typing import Any, Literal, get_args

import jax.numpy as jnp
from jax import lax

Dtype = Literal["float32", "tf32", "bfloat16"]
"""Precision of convolutions and matrix products; weights, norms, softmax, tables and chains are always float32.

- `float32`: full float32, also on devices whose own default is less.
- `tf32`: float32 numbers, multiplied in the device's default precision: 10 bits on NVIDIA GPUs since Ampere, 7 bits
  (bfloat16) on TPUs; on CPUs the same as `float32`.
- `bfloat16`: numbers rounded to bfloat16 before each product. Slower than `float32` on most CPUs.
"""


def arithmetic(dtype: Dtype) -> dict[str, Any]:
    """Returns what layers take as `dtype` and `precision`.

    Raises:
        ValueError: if the name is unknown.
    """
    if dtype not in get_args(Dtype):
        raise ValueError(f"`dtype` must be float32, tf32 or bfloat16, got {dtype!r}.")
    numbers = jnp.bfloat16 if dtype == "bfloat16" else jnp.float32
    return {"dtype": numbers, "precision": lax.Precision.HIGHEST if dtype == "float32" else lax.Precision.DEFAULT}
