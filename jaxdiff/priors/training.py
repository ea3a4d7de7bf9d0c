"""Training a prior: the diffusion loss, one optimiser step, and the running mean of the weights.

Everything here is a pure function; the loop with its files and pictures is `experiments.train_faces`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.priors.denoiser import Target, Variance, implied_x0
from jaxdiff.schedule import Schedule


@runtime_checkable
class BatchNetwork(Protocol):
    """A network of several images, each with its own time."""

    def batch(self, x_t: Any, t: Any, /) -> Any:
        """Predicts, `(n, h, w, c)` to `(n, h, w, d)`."""
        ...


class TrainState(NamedTuple):
    """What a training run carries from step to step.

    Attributes:
        weights: the network's parameters.
        average: their exponential moving average; this is what samples well and what is saved as a prior.
        optimizer: state of the optimiser.
        step: number of steps taken.
    """

    weights: Any
    average: Any
    optimizer: optax.OptState
    step: Int[Array, ""]


def target_of(target: Target, schedule: Schedule, x0: Array, eps: Array, t: Array) -> Array:
    """Returns what a network should predict: `eps`, `x0`, or `v = alpha_t eps - sigma_t x0`."""
    if target == "epsilon":
        return eps
    if target == "x0":
        return x0
    alpha_t, sigma_t = schedule(t)
    return alpha_t * eps - sigma_t * x0


def stratified_times(key: PRNGKeyArray, n: int, num_times: int, first: int = 0) -> Int[Array, " n"]:
    """Draws `n` uniform times from `first` to `num_times - 1`, one from each of `n` equal slices."""
    position = (jnp.arange(n) + jax.random.uniform(key, (n,))) / n
    span = num_times - first
    return first + jnp.minimum((position * span).astype(int), span - 1)


def diffusion_loss(
    network: BatchNetwork,
    schedule: Schedule,
    key: PRNGKeyArray,
    x0: Float[Array, "n h w c"],
    *,
    target: Target,
    variance: Variance,
    first_time: int = 0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, " n"] | Int[Array, " n"]]]:
    r"""The mean squared error of the prediction, plus the bound on the variance where that is learned.

    .. math:: L = \mathbb{E} \lVert \text{target} - \text{output} \rVert^2 + \tfrac{T}{1000} L_\text{vlb}

    Args:
        network: trained on a batch, `network.batch(x_t, t)`.
        schedule: the noise schedule.
        key: for the times and the noise.
        x0: clean images in [-1, 1].
        target: what the first `c` channels predict.
        variance: "learned_range" adds the bound, in bits per value, which trains the last `c` channels only.
        first_time: the smallest time that is drawn; above 0 for a network of high noise levels only.

    Returns:
        The loss, and per image the time `t` and the squared error of the implied `eps_hat` (comparable between
        targets).

    References:
        Ho et al., 2020, https://arxiv.org/abs/2006.11239, equation 14.
        Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672, equation 16 (hybrid loss).
    """
    key_t, key_eps = jax.random.split(key)
    t = stratified_times(key_t, len(x0), schedule.num_times, first_time)
    eps = jax.random.normal(key_eps, x0.shape)
    alpha_t, sigma_t = jax.tree.map(lambda a: a[:, None, None, None], jax.vmap(schedule)(t))
    x_t = alpha_t * x0 + sigma_t * eps
    output = network.batch(x_t, t)
    bound = jnp.zeros(())
    if variance == "learned_range":
        output, raw = jnp.split(output, 2, axis=-1)
        x0_hat = implied_x0(target, jax.lax.stop_gradient(output), x_t, alpha_t, sigma_t)
        bound = jax.vmap(variational_bound, (None, 0, 0, 0, 0, 0))(schedule, x0, x_t, x0_hat, (raw + 1) / 2, t).mean()
    wanted = jax.vmap(target_of, (None, None, 0, 0, 0))(target, schedule, x0, eps, t)
    error = jnp.square(output - wanted).mean((1, 2, 3))
    x0_hat = implied_x0(target, output, x_t, alpha_t, sigma_t)
    eps_error = jnp.square((x_t - alpha_t * x0_hat) / sigma_t - eps).mean((1, 2, 3))
    return error.mean() + schedule.num_times / 1000 * bound, {"t": t, "eps_error": eps_error}


def variational_bound(
    schedule: Schedule,
    x0: Float[Array, "h w c"],
    x_t: Float[Array, "h w c"],
    x0_hat: Float[Array, "h w c"],
    variance_fraction: Float[Array, "h w c"],
    t: Int[Array, ""],
) -> Float[Array, ""]:
    """The term of the variational bound at one time, in bits per value.

    The divergence of the model's step `t -> t - 1` from the true posterior; at `t = 0`, minus the log-likelihood of
    the 8-bit image.

    References:
        Ho et al., 2020, https://arxiv.org/abs/2006.11239, equations 5 and 13.
    """
    s = t - 1
    alpha_t, sigma_t = schedule(t)
    alpha_s, sigma_s = schedule(s)
    beta = schedule.beta(t, s)
    from_x0 = beta * alpha_s / sigma_t**2
    from_x_t = (sigma_s / sigma_t) ** 2 * alpha_t / alpha_s
    # At t = 0 the posterior variance is zero; its logarithm is taken from t = 1, as the original does.
    log_low = jnp.log(schedule.posterior_variance(jnp.maximum(t, 1), jnp.maximum(s, 0)))
    log_variance = variance_fraction * jnp.log(beta) + (1 - variance_fraction) * log_low
    mean, mean_hat = from_x0 * x0 + from_x_t * x_t, from_x0 * x0_hat + from_x_t * x_t
    divergence = 0.5 * (
        log_variance - log_low - 1 + jnp.exp(log_low - log_variance) + (mean - mean_hat) ** 2 * jnp.exp(-log_variance)
    )
    scale = jnp.exp(log_variance / 2)
    upper = jnp.where(x0 > 0.999, 1.0, norm.cdf((x0 + 1 / 255 - mean_hat) / scale))
    lower = jnp.where(x0 < -0.999, 0.0, norm.cdf((x0 - 1 / 255 - mean_hat) / scale))
    likelihood = -jnp.log(jnp.maximum(upper - lower, 1e-12))
    return jnp.where(t == 0, likelihood, divergence).mean() / jnp.log(2.0)


def make_optimizer(
    num_steps: int,
    *,
    learning_rate: float = 5e-4,
    warm_up: int = 100,
    decay_from: float = 0.6,
    weight_decay: float = 1e-4,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW with warm-up, a constant rate, a cosine decay over the rest of the run, and clipped gradients.

    Args:
        num_steps: length of the whole run.
        learning_rate: the constant rate.
        warm_up: steps of linear warm-up.
        decay_from: the fraction of the run after which the rate decays to zero.
        weight_decay: AdamW's.
        clip: largest global norm of a gradient.
    """
    start = max(int(decay_from * num_steps), 1)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, learning_rate, warm_up),
            optax.cosine_decay_schedule(learning_rate, max(num_steps - start, 1)),
        ],
        [start],
    )
    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=weight_decay))


