"""Denoising diffusion restoration models: every singular direction of the operator takes a step of its own."""

from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.operators import SpectralOperator
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.pytree import Number, pytree
from jaxdiff.samplers.base import ImageSampler, fall_or_renoise


@pytree
class DDRM(ImageSampler):
    r"""Steps in the singular system `A = U diag(q) V^H`, where data and estimate can be weighed entry by entry.

    With `z0 = V^H x0_hat`, `e = V^H eps_hat`, the data `d = U^H y / q`, noise `n`, and `r = sigma / alpha` of the next
    time `s`, the entry of `V^H x_s / alpha_s` is

    .. math::
        \begin{cases}
        z_0 + \sqrt{1 - \eta^2}\, r e + \eta r n & \text{where } q = 0 \\
        z_0 + \sqrt{1 - \eta^2}\, r \frac{q}{\sigma_y} (d - z_0) + \eta r n & \text{where } r < \sigma_y / q \\
        (1 - \eta_b) z_0 + \eta_b d + \sqrt{r^2 - (\eta_b \sigma_y / q)^2}\, n & \text{where } r \ge \sigma_y / q
        \end{cases}

    A chain starts at the data, noised, in the directions whose data are better than its first time. Without noise
    (`sigma_y = 0`) the sample has the data exactly. Where time rises, the step is `renoise`.

    A step costs one network call, forward only. The authors take 20 steps.

    Args:
        prior: the prior; its variance plays no part.
        measurement: of an operator whose singular system is known, with Gaussian noise.
        eta: fraction of fresh noise where the data say nothing or little; the paper's best is 0.85.
        eta_b: weight of the data where they are better than the noise of the step; the paper's best is 1.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, the operator's singular system is not
            known, or the noise is not Gaussian.

    Deviations:
        `x0_hat` is clipped where the prior clips, and `eps_hat` follows from it; the authors' code takes both from the
        network as they are. Singular values below 1e-6 of the largest count as zero; there below 0.03 for blurs.

    References:
        Kawar et al., 2022, https://arxiv.org/abs/2201.11793, equations 7 and 8.
    """

    prior: Prior
    measurement: Measurement
    eta: Number = 0.85
    eta_b: Number = 1.0

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape)
        _ = self.measurement.sigma_y  # refuses noise that is not Gaussian
        operator = self.measurement.operator
        if not isinstance(operator, SpectralOperator):
            name = type(getattr(operator, "wrapped", operator)).__name__
            raise ValueError(f"this needs an operator with a known singular system, as masks have; {name} has none.")

    def init(self, key: PRNGKeyArray, t: Time) -> Float[Array, "h w c"]:
        """Draws noise around the data of the directions that they know better than time `t`, and around 0."""
        operator, (alpha_t, sigma_t) = self._system, self.prior.schedule(t)
        data, spread, known = self._data()
        known &= spread < sigma_t / alpha_t
        noise = operator.to_spectrum(jax.random.normal(key, self.prior.image_shape))
        missing = jnp.sqrt(jnp.maximum(sigma_t**2 - (alpha_t * spread) ** 2, 0.0))
        return operator.from_spectrum(jnp.where(known, alpha_t * data + missing * noise, sigma_t * noise))

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Takes a step in every singular direction."""
        schedule, prediction, operator = self.prior.schedule, self.prior.predict(x_t, t), self._system
        data, spread, known = self._data()

        def fall(t: Array, s: Array) -> Array:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
            r = sigma_s / alpha_s
            eps_hat = (x_t - alpha_t * prediction.x0_hat) / sigma_t
            images = prediction.x0_hat, eps_hat, jax.random.normal(key, x_t.shape)
            z0, e, noise = map(operator.to_spectrum, images)
            faint = (data - z0) / jnp.where(spread > r, spread, 1.0)
            old = r * jnp.sqrt(1 - self.eta**2) * jnp.where(known, faint, e)
            clear = (1 - self.eta_b) * z0 + self.eta_b * data
            clear += jnp.sqrt(jnp.maximum(r**2 - (self.eta_b * spread) ** 2, 0.0)) * noise
            z = jnp.where(known & (r >= spread), clear, z0 + old + self.eta * r * noise)
            return alpha_s * operator.from_spectrum(z)

        return fall_or_renoise(schedule, key, x_t, t, s, fall), prediction

    @property
    def _system(self) -> SpectralOperator:
        return cast(SpectralOperator, self.measurement.operator)

    def _data(self) -> tuple[Array, Array, Array]:
        """Returns the data of every singular direction, their standard deviation, and whether there are any."""
        operator = self._system
        values = operator.singular_values(self.prior.image_shape)
        known = values > 1e-6 * jnp.max(values)
        safe = jnp.where(known, values, 1.0)
        data = jnp.where(known, operator.data_spectrum(self.measurement.y) / safe, 0.0)
        return data, self.measurement.sigma_y / safe, known
