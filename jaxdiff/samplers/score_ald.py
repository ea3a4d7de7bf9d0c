"""Ancestral sampling with an annealed pull towards the data, in the three weightings of the reports."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree, static
from jaxdiff.samplers.base import ImageSampler, guided_step

Weighting = Callable[[Number, Number], Number]


def over_gamma(sigma_y: Number, gamma: Number) -> Number:
    """`1 / gamma`, that is, the squared norm's gradient over `2 gamma` (Jacques)."""
    return 1 / gamma


def over_variance(sigma_y: Number, gamma: Number) -> Number:
    """`1 / (sigma_y^2 + gamma^2)`, the score of the annealed likelihood (Zhu's code, Chin & Zhang, Qi's text)."""
    return 1 / (sigma_y**2 + gamma**2)


def twice_over_variance(sigma_y: Number, gamma: Number) -> Number:
    """`2 / (sigma_y^2 + gamma^2)`, the squared norm's gradient over the variance (Zhu eq. 8, Qi's algorithm)."""
    return 2 / (sigma_y**2 + gamma**2)


@pytree
class ScoreALD(ImageSampler):
    r"""Score-based annealed Langevin dynamics, as the reports adapt it to an ancestral chain.

    .. math::
        x_s = \mathrm{DDPM}(x_t) + w(\sigma_y, \gamma_t)\, A^\top (y - A(x_t)), \qquad
        \gamma_t = \gamma_\text{clean} + \frac{t}{T - 1} (\gamma_\text{noisy} - \gamma_\text{clean})

    The data term looks at `x_t`, not at the network's estimate, so that no gradient goes through the network: a step
    costs what DDPM's costs.

    Args:
        prior: the prior.
        measurement: of a differentiable operator, with Gaussian noise.
        gamma_clean: gamma at `t = 0`.
        gamma_noisy: gamma at `t = T - 1`. Larger than `gamma_clean`, the pull is weaker at high noise: gamma indexed by
            time (Jacques). Smaller, it fades as the run proceeds: gamma indexed by iteration (Zhu's text).
        weighting: `over_gamma`, `over_variance` or `twice_over_variance`. The reports' gammas of 10 to 33 make the
            first 10 to 20 times stronger than the others, which is why one report finds this method best and the
            others poor.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, or its noise is not Gaussian.

    Deviations:
        The reports differ from the paper: Langevin's step size is dropped, and the data are compared with `x_t`
        although its mean is `alpha_t x0`. Both are kept. `w ||A||^2` must stay below 2, or the chain diverges.

    References:
        Jalal et al., 2021, https://arxiv.org/abs/2108.01368 (the annealed likelihood).
    """

    prior: Prior
    measurement: Measurement
    gamma_clean: Number
    gamma_noisy: Number
    weighting: Weighting = static(default=over_gamma)

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)
        _ = self.measurement.sigma_y  # refuses any other noise

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step and one step towards the data."""
        schedule = self.prior.schedule
        prediction = self.prior.predict(x_t, t)
        pull = jax.grad(lambda x: -jnp.sum(jnp.abs(self.measurement.residual(x)) ** 2) / 2)(x_t)
        gamma = self.gamma_clean + t / (schedule.num_times - 1) * (self.gamma_noisy - self.gamma_clean)
        shift = self.weighting(self.measurement.sigma_y, gamma) * pull
        return guided_step(schedule, key, x_t, prediction, shift, t, s), prediction


def scale_gamma(gamma: float, weighting: Weighting, num_steps: int, num_times: int = 1000) -> float:
    """Adapts a gamma meant for `num_times` steps to a shorter run, so that the sum of all pulls stays the same.

    The weight grows by `num_times / num_steps`: `over_gamma` divides gamma by this ratio, the other two by its root. It
    never grows past 1, a whole step onto the data, because a chain of twice that diverges.

    >>> scale_gamma(12.0, over_gamma, 250), scale_gamma(12.0, over_gamma, 20)
    (3.0, 1.0)
    """
    ratio = num_times / num_steps
    smallest = 2**0.5 if weighting is twice_over_variance else 1.0
    return max(gamma / (ratio if weighting is over_gamma else ratio**0.5), smallest)
