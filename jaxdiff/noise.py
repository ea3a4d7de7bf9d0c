"""Noise models: how a measurement `y` scatters around the clean measurement `A(x)`."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.pytree import pytree


@runtime_checkable
class Noise(Protocol):
    """The distribution of `y` given `A(x)`, entry by entry."""

    def sample(self, key: PRNGKeyArray, clean: Array, /) -> Array:
        """Draws `y` given the clean measurement."""
        ...

    def log_likelihood(self, y: Array, clean: Array, /) -> Array:
        """Returns `log p(y | clean)` of every entry, up to a number that depends on neither."""
        ...

    def variance(self, clean: Array, /) -> Array | float:
        """Returns the variance of every entry of `y`, or one number for all."""
        ...


@pytree
class GaussianNoise:
    r"""White Gaussian noise, `y = clean + sigma_y eps`.

    .. math:: \log p(y \mid \text{clean}) = -\frac{|y - \text{clean}|^2}{2 \sigma_y^2}

    Args:
        sigma_y: standard deviation in [-1, 1] units, twice its value in [0, 1] units; of the real and of the imaginary
            part each where the measurement is complex. 0 is a measurement without noise, which has no likelihood.

    Raises:
        ValueError: if `sigma_y` is negative or not finite.
    """

    sigma_y: float | Float[Array, ""]

    def __post_init__(self) -> None:
        if not isinstance(self.sigma_y, Tracer) and not np.all(
            (np.asarray(self.sigma_y) >= 0) & (self.sigma_y < np.inf)
        ):
            raise ValueError(f"`sigma_y` must be zero or positive, got {self.sigma_y}.")

    def sample(self, key: PRNGKeyArray, clean: Array) -> Array:
        """Draws `y`."""
        # JAX's complex normal has variance 1/2 in each part.
        scale = 2**0.5 if jnp.iscomplexobj(clean) else 1
        return clean + scale * self.sigma_y * jax.random.normal(key, clean.shape, jnp.result_type(clean, float))

    def log_likelihood(self, y: Array, clean: Array) -> Array:
        """Returns `-|y - clean|^2 / (2 sigma_y^2)`."""
        return -(jnp.abs(y - clean) ** 2) / (2 * self.sigma_y**2)

    def variance(self, clean: Array) -> Array | float:
        """Returns `sigma_y^2`."""
        return self.sigma_y**2


@pytree
class PoissonNoise:
    r"""Photon counts: `y = 2 n / peak - 1` with `n` drawn from a Poisson distribution of mean `peak (clean + 1) / 2`.

    .. math::
        \log p(y \mid \text{clean}) = n \log \lambda - \lambda - \log n!, \qquad
        \lambda = \text{peak}\, \frac{\text{clean} + 1}{2}

    Args:
        peak: photons at a pixel of value 1 (white); fewer mean more noise.
        floor: smallest mean, in photons, that is reckoned with: a black pixel that received a photon would have
            probability zero.

    Raises:
        ValueError: if `peak` is not positive and finite, or, when it is used, a measurement is complex.

    References:
        Chung et al., 2022, https://arxiv.org/abs/2209.14687, section 3.2 (diffusion posterior sampling with it).
    """

    peak: float | Float[Array, ""]
    floor: float = 1e-2

    def __post_init__(self) -> None:
        if not isinstance(self.peak, Tracer) and not np.all((np.asarray(self.peak) > 0) & (self.peak < np.inf)):
            raise ValueError(f"`peak` must be positive and finite, got {self.peak}.")

    def sample(self, key: PRNGKeyArray, clean: Array) -> Array:
        """Counts photons; a clean value below -1 gives none."""
        photons = jax.random.poisson(key, jnp.maximum(self._mean(clean), 0.0))
        return 2 * photons.astype(jnp.result_type(clean, float)) / self.peak - 1

    def log_likelihood(self, y: Array, clean: Array) -> Array:
        """Returns the logarithm of the probability of the counts."""
        rate, photons = self._rate(clean), self._mean(y)
        return photons * jnp.log(rate) - rate - gammaln(photons + 1)

    def variance(self, clean: Array) -> Array:
        """Returns `2 (clean + 1) / peak`, at least that of the floor."""
        return 4 * self._rate(clean) / self.peak**2

    def _rate(self, clean: Array) -> Array:
        return jnp.maximum(self._mean(clean), self.floor)

    def _mean(self, clean: Array) -> Array:
        if jnp.iscomplexobj(clean):
            raise ValueError("photons are counted, and a complex measurement is no count; take Gaussian noise.")
        return self.peak * (clean + 1) / 2
