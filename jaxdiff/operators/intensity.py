"""Pixel by pixel: what a sensor makes of an intensity."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Num

from jaxdiff.pytree import Number, pytree


@pytree
class HighDynamicRange:
    r"""An overexposed picture, from which all intensities are wanted: `A(x) = clip(factor x, -1, 1)`.

    The derivative is `factor` within the range and 0 outside of it: rules with gradients learn nothing from a pixel
    whose estimate is clipped, not even that the data are not.

    Args:
        factor: positive; 2 in DAPS.

    Raises:
        ValueError: if `factor` is not positive and finite.

    References:
        Zhang et al., 2024, https://arxiv.org/abs/2407.01521 (DAPS), high dynamic range reconstruction.
    """

    factor: Number = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.factor, Tracer) and not 0 < self.factor < float("inf"):
            raise ValueError(f"`factor` must be positive and finite, got {self.factor}.")

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Multiplies and clips."""
        x = x.astype(jnp.result_type(x, float))
        return jnp.clip(jnp.asarray(self.factor, x.dtype) * x, -1, 1)

    def project(self, x: Float[Array, "h w c"], y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns the image nearest to `x` that is measured as `y`: clipped pixels are beyond the range."""
        least = y / self.factor
        return jnp.where(y >= 1, jnp.maximum(x, least), jnp.where(y <= -1, jnp.minimum(x, least), least))


@pytree
class Quantisation:
    r"""A picture of few levels, as of few bits: every value becomes the nearest of the levels.

    .. math:: A(x) = \Delta\, \mathrm{round}\!\left( \frac{\mathrm{clip}(x) + 1}{\Delta} \right) - 1, \qquad
              \Delta = \frac{2}{\text{levels} - 1}

    The derivative of rounding is taken for one (straight-through), so that rules with gradients work; that of clipping
    to [-1, 1] is 0 outside.

    Args:
        levels: at least 2, black and white among them; `2^b` for `b` bits.

    Raises:
        ValueError: if `levels` is below 2.
    """

    levels: int | Int[Array, ""]

    def __post_init__(self) -> None:
        if not isinstance(self.levels, Tracer) and not np.all(np.asarray(self.levels) >= 2):
            raise ValueError(f"`levels` must be at least 2, got {self.levels}.")

    def __call__(self, x: Num[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Rounds to the nearest level."""
        kept = jnp.clip(x.astype(jnp.result_type(x, float)), -1, 1)
        step = jnp.asarray(2 / (self.levels - 1), kept.dtype)
        return kept + lax.stop_gradient(step * jnp.round((kept + 1) / step) - 1 - kept)

    def project(self, x: Float[Array, "h w c"], y: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns the image nearest to `x` that is measured as `y`, the levels nearest to it if there is noise.

        It lies within half a step of them, less a thousandth, so that it is rounded to them again; values beyond black
        and white are measured as these.
        """
        level, half = self(y), 0.499 * 2 / (self.levels - 1)
        lowest = jnp.where(level - half < -1, -jnp.inf, level - half)
        highest = jnp.where(level + half > 1, jnp.inf, level + half)
        return jnp.clip(x, lowest, highest)
