"""Denoising diffusion null-space models: the data take the place of what the estimate says about them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.guidance.base import EstimateGuidance
from jaxdiff.measurement import Measurement
from jaxdiff.operators import pinv
from jaxdiff.priors.denoiser import Prior, Time
from jaxdiff.pytree import pytree


@pytree
class DDNM(EstimateGuidance):
    r"""The estimate with its part in the range of `A^+` replaced by the data's; its null-space part is the prior's.

    .. math::
        \hat x_0^y = \hat x_0 + \lambda_t A^+ (y - A \hat x_0), \qquad
        \lambda_t = \min\!\left(1, \frac{\sigma_t}{\alpha_t \sigma_y}\right)

    Without noise `lambda_t` is 1 (DDNM). With Gaussian noise (DDNM+) it falls below 1 where the data's noise would
    exceed that of `x_t`. An operator with a `project(x, y)` of its own, the nearest image that measures as `y`, is
    asked for that instead; it need not be linear then.

    A step costs one network call, forward only.

    Args:
        prior: the prior.
        measurement: of an operator that is linear or has a `project`, with Gaussian noise.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, or the noise is not Gaussian.

    Deviations:
        DDNM+ takes `lambda` of the next time, and the noise of `y` off the fresh noise of a step. A guided prior knows
        neither; `DiffPIR` weighs noisy data better. The published code takes `alpha_bar` where the paper has its root.

    References:
        Wang et al., 2022, https://arxiv.org/abs/2212.00490, equations 13, 17 and 19.
    """

    prior: Prior
    measurement: Measurement

    def __post_init__(self) -> None:
        if hasattr(self.measurement.operator, "project"):
            self.measurement.check(self.image_shape)
            _ = self.measurement.sigma_y  # refuses noise that is not Gaussian
        else:
            super().__post_init__()

    def move(self, x0_hat: Float[Array, "h w c"], t: Time) -> Float[Array, "h w c"]:
        """Replaces what the data know."""
        operator, sigma_y = self.measurement.operator, jnp.asarray(self.measurement.sigma_y)
        project = getattr(operator, "project", None)
        if project is not None:
            return project(x0_hat, self.measurement.y)
        alpha_t, sigma_t = self.schedule(t)
        weight = jnp.where(sigma_y * alpha_t > sigma_t, sigma_t / jnp.maximum(alpha_t * sigma_y, 1e-12), 1.0)
        return x0_hat + weight * pinv(operator, x0_hat)(self.measurement.residual(x0_hat))
