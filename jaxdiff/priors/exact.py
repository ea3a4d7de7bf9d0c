"""Exact posteriors: what a sampler should draw when the prior has a closed form and the operator is linear."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.measurement import Measurement
from jaxdiff.operators import Identity, Operator, adjoint, observed
from jaxdiff.operators.masks import Masking
from jaxdiff.priors.gaussian import Diagonal, GaussianPrior
from jaxdiff.priors.mixture import MixturePrior, mixture_covariance
from jaxdiff.pytree import pytree

DENSE = 4096
"""Largest number of measured values for which the covariance of `y` is factored as a matrix."""


@pytree
class Elementwise:
    """Solves with a diagonal covariance of `y`."""

    variance: Float[Array, "..."]

    def __call__(self, r: Float[Array, "..."]) -> Float[Array, "..."]:
        """Divides."""
        return r / self.variance

    @property
    def log_det(self) -> Float[Array, ""]:
        """Logarithm of the determinant."""
        return jnp.log(self.variance).sum()


@pytree
class Spectral:
    """Solves where everything is measured: the covariance of `y` has the prior's eigenvectors."""

    covariance: Any
    sigma_y: float | Array

    def __call__(self, r: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Divides in the basis of the eigenvectors."""
        return self.covariance.apply(lambda v: 1 / (v + self.sigma_y**2), r)

    @property
    def log_det(self) -> Float[Array, ""]:
        """Logarithm of the determinant."""
        return jnp.log(self.covariance.eigenvalues + self.sigma_y**2).sum()


@pytree
class Factored:
    """Solves with the Cholesky factor of the covariance of `y`."""

    factor: Float[Array, "m m"]

    def __call__(self, r: Float[Array, "..."]) -> Float[Array, "..."]:
        """Substitutes forward and back."""
        return cho_solve((self.factor, True), r.reshape(-1)).reshape(r.shape)

    @property
    def log_det(self) -> Float[Array, ""]:
        """Logarithm of the determinant."""
        return 2 * jnp.log(jnp.diagonal(self.factor)).sum()


@pytree
class Iterative:
    """Solves by conjugate gradients, for images too large for anything else."""

    operator: Operator
    covariance: Any
    sigma_y: float | Array
    x_like: Float[Array, "h w c"]

    def __call__(self, r: Float[Array, "..."]) -> Float[Array, "..."]:
        """Iterates to a relative residual of 1e-6, at most 2000 times."""
        matrix = lambda u: _measured(self.covariance, self.operator, self.x_like, self.sigma_y, u)
        return cg(matrix, r, tol=1e-6, maxiter=2000)[0]

    @property
    def log_det(self) -> Float[Array, ""]:
        """Not known."""
        raise ValueError(f"the evidence needs a determinant, which is only found up to {DENSE} measured values.")


@pytree
class GaussianPosterior:
    r"""The posterior of a Gaussian prior given `y = A x + sigma_y eps`, without a matrix.

    .. math::
        \mu = m + K (y - A m), \quad \Sigma = C - K A C, \qquad K = C A^\top S^{-1}, \quad S = A C A^\top + \sigma_y^2 I

    Args:
        prior: `N(m, C)`.
        measurement: of a linear operator with Gaussian noise.
        solve: `r -> S^{-1} r`.
    """

    prior: GaussianPrior
    measurement: Measurement
    solve: Any

    @property
    def mean(self) -> Float[Array, "h w c"]:
        """The mean, which is also the most probable image."""
        return self._updated(self.prior.mean, self.measurement.y)

    def covariance(self, v: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `Sigma v`."""
        product = self.prior.covariance.apply(lambda c: c, v)
        return product - self._gain(self.measurement.operator(product))

    def sample(self, key: PRNGKeyArray) -> Float[Array, "h w c"]:
        """Draws an image: one of the prior, moved by what separates its own measurement from `y` (Matheron's rule)."""
        key_image, key_noise = jax.random.split(key)
        y, sigma_y = self.measurement.y, self.measurement.sigma_y
        noise = sigma_y * self.measurement.observed * jax.random.normal(key_noise, y.shape)
        return self._updated(self.prior.sample(key_image), y - noise)

    @property
    def log_evidence(self) -> Float[Array, ""]:
        """Returns `log p(y)`, up to a number that depends on the operator and the noise alone."""
        r = self.measurement.residual(self.prior.mean)
        return -0.5 * (jnp.vdot(r, self.solve(r)) + self.solve.log_det)

    def _updated(self, x: Array, y: Array) -> Array:
        return x + self._gain(y - self.measurement.operator(x))

    def _gain(self, r: Array) -> Array:
        back = adjoint(self.measurement.operator, self.prior.mean)(self.solve(r))
        return self.prior.covariance.apply(lambda c: c, back)


@pytree
class MixturePosterior:
    """The posterior of a mixture of Gaussians, itself a mixture of their posteriors.

    Args:
        log_weights: logarithms of the posterior probabilities of the components.
        components: the components' posteriors, stacked.
    """

    log_weights: Float[Array, " k"]
    components: GaussianPosterior

    @property
    def mean(self) -> Float[Array, "h w c"]:
        """The mean, which need not be probable itself."""
        return jnp.tensordot(jnp.exp(self.log_weights), self._each(lambda part: part.mean), 1)

    def covariance(self, v: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns the covariance times `v`."""
        products, means = self._each(lambda part: part.covariance(v)), self._each(lambda part: part.mean)
        return mixture_covariance(jnp.exp(self.log_weights), means, products, v)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "h w c"]:
        """Draws an image."""
        key_component, key_image = jax.random.split(key)
        k = jax.random.categorical(key_component, self.log_weights)
        return jax.tree.map(lambda leaf: leaf[k], self.components).sample(key_image)

    def _each(self, function: Callable[[GaussianPosterior], Array]) -> Array:
        return jax.vmap(function)(self.components)


def posterior(prior: GaussianPrior | MixturePrior, measurement: Measurement) -> GaussianPosterior | MixturePosterior:
    """Returns the exact posterior, with `mean`, `covariance(v)` and `sample(key)`.

    How `S = A C A^T + sigma_y^2 I` is inverted follows from the structure: elementwise for independent pixels under a
    mask, in the prior's eigenvectors where everything is measured, otherwise by a Cholesky factor (in float64) up to
    4096 measured values, and by conjugate gradients beyond. The last cannot weigh the components of a mixture.

    Args:
        prior: with a closed form.
        measurement: of a linear operator with Gaussian noise, whose `sigma_y` is positive.

    Raises:
        ValueError: if the measurement is not of images of the prior's shape or its operator not linear, the noise is
            not Gaussian or zero, or a mixture cannot be weighed.
    """
    measurement.check(prior.image_shape, linear=True)
    sigma_y = measurement.sigma_y
    if not sigma_y > 0:
        raise ValueError(f"`sigma_y` must be positive, got {sigma_y}; without noise the posterior has no density.")
    if jnp.iscomplexobj(measurement.y):
        both = jnp.stack([measurement.y.real, measurement.y.imag])
        measurement = Measurement(_RealAndImaginary(measurement.operator), both, measurement.noise)
    if isinstance(prior, GaussianPrior):
        return GaussianPosterior(prior, measurement, _solver(prior, measurement))
    parts = [GaussianPosterior(p, measurement, _solver(p, measurement)) for p in prior.components]
    log_weights = jax.nn.log_softmax(prior.log_weights + jnp.stack([part.log_evidence for part in parts]))
    return MixturePosterior(log_weights, jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts))


def variance(posterior: GaussianPosterior | MixturePosterior) -> Float[Array, "h w c"]:
    """Returns the posterior variance of every pixel, by one product with the covariance for each."""
    basis = jnp.eye(posterior.mean.size).reshape(-1, *posterior.mean.shape)
    entries = jax.lax.map(lambda v: jnp.vdot(v, posterior.covariance(v)), basis, batch_size=256)
    return entries.reshape(posterior.mean.shape)


def _solver(prior: GaussianPrior, measurement: Measurement) -> Any:
    operator, y, sigma_y = measurement.operator, measurement.y, measurement.sigma_y
    if isinstance(operator, Identity):
        return Spectral(prior.covariance, sigma_y)
    if isinstance(prior.covariance, Diagonal) and isinstance(operator, Masking):
        return Elementwise(measurement.observed * prior.variance + sigma_y**2)
    if y.size > DENSE:
        return Iterative(operator, prior.covariance, sigma_y, prior.mean)
    basis = jnp.eye(y.size).reshape(-1, *y.shape)
    rows = jax.vmap(lambda u: _measured(prior.covariance, operator, prior.mean, sigma_y, u))(basis)
    matrix = np.asarray(rows, np.float64).reshape(y.size, y.size)
    return Factored(jnp.asarray(np.linalg.cholesky((matrix + matrix.T) / 2), jnp.float32))


@pytree
class _RealAndImaginary:
    """A complex operator as a real one; noise falls on both parts alike."""

    operator: Operator

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "2 ..."]:
        y = self.operator(x)
        return jnp.stack([y.real, y.imag])

    def observed(self, y: Float[Array, "2 ..."]) -> Float[Array, "2 ..."]:
        return jnp.stack([observed(self.operator, y[0])] * 2)


def _measured(covariance: Any, operator: Operator, x_like: Array, sigma_y: float | Array, u: Array) -> Array:
    return operator(covariance.apply(lambda c: c, adjoint(operator, x_like)(u))) + sigma_y**2 * u
