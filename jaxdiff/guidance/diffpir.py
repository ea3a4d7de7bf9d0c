"""Diffusion with plug-and-play image restoration: a proximal step towards the data in place of a gradient."""

import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from jaxdiff.guidance.base import EstimateGuidance
from jaxdiff.measurement import Measurement
from jaxdiff.operators import SpectralOperator, adjoint
from jaxdiff.priors.denoiser import Prior, Time
from jaxdiff.pytree import Number, pytree, static


@pytree
class DiffPIR(EstimateGuidance):
    r"""The image that fits both the data and the estimate best, each weighed by its noise.

    .. math::
        \hat x_0^y = \arg\min_x \lVert y - A x \rVert^2 + \rho_t \lVert x - \hat x_0 \rVert^2, \qquad
        \rho_t = \lambda\, \frac{\sigma_y^2 \alpha_t^2}{\sigma_t^2}

    That is the posterior mean for `x0 ~ N(x0_hat, sigma_t^2 / (lambda alpha_t^2) I)`. Where the operator's singular
    system is known the solution is a formula; otherwise conjugate gradients start at the estimate.

    A step costs one network call, forward only.

    Args:
        prior: the prior.
        measurement: of a linear operator, with Gaussian noise.
        lambda_: weight of the prior; the authors' configurations have 1.
        iterations: of conjugate gradients, at most; each costs the operator and its adjoint.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, or the noise is not Gaussian.

    Deviations:
        The authors' code has `sigma_y` in [0, 1] units beside `sigma_t` in [-1, 1] units, so that its `lambda` acts as
        a quarter of the one here; it leaves the data out of the last step; and it redraws a fixed part `zeta` of the
        noise, where `DDIM` has `eta`. Blurs there are circular, here as the operator says.

    References:
        Zhu et al., 2023, https://arxiv.org/abs/2305.08995, algorithm 1.
    """

    prior: Prior
    measurement: Measurement
    lambda_: Number = 1.0
    iterations: int = static(default=10)

    def move(self, x0_hat: Float[Array, "h w c"], t: Time) -> Float[Array, "h w c"]:
        """Takes the proximal step."""
        operator, y, sigma_y = self.measurement.operator, self.measurement.y, self.measurement.sigma_y
        alpha_t, sigma_t = self.schedule(t)
        rho = self.lambda_ * (sigma_y * alpha_t / sigma_t) ** 2
        if isinstance(operator, SpectralOperator):
            h, w, c = x0_hat.shape
            values, z = operator.singular_values((h, w, c)), operator.to_spectrum(x0_hat)
            weight = values / jnp.maximum(values**2 + rho, 1e-12)
            return x0_hat + operator.from_spectrum(weight * (operator.data_spectrum(y) - values * z))
        transpose = adjoint(operator, x0_hat)
        step, _ = cg(
            lambda x: transpose(operator(x)) + rho * x,
            transpose(self.measurement.residual(x0_hat)),
            maxiter=self.iterations,
        )
        return x0_hat + step
