"""Implicit sampling of the prior, in few steps."""

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree
from jaxdiff.samplers.base import ImageSampler, ddim_moments, fall_or_renoise


@pytree
class DDIM(ImageSampler):
    r"""Denoising diffusion with as much fresh noise as one asks for: none (`eta = 0`) up to DDPM's (`eta = 1`).

    .. math::
        x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \sigma^2}\, \hat\epsilon + \sigma z, \qquad
        \sigma = \eta \frac{\sigma_s}{\sigma_t} \sqrt{1 - \bar\alpha_t / \bar\alpha_s}, \quad
        \hat\epsilon = (x_t - \alpha_t \hat x_0) / \sigma_t

    `eps_hat` follows from the clipped `x0_hat`, as in guided-diffusion. Where time rises, `s >= t`, the step is that of
    the forward process, `renoise`.

    Args:
        prior: the prior, guided or not; its variance plays no part.
        eta: fraction of DDPM's (`fixed_small`) noise, from 0 to 1.

    References:
        Song et al., 2020, https://arxiv.org/abs/2010.02502, equations 12 and 16.
    """

    prior: Prior
    eta: Number = 0.0

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one DDIM step."""
        schedule, prediction = self.prior.schedule, self.prior.predict(x_t, t)

        def fall(t: Array, s: Array) -> Array:
            mean, std = ddim_moments(schedule, x_t, prediction.x0_hat, t, s, self.eta)
            return mean + std * jax.random.normal(key, x_t.shape)

        return fall_or_renoise(schedule, key, x_t, t, s, fall), prediction
