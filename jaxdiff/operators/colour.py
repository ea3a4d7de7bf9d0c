"""Operators on the colours of a pixel."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Num

from jaxdiff.pytree import pytree


@pytree
class Grey:
    r"""The grey picture of a coloured one (colourisation): every pixel's weighted sum of its colours.

    `A A^T` is :math:`\lVert w \rVert^2` times the identity. The right singular vectors of a pixel are its half turn
    that exchanges the first colour and the direction of the weights.

    Args:
        weights: of the colours, not negative. The default is the luma of Rec. 601, that of Pillow, OpenCV and grey
            photographs; the DDRM and DDNM papers take the mean, `(1/3, 1/3, 1/3)`. With a sum of one, white is white.

    Raises:
        ValueError: if a weight is negative or not finite, or all are zero.
    """

    weights: Float[Array | np.ndarray, " c"]

    def __init__(self, weights: Float[Array | np.ndarray, " c"] | tuple[float, ...] = (0.299, 0.587, 0.114)):
        if not isinstance(weights, Tracer):
            known = np.asarray(weights)
            if known.ndim != 1 or not np.isfinite(known).all() or (known < 0).any() or not known.any():
                raise ValueError(f"`weights` must be one for each colour, not negative, not all zero; got {weights}.")
        object.__setattr__(self, "weights", jnp.asarray(weights, jnp.float32))

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "h w 1"]:
        """Sums the weighted colours."""
        x = x.astype(jnp.result_type(x, float))
        return jnp.sum(x * self._known(x), -1, keepdims=True)

    def pinv(self, y: Float[Array, "h w 1"]) -> Float[Array, "h w c"]:
        """Returns the picture of the smallest norm, `w y / |w|^2`; grey itself where the weights are equal."""
        weights = self._known(y)
        return y * weights / jnp.sum(weights**2)

    def singular_values(self, image_shape: tuple[int, int, int]) -> Float[Array, "h w c"]:
        """Returns `|w|` for the grey of a pixel and 0 for the rest of it."""
        return jnp.zeros(image_shape).at[..., 0].set(jnp.linalg.norm(self.weights))

    def to_spectrum(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns the half turns of all pixels."""
        direction = self._known(x)
        axis = (direction / jnp.linalg.norm(direction)).at[0].add(1)
        return jnp.sum(x * axis, -1, keepdims=True) * axis / axis[0] - x

    def from_spectrum(self, z: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Turns all pixels back."""
        return self.to_spectrum(z)

    def data_spectrum(self, y: Float[Array, "h w 1"]) -> Float[Array, "h w c"]:
        """Returns `y` as the first entries of the pixels."""
        return jnp.pad(y, ((0, 0), (0, 0), (0, len(self.weights) - 1)))

    def _known(self, like: Array) -> Float[Array, " c"]:
        return jnp.asarray(self.weights).astype(like.dtype)
