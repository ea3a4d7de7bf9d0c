"""Operators one after another."""

from typing import Any

from jaxtyping import Array, Num

from jaxdiff.operators.base import Operator, observed
from jaxdiff.pytree import as_pytree, pytree


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
