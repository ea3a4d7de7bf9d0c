"""Decoupled annealing posterior sampling: every step draws a clean image given the data, and noises it anew."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree, static
from jaxdiff.samplers.base import ImageSampler, ddim_moments, fall_or_renoise, nested_time


@pytree
class DAPS(ImageSampler):
    r"""Estimates `x0` by the probability-flow equation, draws around it given `y`, and noises the draw to time `s`.

    .. math::
        x_0 \sim p(x_0 \mid x_t, y) \propto
        \exp\left(-\frac{\lVert y - A(x_0) \rVert^2}{2 \sigma_y^2}
                  - \frac{\lVert x_0 - \hat x_0 \rVert^2}{2 r_t^2}\right), \qquad
        x_s = \alpha_s x_0 + \sigma_s z, \quad r_t = \sigma_t / \alpha_t

    where `x0_hat` is the end of `ode_steps` Euler steps from `x_t`, and the draw is by `langevin_steps` of

    .. math::
        x \leftarrow x + h\, \nabla \log p(x \mid x_t, y) + \sqrt{2 h}\, z, \qquad
        h = \frac{\kappa}{1 / \sigma_y^2 + 1 / r_t^2}

    from `x0_hat` on. An error of one time is not carried to the next, so that `A` need not be linear. Where time rises,
    the step is `renoise`.

    A step costs `ode_steps` network calls, forward only, and `langevin_steps` gradients of the operator.

    Args:
        prior: the prior; its variance plays no part.
        measurement: of a differentiable operator, with Gaussian noise that is not zero.
        ode_steps: network calls of a step; the authors take 5 in 200 steps, or 10 in 400.
        langevin_steps: the authors' 100.
        step_size: `kappa`, a share of the longest step that is stable where `||A|| = 1`, which is 2; it has to go with
            `1 / ||A||^2`. A draw has `1 / (1 - kappa / 2)` times the variance that it should have.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, its noise is not Gaussian, or a number of
            steps is not positive.

    Deviations:
        The likelihood has the noise of the data; the authors take 0.01 for any, and their step is an absolute number
        for each task that decays over the run: 1e-4, for their noise of 0.01 and a gradient without the factor 1/2,
        is `kappa = 2`. Euler's steps are even in time, there in a power of the noise level; times are whole.

    References:
        Zhang et al., 2024, https://arxiv.org/abs/2407.01521, algorithm 1.
    """

    prior: Prior
    measurement: Measurement
    ode_steps: int = static(default=5)
    langevin_steps: int = static(default=100)
    step_size: Number = 0.1

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)
        _ = self.measurement.sigma_y  # refuses noise that is not Gaussian
        if min(self.ode_steps, self.langevin_steps) < 1:
            raise ValueError(f"steps must be at least 1, got {self.ode_steps} and {self.langevin_steps}.")

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Draws a clean image given the data, and noises it to time `s`."""
        schedule, prediction = self.prior.schedule, self.prior.predict(x_t, t)
        key_draw = jax.random.fold_in(key, 1)

        def fall(t: Array, s: Array) -> Array:
            alpha_s, sigma_s = schedule(s)
            x0 = self._draw(key_draw, self._flow(x_t, prediction.x0_hat, t), t)
            return alpha_s * x0 + sigma_s * jax.random.normal(key, x_t.shape)

        return fall_or_renoise(schedule, key, x_t, t, s, fall), prediction

    def _flow(self, x_t: Array, x0_hat: Array, t: Array) -> Array:
        """Returns where the probability-flow equation leads from `x_t`, whose estimate is `x0_hat`."""
        time = lambda i: nested_time(t, i, self.ode_steps)
        euler = lambda i, x, x0: ddim_moments(self.prior.schedule, x, x0, time(i), time(i + 1), 0.0)[0]

        def next_step(i: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            x, x0 = at
            x = euler(i - 1, x, x0)
            return x, self.prior.predict(x, time(i)).x0_hat

        return lax.fori_loop(1, self.ode_steps, next_step, (x_t, x0_hat))[1]

    def _draw(self, key: PRNGKeyArray, x0_hat: Array, t: Array) -> Array:
        """Draws around an estimate, given the data, by Langevin's steps."""
        alpha_t, sigma_t = self.prior.schedule(t)
        precision = (alpha_t / sigma_t) ** 2
        size = self.step_size / (1 / self.measurement.sigma_y**2 + precision)

        def langevin(i: Array, x: Array) -> Array:
            score = jax.grad(self.measurement.log_likelihood)(x) + precision * (x0_hat - x)
            return x + size * score + jnp.sqrt(2 * size) * jax.random.normal(jax.random.fold_in(key, i), x.shape)

        return lax.fori_loop(0, self.langevin_steps, langevin, x0_hat)
