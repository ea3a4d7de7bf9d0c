"""Denoisers: what a sampler needs to know about the prior, `(x_t, t) -> E[x0 | x_t]`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.pytree import pytree, static
from jaxdiff.schedule import Schedule

Target = Literal["epsilon", "x0", "v"]
Variance = Literal["learned_range", "fixed_small", "fixed_large"]


class Prediction(NamedTuple):
    """What a denoiser says about one noisy image.

    Attributes:
        x0_hat: the posterior mean `E[x0 | x_t]`, in [-1, 1] when clipped.
        variance_fraction: where the variance of an ancestral step lies between its lower bound (0) and its upper
            bound (1), in log space; None for the lower bound.
    """

    x0_hat: Float[Array, "h w c"]
    variance_fraction: Float[Array, "h w c"] | Float[Array, ""] | None


class Prior(Protocol):
    """What samplers ask of a denoiser."""

    @property
    def schedule(self) -> Schedule: ...  # noqa: D102
    @property
    def image_shape(self) -> tuple[int, int, int]: ...  # noqa: D102

    def predict(self, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int) -> Prediction: ...  # noqa: D102


@pytree
class Denoiser:
    r"""A trained network as a denoiser.

    .. math::
        \hat x_0 = (x_t - \sigma_t \hat\epsilon) / \alpha_t \quad\text{or}\quad
        \hat x_0 = \alpha_t x_t - \sigma_t \hat v

    Args:
        network: called as `network(x_t, t)` with the original integer time; gives `(h, w, c)`, or `(h, w, 2c)` when
            the variance is learned.
        schedule: the schedule the network was trained with.
        image_shape: `(h, w, c)` of the images the network was trained on.
        target: what the first `c` channels predict.
        variance: variance of an ancestral step. `learned_range` reads it from the last `c` channels, as an
            interpolation in log space between `fixed_small` (the posterior variance) and `fixed_large` (beta).
        clip: whether `x0_hat` is clipped to [-1, 1], as guided-diffusion and DPS do; gradients flow through the clip.

    Raises:
        ValueError: if `target` or `variance` is unknown.

    References:
        Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672, equation 15 (learned range).
        Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512 (v-prediction).
    """

    network: Callable[..., Array]
    schedule: Schedule
    image_shape: tuple[int, int, int] = static()
    target: Target = static(default="epsilon")
    variance: Variance = static(default="fixed_small")
    clip: bool = static(default=True)

    def __post_init__(self) -> None:
        if self.target not in ("epsilon", "x0", "v"):
            raise ValueError(f"`target` must be epsilon, x0 or v, got {self.target!r}.")
        if self.variance not in ("learned_range", "fixed_small", "fixed_large"):
            raise ValueError(f"`variance` must be learned_range, fixed_small or fixed_large, got {self.variance!r}.")

    def predict(self, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int) -> Prediction:
        """Runs the network once."""
        output = self.network(x_t, t)
        fraction = None
        if self.variance == "learned_range":
            output, raw = jnp.split(output, 2, axis=-1)
            fraction = (raw + 1) / 2
        elif self.variance == "fixed_large":
            fraction = jnp.ones(())
        x0_hat = self._to_x0_hat(output, x_t, t)
        return Prediction(jnp.clip(x0_hat, -1, 1) if self.clip else x0_hat, fraction)

    def _to_x0_hat(self, output: Array, x_t: Array, t: Int[Array, ""] | int) -> Array:
        alpha_t, sigma_t = self.schedule(t)
        if self.target == "epsilon":
            return (x_t - sigma_t * output) / alpha_t
        if self.target == "v":
            return alpha_t * x_t - sigma_t * output
        return output


def score(denoiser: Prior, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int) -> Float[Array, "h w c"]:
    r"""Returns `grad log p(x_t)`, as :math:`(\alpha_t \hat x_0 - x_t) / \sigma_t^2`."""
    alpha_t, sigma_t = denoiser.schedule(t)
    return (alpha_t * denoiser.predict(x_t, t).x0_hat - x_t) / sigma_t**2


def bound(denoiser: Prior, x0: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Clips `x0` to [-1, 1] where the denoiser clips its own estimates."""
    return jnp.clip(x0, -1, 1) if isinstance(denoiser, Denoiser) and denoiser.clip else x0


def tweedie(
    denoiser: Prior, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int
) -> tuple[Prediction, Callable[[Float[Array, "h w c"]], Float[Array, "h w c"]]]:
    r"""Runs the network once; returns its prediction, and the product with the posterior covariance of `x0`.

    .. math::
        v \mapsto \frac{\sigma_t^2}{\alpha_t} \left(\frac{\partial \hat x_0}{\partial x_t}\right)^{\!\top} v
        = \mathrm{Cov}[x_0 \mid x_t]\, v

    The identity is exact for the posterior mean, whose Jacobian is symmetric; a network's is only nearly so. Neither is
    clipped, as a clip's derivative would be 0: see `bound`. Every product costs one vector-Jacobian product.

    Args:
        denoiser: the prior.
        x_t: the noisy image.
        t: its time.

    References:
        Efron, 2011, "Tweedie's formula and selection bias", section 2 (the identity).
        Boys et al., 2023, https://arxiv.org/abs/2310.06721 (for diffusion models).
    """
    unclipped = replace(denoiser, clip=False) if isinstance(denoiser, Denoiser) else denoiser

    def predict(x_t: Array) -> tuple[Array, Prediction]:
        prediction = unclipped.predict(x_t, t)
        return prediction.x0_hat, prediction

    # Backwards, because the UNet's convolutions have no forward-mode rule.
    _, pull_back, prediction = jax.vjp(predict, x_t, has_aux=True)
    alpha_t, sigma_t = denoiser.schedule(t)
    return prediction, lambda v: sigma_t**2 / alpha_t * pull_back(v)[0]


def tweedie_variance(
    denoiser: Prior, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int, num_probes: int = 64
) -> Float[Array, "h w c"]:
    r"""Estimates the posterior variance of every pixel of `x0` given `x_t`, from how `x0_hat` responds to `x_t`.

    .. math::
        C = \mathrm{Cov}[x_0 \mid x_t], \qquad
        \mathrm{diag}(C) \approx \frac{1}{n} \sum_{i=1}^{n} v_i \odot C v_i, \quad v_i \in \{-1, 1\}^{hwc}

    The products are those of `tweedie`, as good as the network's Jacobian. The estimate is unbiased, and its standard
    error at pixel `p` is `sqrt(sum_{q != p} C_pq^2 / n)`, so that it may be negative. Where pixels do not depend on
    each other one probe is exact. A clip of `x0_hat` plays no part: its derivative would be 0.

    The network runs once; every probe costs one vector-Jacobian product more.

    Args:
        denoiser: the prior.
        key: of the probes `v_i`, independent random signs.
        x_t: the noisy image.
        t: its time.
        num_probes: number `n` of probes.

    Raises:
        ValueError: if `num_probes` is not positive.

    References:
        Hutchinson, 1989, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
        splines"; for a diagonal: Bekas, Kokiopoulou & Saad, 2007, "An estimator for the diagonal of a matrix".
    """
    if num_probes < 1:
        raise ValueError(f"`num_probes` must be at least 1, got {num_probes}.")
    _, covariance = tweedie(denoiser, x_t, t)

    def response(key: PRNGKeyArray) -> Array:
        probe = jax.random.rademacher(key, x_t.shape, x_t.dtype)
        return probe * covariance(probe)

    return jax.lax.map(response, jax.random.split(key, num_probes)).mean(0)
