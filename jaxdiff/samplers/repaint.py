"""RePaint: known pixels put back after every step, and times that go up again so that hidden ones adapt."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.operators.masks import Masking
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import pytree
from jaxdiff.samplers.base import ImageSampler, ancestral_step, perturb
from jaxdiff.schedule import time_grid


@pytree
class RePaint(ImageSampler):
    r"""DDPM's step for the hidden pixels; the known ones are those of the measurement, noised to the same time.

    .. math:: x_s = m \odot (\alpha_s y + \sigma_s z) + (1 - m) \odot \mathrm{DDPM}(x_t)

    with the mask `m`. Known and hidden pixels agree only after they have seen each other several times: run it through
    the times of `repaint_times`. Where time rises, the step is `renoise`. The sample has the known pixels exactly, with
    their noise, so that this is for measurements without any.

    A step costs one network call, forward only, also a step up, which does not use it.

    Args:
        prior: the prior.
        measurement: of a mask; its noise plays no part.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, or the operator is no mask.

    References:
        Lugmayr et al., 2022, https://arxiv.org/abs/2201.09865, algorithm 1.
    """

    prior: Prior
    measurement: Measurement

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)
        operator = self.measurement.operator
        if not isinstance(operator, Masking):
            name = type(getattr(operator, "wrapped", operator)).__name__
            raise ValueError(f"this needs a mask, and {name} is none.")

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes one ancestral step, and puts the known pixels back."""
        schedule, prediction = self.prior.schedule, self.prior.predict(x_t, t)
        x_s = ancestral_step(schedule, key, x_t, prediction, t, s)
        data = perturb(schedule, jax.random.fold_in(key, 1), self.measurement.y, s)
        known = (jnp.asarray(s) < t) & (self.measurement.observed > 0)
        return jnp.where(known, data, x_s), prediction


def repaint_times(
    num_times: int, num_steps: int, jump: int = 10, repeats: int = 10, start: int | None = None
) -> Int[np.ndarray, " n"]:
    """Returns times that go down an even grid, and `repeats - 1` times up again after every `jump` steps.

    The authors take 250 steps, `jump = 10` and `repeats = 10`. Their schedule climbs step by step; here a climb is one
    step, which draws from the same distribution.

    Args:
        num_times: size `T` of the training table.
        num_steps: how many different times there are.
        jump: steps that a climb takes back.
        repeats: how often every stretch is gone down.
        start: first time, `T - 1` by default.

    Raises:
        ValueError: if `jump` or `repeats` is not positive, or `num_steps` does not fit.

    >>> repaint_times(1000, 5, jump=2, repeats=2)
    array([999, 749, 500, 999, 749, 500, 250,   0, 500, 250,   0,  -1])

    References:
        Lugmayr et al., 2022, https://arxiv.org/abs/2201.09865, algorithm 1 and appendix (the schedule).
    """
    if jump < 1 or repeats < 1:
        raise ValueError(f"`jump` and `repeats` must be positive, got {jump} and {repeats}.")
    places = [num_steps - 1]
    for place in reversed(range(num_steps - 1)):
        places.append(place)
        if place % jump == 0 and place < num_steps - jump:
            places += (repeats - 1) * list(range(place + jump, place - 1, -1))
    grid = time_grid(num_times, num_steps, start)
    return np.append(grid[num_steps - 1 - np.array(places)], -1)
