"""Guidance: a prior and a measurement in, a prior out, whose estimates are moved towards the data."""

from jaxtyping import Array, Float

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Time, WrappedPrior
from jaxdiff.priors.tweedie import Product, tweedie


class Guidance(WrappedPrior):
    """Base of guided priors that know the covariance of `x0` given `x_t` by Tweedie's formula.

    A guided prior runs under any integrator: `DDPM(MMPS(prior, measurement))`, `DDIM(...)`. It has a prior, a
    measurement, and one rule, `move`.
    """

    measurement: Measurement

    def __post_init__(self) -> None:
        self.measurement.check(self.image_shape, linear=True)

    def move(self, x0_hat: Float[Array, "h w c"], covariance: Product, t: Time) -> Float[Array, "h w c"]:
        """Returns the estimate moved towards the data.

        Args:
            x0_hat: the prior's estimate, before it is clipped.
            covariance: `v -> Cov[x0 | x_t] v`; a call costs one vector-Jacobian product of the network.
            t: the time.
        """
        raise NotImplementedError

    def predict(self, x_t: Float[Array, "h w c"], t: Time) -> Prediction:
        """Runs the network once, and moves its estimate; the variance of a step stays the prior's."""
        prediction, covariance = tweedie(self.prior, x_t, t)
        moved = self.move(prediction.before_clip, covariance, t)
        return prediction._replace(x0_hat=self.bound(moved), unclipped=moved, unguided=prediction.before_guidance)


class EstimateGuidance(WrappedPrior):
    """Base of guided priors that look at the estimate alone: nothing is differentiated through the network."""

    measurement: Measurement

    def __post_init__(self) -> None:
        self.measurement.check(self.image_shape, linear=True)
        _ = self.measurement.sigma_y  # refuses noise that is not Gaussian

    def move(self, x0_hat: Float[Array, "h w c"], t: Time) -> Float[Array, "h w c"]:
        """Returns the estimate moved towards the data.

        Args:
            x0_hat: the prior's estimate, clipped where the prior clips.
            t: the time.
        """
        raise NotImplementedError

    def predict(self, x_t: Float[Array, "h w c"], t: Time) -> Prediction:
        """Runs the network once, forward, and moves its estimate; what comes out agrees with the data, unclipped."""
        prediction = self.prior.predict(x_t, t)
        moved = self.move(prediction.x0_hat, t)
        return prediction._replace(x0_hat=moved, unclipped=moved, unguided=prediction.before_guidance)
