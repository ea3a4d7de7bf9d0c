"""Priors: what a sampler needs to know about images, `(x_t, t) -> E[x0 | x_t]`; and networks that know it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdiff.pytree import pytree, static
from jaxdiff.schedule import Schedule

Target = Literal["epsilon", "x0", "v"]
Variance = Literal["learned_range", "fixed_small", "fixed_large"]
Time = Int[Array, ""] | int
Image = Float[Array, "h w c"]


class Prediction(NamedTuple):
    """What a prior says about one noisy image.

    Attributes:
        x0_hat: the posterior mean `E[x0 | x_t]`, in the range of the prior's images where it bounds them.
        variance_fraction: where the variance of an ancestral step lies between its lower bound (0) and its upper
            bound (1), in log space; None for the lower bound.
        unclipped: `x0_hat` before it was bounded; None where that is `x0_hat` itself. Take it by `before_clip`.
        unguided: the estimate before a measurement moved it; None where none did. Take it by `before_guidance`.
    """

    x0_hat: Image
    variance_fraction: Float[Array, "h w c"] | Float[Array, ""] | None = None
    unclipped: Image | None = None
    unguided: Image | None = None

    @property
    def before_clip(self) -> Image:
        """The estimate whose derivative is not cut off at the bounds."""
        return self.x0_hat if self.unclipped is None else self.unclipped

    @property
    def before_guidance(self) -> Image:
        """The estimate of the prior alone."""
        return self.x0_hat if self.unguided is None else self.unguided


@runtime_checkable
class Prior(Protocol):
    """What samplers and guidance ask of a prior: a network, a closed form, or a prior guided by a measurement."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)` of the images."""
        ...

    def predict(self, x_t: Image, t: Time, /) -> Prediction:
        """Estimates `x0`; what costs a network call."""
        ...

    def bound(self, x0: Image, /) -> Image:
        """Brings an estimate that was changed into the range of the prior's images, where they have one."""
        ...

    def at(self, image_shape: tuple[int, int, int], /) -> "Prior":
        """Returns the prior for images of another size."""
        ...


def implied_x0(
    target: Target,
    output: Float[Array, "*n h w c"],
    x_t: Float[Array, "*n h w c"],
    alpha_t: Float[Array, "..."],
    sigma_t: Float[Array, "..."],
) -> Float[Array, "*n h w c"]:
    r"""Returns the estimate of `x0` that a network's output stands for, not clipped.

    .. math::
        \hat x_0 = (x_t - \sigma_t \hat\epsilon) / \alpha_t \quad\text{or}\quad
        \hat x_0 = \alpha_t x_t - \sigma_t \hat v
    """
    if target == "epsilon":
        return (x_t - sigma_t * output) / alpha_t
    return output if target == "x0" else alpha_t * x_t - sigma_t * output


@pytree
class Denoiser:
    """A trained network as a prior; `implied_x0` makes an estimate of what it predicts.

    Args:
        network: called as `network(x_t, t)` with the original integer time; gives `(h, w, c)`, or `(h, w, 2c)` when
            the variance is learned.
        schedule: the schedule the network was trained with.
        image_shape: `(h, w, c)` of the images the network was trained on.
        target: what the first `c` channels predict.
        variance: variance of an ancestral step. `learned_range` reads it from the last `c` channels, as an
            interpolation in log space between `fixed_small` (the posterior variance) and `fixed_large` (beta).
        clip: whether `x0_hat` is clipped to [-1, 1], as guided-diffusion and DPS do; gradients flow through the clip.
        label: class of a class-conditional network, given to it as a third argument.
        last_time: the largest time that the network was trained for; None for all times of the schedule. Chains must
            start there, from an estimate of the image.
        any_size: whether images of every height and width are as good as those of `image_shape`.

    Raises:
        ValueError: if `target` or `variance` is unknown.

    References:
        Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672, equation 15 (learned range).
        Salimans & Ho, 2022, https://arxiv.org/abs/2202.00512 (v-prediction).
    """

    network: Callable[..., Array]
    schedule: Schedule
    image_shape: tuple[int, int, int] = static()
    target: Target = static(default="epsilon")
    variance: Variance = static(default="fixed_small")
    clip: bool = static(default=True)
    label: Int[Array, ""] | int | None = None
    last_time: int | None = static(default=None)
    any_size: bool = static(default=False)

    def __post_init__(self) -> None:
        if self.target not in ("epsilon", "x0", "v"):
            raise ValueError(f"`target` must be epsilon, x0 or v, got {self.target!r}.")
        if self.variance not in ("learned_range", "fixed_small", "fixed_large"):
            raise ValueError(f"`variance` must be learned_range, fixed_small or fixed_large, got {self.variance!r}.")

    def predict(self, x_t: Image, t: Time) -> Prediction:
        """Runs the network once."""
        output = self.network(x_t, t) if self.label is None else self.network(x_t, t, self.label)
        fraction = None
        if self.variance == "learned_range":
            output, raw = jnp.split(output, 2, axis=-1)
            fraction = (raw + 1) / 2
        elif self.variance == "fixed_large":
            fraction = jnp.ones(())
        x0_hat = implied_x0(self.target, output, x_t, *self.schedule(t))
        return Prediction(self.bound(x0_hat), fraction, unclipped=x0_hat)

    def bound(self, x0: Image) -> Image:
        """Clips to [-1, 1] where estimates are clipped."""
        return jnp.clip(x0, -1, 1) if self.clip else x0

    def at(self, image_shape: tuple[int, int, int]) -> "Denoiser":
        """Returns the prior for images of another size.

        Raises:
            ValueError: if the network does not take them.
        """
        other = replace(self, image_shape=image_shape)
        # The network itself says what is wrong with a size, before anything is computed.
        jax.eval_shape(other.predict, jax.ShapeDtypeStruct(image_shape, jnp.float32), jnp.int32(0))
        return other


def last_time(prior: Prior) -> int:
    """Returns the largest time that a prior knows: its own `last_time` where it has one, or that of its schedule."""
    own = getattr(prior, "last_time", None)
    return prior.schedule.num_times - 1 if own is None else own


def any_size(prior: Prior) -> bool:
    """Tells whether a prior says that images of every height and width are as good as those of its own."""
    return getattr(prior, "any_size", False)


class WrappedPrior:
    """Base of priors that are made of another, `self.prior`, and change what it predicts."""

    prior: Prior

    @property
    def schedule(self) -> Schedule:
        """The prior's."""
        return self.prior.schedule

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The prior's."""
        return self.prior.image_shape

    @property
    def last_time(self) -> int:
        """The prior's."""
        return last_time(self.prior)

    @property
    def any_size(self) -> bool:
        """The prior's."""
        return any_size(self.prior)

    def predict(self, x_t: Image, t: Time) -> Prediction:
        """Changes what the prior predicts; every wrapper has its own way."""
        raise NotImplementedError

    def bound(self, x0: Image) -> Image:
        """Bounds as the prior does."""
        return self.prior.bound(x0)

    def at(self, image_shape: tuple[int, int, int]) -> "WrappedPrior":
        """Returns the same of the prior at another size."""
        return replace(self, prior=self.prior.at(image_shape))  # pyright: ignore[reportArgumentType]
