"""Gaussian priors, whose posterior means, scores and samples are exact.

They stand where a network would (`Prior`), so that a sampler can be held against what it should draw: see
`jaxdiff.priors.exact`.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.priors.denoiser import Prediction, Time
from jaxdiff.pytree import pytree
from jaxdiff.schedule import Schedule


@runtime_checkable
class Covariance(Protocol):
    """A covariance of images as a rotation and its eigenvalues, `C = U diag(lambda) U^T`."""

    @property
    def eigenvalues(self) -> Array:
        """All eigenvalues, in any shape."""
        ...

    @property
    def variance(self) -> Array:
        """The diagonal of `C`, in an order that reshapes to an image, or a shape that broadcasts to one."""
        ...

    def apply(self, function: Callable[[Array], Array], x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `U diag(function(lambda)) U^T x`."""
        ...


@pytree
class Diagonal:
    """Independent pixels.

    Args:
        variance: of each pixel, not negative, `(h, w, c)`.
    """

    variance: Float[Array, "h w c"]

    @property
    def eigenvalues(self) -> Array:
        """The variances."""
        return self.variance

    def apply(self, function: Callable[[Array], Array], x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Multiplies every pixel."""
        return function(self.variance) * x


@pytree
class Dense:
    """Any covariance of small images; its eigenvectors are found once, in float64.

    Args:
        matrix: symmetric and without negative eigenvalues, `(h w c, h w c)`.

    Raises:
        ValueError: if the matrix is not symmetric or has negative eigenvalues.
    """

    eigenvalues: Float[Array, " d"]
    eigenvectors: Float[Array, "d d"]

    def __init__(self, matrix: Float[np.ndarray | Array, "d d"]):
        values, vectors = _eigen(matrix, "matrix")
        object.__setattr__(self, "eigenvalues", values)
        object.__setattr__(self, "eigenvectors", vectors)

    @property
    def variance(self) -> Array:
        """The diagonal."""
        return jnp.square(self.eigenvectors) @ self.eigenvalues

    def apply(self, function: Callable[[Array], Array], x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Rotates, scales, and rotates back."""
        with jax.default_matmul_precision("highest"):
            rotated = function(self.eigenvalues) * (x.reshape(-1) @ self.eigenvectors)
            return (self.eigenvectors @ rotated).reshape(x.shape)


@pytree
class Stationary:
    """The same correlations everywhere, on a torus: diagonal in the Fourier basis, with one matrix for the colours.

    Args:
        spectrum: power at every frequency, `(h, w)` in the order of `numpy.fft.fft2`; the same at `k` and `-k`.
        colour: covariance of the colours of one pixel over the mean power, `(c, c)`.

    Raises:
        ValueError: if the spectrum is not symmetric, either is negative, or `colour` is not symmetric.
    """

    spectrum: Float[Array, "h w"]
    colour_values: Float[Array, " c"]
    colour_vectors: Float[Array, "c c"]

    def __init__(self, spectrum: Float[np.ndarray | Array, "h w"], colour: Float[np.ndarray | Array, "c c"]):
        spectrum = np.asarray(spectrum, np.float64)
        mirrored = np.roll(spectrum[::-1, ::-1], 1, (0, 1))
        if spectrum.ndim != 2 or (spectrum < 0).any() or not np.allclose(spectrum, mirrored):
            raise ValueError("`spectrum` must be (h, w), not negative, and the same at frequencies k and -k.")
        values, vectors = _eigen(colour, "colour")
        object.__setattr__(self, "spectrum", jnp.asarray(spectrum, jnp.float32))
        object.__setattr__(self, "colour_values", values)
        object.__setattr__(self, "colour_vectors", vectors)

    @property
    def eigenvalues(self) -> Array:
        """Power of every frequency times variance of every rotated colour, `(h, w, c)`."""
        return self.spectrum[..., None] * self.colour_values

    @property
    def variance(self) -> Array:
        """The same at every place, `(h, w, c)`."""
        colours = jnp.square(self.colour_vectors) @ self.colour_values
        return jnp.broadcast_to(self.spectrum.mean() * colours, (*self.spectrum.shape, len(colours)))

    def apply(self, function: Callable[[Array], Array], x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Rotates the colours, filters, and rotates back."""
        with jax.default_matmul_precision("highest"):
            waves = jnp.fft.fft2(x @ self.colour_vectors, axes=(0, 1))
            filtered = jnp.fft.ifft2(function(self.eigenvalues) * waves, axes=(0, 1)).real
            return filtered @ self.colour_vectors.T


def natural_spectrum(image_shape: tuple[int, int, int], variance: float = 0.25, correlation: float = 0.9) -> Stationary:
    """Returns the covariance of photographs: power `1 / (f^2 + 1)` at `f` cycles per image, and like colours.

    Args:
        image_shape: `(h, w, c)`.
        variance: of every entry.
        correlation: of two colours of a pixel; photographs have about 0.9.

    Raises:
        ValueError: if the correlation is not in [0, 1).

    References:
        Field, 1987, "Relations between the statistics of natural images and the response properties of cortical cells".
        Torralba & Oliva, 2003, "Statistics of natural image categories" (the fall of the power with `f^2`).
    """
    if not 0 <= correlation < 1:
        raise ValueError(f"`correlation` must be in [0, 1), got {correlation}.")
    h, w, c = image_shape
    power = 1 / (1 + (h * np.fft.fftfreq(h))[:, None] ** 2 + (w * np.fft.fftfreq(w)) ** 2)
    colour = (1 - correlation) * np.eye(c) + correlation
    return Stationary(power / power.mean(), variance * colour)


def _eigen(matrix: Float[np.ndarray | Array, "d d"], name: str) -> tuple[Array, Array]:
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T, atol=1e-6):
        raise ValueError(f"`{name}` must be a symmetric matrix, got shape {matrix.shape}.")
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < -1e-5 * values[-1]:
        raise ValueError(f"`{name}` is no covariance: it has the eigenvalue {values[0]:.3g}.")
    return jnp.asarray(values.clip(0), jnp.float32), jnp.asarray(vectors, jnp.float32)


@pytree
class GaussianPrior:
    r"""The prior `N(m, C)`, whose posterior means are exact.

    .. math:: \hat x_0 = m + \alpha_t C (\alpha_t^2 C + \sigma_t^2 I)^{-1} (x_t - \alpha_t m)

    Args:
        mean: prior mean `m`.
        covariance: prior covariance `C`: `Diagonal`, `Dense` or `Stationary`.
        schedule: any schedule.

    Raises:
        ValueError: if the covariance is of images of another size.
    """

    mean: Float[Array, "h w c"]
    covariance: Any
    schedule: Schedule

    def __post_init__(self) -> None:
        if self.covariance.eigenvalues.size != self.mean.size:
            raise ValueError(
                f"`covariance` must be of {self.mean.size} entries like `mean`, got {self.covariance.eigenvalues.size}."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape `(h, w, c)` of the mean."""
        h, w, c = self.mean.shape
        return h, w, c

    @property
    def variance(self) -> Float[Array, "h w c"]:
        """The prior variance of every pixel."""
        return self.covariance.variance.reshape(self.mean.shape)

    def predict(self, x_t: Float[Array, "h w c"], t: Time) -> Prediction:
        """Returns `E[x0 | x_t]`, not clipped."""
        alpha_t, sigma_t = self.schedule(t)
        gain = lambda v: alpha_t * v / (alpha_t**2 * v + sigma_t**2)
        return Prediction(self.mean + self.covariance.apply(gain, x_t - alpha_t * self.mean), None)

    def bound(self, x0: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Returns `x0`: these images have no range."""
        return x0

    def at(self, image_shape: tuple[int, int, int]) -> "GaussianPrior":
        """Returns the prior, which knows images of one size.

        Raises:
            ValueError: if that is another.
        """
        return check_same_shape(self, image_shape)

    def tweedie_covariance(
        self, x_t: Float[Array, "h w c"], t: Time, v: Float[Array, "h w c"]
    ) -> Float[Array, "h w c"]:
        """Returns `Cov[x0 | x_t] v`, which is the same for every `x_t`."""
        alpha_t, sigma_t = self.schedule(t)
        return self.covariance.apply(lambda c: c * sigma_t**2 / (alpha_t**2 * c + sigma_t**2), v)

    def log_density(self, x_t: Float[Array, "h w c"], t: Time) -> Float[Array, ""]:
        """Returns `log p(x_t)`; its gradient is the score. At `t = -1` no eigenvalue may be zero."""
        alpha_t, sigma_t = self.schedule(t)
        centred = x_t - alpha_t * self.mean
        scaled = self.covariance.apply(lambda v: 1 / (alpha_t**2 * v + sigma_t**2), centred)
        spread = jnp.log(2 * jnp.pi * (alpha_t**2 * self.covariance.eigenvalues + sigma_t**2))
        return -0.5 * (jnp.vdot(centred, scaled) + spread.sum())

    def sample(self, key: PRNGKeyArray) -> Float[Array, "h w c"]:
        """Draws an image of the prior."""
        return self.mean + self.covariance.apply(jnp.sqrt, jax.random.normal(key, self.mean.shape))


ClosedForm = TypeVar("ClosedForm")


def check_same_shape(prior: ClosedForm, image_shape: tuple[int, int, int]) -> ClosedForm:
    """Returns a prior with a closed form, unless it is of images of another size."""
    own = prior.image_shape  # pyright: ignore[reportAttributeAccessIssue]
    if tuple(image_shape) != own:
        raise ValueError(f"a prior with a closed form knows images of one size, {own}; got {tuple(image_shape)}.")
    return prior
