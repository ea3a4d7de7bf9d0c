"""Methods set up for a task: the functions that the rows of `jaxdiff.runs.methods` name.

They are free of JAX until they are called, so that a command line starts at once. Step sizes in the literature belong
to 256x256 images and 1000 steps. They are given in those units and scaled: `zeta` follows `jaxdiff.scale_zeta`, gamma
`jaxdiff.scale_gamma`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxdiff.errors import UserError, check_name
from jaxdiff.runs.setup import INTEGRATORS, WEIGHTINGS, Run, Setup

if TYPE_CHECKING:
    from jax import Array

    from jaxdiff.priors.denoiser import Prior
    from jaxdiff.schedule import Schedule


def matched_time(schedule: "Schedule", sigma_y: float) -> int:
    """Returns the first time at which the forward process has at least the noise of `x0 + sigma_y eps`."""
    import jax.numpy as jnp
    import numpy as np

    alpha, sigma = (np.asarray(table) for table in schedule(jnp.arange(schedule.num_times)))
    return int(min(np.searchsorted(sigma / alpha, sigma_y), schedule.num_times - 1))


SDEDIT_START = 500
"""SDEdit's start time: used by Zhu, best in Qi."""


def sdedit(setup: Setup) -> Run:
    """From the measurement, noised to a start time; for denoising from the measurement's own noise level."""
    from jaxdiff.priors.denoiser import last_time
    from jaxdiff.samplers import SDEdit
    from jaxdiff.schedule import time_grid

    prior, measurement, start = setup.prior, setup.measurement, setup.chosen.start
    num_times = prior.schedule.num_times
    if setup.task == "denoise" and start is None:
        # From there DDPM's chain draws from the posterior itself.
        start = matched_time(prior.schedule, float(measurement.sigma_y))
        if start > last_time(prior):
            raise UserError(
                "this is more noise than the prior was trained for; another prior may know it, see --prior."
            )
        times = time_grid(num_times, min(setup.steps, start + 1), start)
        settings = {"start": start, "steps": len(times) - 1, "form": "the measurement's noise counts"}
        mean = lambda: _denoised(prior, measurement.y, start)
        return Run(SDEdit(prior, measurement, noise_counts=True), times, settings, mean=mean)
    start = min(SDEDIT_START, last_time(prior)) if start is None else start
    if not 0 <= start <= last_time(prior):
        raise UserError(f"SDEdit's start time must be between 0 and {last_time(prior)}, got {start}.")
    part = max(round(setup.steps * (start + 1) / (last_time(prior) + 1)), 1)
    return Run(SDEdit(prior, measurement), time_grid(num_times, part, start), {"start": start, "steps": part})


def _denoised(prior: "Prior", y: "Array", t: int) -> "Array":
    """Returns `E[x0 | x_t]` at `x_t = alpha_t y`: the posterior mean if the noise of `y` is that of time `t`."""
    import jax

    return jax.jit(lambda prior, y: prior.predict(prior.schedule(t)[0] * y, t).x0_hat)(prior, y)


GAMMA = {"inpaint": (28.0, 33.0), "deblur": (10.0, 15.0)}
"""Jacques' best gamma at t = 0 and t = T - 1, for the weighting 1 / gamma, at 256x256."""

SMALL_GAMMA = GAMMA | {"inpaint": (20.0, 25.0)}
"""Below 256x256, where 28 to 33 leaves a residual of 1.6 times the noise if few pixels are known. Chosen on held-out
faces 40 to 43 between 17 to 22 (ratio 1.1 for random pixels, 0.7 around a box) and 28 to 33 (1.6 and 0.9), by
`python -m experiments.sweep --methods score-ald --weightings over_gamma --steps 250 --seeds 1 --face 40 --seed 40`."""


def score_ald(setup: Setup) -> Run:
    """With gammas scaled to the number of steps."""
    from jaxdiff import samplers

    weighting = check_name(setup.chosen.weighting or "over_gamma", WEIGHTINGS, "weighting")
    function = getattr(samplers, weighting)
    small = min(setup.prior.image_shape[:2]) < 256
    gammas = setup.chosen.gamma or (SMALL_GAMMA if small else GAMMA)[setup.tuned]
    if not all(0 < gamma < float("inf") for gamma in gammas):
        raise UserError(f"ScoreALD's gamma must be positive, got {gammas[0]} and {gammas[1]}.")
    num_times = setup.prior.schedule.num_times
    clean, noisy = (samplers.scale_gamma(gamma, function, setup.whole_steps, num_times) for gamma in gammas)
    sampler = samplers.ScoreALD(setup.prior, setup.measurement, clean, noisy, function)
    return Run(sampler, setup.times, {"weighting": weighting, "gamma_clean": clean, "gamma_noisy": noisy})


ZETA = {"inpaint": 1.0, "deblur": 0.3}
"""At 256x256: Zhu and Jacques use 1.0 for the box and 0.3 for the blur. For random inpainting 1.0 has Jacques' best
PSNR, and Zhu's 0.1 fails."""

MATCHED_ZETA = 0.85
"""Below 256x256, of any task, times `sqrt(m / (h w c))`: a residual as large as the noise is `sigma_y sqrt(m)` long for
`m` measured entries, and so are the steps. Chosen on held-out faces 40 to 43 for a residual ratio near 1, by
`python -m experiments.sweep --methods dps --steps 250 --seeds 1 --face 40 --seed 40` and so on: 1.0 in place of 0.47
for random pixels has 0.3 dB more PSNR (on face 0 0.6), and a ratio of 0.38."""


