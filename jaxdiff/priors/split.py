"""A prior of two experts, one for low and one for high noise levels; and priors of any height and width."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from jaxdiff.networks.blocks import pad_to_multiple
from jaxdiff.priors.denoiser import Image, Prediction, Prior, Time, WrappedPrior
from jaxdiff.pytree import pytree, static
from jaxdiff.schedule import Schedule


@pytree
class SplitPrior:
    """Asks one prior below a time, and another from that time on.

    Only the prior that is asked costs a network call, also under `jax.vmap` over seeds, which share their time.

    Args:
        low: the prior for times below `split`; its bounds are taken for estimates that were changed.
        high: the prior for times from `split` on, of the same noise schedule and image shape.
        split: the first time of `high`.

    Raises:
        ValueError: if the two differ in their schedules, as far as these are known, or their image shapes.
    """

    low: Prior
    high: Prior
    split: Int[Array, ""] | int

    def __post_init__(self) -> None:
        if self.low.image_shape != self.high.image_shape:
            raise ValueError(f"`low` has images {self.low.image_shape}, `high` has {self.high.image_shape}.")
        times = self.low.schedule.num_times, self.high.schedule.num_times
        if times[0] != times[1]:
            raise ValueError(f"`low` has a schedule of {times[0]} times, `high` one of {times[1]}.")
        tables = self.low.schedule.log_alpha_bar, self.high.schedule.log_alpha_bar
        if not any(isinstance(table, Tracer) for table in tables) and not np.allclose(*tables, rtol=1e-4):
            raise ValueError("`low` and `high` have different noise schedules.")

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of both."""
        return self.low.schedule

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)` of the images."""
        return self.low.image_shape

    def predict(self, x_t: Image, t: Time) -> Prediction:
        """Asks the prior of this time."""
        return jax.lax.cond(
            jnp.asarray(t) < self.split,
            lambda x_t: _full(self.low.predict(x_t, t)),
            lambda x_t: _full(self.high.predict(x_t, t)),
            x_t,
        )

    def bound(self, x0: Image) -> Image:
        """Bounds as the low-noise prior does."""
        return self.low.bound(x0)

    def at(self, image_shape: tuple[int, int, int]) -> "SplitPrior":
        """Returns the same of both priors at another size."""
        return replace(self, low=self.low.at(image_shape), high=self.high.at(image_shape))


def _full(prediction: Prediction) -> Prediction:
    """Fills in what the other branch may have: both must give arrays of the same shapes."""
    x0_hat = prediction.x0_hat
    fraction = 0.0 if prediction.variance_fraction is None else prediction.variance_fraction
    return Prediction(
        x0_hat,
        jnp.broadcast_to(jnp.asarray(fraction, x0_hat.dtype), x0_hat.shape),
        unclipped=prediction.before_clip,
        unguided=prediction.before_guidance,
    )


@pytree
class PaddedPrior(WrappedPrior):
    """A prior whose network needs sides that are multiples of a number, for any height and width.

    Noisy images are continued by their mirror image below and to the right, and the estimate is cut off again.

    Args:
        prior: the prior, for images of the padded size.
        multiple: what its sides must be multiples of.
        shape: `(h, w, c)` of the images.
    """

    prior: Prior
    multiple: int = static()
    shape: tuple[int, int, int] = static()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)` of the images, without the padding."""
        return self.shape

    def predict(self, x_t: Image, t: Time) -> Prediction:
        """Estimates `x0` of the continued image."""
        h, w, _ = self.shape
        prediction = self.prior.predict(pad_to_multiple(x_t, self.multiple), t)
        return jax.tree.map(lambda a: a[:h, :w] if a.ndim == 3 else a, prediction)

    def at(self, image_shape: tuple[int, int, int]) -> "PaddedPrior":
        """Returns the prior for images of another size, any."""
        h, w = (side + -side % self.multiple for side in image_shape[:2])
        return replace(self, prior=self.prior.at((h, w, image_shape[2])), shape=image_shape)
