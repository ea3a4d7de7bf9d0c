"""Plug-and-play diffusion models: Gibbs sampling between an image of the prior and one that fits the data."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.operators import SpectralOperator, adjoint
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import pytree, static
from jaxdiff.samplers.base import ImageSampler, ancestral_step, fall_or_renoise, nested_time
from jaxdiff.schedule import Schedule


@pytree
class PnPDM(ImageSampler):
    r"""Split Gibbs sampling: an image `x0` given a noisy one, then a noisy one given `x0` and the data.

    .. math::
        x_0 \sim p(x_0 \mid x_t), \qquad
        x_s / \alpha_s = w \sim p(w) \propto
        \exp\left(-\frac{\lVert y - A w \rVert^2}{2 \sigma_y^2} - \frac{\lVert w - x_0 \rVert^2}{2 r_s^2}\right),
        \quad r_s = \sigma_s / \alpha_s

    The first draw is DDPM's chain from `x_t` down, in `prior_steps`. The second is exact: in the operator's singular
    system where that is known, or by conjugate gradients on a system whose right side is perturbed. No data would make
    `x_s` a noised `x0`, so that `w` is that of the paper with the coupling `r_s`; the last, without coupling, is `x0`
    itself. While `r` is kept, `x0` tends to the posterior whose `A` sees `x0` through noise `r`: `annealed_times` are
    the paper's. Where time rises, the step is `renoise`.

    A step costs `prior_steps` network calls, forward only.

    Args:
        prior: the prior.
        measurement: of a linear operator, with Gaussian noise that is not zero.
        prior_steps: network calls of a step, even in time; the authors take up to 100.
        iterations: of conjugate gradients, at most, where the singular system is not known.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, the operator is not linear, the noise is
            not Gaussian, or a number of steps is not positive.

    Deviations:
        Linear operators only; the authors take Langevin's steps for others. Their chain stays at the smallest `r`, and
        its states are the samples; here a chain has one sample.

    References:
        Wu et al., 2024, https://arxiv.org/abs/2405.18782, algorithm 1.
        Orieux, Feron & Giovannelli, 2012, https://arxiv.org/abs/1105.5887 (draws by perturbed systems).
    """

    prior: Prior
    measurement: Measurement
    prior_steps: int = static(default=10)
    iterations: int = static(default=30)

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape, linear=True)
        _ = self.measurement.sigma_y  # refuses noise that is not Gaussian
        if min(self.prior_steps, self.iterations) < 1:
            raise ValueError(f"steps must be at least 1, got {self.prior_steps} and {self.iterations}.")

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Draws an image of the prior, and a noisy one that fits it and the data."""
        schedule, prediction = self.prior.schedule, self.prior.predict(x_t, t)
        key_image, key_data = jax.random.split(key)

        def fall(t: Array, s: Array) -> Array:
            alpha_s, sigma_s = schedule(s)
            x0 = self._draw_image(key_image, x_t, prediction, t)
            return alpha_s * self._draw_noisy(key_data, x0, sigma_s / alpha_s)

        return fall_or_renoise(schedule, key, x_t, t, s, fall), prediction

    def _draw_image(self, key: PRNGKeyArray, x_t: Array, prediction: Prediction, t: Array) -> Array:
        """Draws `x0` given `x_t`, whose estimate is known."""
        n, time = self.prior_steps, lambda i: nested_time(t, i, self.prior_steps)
        take = lambda i, x, said: ancestral_step(
            self.prior.schedule, jax.random.fold_in(key, i), x, said, time(i), time(i + 1)
        )
        first = take(jnp.int32(0), x_t, prediction)
        return lax.fori_loop(1, n, lambda i, x: take(i, x, self.prior.predict(x, time(i))), first)

    def _draw_noisy(self, key: PRNGKeyArray, x0: Array, r: Array) -> Array:
        """Draws `w` given `x0` and the data."""
        operator, y, sigma_y = self.measurement.operator, self.measurement.y, self.measurement.sigma_y
        noise, weight = jax.random.normal(key, x0.shape), (r / sigma_y) ** 2
        if isinstance(operator, SpectralOperator):
            h, w, c = x0.shape
            values, z = operator.singular_values((h, w, c)), operator.to_spectrum(x0)
            shrink = 1 / (1 + weight * values**2)
            mean = z + weight * shrink * values * (operator.data_spectrum(y) - values * z)
            return operator.from_spectrum(mean + r * jnp.sqrt(shrink) * operator.to_spectrum(noise))
        transpose = adjoint(operator, x0)
        of_y = jax.random.normal(jax.random.fold_in(key, 1), y.shape, y.dtype)
        # A complex normal number has variance 1 over both of its parts; noise of y has it in each.
        of_y *= 2**0.5 if jnp.iscomplexobj(y) else 1.0
        start = x0 + r * noise
        misfit = transpose(y + sigma_y * self.measurement.observed * of_y - operator(start))
        shift, _ = cg(lambda v: v + weight * transpose(operator(v)), weight * misfit, maxiter=self.iterations)
        return start + shift


def annealed_times(
    schedule: Schedule, num_steps: int, largest: float = 10.0, smallest: float = 0.3
) -> Int[np.ndarray, " n"]:
    """Returns times whose noise levels `sigma_t / alpha_t` fall by equal factors, followed by -1.

    Args:
        schedule: the prior's.
        num_steps: how many times there are before -1; fewer where several levels have the same time.
        largest: first level; the paper's.
        smallest: last level. The paper's 0.3 is far above the noise of its data, 0.05, which flattens the posterior of
            what the prior knows little about.

    >>> from jaxdiff.schedule import linear
    >>> annealed_times(linear(), 5)
    array([674, 534, 368, 200,  88,  -1])
    """
    alpha, sigma = schedule(np.arange(schedule.num_times))
    levels = np.geomspace(largest, smallest, num_steps)
    times = np.searchsorted(np.asarray(sigma / alpha), levels).clip(0, schedule.num_times - 1)
    return np.append(np.unique(times)[::-1], -1)
