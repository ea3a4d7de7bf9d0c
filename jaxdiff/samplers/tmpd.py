"""Tweedie moment projected diffusion: the covariance that the network implies, by the sums of its rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.denoiser import Prediction, Prior, bound, tweedie
from jaxdiff.pytree import pytree
from jaxdiff.sampling import Time, ancestral_step, check_measurement, perturb


@pytree
class TMPD:
    r"""DDPM's step with an estimate moved towards the data; the matrix to invert is replaced by its row sums.

    .. math::
        \hat x_0^y = \hat x_0 + V A^\top \frac{y - A \hat x_0}{\sigma_y^2 + A V A^\top \mathbf 1}, \qquad
        V = \frac{\sigma_t^2}{\alpha_t} \left(\frac{\partial \hat x_0}{\partial x_t}\right)^{\!\top}

    Args:
        denoiser: the prior.
        operator: the forward model `A`, linear.
        y: the measurement.
        sigma_y: standard deviation of its noise, in [-1, 1] units; positive.

    Raises:
        ValueError: if `y` does not have the shape that `operator` gives.

    Deviations:
        A row sum below zero counts as zero. Nothing is clipped inside the Jacobian; the moved estimate is, where the
        denoiser clips.

    References:
        Boys et al., 2023, https://arxiv.org/abs/2310.06721, section 3 (the row sum is the projection of its code).
    """

    denoiser: Prior
    operator: Callable[[Array], Array]
    y: Float[Array, "..."]
    sigma_y: float

    def __post_init__(self) -> None:
        check_measurement(self.operator, self.y, self.denoiser.image_shape)

    def init(self, key: PRNGKeyArray, t: Time) -> Float[Array, "h w c"]:
        """Draws noise of the level of time `t`."""
        return perturb(self.denoiser.schedule, key, jnp.zeros(self.denoiser.image_shape), t)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step from the moved estimate."""
        prediction, covariance = tweedie(self.denoiser, x_t, t)
        adjoint = jax.linear_transpose(self.operator, x_t)
        row_sums = self.operator(covariance(*adjoint(jnp.ones_like(self.y))))
        residual = self.y - self.operator(prediction.x0_hat)
        u = residual / (jnp.maximum(row_sums, 0.0) + self.sigma_y**2)
        moved = bound(self.denoiser, prediction.x0_hat + covariance(*adjoint(u)))
        x_s = ancestral_step(self.denoiser.schedule, key, x_t, prediction._replace(x0_hat=moved), t, s)
        return x_s, prediction._replace(x0_hat=bound(self.denoiser, prediction.x0_hat))
