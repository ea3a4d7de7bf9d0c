"""The multistep solver DPM-Solver++: second order for one network call per step."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import pytree
from jaxdiff.samplers.base import ImageSampler, fall_or_renoise
from jaxdiff.schedule import Schedule


class Multistep(NamedTuple):
    """The state of a chain of `DPMSolver`.

    Attributes:
        x_t: the image.
        x0_before: the estimate of the step before.
        before: the time of that step; -1 where there was none.
    """

    x_t: Float[Array, "h w c"]
    x0_before: Float[Array, "h w c"]
    before: Int[Array, ""]


@pytree
class DPMSolver(ImageSampler):
    r"""DPM-Solver++(2M): the probability-flow equation, with the estimate extrapolated from the last two.

    .. math::
        x_s = \frac{\sigma_s}{\sigma_t} x_t
              + \left(\alpha_s - \frac{\sigma_s}{\sigma_t} \alpha_t\right)
                \left(\hat x_0 + \frac{h}{2 h'} (\hat x_0 - \hat x_0')\right), \qquad
        h = \lambda_s - \lambda_t, \quad h' = \lambda_t - \lambda_{t'}, \quad \lambda = \log(\alpha / \sigma)

    where the step before went from `t'` and had the estimate `x0_hat'`. The first step and the last, to the clean image
    where `h` is infinite, take `x0_hat` alone; those are steps of `DDIM` without noise. So is the first step after time
    has risen, which itself is a step of the forward process, `renoise`.

    A step costs one network call, forward only (the prior's guidance may cost more). Error of second order: half as
    long steps have a quarter of it. Chains are deterministic but for their start.

    Args:
        prior: the prior, guided or not; its variance plays no part.

    Deviations:
        Times are those given, evenly spaced by default; the authors' code also spaces `lambda` evenly.

    References:
        Lu et al., 2022, https://arxiv.org/abs/2211.01095, algorithm 2.
    """

    prior: Prior

    def from_image(self, x_t: Float[Array, "h w c"]) -> Multistep:
        """Returns a state without a step before."""
        return Multistep(x_t, jnp.zeros_like(x_t), jnp.int32(-1))

    def step(self, key: PRNGKeyArray, state: Multistep, t: Time, s: Time) -> tuple[Multistep, Prediction]:
        """Takes one step of second order, or of first where there is no other."""
        x_t, x0_before, before = state
        schedule, prediction = self.prior.schedule, self.prior.predict(x_t, t)
        x0_hat, falls = prediction.x0_hat, jnp.asarray(s) < t

        def fall(t: Array, s: Array) -> Array:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
            second = (before > t) & (s >= 0)
            known = log_snr(schedule, jnp.where(second, before, t + 1))
            middle, wanted = log_snr(schedule, t), log_snr(schedule, jnp.where(second, s, t - 1))
            ahead = jnp.where(second, (wanted - middle) / (middle - known) / 2, 0.0)
            extrapolated = x0_hat + ahead * (x0_hat - x0_before)
            return sigma_s / sigma_t * x_t + (alpha_s - sigma_s / sigma_t * alpha_t) * extrapolated

        x_s = fall_or_renoise(schedule, key, x_t, t, s, fall)
        return Multistep(x_s, x0_hat, jnp.where(falls, jnp.int32(t), jnp.int32(-1))), prediction

    def image(self, state: Multistep) -> Float[Array, "h w c"]:
        """Returns `x_t`."""
        return state.x_t


def log_snr(schedule: Schedule, t: Time) -> Float[Array, ""]:
    """Returns `lambda_t = log(alpha_t / sigma_t)`, half the logarithm of the signal-to-noise ratio."""
    alpha_t, sigma_t = schedule(t)
    return jnp.log(alpha_t / sigma_t)
