"""Operators one after another, and side by side."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num, Shaped

from jaxdiff.operators.base import Operator, observed
from jaxdiff.pytree import as_pytree, pytree, static


@pytree
class Composition:
    """What `outer` measures of what `inner` makes of the image: `A(x) = outer(inner(x))`.

    Linear if both are; adjoint and pseudo-inverse follow as for any operator. A blur before a reduction is a camera's
    upscaling problem; before `Grey`, an old photograph's.

    Args:
        outer: applied second; its `observed` is that of the whole.
        inner: applied first; gives an image.
    """

    outer: Operator
    inner: Operator

    def __init__(self, outer: Operator, inner: Operator):
        for name, value in (("outer", outer), ("inner", inner)):
            object.__setattr__(self, name, as_pytree(value))

    def __call__(self, x: Num[Array, "h w c"]) -> Any:
        """Applies both."""
        return self.outer(self.inner(x))

    def observed(self, y: Array) -> Array:
        """Returns what the outer operator observes."""
        return observed(self.outer, y)


@pytree
class Stack:
    """Several measurements of one image, end to end in one vector: `A(x) = (A_1(x), A_2(x), ...)`.

    Linear if all are; adjoint and pseudo-inverse follow as for any operator. One number for the noise is the level of
    all; `HeteroscedasticNoise(stack.join(levels))` has others for each.

    Args:
        operators: at least one; their measurements all real or all complex.
        image_shape: `(h, w, c)`, which decides where in the vector a measurement lies.

    Raises:
        ValueError: if there is no operator, or some measurements are complex and others real.
    """

    operators: tuple[Operator, ...]
    shapes: tuple[tuple[int, ...], ...] = static()

    def __init__(self, operators: Sequence[Operator], image_shape: tuple[int, int, int]):
        if not operators:
            raise ValueError("a stack needs at least one operator.")
        parts = tuple(as_pytree(operator) for operator in operators)
        x_like = jax.ShapeDtypeStruct(image_shape, jnp.float32)
        measured = [jax.eval_shape(part, x_like) for part in parts]
        if len({jnp.issubdtype(y.dtype, jnp.complexfloating) for y in measured}) > 1:
            raise ValueError(
                "some measurements of the stack are complex and others real; split the complex into parts."
            )
        object.__setattr__(self, "operators", parts)
        object.__setattr__(self, "shapes", tuple(y.shape for y in measured))

    def __call__(self, x: Num[Array, "h w c"]) -> Shaped[Array, " m"]:
        """Measures the image by every operator."""
        return jnp.concatenate([operator(x).reshape(-1) for operator in self.operators])

    def observed(self, y: Shaped[Array, " m"]) -> Shaped[Array, " m"]:
        """Returns what every operator observes."""
        return self.join([observed(*pair) for pair in zip(self.operators, self.split(y), strict=True)])

    def split(self, y: Shaped[Array, " m"]) -> list[Array]:
        """Returns the measurement of every operator, in its shape."""
        ends = list(accumulate(map(math.prod, self.shapes)))
        return [part.reshape(shape) for part, shape in zip(jnp.split(y, ends[:-1]), self.shapes, strict=True)]

    def join(self, parts: Sequence[Any]) -> Shaped[Array, " m"]:
        """Returns the vector of what belongs to the measurements; numbers are repeated over theirs."""
        return jnp.concatenate(
            [jnp.broadcast_to(part, shape).reshape(-1) for part, shape in zip(parts, self.shapes, strict=True)]
        )
