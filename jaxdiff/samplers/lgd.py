"""Loss-guided diffusion: the likelihood averaged over images around the estimate."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree, static
from jaxdiff.samplers.base import ImageSampler, guided_step


@pytree
class LGD(ImageSampler):
    r"""`DPSLikelihood` with the likelihood's mean over `n` images around `x0_hat`: its Monte-Carlo form.

    .. math::
        x_s = \mathrm{DDPM}(x_t) + \zeta\, \frac{\beta}{\sqrt{1 - \beta}}\,
              \nabla_{x_t} \log \frac1n \sum_{i=1}^n p(y \mid \hat x_0(x_t) + \kappa \sigma_t z_i), \qquad
              \beta = 1 - \bar\alpha_t / \bar\alpha_s

    The mean is dominated by the image that fits best, more so the more is measured: of many pixels with little noise
    `n` images say hardly more than one. With `kappa = 0` it is `DPSLikelihood`.

    A step costs one network call, forward and backward, and `n` calls of the operator.

    Args:
        prior: the prior.
        measurement: of a differentiable operator, with noise of any model.
        zeta: 1.0 for the likelihood itself.
        num_images: the number `n` of images; the paper tries 1 to 100.
        kappa: their spread in units of `sigma_t`, which the paper takes for data of variance 1.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, or there is no image.

    Deviations:
        The loss is the likelihood; the paper leaves loss and weight open. Its spread `r / sqrt(1 + r^2)`, of images
        with noise `r = sigma_t / alpha_t`, is `sigma_t`.

    References:
        Song et al., 2023, "Loss-guided diffusion models for plug-and-play controllable generation", equation 11.
    """

    prior: Prior
    measurement: Measurement
    zeta: Number = 1.0
    num_images: int = static(default=10)
    kappa: Number = 1.0

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)
        if self.num_images < 1:
            raise ValueError(f"`num_images` must be at least 1, got {self.num_images}.")

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step shifted by the mean likelihood's score."""
        _, sigma_t = self.prior.schedule(t)
        noises = jax.random.normal(jax.random.fold_in(key, 1), (self.num_images, *x_t.shape))

        def log_likelihood(x_t: Array) -> tuple[Array, Prediction]:
            prediction = self.prior.predict(x_t, t)
            images = prediction.x0_hat + self.kappa * sigma_t * noises
            return jax.nn.logsumexp(jax.vmap(self.measurement.log_likelihood)(images)), prediction

        gradient, prediction = jax.grad(log_likelihood, has_aux=True)(x_t)
        beta = self.prior.schedule.beta(t, s)
        shift = self.zeta * beta / jnp.sqrt(1 - beta) * gradient
        return guided_step(self.prior.schedule, key, x_t, prediction, shift, t, s), prediction
