"""Methods set up for a task, with hyper-parameters that work and where they come from.

Step sizes in the literature belong to 256x256 images and 1000 steps. They are given in those units and scaled:
`zeta` follows `jaxdiff.scale_zeta`, gamma `jaxdiff.scale_gamma`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdiff.denoiser import Prior
from jaxdiff.operators import Operator
from jaxdiff.runs.errors import UserError, check_name
from jaxdiff.runs.names import WEIGHTINGS
from jaxdiff.samplers import (
    DPS,
    MMPS,
    TMPD,
    DPSLikelihood,
    PiGDM,
    ScoreALD,
    SDEdit,
    over_gamma,
    over_variance,
    scale_gamma,
    scale_zeta,
    twice_over_variance,
)
from jaxdiff.schedule import Schedule, time_grid

SDEDIT_START = 500
"""SDEdit's start time: used by Zhu, best in Qi."""

ZETA = {"inpaint": 1.0, "deblur": 0.3, "denoise": 1.0}
"""At 256x256: Zhu and Jacques use 1.0 for the box and 0.3 for the blur. For random inpainting 1.0 has Jacques' best
PSNR, and Zhu's 0.1 fails. Denoising, which they do not try, takes the value of inpainting."""

SMALL_ZETA = ZETA | {"deblur": 1.0}
"""Below 256x256. Scaled down, the blur's 0.3 is too weak: on `faces-32` it leaves a residual of 1.4 times the noise.
Chosen by trying 0.15 to 1.5 on held-out faces 0 to 2."""

GAMMA = {"inpaint": (28.0, 33.0), "deblur": (10.0, 15.0), "denoise": (28.0, 33.0)}
"""Jacques' best gamma at t = 0 and t = T - 1, for the weighting 1 / gamma."""

LIKELIHOOD_ZETA = 0.2
"""DPSLikelihood's weight in 1000 steps; longer steps overshoot sooner, so that it goes with their number. The
likelihood itself, 1.0, overshoots where pixels go together. Chosen among 0.1, 0.2 and 0.4 on held-out face 0."""

PRIOR_VARIANCE = 0.25
"""Variance of an entry that PiGDM assumes: about that of photographs in [-1, 1]."""

ROUNDING = 2 / 255 / 12**0.5
"""Standard deviation of what 8 bits round off: the noise of pictures said to have none, for methods that need some."""


@dataclass(frozen=True)
class HyperParameters:
    """What may be chosen by hand, in the units of the literature (256x256, 1000 steps); None takes the default.

    Attributes:
        zeta: DPS' step size; or DPSLikelihood's weight.
        gamma: ScoreALD's gamma at `t = 0` and at `t = T - 1`.
        weighting: ScoreALD's weighting, by the name of its function.
        start: SDEdit's start time.
    """

    zeta: float | None = None
    gamma: tuple[float, float] | None = None
    weighting: str = "over_gamma"
    start: int | None = None


@dataclass(frozen=True)
class Run:
    """A sampler ready to run.

    Attributes:
        sampler: the algorithm with its measurement.
        times: the times of its steps.
        settings: the hyper-parameters actually used.
        state: where the chains start, stacked; the sampler's `init` by default.
    """

    sampler: Any
    times: np.ndarray
    settings: dict[str, Any]
    state: Any = None


def make_run(
    method: str,
    task: str,
    denoiser: Prior,
    operator: Operator,
    y: Array,
    sigma_y: float,
    steps: int,
    chosen: HyperParameters = HyperParameters(),
) -> Run:
    """Sets a method up for a task.

    Args:
        method: a key of `METHODS`.
        task: `inpaint`, `deblur` or `denoise`, which decides the defaults.
        denoiser: the prior.
        operator: the forward model.
        y: the measurement.
        sigma_y: standard deviation of its noise, in [-1, 1] units.
        steps: of a whole chain.
        chosen: hyper-parameters that are not to be the defaults.

    Raises:
        UserError: if a hyper-parameter is out of its range.
    """
    if method in ("dps-likelihood", "tmpd", "pigdm", "mmps"):
        return _noise_aware(method, denoiser, operator, y, max(sigma_y, ROUNDING), steps, chosen)
    make = {"sdedit": _sdedit, "score-ald": _score_ald, "dps": _dps}[method]
    return make(task, denoiser, operator, y, sigma_y, steps, chosen)


