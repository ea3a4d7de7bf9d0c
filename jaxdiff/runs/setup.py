"""What a method is set up with, and what comes of it; free of JAX until it is asked.

Step sizes in the literature belong to 256x256 images and 1000 steps; `HyperParameters` are in those units.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxdiff.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from jaxdiff.measurement import Measurement
    from jaxdiff.priors.denoiser import Prior

TASKS = {
    "inpaint": "inpainting",
    "denoise": "denoising",
    "deblur": "deblurring",
    "upscale": "super-resolution",
    "colourise": "colourisation",
    "jpeg": "JPEG restoration",
}
"""What a method can be set up for, and its name in words."""

LIKE = {"denoise": "inpaint", "colourise": "inpaint", "jpeg": "inpaint", "upscale": "deblur"}
"""The task whose step sizes a task takes that the literature has none for."""

PHOTO_METHODS = {
    "inpaint": "ddnm",
    "denoise": "sdedit",
    "deblur": "diffpir",
    "upscale": "diffpir",
    "jpeg": "ddnm",
}
"""The best method for each task with a prior that knows low noise only; colours are decided at high noise."""

WEIGHTINGS = ("over_gamma", "over_variance", "twice_over_variance")
"""ScoreALD's weightings, by the names of their functions."""

INTEGRATORS = ("ddpm", "ddim", "dpm-solver", "heun")
"""What takes the steps of a guided prior; `heun` calls the network twice in each."""

ROUNDING = 2 / 255 / 12**0.5
"""Standard deviation of what 8 bits round off: the noise of pictures said to have none, for methods that need some."""


@dataclass(frozen=True)
class HyperParameters:
    """What may be chosen by hand, in the units of the literature (256x256, 1000 steps); None takes the default.

    Attributes:
        zeta: step size of DPS and DPSNorm; weight of DPSLikelihood.
        gamma: ScoreALD's gamma at `t = 0` and at `t = T - 1`.
        weighting: ScoreALD's weighting, by the name of its function.
        start: SDEdit's start time.
        iterations: of conjugate gradients, for guided priors that solve a system.
        integrator: what takes the steps of a guided prior, one of `INTEGRATORS`.
    """

    zeta: float | None = None
    gamma: tuple[float, float] | None = None
    weighting: str | None = None
    start: int | None = None
    iterations: int | None = None
    integrator: str | None = None


DEFAULTS = HyperParameters()
"""Nothing chosen by hand."""


@dataclass(frozen=True)
class Run:
    """A sampler ready to run.

    Attributes:
        sampler: the algorithm with its measurement.
        times: the times of its steps.
        settings: the hyper-parameters actually used.
        state: where the chains start, stacked; the sampler's `init` by default.
        method: the key in `METHODS` of the row that set it up; empty for none.
        mean: computes the posterior mean in one network call, where that is possible.
    """

    sampler: Any
    times: "np.ndarray"
    settings: dict[str, Any]
    state: Any = None
    method: str = ""
    mean: "Callable[[], Array] | None" = None


@dataclass(frozen=True)
class Setup:
    """What a method is set up with.

    Attributes:
        task: a key of `TASKS`, which decides the defaults.
        prior: the prior.
        measurement: what was measured.
        steps: of a chain from the prior's last time to the image.
        chosen: hyper-parameters that are not to be the defaults.
    """

    task: str
    prior: "Prior"
    measurement: "Measurement"
    steps: int
    chosen: HyperParameters = DEFAULTS

    @property
    def tuned(self) -> str:
        """The task whose step sizes are taken."""
        return LIKE.get(self.task, self.task)

    @property
    def times(self) -> "np.ndarray":
        """All times of a chain, from the largest that the prior knows to the image."""
        from jaxdiff.priors.denoiser import last_time

        return self.times_from(last_time(self.prior))

    def times_from(self, start: int) -> "np.ndarray":
        """Returns all times of a chain from a given one to the image."""
        from jaxdiff.schedule import time_grid

        return time_grid(self.prior.schedule.num_times, min(self.steps, start + 1), start)

    @property
    def whole_steps(self) -> int:
        """How many steps of this length lead from noise alone to the image: what scales step sizes."""
        from jaxdiff.priors.denoiser import last_time

        return round(self.steps * self.prior.schedule.num_times / (last_time(self.prior) + 1))

    @property
    def noisy(self) -> "Measurement":
        """The measurement, with at least the noise of rounding to 8 bits."""
        from jaxdiff.measurement import Measurement
        from jaxdiff.noise import GaussianNoise

        measurement = self.measurement
        if isinstance(measurement.noise, GaussianNoise) and measurement.noise.sigma_y < ROUNDING:
            return Measurement(measurement.operator, measurement.y, ROUNDING)
        return measurement

    @property
    def measured_share(self) -> float:
        """Measured entries over the values of an image, at most 1."""
        import numpy as np

        seen = np.asarray(self.measurement.observed)
        return min(float(seen.mean()) * self.measurement.y.size / math.prod(self.prior.image_shape), 1.0)

    @property
    def noise_settings(self) -> dict[str, Any]:
        """What to write down about the noise that is reckoned with: of many levels their root mean square."""
        import numpy as np

        noise = self.noisy.noise
        known = {name: np.asarray(getattr(noise, name)) for name in ("sigma_y", "peak") if hasattr(noise, name)}
        return {
            name: float(np.sqrt(np.mean(value**2))) if value.ndim else float(value) for name, value in known.items()
        }

    def zeta(self, default: float) -> float:
        """Returns the step size asked for, or the default."""
        zeta = default if self.chosen.zeta is None else self.chosen.zeta
        if not 0 <= zeta < float("inf"):
            raise UserError(f"zeta must be zero or positive, got {zeta}.")
        return zeta
