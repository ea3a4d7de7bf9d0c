"""What every sampler shares: the loop over diffusion time, the forward process, and the ancestral step."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number
from jaxdiff.schedule import Schedule

State = TypeVar("State")
Seen = TypeVar("Seen")


@runtime_checkable
class Sampler(Protocol[State]):
    """An algorithm: where a chain starts, and how it goes from time `t` to the next time `s`.

    A sampler is a frozen dataclass made by `jaxdiff.pytree.pytree`. Its state is any PyTree; `ImageSampler` is a base
    for those whose state is the image `x_t`.
    """

    def init(self, key: PRNGKeyArray, t: Time, /) -> State:
        """Returns the state at the first time of a run."""
        ...

    def step(self, key: PRNGKeyArray, state: State, t: Time, s: Time, /) -> tuple[State, Prediction]:
        """Goes from `t` to `s`; returns the new state and what the prior said on the way."""
        ...

    def image(self, state: State, /) -> Float[Array, "h w c"]:
        """Returns the image `x_t` that a state stands for; after the last step it is the sample."""
        ...


class ImageSampler:
    """Base of samplers whose chains start from noise, and whose state is the image `x_t`.

    One whose state holds more overrides `from_image` and `image`.
    """

    prior: Prior

    def init(self, key: PRNGKeyArray, t: Time) -> Any:
        """Draws noise of the level of time `t`."""
        return self.from_image(perturb(self.prior.schedule, key, jnp.zeros(self.prior.image_shape), t))

    def from_image(self, x_t: Float[Array, "h w c"]) -> Any:
        """Returns the state of a chain that starts from an image."""
        return x_t

    def image(self, state: Any) -> Float[Array, "h w c"]:
        """Returns the state, which is the image."""
        return state


@runtime_checkable
class Observer(Protocol[Seen]):
    """Looks at every step of a chain, and remembers something of it; a PyTree like a sampler."""

    def start(self) -> Seen:
        """Returns what is known before the first step."""
        ...

    def look(
        self, seen: Seen, sampler: Any, state: Any, prediction: Prediction, after: Any, t: Time, s: Time, /
    ) -> Seen:
        """Takes in one step of the sampler, from `state` at `t` to `after` at `s`."""
        ...


def sample(
    sampler: Sampler[State],
    key: PRNGKeyArray,
    times: Int[Array, " n"] | np.ndarray,
    *,
    visits: Int[Array, " steps"] | np.ndarray | None = None,
    state: State | None = None,
    trace: Callable[[State, Prediction], Any] = lambda state, prediction: None,
) -> tuple[State, Any]:
    """Runs one chain through `times`; the only scan over diffusion time.

    The key of a step from `t` is `fold_in(key, t)` the first time that the chain starts a step there, and
    `fold_in(fold_in(key, t), v)` after `v` such steps, so that a time that comes again brings new noise. The initial
    noise has the key `fold_in(key, -1)`. A run cut into segments gives the numbers of the whole run.

    Args:
        sampler: the algorithm.
        key: one PRNG key, new or legacy; `jax.vmap` over keys draws many samples.
        times: the times of the chain, usually falling and ending with -1 (`jaxdiff.time_grid`). They may rise and
            repeat.
        visits: how often the whole run starts at each of the times before; found from `times` by default, and needed
            only where these are a part of a run that comes back to earlier times (`visit_numbers`).
        state: where to go on from; the sampler's `init` by default.
        trace: `(state, prediction) -> what to keep of every step`.

    Returns:
        The last state (`sampler.image` makes an image of it), and the stacked traces.

    Raises:
        ValueError: if a time is known and outside of the prior's table, or `key` is not one key.
    """
    check_times(sampler, times)
    key = as_keys(key, 0)
    visits = visit_numbers(times) if visits is None else visits
    times, visits = jnp.asarray(times), jnp.asarray(visits)
    start = start_chain(sampler, key, times[0]) if state is None else state

    def body(state: State, step: tuple[Array, Array, Array]) -> tuple[State, Any]:
        t, s, visit = step
        state, prediction = sampler.step(step_key(key, t, visit), state, t, s)
        return state, trace(state, prediction)

    return jax.lax.scan(body, start, (times[:-1], times[1:], visits))


def start_chain(sampler: Sampler[State], key: PRNGKeyArray, t: Time) -> State:
    """Returns the state that a chain starts from at time `t`; its noise has the key `fold_in(key, -1)`."""
    return sampler.init(jax.random.fold_in(key, jnp.int32(-1)), t)


def check_times(sampler: Any, times: Int[Array, " n"] | np.ndarray) -> None:
    """Raises a ValueError if a time is known and outside of the table of the sampler's prior.

    An index outside of the table would be clamped by JAX in silence.
    """
    if isinstance(times, Tracer):
        return
    values, prior = np.asarray(times), getattr(sampler, "prior", None)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"`times` must be a list of times, as `jaxdiff.time_grid` makes it, got {values.tolist()}.")
    last = np.inf if prior is None else prior.schedule.num_times - 1
    if values.dtype.kind not in "iu" or values.min() < -1 or values.max() > last:
        raise ValueError(f"`times` must be whole numbers from -1, the clean image, to {last}, got {values.tolist()}.")


def as_keys(keys: Any, ndim: int = 1) -> Key[Array, "..."]:
    """Returns typed keys, also of legacy ones (`jax.random.PRNGKey`), whose numbers are the same.

    Args:
        keys: the keys.
        ndim: 0 for one key, 1 for several, `(n,)`.

    Raises:
        ValueError: if they are no keys, or not of this shape.
    """
    wanted = ("`key` must be one key, `jax.random.key(0)`", "`keys` must be (n,), `jax.random.split(key, n)`")[ndim]
    dtype = getattr(keys, "dtype", np.dtype(object))
    if dtype == np.uint32 and np.ndim(keys):
        keys = jax.random.wrap_key_data(jnp.asarray(keys))
    elif not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError(f"{wanted}, got {keys!r}.")
    if keys.ndim != ndim or keys.size == 0:
        raise ValueError(f"{wanted}, got {'one key' if keys.ndim == 0 else f'keys of shape {keys.shape}'}.")
    return keys


def visit_numbers(times: Int[Array, " n"] | np.ndarray) -> Int[Array | np.ndarray, " steps"]:
    """Returns for every step how many steps before it start at the same time.

    The initial noise counts as one at -1.

    >>> visit_numbers(np.array([500, 300, 500, 300, -1]))
    array([0, 0, 1, 1])
    """
    xp = jnp if isinstance(times, Tracer) else np
    starts = xp.asarray(times)[:-1]
    same = starts[:, None] == starts[None, :]
    return xp.sum(xp.tril(same, -1), axis=1) + (starts < 0)


def step_key(key: PRNGKeyArray, t: Time, visit: Time) -> PRNGKeyArray:
    """Returns the key of a step from `t` that `visit` steps from there precede."""
    first = jax.random.fold_in(key, t)
    return jnp.where(visit == 0, first, jax.random.fold_in(first, visit))


def perturb(schedule: Schedule, key: PRNGKeyArray, x0: Float[Array, "h w c"], t: Time) -> Float[Array, "h w c"]:
    """Draws `x_t = alpha_t x0 + sigma_t eps`, the forward process; `x0 = 0` gives the initial noise."""
    alpha_t, sigma_t = schedule(t)
    return alpha_t * x0 + sigma_t * jax.random.normal(key, x0.shape)


def renoise(
    schedule: Schedule, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
) -> Float[Array, "h w c"]:
    r"""Draws `x_s` given `x_t` for a later time `s >= t`, as the forward process does.

    .. math:: x_s = \frac{\alpha_s}{\alpha_t} x_t + \sqrt{1 - \bar\alpha_s / \bar\alpha_t}\, z
    """
    (alpha_t, _), (alpha_s, _) = schedule(t), schedule(s)
    added = jnp.maximum(schedule.beta(s, t), 0.0)
    return alpha_s / alpha_t * x_t + jnp.sqrt(added) * jax.random.normal(key, x_t.shape)


def fall_or_renoise(
    schedule: Schedule,
    key: PRNGKeyArray,
    x_t: Float[Array, "h w c"],
    t: Time,
    s: Time,
    fall: Callable[[Array, Array], Float[Array, "h w c"]],
) -> Float[Array, "h w c"]:
    """Returns `fall(t, s)` where time falls; where it rises, `s >= t`, the step of the forward process, `renoise`."""
    falls = jnp.asarray(s) < t
    # Times that make the formula finite in the branch that is not taken.
    fallen = fall(jnp.where(falls, t, 1), jnp.where(falls, s, 0))
    return jnp.where(falls, fallen, renoise(schedule, key, x_t, t, s))


def ancestral_step(
    schedule: Schedule, key: PRNGKeyArray, x_t: Float[Array, "h w c"], prediction: Prediction, t: Time, s: Time
) -> Float[Array, "h w c"]:
    r"""Draws `x_s` given `x_t` as DDPM does, with the variance that the prediction asks for.

    .. math::
        x_s = \frac{\beta \alpha_s}{\sigma_t^2} \hat x_0 + \frac{\sigma_s^2 \alpha_t}{\sigma_t^2 \alpha_s} x_t
              + \sqrt{\beta^f \tilde\beta^{1-f}}\, z, \qquad
        \beta = 1 - \bar\alpha_t / \bar\alpha_s, \quad \tilde\beta = \beta \sigma_s^2 / \sigma_t^2

    with the fraction `f = prediction.variance_fraction` (0 where it is None). No noise is added when `s = -1`. Where
    time rises, `s >= t`, the step is that of the forward process, `renoise`.

    References:
        Ho et al., 2020, https://arxiv.org/abs/2006.11239, equations 6 and 7.
        Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672, equation 15.
    """

    def fall(t: Array, s: Array) -> Array:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        beta = schedule.beta(t, s)
        mean = beta * alpha_s / sigma_t**2 * prediction.x0_hat + (sigma_s / sigma_t) ** 2 * alpha_t / alpha_s * x_t
        fraction = 0.0 if prediction.variance_fraction is None else prediction.variance_fraction
        shrink = jnp.where(s >= 0, sigma_s / sigma_t, 1.0)
        std = jnp.sqrt(beta) * shrink ** (1 - fraction)
        return mean + jnp.where(s >= 0, std, 0.0) * jax.random.normal(key, x_t.shape)

    return fall_or_renoise(schedule, key, x_t, t, s, fall)


def ddim_moments(
    schedule: Schedule, x_t: Float[Array, "h w c"], x0_hat: Float[Array, "h w c"], t: Time, s: Time, eta: Number
) -> tuple[Float[Array, "h w c"], Float[Array, ""]]:
    """Returns mean and standard deviation of DDIM's step from `t` down to `s`."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    eps_hat = (x_t - alpha_t * x0_hat) / sigma_t
    variance = eta**2 * schedule.posterior_variance(t, s)
    # Rounding can take the difference below zero where sigma_s is small.
    mean = alpha_s * x0_hat + jnp.sqrt(jnp.maximum(sigma_s**2 - variance, 0.0)) * eps_hat
    return mean, jnp.sqrt(variance)


