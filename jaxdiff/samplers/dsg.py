"""Diffusion with spherical Gaussian constraint: guidance that keeps a step as long as noise would make it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree
from jaxdiff.samplers.base import ImageSampler, ddim_moments, divide, fall_or_renoise, residual_gradient


@pytree
class DSG(ImageSampler):
    r"""The noise of DDPM's step turned towards the data, on the sphere where such noise lies.

    .. math::
        x_s = \mu + \sqrt{n}\, \sigma \frac{d}{\lVert d \rVert}, \qquad
        d = (1 - \rho)\, \sigma z - \rho\, \sqrt{n}\, \sigma \frac{g}{\lVert g \rVert}, \qquad
        g = \nabla_{x_t} \lVert y - A(\hat x_0(x_t)) \rVert^2

    with mean `mu` and standard deviation `sigma` of DDPM's step (`DDIM` with `eta`) and the number `n` of an image's
    values. The step to the clean image has no noise, and is not guided. Where time rises, the step is `renoise`.

    A step costs one network call, forward and backward.

    Args:
        prior: the prior; its variance plays no part.
        measurement: of a differentiable operator; its noise plays no part.
        rho: weight of the data, from 0, noise of a fixed length, to 1, a step as long as that without any noise. It has
            no unit, and goes with neither the size of images nor the number of steps.
        eta: fraction of DDPM's noise, as for `DDIM`.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape.

    Deviations:
        Every step is guided; the authors' code can leave out all but every few. The norms are one image's, not a
        batch's.

    References:
        Yang et al., 2024, https://arxiv.org/abs/2402.03201, algorithm 1.
    """

    prior: Prior
    measurement: Measurement
    rho: Number = 0.2
    eta: Number = 1.0

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one step of the length of DDPM's noise, towards the data."""
        schedule = self.prior.schedule
        _, gradient, prediction = residual_gradient(self.prior, self.measurement, x_t, t)

        def fall(t: Array, s: Array) -> Array:
            mean, std = ddim_moments(schedule, x_t, prediction.x0_hat, t, s, self.eta)
            radius, drawn = jnp.sqrt(x_t.size) * std, std * jax.random.normal(key, x_t.shape)
            best = -radius * divide(gradient, jnp.sum(gradient**2))
            turned = drawn + self.rho * (best - drawn)
            return mean + radius * divide(turned, jnp.sum(turned**2))

        return fall_or_renoise(schedule, key, x_t, t, s, fall), prediction
