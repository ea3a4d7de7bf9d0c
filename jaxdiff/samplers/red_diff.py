"""Regularisation by denoising diffusion: an optimisation, whose state is the image and the memory of Adam."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.operators import pinv
from jaxdiff.operators.base import is_linear
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree

RIDGE = 0.01
"""What damps singular values below 0.1 in the image that a chain starts from."""


class Optimised(NamedTuple):
    """The state of a chain of `REDDiff`.

    Attributes:
        mean: the image that is optimised, the mean of the variational posterior.
        adam: what Adam remembers.
    """

    mean: Float[Array, "h w c"]
    adam: optax.OptState


@pytree
class REDDiff:
    r"""Fits one image to the data, and pulls it to where the prior's estimate of its own noise is right.

    .. math::
        \mu \leftarrow \mathrm{Adam}\left(\mu,\; \nabla_\mu \frac{\lVert y - A(\mu) \rVert^2}{2 m}
        + \lambda r_t \frac{\hat\epsilon(x_t) - \epsilon}{n}\right), \qquad
        x_t = \alpha_t \mu + \sigma_t \epsilon, \quad r_t = \sigma_t / \alpha_t

    for `m` values of `y` and `n` of an image, with fresh noise `eps` in every step, from
    `(A^T A + 0.01 I)^{-1} A^T y` on (from 0 where `A` is not linear). It finds one image, and no spread: chains differ
    only by their noise. The state is that image, clean at all times; where time rises it stays as it is.

    A step costs one network call, forward only, and one gradient of the operator.

    Args:
        prior: the prior; its variance plays no part.
        measurement: of a differentiable operator; its noise plays no part.
        lambda_: weight of the prior, which has to suit the noise of the data; the authors' is 0.25.
        rate: Adam's learning rate: about the length, in [-1, 1] units, by which an entry moves in a step. The authors
            take 0.1 to 0.5 in 50 to 100 steps, InverseBench 0.02 in 1000.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape.

    Deviations:
        The authors start at `A^+ y`, whose noise is without bound where `A` is a blur.

    References:
        Mardani et al., 2023, https://arxiv.org/abs/2305.04391, algorithm 1.
    """

    prior: Prior
    measurement: Measurement
    lambda_: Number = 0.25
    rate: Number = 0.1

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)

    def init(self, key: PRNGKeyArray, t: Time) -> Optimised:
        """Starts at the damped pseudo-inverse of the data, whatever the time."""
        start, operator = jnp.zeros(self.prior.image_shape), self.measurement.operator
        if is_linear(operator, start):
            start = pinv(operator, start, ridge=RIDGE)(self.measurement.y).astype(start.dtype)
        return self.from_image(start)

    def from_image(self, x: Float[Array, "h w c"]) -> Optimised:
        """Returns the state of a chain that starts from an image."""
        return Optimised(x, self._adam.init(x))

    def step(self, key: PRNGKeyArray, state: Optimised, t: Time, s: Time) -> tuple[Optimised, Prediction]:
        """Takes one step of Adam."""
        alpha_t, sigma_t = self.prior.schedule(t)
        noise = jax.random.normal(key, state.mean.shape)
        x_t = alpha_t * state.mean + sigma_t * noise
        prediction = self.prior.predict(x_t, t)
        eps_hat = (x_t - alpha_t * prediction.x0_hat) / jnp.where(sigma_t > 0, sigma_t, 1.0)
        fit = lambda mean: jnp.mean(jnp.abs(self.measurement.residual(mean)) ** 2) / 2
        pull = self.lambda_ * sigma_t / alpha_t * (eps_hat - noise) / noise.size
        update, adam = self._adam.update(jax.grad(fit)(state.mean) + pull, state.adam)
        after = Optimised(state.mean + self.rate * jnp.asarray(update), adam)
        return jax.tree.map(lambda new, old: jnp.where(jnp.asarray(s) < t, new, old), after, state), prediction

    def image(self, state: Optimised) -> Float[Array, "h w c"]:
        """Returns the image that is optimised."""
        return state.mean

    @property
    def _adam(self) -> optax.GradientTransformation:
        # The rate multiplies afterwards, so that it can be swept.
        return optax.adam(1.0, b1=0.9, b2=0.99)
