"""Ancestral sampling of the prior."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.denoiser import Prediction, Prior
from jaxdiff.pytree import pytree
from jaxdiff.sampling import Time, ancestral_step, perturb


@pytree
class DDPM:
    r"""Denoising diffusion: samples of the prior, with no measurement.

    .. math:: x_s \sim p(x_s \mid x_t, \hat x_0(x_t))

    Args:
        denoiser: the prior. Its variance is the learned range of the public networks (Zhu), `fixed_large` (Qi) or
            `fixed_small`.

    Deviations:
        A chain starts with noise of exactly `sigma_t`, as do all samplers here; the reference's unit noise is longer by
        2e-5 at `t = 999`.

    References:
        Ho et al., 2020, https://arxiv.org/abs/2006.11239, algorithm 2.
    """

    denoiser: Prior

    def init(self, key: PRNGKeyArray, t: Time) -> Float[Array, "h w c"]:
        """Draws noise of the level of time `t`."""
        return perturb(self.denoiser.schedule, key, jnp.zeros(self.denoiser.image_shape), t)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step."""
        prediction = self.denoiser.predict(x_t, t)
        return ancestral_step(self.denoiser.schedule, key, x_t, prediction, t, s), prediction
