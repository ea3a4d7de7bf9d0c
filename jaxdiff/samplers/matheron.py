"""Posterior draws in every step: a draw from what the denoiser implies, conditioned on the data by Matheron's rule."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.noise import HeteroscedasticNoise
from jaxdiff.operators import adjoint
from jaxdiff.priors.denoiser import Prediction, Prior, Time
from jaxdiff.priors.tweedie import Product, tweedie
from jaxdiff.pytree import pytree, static
from jaxdiff.samplers.base import ImageSampler, ancestral_step

NEW = 1e-4
"""Part of a vector that must lie outside of Lanczos's basis for it to count as new."""


@pytree
class Matheron(ImageSampler):
    r"""Draws `x0` from the posterior that the denoiser implies at `x_t`, then `x_s` given both.

    Tweedie's formulas give the mean and the covariance of `x0` given `x_t`. With `z`, `z'` white noise, a step is

    .. math::
        x_0' &= \hat x_0 + C^{1/2} z, \qquad
        C = \frac{\sigma_t^2}{\alpha_t} \left(\frac{\partial \hat x_0}{\partial x_t}\right)^{\!\top} \\
        x_0 &= x_0' + C A^\top \left(A C A^\top + \sigma_y^2 I\right)^{-1} (y - A x_0' - \sigma_y z') \\
        x_s &\sim q(x_s \mid x_t, x_0)

    The second line is Matheron's rule: it turns a draw from the Gaussian `N(x0_hat, C)` into one from this Gaussian
    given `y`. Guidance by a mean, as in `MMPS`, leaves out the spread of `x0` in every step, and needs many steps to
    make up for it. This step is exact for a Gaussian prior, however long it is. There is no step size to tune.

    `C` is known by its products only. Its root acts on `z` by Lanczos: with the orthonormal basis `Q` of
    `z, C z, C^2 z, ...` and `S = Q^T C Q`, symmetrised and its eigenvalues kept in `[0, sigma_t^2 / alpha_t^2]`, it is
    `Q S^(1/2) Q^T z`. The system of the second line is solved by conjugate gradients.

    A step costs one network call forward and `draws + fits` backward.

    Args:
        prior: the prior.
        measurement: of a linear operator.
        draws: steps of Lanczos.
        fits: iterations of conjugate gradients.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape, or its operator is not linear.

    Deviations:
        Noise that is not Gaussian counts as Gaussian, with its variance at `A x0_hat`. `x0` is not clipped: it is a
        draw, whose noise the range of images cannot hold.

    References:
        Wilson et al., 2020, https://arxiv.org/abs/2002.09309, section 3 (Matheron's rule).
        Chow & Saad, 2014, "Preconditioned Krylov subspace methods for sampling multivariate Gaussian distributions"
        (roots by Lanczos). Rozet et al., 2024, https://arxiv.org/abs/2405.13712 (the covariance by Tweedie's formula).
    """

    prior: Prior
    measurement: Measurement
    draws: int = static(default=4)
    fits: int = static(default=8)

    def __post_init__(self) -> None:
        self.measurement.check(self.prior.image_shape, linear=True)
        if self.draws < 1 or self.fits < 0:
            raise ValueError(f"`draws` must be at least 1 and `fits` 0 or more, got {self.draws} and {self.fits}.")

    def step(
        self, key: PRNGKeyArray, x_t: Float[Array, "h w c"], t: Time, s: Time
    ) -> tuple[Float[Array, "h w c"], Prediction]:
        """Draws `x0`, then takes the ancestral step that leads to it."""
        prediction, covariance = tweedie(self.prior, x_t, t)
        alpha_t, sigma_t = self.prior.schedule(t)
        x0 = self.draw(jax.random.fold_in(key, 1), prediction.before_clip, covariance, (sigma_t / alpha_t) ** 2)
        drawn = Prediction(x0, unguided=prediction.before_guidance)
        return ancestral_step(self.prior.schedule, key, x_t, drawn, t, s), drawn

    def draw(
        self, key: PRNGKeyArray, x0_hat: Float[Array, "h w c"], covariance: Product, largest: Float[Array, ""]
    ) -> Float[Array, "h w c"]:
        """Draws from `N(x0_hat, C)` given `y`.

        Args:
            key: of the draw.
            x0_hat: the mean.
            covariance: `v -> C v`.
            largest: a bound on the eigenvalues of `C`.
        """
        of_prior, of_noise = jax.random.split(key)
        x0 = x0_hat + self.root(jax.random.normal(of_prior, x0_hat.shape), covariance, largest)
        variance = self.measurement.variance(x0_hat)
        clean = self.measurement.operator(x0)
        noise = HeteroscedasticNoise(jnp.sqrt(jnp.broadcast_to(jnp.asarray(variance), clean.shape)))
        residual = self.measurement.observed * (self.measurement.y - noise.sample(of_noise, clean))
        return x0 + self.correction(residual, covariance, variance, x0_hat)

    def root(self, z: Float[Array, "h w c"], covariance: Product, largest: Float[Array, ""]) -> Float[Array, "h w c"]:
        """Returns `C^(1/2) z`, by Lanczos."""
        dot = lambda a, b: jnp.tensordot(a, b, axes=z.ndim)

        def grow(j: Array, basis: tuple[Array, Array]) -> tuple[Array, Array]:
            q, products = basis
            new = jnp.where(j == 0, z, products[j - 1])
            new = new / jnp.linalg.norm(new)
            for _ in range(2):  # the second time takes away what rounding left
                new = new - jnp.tensordot(dot(q, new), q, axes=1)
            length = jnp.linalg.norm(new)
            new = jnp.where(length > NEW, new / length, 0.0)
            return q.at[j].set(new), products.at[j].set(covariance(new))

        empty = jnp.zeros((self.draws, *z.shape))
        q, products = jax.lax.fori_loop(0, self.draws, grow, (empty, empty))
        s = jax.vmap(lambda a: dot(products, a))(q)
        values, vectors = jnp.linalg.eigh((s + s.T) / 2)
        root = (vectors * jnp.sqrt(jnp.clip(values, 0, largest))) @ vectors.T
        return jnp.tensordot(root @ dot(q, z), q, axes=1)

    def correction(
        self, residual: Array, covariance: Product, variance: Array | float, x_like: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """Returns `C A^T (A C A^T + sigma_y^2 I)^(-1) residual`, by conjugate gradients."""
        operator, back = self.measurement.operator, adjoint(self.measurement.operator, x_like)

        def iterate(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            x, r, p = state
            image = covariance(back(p))
            product = operator(image) + variance * p
            before, curvature = _squared(r), jnp.real(jnp.vdot(p, product))
            alpha = jnp.where(curvature > 0, before / curvature, 0.0)
            r_next = r - alpha * product
            beta = jnp.where(before > 0, _squared(r_next) / before, 0.0)
            return x + alpha * image, r_next, r_next + beta * p

        return jax.lax.fori_loop(0, self.fits, iterate, (jnp.zeros_like(x_like), residual, residual))[0]


def _squared(r: Array) -> Float[Array, ""]:
    return jnp.real(jnp.vdot(r, r))
