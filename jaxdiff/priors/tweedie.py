"""Tweedie's formulas: the score, and the posterior covariance of `x0` given `x_t`."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.priors.denoiser import Prediction, Prior

Product = Callable[[Float[Array, "h w c"]], Float[Array, "h w c"]]
"""Of a matrix with an image."""


def score(prior: Prior, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int) -> Float[Array, "h w c"]:
    r"""Returns `grad log p(x_t)`, as :math:`(\alpha_t \hat x_0 - x_t) / \sigma_t^2`."""
    alpha_t, sigma_t = prior.schedule(t)
    return (alpha_t * prior.predict(x_t, t).x0_hat - x_t) / sigma_t**2


def tweedie(prior: Prior, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int) -> tuple[Prediction, Product]:
    r"""Runs the network once; returns its prediction, and the product with the posterior covariance of `x0`.

    .. math::
        v \mapsto \frac{\sigma_t^2}{\alpha_t} \left(\frac{\partial \hat x_0}{\partial x_t}\right)^{\!\top} v
        = \mathrm{Cov}[x_0 \mid x_t]\, v

    The identity is exact for the posterior mean, whose Jacobian is symmetric; a network's is only nearly so. The
    Jacobian is that of the estimate before it is clipped, as a clip's derivative would be 0. Every product costs one
    vector-Jacobian product.

    Args:
        prior: the prior.
        x_t: the noisy image.
        t: its time.

    References:
        Efron, 2011, "Tweedie's formula and selection bias", section 2 (the identity).
        Boys et al., 2023, https://arxiv.org/abs/2310.06721 (for diffusion models).
    """

    def predict(x_t: Array) -> tuple[Array, Prediction]:
        prediction = prior.predict(x_t, t)
        return prediction.before_clip, prediction

    # Backwards, because the UNet's convolutions have no forward-mode rule.
    _, pull_back, prediction = jax.vjp(predict, x_t, has_aux=True)
    alpha_t, sigma_t = prior.schedule(t)
    return prediction, lambda v: sigma_t**2 / alpha_t * pull_back(v)[0]


def tweedie_variance(
    prior: Prior, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int, num_probes: int = 64
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
        prior: the prior.
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
    _, covariance = tweedie(prior, x_t, t)

    def response(key: PRNGKeyArray) -> Array:
        probe = jax.random.rademacher(key, x_t.shape, x_t.dtype)
        return probe * covariance(probe)

    return jax.lax.map(response, jax.random.split(key, num_probes)).mean(0)
