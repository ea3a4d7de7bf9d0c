"""What every sampler shares: the loop over diffusion time, the forward process, and the ancestral step."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.denoiser import Prediction
from jaxdiff.pytree import pytree
from jaxdiff.schedule import Schedule

Devices = Sequence[Any]
"""Devices as `jax.devices()` gives them."""

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


class Progress(NamedTuple):
    """Where a run of many chains stands; enough to go on from.

    Attributes:
        batch: index of the batch that is running.
        num_batches: number of batches.
        step: steps done in this batch.
        num_steps: steps of a whole run.
        state: states of the batch's chains after the last step done; a last batch may end with copies.
        x0_hat: their estimates in that step, `(n, h, w, c)`.
        seen: what the observer remembers of each; None without one.
    """

    batch: int
    num_batches: int
    step: int
    num_steps: int
    state: Any
    x0_hat: Any
    seen: Any = None


@jax.jit
def _start(sampler: Sampler, keys: PRNGKeyArray, t: Array) -> Any:
    return jax.vmap(lambda key: sampler.init(jax.random.fold_in(key, jnp.int32(-1)), t))(keys)


@jax.jit
def _step(sampler: Sampler, key: PRNGKeyArray, state: Any, t: Array, s: Array) -> tuple[Any, Prediction]:
    # Jitted so that asking for its shapes and scanning over it trace it once.
    return sampler.step(key, state, t, s)


@pytree
class _Watched:
    """A sampler whose state also holds the last estimate, so that a scan need not stack all, and what was seen."""

    sampler: Sampler
    observer: Observer | None

    def init(self, key: PRNGKeyArray, t: Time) -> Any:
        raise NotImplementedError("always continues a state")

    def step(
        self, key: PRNGKeyArray, state: tuple[Any, Array, Any], t: Time, s: Time
    ) -> tuple[tuple[Any, Array, Any], Prediction]:
        before, _, seen = state
        after, prediction = _step(self.sampler, key, before, t, s)
        if self.observer is not None:
            seen = self.observer.look(seen, key, before, prediction, after, t, s)
        return (after, prediction.x0_hat, seen), prediction


@jax.jit
def _advance(
    sampler: Sampler, observer: Observer | None, keys: PRNGKeyArray, state: Any, seen: Any, times: Array
) -> tuple[Any, Array, Any]:
    watched = _Watched(sampler, observer)
    first = jax.tree.map(lambda leaf: leaf[0], state)
    of_one = jax.eval_shape(_step, sampler, keys[0], first, times[0], times[1])[1].x0_hat
    x0_hat = jnp.zeros((len(keys), *of_one.shape), of_one.dtype)
    return jax.vmap(lambda key, *state: sample(watched, key, times, state=state)[0])(keys, state, x0_hat, seen)


def sample_segments(
    sampler: Sampler,
    keys: PRNGKeyArray,
    times: Int[Array, " n"] | np.ndarray,
    *,
    batch_size: int | None = None,
    segment: int | None = None,
    state: Any = None,
    observer: Observer | None = None,
    after: Progress | None = None,
    devices: Devices | None = None,
) -> Iterator[Progress]:
    """Draws one sample per key, in batches that bound the memory, and stops for a look after every segment.

    The sampler, with the network's weights inside, is an argument of one jitted function: new measurements and
    hyper-parameters cost no compilation, nor do further batches and segments.

    Args:
        sampler: the algorithm.
        keys: `(n,)` PRNG keys; sample `k` depends on `keys[k]` only, whatever the batches and segments.
        times: decreasing times, usually ending with -1.
        batch_size: chains that run at once, rounded up to a multiple of the number of devices; all by default. The
            last batch is filled up with copies.
        segment: steps between two stops; shortened to a divisor of the number of steps, so that all segments share
            one compilation. The whole run by default.
        state: where the chains start, stacked; the sampler's `init` by default.
        observer: looks at every step of every chain.
        after: where an earlier run with the same arguments stood; what follows is bit for bit what would have followed.
        devices: share the chains of every batch among them, each with its own copy of the weights and no word between
            them; by default those that hold `keys`. In a run of several processes: `jax.local_devices()`.

    Yields:
        A `Progress` after every segment of every batch.

    Raises:
        ValueError: if there is no key or fewer than two times, or a size is not positive.
    """
    num_steps = len(times) - 1
    batch_size = len(keys) if batch_size is None else batch_size
    segment = num_steps if segment is None else segment
    if keys.ndim != 1 or len(keys) == 0 or num_steps < 1:
        raise ValueError(
            f"`keys` must be (n,) with n > 0, and `times` at least two, got {keys.shape} and {len(times)}."
        )
    if batch_size < 1 or segment < 1:
        raise ValueError(f"`batch_size` and `segment` must be positive, got {batch_size} and {segment}.")
    devices = _sharing(keys) if devices is None else devices
    share = len(devices or (None,))
    batch_size = -(-min(batch_size, len(keys)) // share) * share
    segment = max(n for n in range(1, min(segment, num_steps) + 1) if num_steps % n == 0)
    sampler, observer, times = _place((sampler, observer, jnp.asarray(times)), devices)
    num_batches = -(-len(keys) // batch_size)
    for batch in range(after.batch if after else 0, num_batches):
        chosen = np.minimum(batch * batch_size + np.arange(batch_size), len(keys) - 1)
        batch_keys = _place(keys[chosen], devices, "chains")
        done, seen = 0, None
        if observer is not None:
            seen = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch_size, *jnp.shape(leaf))), observer.start())
        if after and batch == after.batch:
            done, batch_state, seen = after.step, after.state, after.seen
        elif state is not None:
            batch_state = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], state)
        else:
            batch_state = _start(sampler, batch_keys, times[0])
        batch_state, seen = _place((batch_state, seen), devices, "chains")
        for step in range(done, num_steps, segment):
            part = times[step : step + segment + 1]
            batch_state, x0_hat, seen = _advance(sampler, observer, batch_keys, batch_state, seen, part)
            jax.block_until_ready(x0_hat)
            yield Progress(batch, num_batches, step + segment, num_steps, batch_state, x0_hat, seen)


def _sharing(keys: PRNGKeyArray) -> Devices | None:
    """Returns the devices that hold the keys, if there are several."""
    return sorted(keys.devices(), key=lambda device: device.id) if len(keys.devices()) > 1 else None


def _place(tree: Any, devices: Devices | None, *axis: str) -> Any:
    """Puts a copy of all arrays on every device, or with an axis a part of each; leaves them where they are if None."""
    if devices is None:
        return tree
    # Not Explicit, the default of `jax.make_mesh`: reshapes that merge the chains would have to name their sharding.
    mesh = Mesh(np.array(devices), ("chains",), axis_types=(AxisType.Auto,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axis)))


def sample_many(
    sampler: Sampler,
    keys: PRNGKeyArray,
    times: Int[Array, " n"] | np.ndarray,
    *,
    batch_size: int | None = None,
    segment: int | None = None,
    state: Any = None,
    devices: Devices | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Any:
    """Draws one sample per key.

    Args:
        sampler: as in `sample_segments`, which does the work.
        keys: likewise, and so are `times`, `batch_size`, `segment`, `state` and `devices`.
        report: called after every segment.

    Returns:
        The last states, stacked; for most samplers images `(n, h, w, c)`.

    Raises:
        ValueError: as `sample_segments`.
    """
    results = []
    arguments = {"batch_size": batch_size, "segment": segment, "state": state, "devices": devices}
    for progress in sample_segments(sampler, keys, times, **arguments):
        report(progress)
        if progress.step == progress.num_steps:
            results.append(progress.state)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[: len(keys)], *results)


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
