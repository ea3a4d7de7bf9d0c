"""Measurements: what was measured, by which operator, with which noise."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.noise import GaussianNoise, Noise
from jaxdiff.operators.base import Operator, is_linear, observed
from jaxdiff.pytree import as_pytree, pytree


@pytree
class Measurement:
    """A measurement `y` of an image `x`: the one object that samplers and diagnosis are given.

    >>> from jaxdiff.operators import Identity
    >>> Measurement(Identity(), jnp.zeros((8, 8, 3)), 0.05).sigma_y
    0.05

    Args:
        operator: the forward model `A`; a plain function will do.
        y: what was measured, with the shape of `A(x)`.
        noise: a noise model; a number is the standard deviation of Gaussian noise, in [-1, 1] units.
    """

    operator: Operator
    y: Array
    noise: Noise

    def __init__(self, operator: Operator, y: Array, noise: Noise | float | Float[Array, ""]):
        model: Any = noise if hasattr(noise, "log_likelihood") else GaussianNoise(noise)  # pyright: ignore
        for name, value in (("operator", as_pytree(operator)), ("y", y), ("noise", as_pytree(model))):
            object.__setattr__(self, name, value)

    @property
    def observed(self) -> Array:
        """1 where an entry of `y` is measured and 0 where it never is."""
        return observed(self.operator, self.y)

    @property
    def sigma_y(self) -> float | Array:
        """Standard deviation of Gaussian noise, in [-1, 1] units.

        Raises:
            ValueError: if the noise is not Gaussian.
        """
        if not isinstance(self.noise, GaussianNoise):
            raise ValueError(f"this needs Gaussian noise of one level, got {type(self.noise).__name__}.")
        return self.noise.sigma_y

    @property
    def noiseless(self) -> bool:
        """Whether the noise is known to be zero; not to be asked while `sigma_y` is traced."""
        return isinstance(self.noise, GaussianNoise) and bool(self.noise.sigma_y == 0)

    def residual(self, x: Float[Array, "h w c"]) -> Array:
        """Returns `y - A(x)`."""
        return self.y - self.operator(x)

    def log_likelihood(self, x: Float[Array, "h w c"]) -> Float[Array, ""]:
        """Returns `log p(y | x)` over the measured entries, up to a number that depends on neither."""
        return jnp.sum(self.observed * self.noise.log_likelihood(self.y, self.operator(x)))

    def variance(self, x: Float[Array, "h w c"]) -> Array | float:
        """Returns the variance of the noise at `A(x)`: an entry each, or one number for all."""
        return self.noise.variance(self.operator(x))

    def residual_ratio(self, x: Float[Array, "h w c"]) -> Float[Array, ""]:
        r"""Returns how far `x` is from the data, in standard deviations of the noise.

        .. math:: \sqrt{\frac1m \sum_i \frac{|y_i - A(x)_i|^2}{\mathrm{Var}[y_i]}}

        over the `m` measured entries, of which a complex one counts as two; for Gaussian noise
        `||y - A(x)|| / (sigma_y sqrt(m))`. About 1 for the true image; far above, the data were ignored; far below,
        their noise was fitted. Without noise it is the root mean square of the residual, in [-1, 1] units.
        """
        clean, seen = self.operator(x), self.observed
        variance = jnp.asarray(self.noise.variance(clean))
        residual = self.y - clean
        squared = jnp.abs(residual) ** 2 / jnp.where(variance > 0, variance, 1.0)
        parts = 2 if jnp.iscomplexobj(residual) else 1
        return jnp.sqrt(jnp.sum(seen * squared) / (parts * jnp.sum(seen)))

    def check(self, image_shape: tuple[int, int, int], *, linear: bool = False) -> None:
        """Refuses a measurement that images of this shape cannot have; for the constructors of samplers.

        Without this check a `y` of another shape would be broadcast against `A(x)` in silence.

        Args:
            image_shape: `(h, w, c)`.
            linear: whether the operator must be linear.

        Raises:
            ValueError: if `A` turns such an image into something of another shape than `y`, or into real numbers where
                `y` is complex, or is not linear.
        """
        x_like = jax.ShapeDtypeStruct(image_shape, jnp.float32)
        wanted = jax.eval_shape(self.operator, x_like)
        if jnp.shape(self.y) != wanted.shape:
            raise ValueError(f"`y` must have the shape {wanted.shape} that `operator` gives, got {jnp.shape(self.y)}.")
        if jnp.iscomplexobj(self.y) and not jnp.iscomplexobj(wanted):
            raise ValueError("`y` is complex, and what `operator` gives is real; take the real part.")
        if linear and not is_linear(self.operator, x_like):
            name = type(getattr(self.operator, "wrapped", self.operator)).__name__
            raise ValueError(f"this needs a linear operator, and {name} is not.")


def measure(
    key: PRNGKeyArray, operator: Operator, x: Float[Array, "h w c"], noise: Noise | float | Float[Array, ""]
) -> Measurement:
    """Simulates a measurement of `x`.

    Args:
        key: for the noise.
        operator: the forward model.
        x: image in [-1, 1].
        noise: a noise model; a number is the standard deviation of Gaussian noise, in [-1, 1] units; twice its value
            in [0, 1] units.

    Raises:
        ValueError: if a standard deviation is negative or not finite.

    Deviations:
        Entries that the operator never measures carry no noise. The DPS code, DAPS and InverseBench add noise to hidden
        pixels too, which changes the length of their residual.
    """
    clean = operator(x)
    measurement = Measurement(operator, clean, noise)
    noisy = measurement.noise.sample(key, clean)
    return Measurement(measurement.operator, jnp.where(measurement.observed > 0, noisy, clean), measurement.noise)
