"""Mixtures of Gaussian priors, whose posterior means, scores and samples are exact."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.priors.denoiser import Prediction, Time
from jaxdiff.priors.gaussian import GaussianPrior, check_same_shape
from jaxdiff.pytree import Number, pytree
from jaxdiff.schedule import Schedule


@pytree
class MixturePrior:
    r"""A mixture of Gaussian priors, `sum_k w_k N(m_k, C_k)`, whose posterior means are exact.

    .. math:: \hat x_0 = \sum_k r_k\, \mathrm{E}_k[x_0 \mid x_t], \qquad
              r_k \propto w_k\, \mathcal N(x_t;\ \alpha_t m_k,\ \alpha_t^2 C_k + \sigma_t^2 I)

    Args:
        weights: of the components, positive; they are divided by their sum.
        components: Gaussians with covariances of one kind and one schedule, any number of them.

    Raises:
        ValueError: if the numbers of weights and components differ, a weight is not positive, or the kinds do.
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "k h w c"]
    covariances: Any
    schedule: Schedule

    def __init__(self, weights: Sequence[Number], components: Sequence[GaussianPrior]):
        if len(weights) != len(components) or not all(isinstance(w, Tracer) or w > 0 for w in weights):
            raise ValueError(f"`weights` must be {len(components)} positive numbers, one per component, got {weights}.")
        if len({(type(p.covariance), p.image_shape) for p in components}) > 1:
            raise ValueError("`components` must have images of one shape and covariances of one kind.")
        object.__setattr__(self, "log_weights", jnp.log(jnp.asarray(weights, jnp.float32) / sum(weights)))
        object.__setattr__(self, "means", jnp.stack([p.mean for p in components]))
        covariances = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p.covariance for p in components))
        object.__setattr__(self, "covariances", covariances)
        object.__setattr__(self, "schedule", components[0].schedule)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape `(h, w, c)` of the means."""
        h, w, c = self.means.shape[1:]
        return h, w, c

    @property
    def components(self) -> list[GaussianPrior]:
        """The Gaussians."""
        return [self.component(k) for k in range(len(self.means))]

    def component(self, k: int | Int[Array, ""]) -> GaussianPrior:
        """Returns one of the Gaussians."""
        return GaussianPrior(self.means[k], jax.tree.map(lambda leaf: leaf[k], self.covariances), self.schedule)

    def predict(self, x_t: Float[Array, "h w c"], t: Time) -> Prediction:
        """Returns `E[x0 | x_t]`, not clipped."""
        estimates = self._each(lambda gaussian: gaussian.predict(x_t, t).x0_hat)
        return Prediction(jnp.tensordot(self.responsibilities(x_t, t), estimates, 1), None)

    def bound(self, x0: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `x0`: these images have no range."""
        return x0

    def at(self, image_shape: tuple[int, int, int]) -> "MixturePrior":
        """Returns the prior, which knows images of one size.

        Raises:
            ValueError: if that is another.
        """
        return check_same_shape(self, image_shape)

    def responsibilities(self, x_t: Float[Array, "h w c"], t: Time) -> Float[Array, " k"]:
        """Returns the probability of every component given `x_t`."""
        return jax.nn.softmax(self.log_weights + self._each(lambda gaussian: gaussian.log_density(x_t, t)))

    def tweedie_covariance(
        self, x_t: Float[Array, "h w c"], t: Time, v: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """Returns `Cov[x0 | x_t] v`: the components' own, and the spread of their estimates."""
        estimates = self._each(lambda gaussian: gaussian.predict(x_t, t).x0_hat)
        within = self._each(lambda gaussian: gaussian.tweedie_covariance(x_t, t, v))
        return mixture_covariance(self.responsibilities(x_t, t), estimates, within, v)

    def log_density(self, x_t: Float[Array, "h w c"], t: Time) -> Float[Array, ""]:
        """Returns `log p(x_t)`; its gradient is the score."""
        return jax.nn.logsumexp(self.log_weights + self._each(lambda gaussian: gaussian.log_density(x_t, t)))

    def sample(self, key: PRNGKeyArray) -> Float[Array, "h w c"]:
        """Draws an image of the prior."""
        key_component, key_image = jax.random.split(key)
        return self.component(jax.random.categorical(key_component, self.log_weights)).sample(key_image)

    def _each(self, function: Callable[[GaussianPrior], Array]) -> Array:
        one = lambda mean, covariance: function(GaussianPrior(mean, covariance, self.schedule))
        return jax.vmap(one)(self.means, self.covariances)


def mixture_covariance(
    weights: Float[Array, " k"],
    means: Float[Array, "k h w c"],
    products: Float[Array, "k h w c"],
    v: Float[Array, "h w c"],
) -> Float[Array, "h w c"]:
    """Returns a mixture's covariance times `v`, from its components' `products` with `v`."""
    apart = means - jnp.tensordot(weights, means, 1)
    along = jnp.tensordot(apart, v, 3)
    return jnp.tensordot(weights, products, 1) + jnp.tensordot(weights * along, apart, 1)