def average_weights(average: Any, weights: Any, step: Int[Array, ""], decay: float) -> Any:
    """Moves the average towards the weights, faster at the start: `decay = min(decay, (1 + step) / (10 + step))`."""
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, w: a + rate * (w - a), average, weights)


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    target: Target,
    variance: Variance,
    first_time: int = 0,
    decay: float = 0.999,
) -> Callable[[TrainState, PRNGKeyArray, Array], tuple[TrainState, dict[str, Array]]]:
    """Returns a pure function `(state, key, x0) -> (state, report)`, to be jitted by the caller.

    Args:
        graph: the network's structure, from `nnx.split`.
        optimizer: e.g. from `make_optimizer`.
        schedule: the noise schedule.
        target: what the network predicts.
        variance: whether it learns the variance too.
        first_time: the smallest time that is drawn.
        decay: of the averaged weights.
    """

    def loss_of(weights, key, x0):
        network = nnx.merge(graph, weights)
        return diffusion_loss(network, schedule, key, x0, target=target, variance=variance, first_time=first_time)

    def train_step(state: TrainState, key: PRNGKeyArray, x0: Array) -> tuple[TrainState, dict[str, Array]]:
        (loss, report), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.weights, key, x0)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.weights)
        weights: Any = optax.apply_updates(state.weights, updates)
        average = average_weights(state.average, weights, state.step, decay)
        report = report | {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(weights, average, optimizer_state, state.step + 1), report

    return train_step
