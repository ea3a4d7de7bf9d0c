"""Noise schedules as tables over guided-diffusion's integer times."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdiff.pytree import pytree


@pytree
class Schedule:
    r"""A variance-preserving noise schedule, `x_t = alpha_t x0 + sigma_t eps`.

    Times are the integers `T-1 ... 0` of the training table, and `-1` is the clean image: `alpha_bar_{-1} = 1`.
    Any pair of times may be a step, so a respaced run is only a shorter list of times.

    Args:
        log_alpha_bar: `log alpha_bar_t` for `t = 0 ... T-1`, followed by 0 for `t = -1`. The logarithm, and not
            `alpha_bar` itself, keeps `1 - alpha_bar_t` and `1 - alpha_bar_t / alpha_bar_s` exact in float32.
    """

    log_alpha_bar: Float[Array, " num_times_and_clean"]

    def __call__(self, t: Int[Array | np.ndarray, "*n"] | int) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """Returns `(alpha_t, sigma_t)`, the weights of image and noise at time `t`, or at several."""
        log_alpha_bar = self.log_alpha_bar[t]
        return jnp.exp(log_alpha_bar / 2), jnp.sqrt(-jnp.expm1(log_alpha_bar))

    @property
    def num_times(self) -> int:
        """The number `T` of noisy times in the table."""
        return self.log_alpha_bar.shape[0] - 1

    def alpha_bar(self, t: Int[Array | np.ndarray, "*n"] | int) -> Float[Array, "*n"]:
        """Returns `alpha_bar_t = alpha_t ** 2`."""
        return jnp.exp(self.log_alpha_bar[t])

    def beta(self, t: Int[Array, ""] | int, s: Int[Array, ""] | int) -> Float[Array, ""]:
        """Returns the noise variance added from `s` to `t`, `1 - alpha_bar_t / alpha_bar_s`."""
        return -jnp.expm1(self.log_alpha_bar[t] - self.log_alpha_bar[s])

    def posterior_variance(self, t: Int[Array, ""] | int, s: Int[Array, ""] | int) -> Float[Array, ""]:
        """Returns the variance of `x_s` given `x_t` and `x0`, `beta (1 - alpha_bar_s) / (1 - alpha_bar_t)`."""
        _, sigma_t = self(t)
        _, sigma_s = self(s)
        return self.beta(t, s) * (sigma_s / sigma_t) ** 2


def from_betas(betas: Float[np.ndarray, " T"]) -> Schedule:
    """Makes a schedule from its one-step variances, computed in float64.

    Raises:
        ValueError: if a beta is outside (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size == 0 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError("`betas` must be a list of numbers in (0, 1).")
    table = np.append(np.cumsum(np.log1p(-betas)), 0.0)
    return Schedule(jnp.asarray(table, jnp.float32))


def linear(num_times: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """The linear schedule of DDPM, and of every public guided-diffusion network.

    >>> alpha_t, sigma_t = linear()(999)
    >>> round(float(sigma_t / alpha_t), 2)
    157.41

    References:
        Ho et al., 2020, https://arxiv.org/abs/2006.11239, section 4.
    """
    return from_betas(np.linspace(beta_start, beta_end, num_times))


def scaled_linear(num_times: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """A schedule whose `sqrt(beta)` is linear.

    References:
        Rombach et al., 2022, https://arxiv.org/abs/2112.10752 (latent diffusion).
    """
    return from_betas(np.linspace(beta_start**0.5, beta_end**0.5, num_times) ** 2)


def sigmoid(num_times: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """A schedule whose `beta` goes from `beta_start` to `beta_end` as a sigmoid does from -6 to 6.

    References:
        Xu et al., 2022, https://arxiv.org/abs/2203.02923 (GeoDiff).
    """
    return from_betas(beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, num_times))))


def cosine(num_times: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """The cosine schedule, `alpha_bar = cos^2((t / T + offset) / (1 + offset) pi / 2)`.

    References:
        Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672, equation 17.
    """
    angle = (np.arange(num_times + 1) / num_times + offset) / (1 + offset) * np.pi / 2
    alpha_bar = np.cos(angle) ** 2
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def time_grid(num_times: int, num_steps: int | None = None, start: int | None = None) -> Int[np.ndarray, " n"]:
    """Returns evenly spaced times from `start` down to 0, followed by -1.

    With `start = num_times - 1` these are the times that guided-diffusion's respacing keeps.

    Args:
        num_times: size `T` of the training table.
        num_steps: how many steps to take; every time from `start` down by default.
        start: first time, `T - 1` by default.

    Raises:
        ValueError: if `start` is outside the table or `num_steps` does not fit between 1 and `start + 1`.

    >>> time_grid(1000, 5)
    array([999, 749, 500, 250,   0,  -1])
    """
    start = num_times - 1 if start is None else start
    if not 0 <= start < num_times:
        raise ValueError(f"`start` must be a time from 0 to {num_times - 1}, got {start}.")
    num_steps = start + 1 if num_steps is None else num_steps
    if not 1 <= num_steps <= start + 1:
        raise ValueError(f"`num_steps` must be between 1 and {start + 1}, got {num_steps}.")
    if num_steps == 1:
        return np.array([start, -1])
    return np.append(np.round(np.linspace(start, 0, num_steps)).astype(int), -1)
