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
        ValueError: if `sigma_y` is negative, not finite, or an array of levels.
    """

    sigma_y: float | Float[Array, ""]

    def __post_init__(self) -> None:
        if np.ndim(self.sigma_y) > 0:
            shape = np.shape(self.sigma_y)
            raise ValueError(f"`sigma_y` must be one number, got the shape {shape}; take `HeteroscedasticNoise`.")
        if not isinstance(self.sigma_y, Tracer) and not np.all(
            (np.asarray(self.sigma_y) >= 0) & (self.sigma_y < np.inf)
        ):
            raise ValueError(f"`sigma_y` must be zero or positive, got {self.sigma_y}.")

    def sample(self, key: PRNGKeyArray, clean: Array) -> Array:
        """Draws `y`."""
        return clean + self.sigma_y * _white(key, clean)

    def log_likelihood(self, y: Array, clean: Array) -> Array:
        """Returns `-|y - clean|^2 / (2 sigma_y^2)`."""
        return -(jnp.abs(y - clean) ** 2) / (2 * self.sigma_y**2)

    def variance(self, clean: Array) -> Array | float:
        """Returns `sigma_y^2`."""
        return self.sigma_y**2


@pytree
class HeteroscedasticNoise:
    r"""Gaussian noise with a level for every entry, `y_i = clean_i + sigma_i eps_i`.

    .. math:: \log p(y \mid \text{clean}) = -\frac{|y - \text{clean}|^2}{2 \sigma^2}

    entry by entry, as for sensors of different quality in one measurement. `DPSLikelihood`, `MMPS`, `PiGDM` and `TMPD`
    reckon with every level; `DPS` and `DPSNorm` do not look at the noise; rules that have one number, as `DDNM`,
    `DiffPIR` and `ScoreALD`, refuse it.

    Args:
        sigma_y: standard deviations in [-1, 1] units, in the shape of the measurement or one that is broadcast to it;
            of the real and of the imaginary part each where the measurement is complex.

    Raises:
        ValueError: if a level is not positive and finite, or, when it is used, their shape does not suit.
    """

    sigma_y: Float[Array | np.ndarray, "..."]

    def __post_init__(self) -> None:
        if not isinstance(self.sigma_y, Tracer):
            known = np.asarray(self.sigma_y)
            if not (np.isfinite(known) & (known > 0)).all():
                raise ValueError(
                    "`sigma_y` must be positive and finite everywhere; a `Mask` hides what is not measured."
                )
        object.__setattr__(self, "sigma_y", jnp.asarray(self.sigma_y, jnp.float32))

    def sample(self, key: PRNGKeyArray, clean: Array) -> Array:
        """Draws `y`."""
        return clean + self._levels(clean) * _white(key, clean)

    def log_likelihood(self, y: Array, clean: Array) -> Array:
        """Returns `-|y - clean|^2 / (2 sigma_y^2)`."""
        return -(jnp.abs(y - clean) ** 2) / (2 * self.variance(clean))

    def variance(self, clean: Array) -> Array:
        """Returns the squares of the levels."""
        return self._levels(clean) ** 2

    def _levels(self, clean: Array) -> Array:
        return jnp.broadcast_to(self.sigma_y, clean.shape)


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
        _check_positive("peak", self.peak)

    def sample(self, key: PRNGKeyArray, clean: Array) -> Array:
        """Counts photons; a clean value below -1 gives none."""
        return _counted(key, clean, self.peak)

    def log_likelihood(self, y: Array, clean: Array) -> Array:
        """Returns the logarithm of the probability of the counts."""
        rate, photons = self._rate(clean), _photons(y, self.peak)
        return photons * jnp.log(rate) - rate - gammaln(photons + 1)

    def variance(self, clean: Array) -> Array:
        """Returns `2 (clean + 1) / peak`, at least that of the floor."""
        return 4 * self._rate(clean) / self.peak**2

    def _rate(self, clean: Array) -> Array:
        return jnp.maximum(_photons(clean, self.peak), self.floor)


@pytree
class PoissonGaussianNoise:
    r"""A camera's noise: photon counts, and the Gaussian noise of reading them.

    `y = 2 n / peak - 1 + sigma_y eps` with `n` drawn from a Poisson distribution of mean `peak (clean + 1) / 2`. Draws
    are exact. The likelihood is that of Gaussian noise with the variance `v` at the clean value, which the sum tends to
    as photons become many:

    .. math::
        \log p(y \mid \text{clean}) \approx -\frac{(y - \text{clean})^2}{2 v} - \frac12 \log v, \qquad
        v = \frac{2 (\text{clean} + 1)}{\text{peak}} + \sigma_y^2

    With 20 photons and a reading noise of one it is off by less than 0.1 within two standard deviations.

    Args:
        peak: photons at a pixel of value 1 (white).
        sigma_y: standard deviation of the reading noise, in [-1, 1] units: that of `r` photons is `2 r / peak`.

    Raises:
        ValueError: if `peak` or `sigma_y` is not positive and finite, or, when it is used, a measurement is complex.

    References:
        Foi et al., 2008, https://doi.org/10.1109/TIP.2008.2001399.
    """

    peak: float | Float[Array, ""]
    sigma_y: float | Float[Array, ""]

    def __post_init__(self) -> None:
        for name in ("peak", "sigma_y"):
            _check_positive(name, getattr(self, name))

    def sample(self, key: PRNGKeyArray, clean: Array) -> Array:
        """Counts photons and reads them; a clean value below -1 gives none."""
        of_counts, of_reading = jax.random.split(key)
        return _counted(of_counts, clean, self.peak) + self.sigma_y * _white(of_reading, clean)

    def log_likelihood(self, y: Array, clean: Array) -> Array:
        """Returns the logarithm of the Gaussian density."""
        variance = self.variance(clean)
        return -((y - clean) ** 2) / (2 * variance) - jnp.log(variance) / 2

    def variance(self, clean: Array) -> Array:
        """Returns `2 (clean + 1) / peak + sigma_y^2`; photons are not fewer than none."""
        return 4 * jnp.maximum(_photons(clean, self.peak), 0.0) / self.peak**2 + self.sigma_y**2


def _white(key: PRNGKeyArray, clean: Array) -> Array:
    # JAX's complex normal has variance 1/2 in each part.
    scale = 2**0.5 if jnp.iscomplexobj(clean) else 1
    return scale * jax.random.normal(key, clean.shape, jnp.result_type(clean, float))


def _photons(values: Array, peak: float | Array) -> Array:
    if jnp.iscomplexobj(values):
        raise ValueError("photons are counted, and a complex measurement is no count; take Gaussian noise.")
    return peak * (values + 1) / 2


def _counted(key: PRNGKeyArray, clean: Array, peak: float | Array) -> Array:
    photons = jax.random.poisson(key, jnp.maximum(_photons(clean, peak), 0.0))
    return 2 * photons.astype(jnp.result_type(clean, float)) / peak - 1


def _check_positive(name: str, value: float | Array) -> None:
    if not isinstance(value, Tracer) and not np.all((np.asarray(value) > 0) & (np.asarray(value) < np.inf)):
        raise ValueError(f"`{name}` must be positive and finite, got {value}.")
