"""Denoisers of Gaussian noise, which take a noise level, as networks of a diffusion time."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdiff.pytree import pytree
from jaxdiff.schedule import Schedule


@pytree
class ByNoiseLevel:
    r"""A denoiser of images in [0, 1] as a network that predicts `x0`, for `Denoiser(..., target="x0")`.

    .. math::
        \hat x_0 = 2 N\!\left(\frac{x_t / \alpha_t + 1}{2};\ \frac{r_t}{2}\right) - 1,
        \qquad r_t = \sigma_t / \alpha_t

    Args:
        network: called as `network(image, sigma)`, both in units in which clean images lie in [0, 1].
        schedule: the noise schedule.
        max_sigma: the largest standard deviation it was trained for. Noise above it is denoised as if it were this
            strong, which leaves some of it: use another prior there.
    """

    network: Callable[[Array, Array], Array]
    schedule: Schedule
    max_sigma: Float[Array, ""] | float

    @property
    def last_time(self) -> int:
        """The last time whose noise is no stronger than it was trained for."""
        alpha, sigma = (np.asarray(table) for table in self.schedule(jnp.arange(self.schedule.num_times)))
        return max(int(np.searchsorted(sigma / alpha / 2, float(self.max_sigma), "right")) - 1, 0)

    def __call__(self, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int) -> Float[Array, "h w c"]:
        """Predicts `x0`."""
        alpha_t, sigma_t = self.schedule(t)
        sigma = jnp.minimum(sigma_t / alpha_t / 2, self.max_sigma)
        return 2 * self.network((x_t / alpha_t + 1) / 2, sigma) - 1
