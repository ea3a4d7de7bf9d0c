"""A sampler whose chains start from an estimate of the image instead of noise alone."""

from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.priors.smooth import smoothest
from jaxdiff.pytree import pytree
from jaxdiff.samplers.base import ImageSampler, perturb


@pytree
class StartAt(ImageSampler):
    r"""Starts at `x_tau = alpha_tau x + sigma_tau eps`, and goes on as another sampler does.

    with the smoothest image `x` that fits the data (`jaxdiff.priors.smooth.smoothest`). For priors that know low noise
    levels only. The estimate need be right only up to what the noise of the first time hides.

    Args:
        sampler: the algorithm; its state is the image.
        measurement: of a linear operator, with Gaussian noise.
    """

    sampler: Any
    measurement: Measurement

    @property
    def prior(self) -> Prior:
        """The algorithm's."""
        return self.sampler.prior

    def init(self, key: PRNGKeyArray, t: Time) -> Float[Array, "h w c"]:
        """Perturbs the estimate to time `t`."""
        return perturb(self.prior.schedule, key, smoothest(self.measurement, self.prior.image_shape), t)

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes a step of the algorithm."""
        return self.sampler.step(key, x_t, t, s)
