"""Pseudo-inverse-guided diffusion: the posterior of every step as if the prior had one variance."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.denoiser import Prediction, Prior, bound, tweedie
from jaxdiff.pytree import pytree, static
from jaxdiff.sampling import Time, ancestral_step, check_measurement, perturb


@pytree
class PiGDM:
    r"""DDPM's step with an estimate moved towards the data, the spread of `x0` given `x_t` taken as `r_t^2 I`.

    .. math::
        \hat x_0^y = \hat x_0 + \frac{\sigma_t^2}{\alpha_t} \left(\frac{\partial \hat x_0}{\partial x_t}\right)^{\!\top}
        A^\top \left(r_t^2 A A^\top + \sigma_y^2 I\right)^{-1} (y - A \hat x_0), \qquad
        r_t^2 = \frac{v\, \sigma_t^2}{\alpha_t^2 v + \sigma_t^2}

    Args:
        denoiser: the prior.
        operator: the forward model `A`, linear.
        y: the measurement.
        sigma_y: standard deviation of its noise, in [-1, 1] units; positive.
        prior_variance: variance `v` of an entry of `x0`; the paper's data have 1, which gives `r_t = sigma_t`.
        iterations: of conjugate gradients, at most; each costs the operator and its adjoint, not the network. A mask
            needs one.

    Raises:
        ValueError: if `y` does not have the shape that `operator` gives.

    Deviations:
        The weighting is that of the score: the guidance is added to the score and enters DDPM's step as any score does.
        The authors' code takes a DDIM step and adds the guidance with the weight `alpha_s alpha_t` instead. For the
        published VP formula `r_t^2 = v_t / (v_t + 1)`, with `v_t = sigma_t^2 / alpha_t^2`, see `prior_variance`.
        Nothing is clipped inside the Jacobian; the moved estimate is, where the denoiser clips.

    References:
        Song et al., 2023, "Pseudoinverse-guided diffusion models for inverse problems", equations 7 and 8.
    """

    denoiser: Prior
    operator: Callable[[Array], Array]
    y: Float[Array, "..."]
    sigma_y: float
    prior_variance: float = 1.0
    iterations: int = static(default=20)

    def __post_init__(self) -> None:
        check_measurement(self.operator, self.y, self.denoiser.image_shape)

    def init(self, key: PRNGKeyArray, t: Time) -> Float[Array, "h w c"]:
        """Draws noise of the level of time `t`."""
        return perturb(self.denoiser.schedule, key, jnp.zeros(self.denoiser.image_shape), t)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step from the moved estimate."""
        schedule = self.denoiser.schedule
        prediction, covariance = tweedie(self.denoiser, x_t, t)
        adjoint = jax.linear_transpose(self.operator, x_t)
        alpha_t, sigma_t = schedule(t)
        spread = self.prior_variance * sigma_t**2 / (alpha_t**2 * self.prior_variance + sigma_t**2)
        matrix = lambda u: spread * self.operator(*adjoint(u)) + self.sigma_y**2 * u
        u, _ = cg(matrix, self.y - self.operator(prediction.x0_hat), maxiter=self.iterations)
        moved = bound(self.denoiser, prediction.x0_hat + covariance(*adjoint(u)))
        x_s = ancestral_step(schedule, key, x_t, prediction._replace(x0_hat=moved), t, s)
        return x_s, prediction._replace(x0_hat=bound(self.denoiser, prediction.x0_hat))
