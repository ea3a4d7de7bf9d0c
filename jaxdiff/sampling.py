"""What every sampler shares: the loop over diffusion time, the forward process, and the ancestral step."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.denoiser import Prediction
from jaxdiff.schedule import Schedule

State = TypeVar("State")
Seen = TypeVar("Seen")
Time = Int[Array, ""] | int


class Sampler(Protocol[State]):
    """An algorithm: where a chain starts, and how it goes from time `t` to the less noisy time `s`.

    A sampler is a frozen dataclass made by `jaxdiff.pytree.pytree`; there is no base class. For most the state is
    the image `x_t`.
    """

    def init(self, key: PRNGKeyArray, t: Time, /) -> State:
        """Returns the state at the first time of a run."""
        ...

    def step(self, key: PRNGKeyArray, state: State, t: Time, s: Time, /) -> tuple[State, Prediction]:
        """Goes from `t` to `s`; returns the new state and what the denoiser said on the way."""
        ...


class Observer(Protocol[Seen]):
    """Looks at every step of a chain, and remembers something of it; a PyTree like a sampler."""

    def start(self) -> Seen:
        """Returns what is known before the first step."""
        ...

    def look(
        self, seen: Seen, key: PRNGKeyArray, state: Any, prediction: Prediction, after: Any, t: Time, s: Time, /
    ) -> Seen:
        """Takes in one step, from `state` at `t` to `after` at `s`, that was made with `key`."""
        ...


def sample(
    sampler: Sampler[State],
    key: PRNGKeyArray,
    times: Int[Array, " n"] | np.ndarray,
    *,
    state: State | None = None,
    trace: Callable[[State, Prediction], Any] = lambda state, prediction: None,
) -> tuple[State, Any]:
    """Runs one chain through `times`; the only scan over diffusion time.

    The key of a step is `fold_in(key, t)`, and no step starts at time -1, so that `fold_in(key, -1)` is left for
    the initial noise. A run cut into segments therefore gives the numbers of the whole run.

    Args:
        sampler: the algorithm.
        key: one PRNG key; `jax.vmap` over keys draws many samples.
        times: decreasing times, usually ending with -1 (`jaxdiff.time_grid`).
        state: where to go on from; the sampler's `init` by default.
        trace: `(state, prediction) -> what to keep of every step`.

    Returns:
        The last state (for most samplers the image), and the stacked traces.
    """
    times = jnp.asarray(times)
    start = sampler.init(jax.random.fold_in(key, jnp.int32(-1)), times[0]) if state is None else state

    def body(state: State, pair: tuple[Array, Array]) -> tuple[State, Any]:
        t, s = pair
        state, prediction = sampler.step(jax.random.fold_in(key, t), state, t, s)
        return state, trace(state, prediction)

    return jax.lax.scan(body, start, (times[:-1], times[1:]))


def perturb(schedule: Schedule, key: PRNGKeyArray, x0: Float[Array, "h w c"], t: Time) -> Float[Array, "h w c"]:
    """Draws `x_t = alpha_t x0 + sigma_t eps`, the forward process; `x0 = 0` gives the initial noise."""
    alpha_t, sigma_t = schedule(t)
    return alpha_t * x0 + sigma_t * jax.random.normal(key, x0.shape)


def ancestral_step(
    schedule: Schedule, key: PRNGKeyArray, x_t: Float[Array, "h w c"], prediction: Prediction, t: Time, s: Time
) -> Float[Array, "h w c"]:
    r"""Draws `x_s` given `x_t` as DDPM does, with the variance that the prediction asks for.

    .. math::
        x_s = \frac{\beta \alpha_s}{\sigma_t^2} \hat x_0 + \frac{\sigma_s^2 \alpha_t}{\sigma_t^2 \alpha_s} x_t
              + \sqrt{\beta^f \tilde\beta^{1-f}}\, z, \qquad
        \beta = 1 - \bar\alpha_t / \bar\alpha_s, \quad \tilde\beta = \beta \sigma_s^2 / \sigma_t^2

    with the fraction `f = prediction.variance_fraction` (0 where it is None). No noise is added when `s = -1`.

    References:
        Ho et al., 2020, https://arxiv.org/abs/2006.11239, equations 6 and 7.
        Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672, equation 15.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    beta = schedule.beta(t, s)
    mean = beta * alpha_s / sigma_t**2 * prediction.x0_hat + (sigma_s / sigma_t) ** 2 * alpha_t / alpha_s * x_t
    fraction = 0.0 if prediction.variance_fraction is None else prediction.variance_fraction
    shrink = jnp.where(s >= 0, sigma_s / sigma_t, 1.0)
    std = jnp.sqrt(beta) * shrink ** (1 - fraction)
    return mean + jnp.where(s >= 0, std, 0.0) * jax.random.normal(key, x_t.shape)


def check_measurement(operator: Callable[[Array], Array], y: Array, image_shape: tuple[int, int, int]) -> None:
    """Raises a ValueError unless `operator` turns an image into something of the shape of `y`.

    Without this check a measurement of another shape would be broadcast against `A(x)` in silence.
    """
    wanted = jax.eval_shape(operator, jax.ShapeDtypeStruct(image_shape, jnp.float32)).shape
    if y.shape != wanted:
        raise ValueError(f"`y` must have the shape {wanted} that `operator` gives, got {y.shape}.")
