"""Ancestral sampling of the prior."""

from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import pytree
from jaxdiff.samplers.base import ImageSampler, ancestral_step


@pytree
class DDPM(ImageSampler):
    r"""Denoising diffusion: samples of the prior, or with a guided prior of the posterior.

    .. math:: x_s \sim p(x_s \mid x_t, \hat x_0(x_t))

    Args:
        prior: the prior. Its variance is the learned range of the public networks (Zhu), `fixed_large` (Qi) or
            `fixed_small`.

    Deviations:
        A chain starts with noise of exactly `sigma_t`, as do all samplers here; the reference's unit noise is longer by
        2e-5 at `t = 999`.

    References:
        Ho et al., 2020, https://arxiv.org/abs/2006.11239, algorithm 2.
    """

    prior: Prior

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step."""
        prediction = self.prior.predict(x_t, t)
        return ancestral_step(self.prior.schedule, key, x_t, prediction, t, s), prediction
