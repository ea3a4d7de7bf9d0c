"""Moment matching posterior sampling: the posterior of every step with the covariance that the network implies."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.denoiser import Prediction, Prior, bound, tweedie
from jaxdiff.pytree import pytree, static
from jaxdiff.sampling import Time, ancestral_step, check_measurement, perturb


@pytree
class MMPS:
    r"""DDPM's step with an estimate moved towards the data, by Tweedie's covariance `V` of `x0` given `x_t`.

    .. math::
        \hat x_0^y = \hat x_0 + V A^\top \left(A V A^\top + \sigma_y^2 I\right)^{-1} (y - A \hat x_0), \qquad
        V = \frac{\sigma_t^2}{\alpha_t} \left(\frac{\partial \hat x_0}{\partial x_t}\right)^{\!\top}

    Exact in the limit of many steps for a Gaussian prior and a linear operator. There is no step size to tune.

    Args:
        denoiser: the prior.
        operator: the forward model `A`, linear.
        y: the measurement.
        sigma_y: standard deviation of its noise, in [-1, 1] units; positive.
        iterations: of conjugate gradients; each costs a vector-Jacobian product of the network, and there are two more.

    Raises:
        ValueError: if `y` does not have the shape that `operator` gives.

    Deviations:
        Conjugate gradients, although a network's Jacobian is not quite symmetric: on the shipped prior GMRES gave no
        better images in as many iterations. Nothing is clipped inside the Jacobian; the moved estimate is, where the
        denoiser clips.

    References:
        Rozet et al., 2024, https://arxiv.org/abs/2405.13712, section 4.
    """

    denoiser: Prior
    operator: Callable[[Array], Array]
    y: Float[Array, "..."]
    sigma_y: float
    iterations: int = static(default=3)

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
        matrix = lambda u: self.operator(covariance(*adjoint(u))) + self.sigma_y**2 * u
        residual = self.y - self.operator(prediction.x0_hat)
        u, _ = cg(matrix, residual, maxiter=self.iterations)
        moved = bound(self.denoiser, prediction.x0_hat + covariance(*adjoint(u)))
        x_s = ancestral_step(self.denoiser.schedule, key, x_t, prediction._replace(x0_hat=moved), t, s)
        return x_s, prediction._replace(x0_hat=bound(self.denoiser, prediction.x0_hat))
