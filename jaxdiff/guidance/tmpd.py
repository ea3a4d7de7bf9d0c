"""Tweedie moment projected diffusion: the covariance that the network implies, by the sums of its rows."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdiff.guidance.base import Guidance
from jaxdiff.measurement import Measurement
from jaxdiff.operators import adjoint
from jaxdiff.priors.denoiser import Prior, Time
from jaxdiff.priors.tweedie import Product
from jaxdiff.pytree import pytree


@pytree
class TMPD(Guidance):
    r"""The estimate moved towards the data; the matrix to invert is replaced by its row sums.

    .. math::
        \hat x_0^y = \hat x_0 + V A^\top \frac{y - A \hat x_0}{\sigma_y^2 + A V A^\top \mathbf 1}, \qquad
        V = \frac{\sigma_t^2}{\alpha_t} \left(\frac{\partial \hat x_0}{\partial x_t}\right)^{\!\top}

    Args:
        prior: the prior.
        measurement: of a linear operator, with noise.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape.

    Deviations:
        A row sum below zero counts as zero. Real and imaginary parts of a complex measurement are rows of their own.
        Nothing is clipped inside the Jacobian; the moved estimate is, where the denoiser clips.

    References:
        Boys et al., 2023, https://arxiv.org/abs/2310.06721, section 3 (the row sum is the projection of its code).
    """

    prior: Prior
    measurement: Measurement

    def move(self, x0_hat: Float[Array, "h w c"], covariance: Product, t: Time) -> Float[Array, "h w c"]:
        """Divides the residual by the row sums of its covariance."""
        operator, variance = self.measurement.operator, self.measurement.variance(x0_hat)
        back, residual = adjoint(operator, x0_hat), self.measurement.residual(x0_hat)
        divide = lambda part, row_sums: part / (jnp.maximum(row_sums, 0.0) + variance)
        if jnp.iscomplexobj(residual):
            row_sums = operator(covariance(back(jnp.full_like(residual, 1 + 1j))))
            u = lax.complex(divide(residual.real, row_sums.real), divide(residual.imag, row_sums.imag))
        else:
            u = divide(residual, operator(covariance(back(jnp.ones_like(residual)))))
        return x0_hat + covariance(back(u))