def dps(setup: Setup) -> Run:
    """The reports' form, with a step of a length that is scaled to image and steps."""
    from jaxdiff.samplers import DPS, scale_zeta

    prior = setup.prior
    small = min(prior.image_shape[:2]) < 256
    default = MATCHED_ZETA * setup.measured_share**0.5 if small else ZETA[setup.tuned]
    zeta = scale_zeta(setup.zeta(default), prior.image_shape, setup.whole_steps)
    return Run(DPS(prior, setup.measurement, zeta), setup.times, {"form": "unit gradient", "zeta": zeta})


NORM_ZETA = {"inpaint": 0.5, "deblur": 0.3}
"""The authors' configurations: 0.5 for inpainting, 0.3 for blurs."""


def dps_norm(setup: Setup) -> Run:
    """The form of the authors' code."""
    from jaxdiff.samplers import DPSNorm, scale_zeta

    zeta = scale_zeta(setup.zeta(NORM_ZETA[setup.tuned]), setup.prior.image_shape, setup.whole_steps)
    return Run(DPSNorm(setup.prior, setup.measurement, zeta), setup.times, {"form": "norm", "zeta": zeta})


LIKELIHOOD_ZETA = 0.2
"""DPSLikelihood's weight in 1000 steps; longer steps overshoot sooner, so that it goes with their number. The
likelihood itself, 1.0, overshoots where pixels go together. Chosen among 0.1, 0.2 and 0.4 on held-out face 0."""


def dps_likelihood(setup: Setup) -> Run:
    """The form of the theory, with a weight that is scaled to the number of steps."""
    from jaxdiff.samplers import DPSLikelihood

    zeta = setup.zeta(LIKELIHOOD_ZETA) * setup.whole_steps / setup.prior.schedule.num_times
    return Run(
        DPSLikelihood(setup.prior, setup.noisy, zeta),
        setup.times,
        {"form": "likelihood", "zeta": zeta, **setup.noise_settings},
    )


def matheron(setup: Setup) -> Run:
    """With enough products of the covariance for photographs; `--iterations` are those of conjugate gradients."""
    from jaxdiff.samplers import Matheron

    asked = {} if setup.chosen.iterations is None else {"fits": setup.chosen.iterations}
    sampler = Matheron(setup.prior, setup.noisy, **asked)
    settings = {"draws": sampler.draws, "fits": sampler.fits, **setup.noise_settings}
    return Run(sampler, setup.times, settings)


def ddrm(setup: Setup) -> Run:
    """With the settings of the paper; without noise the data stay as they are."""
    from jaxdiff.samplers import DDRM

    sampler = DDRM(setup.prior, setup.measurement)
    settings = {"eta": sampler.eta, "eta_b": sampler.eta_b, "sigma_y": float(setup.measurement.sigma_y)}
    return Run(sampler, setup.times, settings)


GUIDED_ETA = 0.85
"""DDIM's eta for priors that are guided without a gradient: that of DDNM's authors."""

LOW_NOISE_ETA = 1.0
"""The same for chains that start at an estimate. Chosen among 0.5, 0.85 and 1 on crops of the four photographs that
`experiments.train` holds out: scratches, half of the pixels, a blur."""

LOW_NOISE_START = {"jpeg": 100}
"""Where such chains start, if not at the last time of the prior. Chosen among 30, 60, 100 and 165 on the same crops."""


def integrated(setup: Setup, prior: "Prior", default: str, eta: float) -> tuple[Any, dict[str, Any]]:
    """Puts a guided prior under the integrator that was chosen, or the default; `eta` is DDIM's."""
    from jaxdiff.samplers import DDIM, DDPM, DPMSolver, Heun

    name = check_name(setup.chosen.integrator or default, INTEGRATORS, "integrator")
    sampler = {"ddpm": DDPM, "ddim": lambda prior: DDIM(prior, eta), "dpm-solver": DPMSolver, "heun": Heun}[name](prior)
    return sampler, {"integrator": type(sampler).__name__, **({"eta": eta} if name == "ddim" else {})}


def guided_estimate(name: str) -> Callable[[Setup], Run]:
    """Returns what sets up a prior that is guided without a gradient, by the name of its class; with DDIM's steps."""

    def make(setup: Setup) -> Run:
        from jaxdiff import guidance
        from jaxdiff.priors.denoiser import last_time

        known = last_time(setup.prior)
        low = known < setup.prior.schedule.num_times - 1
        start = min(LOW_NOISE_START.get(setup.task, known), known) if low else known
        # Without noise a chain has to keep the data as they are.
        measurement = setup.measurement if name == "DDNM" else setup.noisy
        prior = getattr(guidance, name)(setup.prior, measurement)
        sampler, settings = integrated(setup, prior, "ddim", LOW_NOISE_ETA if low else GUIDED_ETA)
        settings |= {"start": start, "sigma_y": float(measurement.sigma_y)}
        return Run(sampler, setup.times_from(start), settings)

    return make


def guided(name: str, **defaults: Any) -> Callable[[Setup], Run]:
    """Returns what sets up a guided prior, by the name of its class; with DDPM's steps, or those asked for."""

    def make(setup: Setup) -> Run:
        from jaxdiff import guidance

        asked = {} if setup.chosen.iterations is None else {"iterations": setup.chosen.iterations}
        prior = getattr(guidance, name)(setup.prior, setup.noisy, **defaults, **asked)
        found = {name: getattr(prior, name) for name in ("prior_variance", "iterations") if hasattr(prior, name)}
        sampler, settings = integrated(setup, prior, "ddpm", 0.0)
        return Run(sampler, setup.times, {**settings, **setup.noise_settings, **found})

    return make


PRIOR_VARIANCE = 0.25
"""Variance of an entry that PiGDM assumes: about that of photographs in [-1, 1]."""
