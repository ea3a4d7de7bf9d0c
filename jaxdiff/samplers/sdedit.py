"""Stochastic differential editing: noise the measurement, then sample the prior from there."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import pytree, static
from jaxdiff.samplers.base import ImageSampler, ancestral_step


@pytree
class SDEdit(ImageSampler):
    r"""Perturbs the measurement to the first time of the run, then takes DDPM's steps.

    .. math::
        x_\tau = \alpha_\tau y + \sqrt{\sigma_\tau^2 - \alpha_\tau^2 \sigma_y^2}\, \epsilon, \qquad
        x_s \sim p(x_s \mid x_t, \hat x_0(x_t))

    The start time `tau` is the first of the times given to `sample`: early (large) for realism, late for faithfulness.
    The reports try 250 to 750 of 1000; Zhu uses 500, and Qi finds 500 best.

    Args:
        prior: the prior.
        measurement: whose `y` has the shape of an image. The operator plays no part: what is hidden in `y` is taken as
            grey, what is blurred as sharp.
        noise_counts: whether the noise in `y`, which must be Gaussian, counts as part of the perturbation; no, as in
            the paper and the reports, takes `y` for clean. With `y = x + sigma_y eps` and a start where
            `sigma_tau / alpha_tau` is `sigma_y`, no noise is added, and the chain draws from the posterior, as far as
            prior and steps allow.

    Raises:
        ValueError: if `y` does not have the shape of an image, is complex, or its noise counts and is not Gaussian.

    Deviations:
        The network is called at `tau` itself; the reports leave open whether the first call is at `tau` or `tau - 1`.

    References:
        Meng et al., 2021, https://arxiv.org/abs/2108.01073, algorithm 1.
    """

    prior: Prior
    measurement: Measurement
    noise_counts: bool = static(default=False)

    def __post_init__(self) -> None:
        if jnp.shape(self.measurement.y) != self.prior.image_shape:
            raise ValueError(
                f"`y` must have the image's shape {self.prior.image_shape}, got {jnp.shape(self.measurement.y)}; "
                "bring it to image size first (for super-resolution, enlarge it)."
            )
        if jnp.iscomplexobj(self.measurement.y):
            raise ValueError("`y` must be an image, got complex numbers; bring it back to pixels first.")
        if self.noise_counts:
            _ = self.measurement.sigma_y  # refuses any other noise

    def init(self, key: PRNGKeyArray, t: Time) -> Float[Array, "h w c"]:
        """Perturbs the measurement to time `t`."""
        alpha_t, sigma_t = self.prior.schedule(t)
        y, sigma_y = self.measurement.y, self.measurement.sigma_y if self.noise_counts else 0.0
        missing = jnp.sqrt(jnp.maximum(sigma_t**2 - (alpha_t * sigma_y) ** 2, 0.0))
        return alpha_t * y + missing * jax.random.normal(key, y.shape)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step."""
        prediction = self.prior.predict(x_t, t)
        return ancestral_step(self.prior.schedule, key, x_t, prediction, t, s), prediction
