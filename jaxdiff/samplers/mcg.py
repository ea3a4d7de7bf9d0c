"""Manifold constrained gradients: a gradient step, then a projection onto what was measured."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.operators import pinv
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree
from jaxdiff.samplers.base import ImageSampler, divide, guided_step, residual_gradient


@pytree
class MCG(ImageSampler):
    r"""`DPSNorm`, with what the data say of an image put in the place of what the image says.

    .. math::
        x' = \mathrm{DDPM}(x_t) - \zeta\, \nabla_{x_t} \lVert y - A \hat x_0(x_t) \rVert, \qquad
        x_s = x' + A^+ (y_s - A x'), \quad y_s = \alpha_s y + \sigma_s A z

    For a mask: hidden pixels of `x'`, known ones of the noised measurement. The sample has the data exactly, with their
    noise, so that this is for measurements without any. Where time rises, the step is `renoise`.

    A step costs one network call, forward and backward, and one pseudo-inverse, which is by conjugate gradients where
    the operator has none of its own.

    Args:
        prior: the prior.
        measurement: of a linear operator; its noise plays no part.
        zeta: step size of the gradient; 0 leaves the projection alone. The paper's step, 0.1 times the gradient of the
            squared norm over the norm, is 0.2.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, or the operator not linear.

    Deviations:
        The projection is the paper's. That of the DPS code, `(I - A^T A) y_s - A x'`, has both parts exchanged. The
        gradient is not weighed by a pseudo-inverse, which for masks is the same.

    References:
        Chung et al., 2022, https://arxiv.org/abs/2206.00941, equations 14 and 15.
    """

    prior: Prior
    measurement: Measurement
    zeta: Number

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape, linear=True)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step, one against the gradient, and projects."""
        schedule, operator, y = self.prior.schedule, self.measurement.operator, self.measurement.y
        squared, gradient, prediction = residual_gradient(self.prior, self.measurement, x_t, t)
        x_s = guided_step(schedule, key, x_t, prediction, -self.zeta / 2 * divide(gradient, squared), t, s)
        alpha_s, sigma_s = schedule(s)
        noise = sigma_s * jax.random.normal(jax.random.fold_in(key, 1), x_t.shape)
        projected = x_s + pinv(operator, x_t)(alpha_s * y + operator(noise - x_s))
        return jnp.where(jnp.asarray(s) < t, projected, x_s), prediction