def matched_time(schedule: Schedule, sigma_y: float) -> int:
    """Returns the first time at which the forward process has at least the noise of `x0 + sigma_y eps`."""
    alpha, sigma = (np.asarray(table) for table in schedule(jnp.arange(schedule.num_times)))
    return int(min(np.searchsorted(sigma / alpha, sigma_y), schedule.num_times - 1))


def _sdedit(
    task: str, denoiser: Prior, operator: Operator, y: Array, sigma_y: float, steps: int, chosen: HyperParameters
) -> Run:
    num_times = denoiser.schedule.num_times
    if task == "denoise" and chosen.start is None:
        # From the measurement's own noise level DDPM's chain draws from the posterior itself.
        start = matched_time(denoiser.schedule, sigma_y)
        times = time_grid(num_times, min(steps, start + 1), start)
        settings = {"start": start, "steps": len(times) - 1, "form": "the measurement's noise counts"}
        return Run(SDEdit(denoiser, y, sigma_y), times, settings)
    start = min(SDEDIT_START if chosen.start is None else chosen.start, num_times - 1)
    if start < 0:
        raise UserError(f"SDEdit's start time must be between 0 and {num_times - 1}, got {start}.")
    part = max(round(steps * (start + 1) / num_times), 1)
    return Run(SDEdit(denoiser, y), time_grid(num_times, part, start), {"start": start, "steps": part})


def _score_ald(
    task: str, denoiser: Prior, operator: Operator, y: Array, sigma_y: float, steps: int, chosen: HyperParameters
) -> Run:
    num_times = denoiser.schedule.num_times
    weightings = {w.__name__: w for w in (over_gamma, over_variance, twice_over_variance)}
    weighting = weightings[check_name(chosen.weighting, WEIGHTINGS, "weighting")]
    gammas = GAMMA[task] if chosen.gamma is None else chosen.gamma
    if not all(0 < gamma < float("inf") for gamma in gammas):
        raise UserError(f"ScoreALD's gamma must be positive, got {gammas[0]} and {gammas[1]}.")
    clean, noisy = (scale_gamma(gamma, weighting, steps, num_times) for gamma in gammas)
    settings = {"weighting": chosen.weighting, "gamma_clean": clean, "gamma_noisy": noisy}
    sampler = ScoreALD(denoiser, operator, y, sigma_y, clean, noisy, weighting)
    return Run(sampler, time_grid(num_times, steps), settings)


def _dps(
    task: str, denoiser: Prior, operator: Operator, y: Array, sigma_y: float, steps: int, chosen: HyperParameters
) -> Run:
    defaults = ZETA if min(denoiser.image_shape[:2]) >= 256 else SMALL_ZETA
    zeta = defaults[task] if chosen.zeta is None else _checked_zeta(chosen.zeta)
    scaled = scale_zeta(zeta, denoiser.image_shape, steps)
    times = time_grid(denoiser.schedule.num_times, steps)
    return Run(DPS(denoiser, operator, y, scaled), times, {"form": "unit gradient", "zeta": scaled})


def _noise_aware(
    method: str, denoiser: Prior, operator: Operator, y: Array, sigma_y: float, steps: int, chosen: HyperParameters
) -> Run:
    times, problem = time_grid(denoiser.schedule.num_times, steps), (denoiser, operator, y, sigma_y)
    settings = {"sigma_y": sigma_y}
    if method == "dps-likelihood":
        zeta = LIKELIHOOD_ZETA if chosen.zeta is None else _checked_zeta(chosen.zeta)
        zeta *= steps / denoiser.schedule.num_times
        return Run(DPSLikelihood(*problem, zeta), times, settings | {"zeta": zeta})
    makes = {"tmpd": TMPD, "mmps": MMPS, "pigdm": partial(PiGDM, prior_variance=PRIOR_VARIANCE)}
    sampler = makes[method](*problem)
    found = {name: getattr(sampler, name) for name in ("prior_variance", "iterations") if hasattr(sampler, name)}
    return Run(sampler, times, settings | found)


def _checked_zeta(zeta: float) -> float:
    if not 0 <= zeta < float("inf"):
        raise UserError(f"DPS' zeta must be zero or positive, got {zeta}.")
    return zeta
