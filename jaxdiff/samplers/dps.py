"""Diffusion posterior sampling in its three published forms, which share a direction and differ in length."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree
from jaxdiff.samplers.base import ImageSampler, divide, guided_step, residual_gradient


@pytree
class DPS(ImageSampler):
    r"""The form of the reports: the gradient of the squared residual scaled to unit length.

    .. math:: x_s = \mathrm{DDPM}(x_t) - \zeta\, g / \lVert g \rVert, \qquad
              g = \nabla_{x_t} \lVert y - A(\hat x_0(x_t)) \rVert^2

    Every step has length `zeta`, whatever the residual and whatever `sigma_y`.

    Args:
        prior: the prior.
        measurement: of a differentiable operator; its noise plays no part.
        zeta: length of a step, an absolute norm over the image. The reports use 1.0 for box inpainting (Zhu, Jacques)
            and 0.3 for Gaussian deblurring (Zhu, Jacques), both at 256x256x3 in 1000 steps; 1.0 is best for random
            inpainting in PSNR (Jacques: 32.6 dB, against 22.4 dB with the 0.1 that Zhu prints). See `scale_zeta`.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape.

    References:
        Zhu's report, equations 9 and 10; Jacques' report, equation 13.
        Chung et al., 2022, https://arxiv.org/abs/2209.14687, algorithm 1 (the original).
    """

    prior: Prior
    measurement: Measurement
    zeta: Number

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step, then one of length `zeta` against the gradient."""
        _, gradient, prediction = residual_gradient(self.prior, self.measurement, x_t, t)
        shift = -self.zeta * divide(gradient, jnp.sum(gradient**2))
        return guided_step(self.prior.schedule, key, x_t, prediction, shift, t, s), prediction


@pytree
class DPSNorm(ImageSampler):
    r"""The form of the authors' code: the gradient of the norm of the residual, not squared.

    .. math:: x_s = \mathrm{DDPM}(x_t) - \zeta\, \nabla_{x_t} \lVert y - A(\hat x_0(x_t)) \rVert

    Args:
        prior: the prior.
        measurement: of a differentiable operator; its noise plays no part.
        zeta: step size; the authors' configurations have 0.3 for blurs and super-resolution, 0.5 for inpainting and
            1.0 for phase retrieval.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape.

    Deviations:
        The residual is one image's. The authors' code takes one norm over a whole batch, which couples its images.

    References:
        Chung et al., 2022, https://arxiv.org/abs/2209.14687, algorithm 1, with the step size of its appendix.
    """

    prior: Prior
    measurement: Measurement
    zeta: Number

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step, then one against the gradient of the norm."""
        squared, gradient, prediction = residual_gradient(self.prior, self.measurement, x_t, t)
        # grad ||r|| = grad ||r||^2 / (2 ||r||); differentiating the norm itself gives NaN at a zero residual.
        shift = -self.zeta / 2 * divide(gradient, squared)
        return guided_step(self.prior.schedule, key, x_t, prediction, shift, t, s), prediction


@pytree
class DPSLikelihood(ImageSampler):
    r"""The form of the theory: the score of the likelihood around `x0_hat`, in DDPM's step.

    .. math:: x_s = \mathrm{DDPM}(x_t) + \zeta\, \frac{\beta}{\sqrt{1 - \beta}}\,
              \nabla_{x_t} \log p(y \mid \hat x_0(x_t)), \qquad
              \beta = 1 - \bar\alpha_t / \bar\alpha_s

    with any noise model; for Gaussian noise the logarithm is :math:`-\lVert y - A(\hat x_0) \rVert^2 / 2 \sigma_y^2`.

    Args:
        prior: the prior.
        measurement: of a differentiable operator, with noise of any model.
        zeta: 1.0 for the likelihood itself.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape.

    References:
        Chung et al., 2022, https://arxiv.org/abs/2209.14687, equations 11 and 16 (Gaussian), 19 (Poisson).
    """

    prior: Prior
    measurement: Measurement
    zeta: Number = 1.0

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step shifted by the likelihood's score."""

        def log_likelihood(x_t: Array) -> tuple[Array, Prediction]:
            prediction = self.prior.predict(x_t, t)
            return self.measurement.log_likelihood(prediction.x0_hat), prediction

        gradient, prediction = jax.grad(log_likelihood, has_aux=True)(x_t)
        beta = self.prior.schedule.beta(t, s)
        shift = self.zeta * beta / jnp.sqrt(1 - beta) * gradient
        return guided_step(self.prior.schedule, key, x_t, prediction, shift, t, s), prediction


def scale_zeta(zeta: float, image_shape: tuple[int, int, int], num_steps: int) -> float:
    """Adapts a `zeta` of `DPS` or `DPSNorm` meant for 256x256x3 and 1000 steps.

    A step is an absolute norm, so it goes with the root of the number of values; and fewer steps must be longer:
    `zeta * sqrt(h w c / 196608) * (1000 / num_steps)`.

    >>> scale_zeta(1.0, (32, 32, 3), 250)
    0.5
    """
    h, w, c = image_shape
    return zeta * (h * w * c / 196_608) ** 0.5 * (1000 / num_steps)
