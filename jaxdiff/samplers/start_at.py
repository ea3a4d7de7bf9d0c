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
        sampler: the algorithm; an `ImageSampler`.
        measurement: of a linear operator, with Gaussian noise.
    """

    sampler: Any
    measurement: Measurement

    @property
    def prior(self) -> Prior:
        """The algorithm's."""
        return self.sampler.prior

    def from_image(self, x_t: Float[Array, "h w c"]) -> Any:
        """Returns the state of the algorithm."""
        return self.sampler.from_image(x_t)

    def init(self, key: PRNGKeyArray, t: Time) -> Any:
        """Perturbs the estimate to time `t`."""
        estimate = smoothest(self.measurement, self.prior.image_shape)
        return self.from_image(perturb(self.prior.schedule, key, estimate, t))

    def step(self, key: PRNGKeyArray, state: Any, t: Time, s: Time) -> tuple[Any, Prediction]:
        """Takes a step of the algorithm."""
        return self.sampler.step(key, state, t, s)

    def image(self, state: Any) -> Float[Array, "h w c"]:
        """Returns the image of the algorithm's state."""
        return self.sampler.image(state)