def guided_step(
    schedule: Schedule,
    key: PRNGKeyArray,
    x_t: Float[Array, "h w c"],
    prediction: Prediction,
    shift: Float[Array, "h w c"],
    t: Time,
    s: Time,
) -> Float[Array, "h w c"]:
    """Takes an ancestral step and adds `shift`, a pull towards the data; where time rises there is nothing to guide."""
    x_s = ancestral_step(schedule, key, x_t, prediction, t, s)
    return jnp.where(jnp.asarray(s) < t, x_s + shift, x_s)


def residual_gradient(
    prior: Prior, measurement: Measurement, x_t: Float[Array, "h w c"], t: Time
) -> tuple[Float[Array, ""], Float[Array, "h w c"], Prediction]:
    """Runs the network once, forward and back.

    Returns:
        `||y - A(x0_hat(x_t))||^2`, its gradient in `x_t`, and the prediction.
    """

    def squared_residual(x_t: Array) -> tuple[Array, Prediction]:
        prediction = prior.predict(x_t, t)
        return jnp.sum(jnp.abs(measurement.residual(prediction.x0_hat)) ** 2), prediction

    (squared, prediction), gradient = jax.value_and_grad(squared_residual, has_aux=True)(x_t)
    return squared, gradient, prediction


def nested_time(t: Time, i: Time, num_steps: int) -> Int[Array, ""]:
    """Returns the `i`-th of `num_steps` times that go evenly from `t` down to 0, and after them -1."""
    return jnp.where(jnp.asarray(i) < num_steps, t - t * i // max(num_steps - 1, 1), -1)


def divide(x: Float[Array, "..."], squared_length: Float[Array, ""]) -> Float[Array, "..."]:
    """Returns `x / sqrt(squared_length)`, and zero where the length is zero."""
    positive = squared_length > 0
    return jnp.where(positive, x * jax.lax.rsqrt(jnp.where(positive, squared_length, 1.0)), 0.0)
