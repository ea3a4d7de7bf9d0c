"""Pseudo-inverse-guided diffusion: the posterior of every step as if the prior had one variance."""

from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from jaxdiff.guidance.base import Guidance
from jaxdiff.measurement import Measurement
from jaxdiff.operators import adjoint
from jaxdiff.priors.denoiser import Prior, Time
from jaxdiff.priors.tweedie import Product
from jaxdiff.pytree import Number, pytree, static


@pytree
class PiGDM(Guidance):
    r"""The estimate moved towards the data, the spread of `x0` given `x_t` taken as `r_t^2 I`.

    .. math::
        \hat x_0^y = \hat x_0 + \frac{\sigma_t^2}{\alpha_t} \left(\frac{\partial \hat x_0}{\partial x_t}\right)^{\!\top}
        A^\top \left(r_t^2 A A^\top + \sigma_y^2 I\right)^{-1} (y - A \hat x_0), \qquad
        r_t^2 = \frac{v\, \sigma_t^2}{\alpha_t^2 v + \sigma_t^2}

    Args:
        prior: the prior.
        measurement: of a linear operator, with noise.
        prior_variance: variance `v` of an entry of `x0`; the paper's data have 1, which gives `r_t = sigma_t`.
        iterations: of conjugate gradients, at most; each costs the operator and its adjoint, not the network. A mask
            needs one.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape.

    Deviations:
        The weighting is that of the score: the guidance is added to the score and enters DDPM's step as any score does.
        The authors' code takes a DDIM step and adds the guidance with the weight `alpha_s alpha_t` instead. For the
        published VP formula `r_t^2 = v_t / (v_t + 1)`, with `v_t = sigma_t^2 / alpha_t^2`, see `prior_variance`.
        Nothing is clipped inside the Jacobian; the moved estimate is, where the denoiser clips.

    References:
        Song et al., 2023, "Pseudoinverse-guided diffusion models for inverse problems", equations 7 and 8.
    """

    prior: Prior
    measurement: Measurement
    prior_variance: Number = 1.0
    iterations: int = static(default=20)

    def move(self, x0_hat: Float[Array, "h w c"], covariance: Product, t: Time) -> Float[Array, "h w c"]:
        """Solves for the residual by conjugate gradients."""
        operator, noise = self.measurement.operator, self.measurement.variance(x0_hat)
        back, (alpha_t, sigma_t) = adjoint(operator, x0_hat), self.schedule(t)
        spread = self.prior_variance * sigma_t**2 / (alpha_t**2 * self.prior_variance + sigma_t**2)
        matrix = lambda u: spread * operator(back(u)) + noise * u
        u, _ = cg(matrix, self.measurement.residual(x0_hat), maxiter=self.iterations)
        return x0_hat + covariance(back(u))
