"""Methods set up for a task, continued: those that neither the reports nor the command line take by default.

As in `jaxdiff.runs.setups`, step sizes are in the units of the literature: 256x256 images and 1000 steps.
"""

from jaxdiff.runs.setup import Run, Setup
from jaxdiff.runs.setups import LIKELIHOOD_ZETA

MPGD_ZETA = 0.4
"""MPGD's step size: the authors' 17.5, 7.5 and 4 in 20, 50 and 100 steps."""


def mpgd(setup: Setup) -> Run:
    """With a step size that is scaled to image and steps."""
    from jaxdiff.samplers import MPGD, scale_zeta

    zeta = scale_zeta(setup.zeta(MPGD_ZETA), setup.prior.image_shape, setup.whole_steps)
    sampler = MPGD(setup.prior, setup.measurement, zeta)
    return Run(sampler, setup.times, {"zeta": zeta, "eta": sampler.eta})


DSG_RHO = 0.4
"""DSG's weight of the data: residuals of 0.95 and 1.02 times the noise in 100 steps on Gaussian posteriors, 92 % of the
pixels known and a blur. With 0.3 they are 1.57 and 1.05, with 0.5 0.55 and 1.00. It takes more than 25 steps."""


def dsg(setup: Setup) -> Run:
    """With a weight of the data that suits their noise."""
    from jaxdiff.samplers import DSG

    sampler = DSG(setup.prior, setup.measurement, DSG_RHO)
    return Run(sampler, setup.times, {"rho": sampler.rho, "eta": sampler.eta})


def lgd(setup: Setup) -> Run:
    """With the weight of DPSLikelihood, scaled to the number of steps."""
    from jaxdiff.samplers import LGD

    zeta = setup.zeta(LIKELIHOOD_ZETA) * setup.whole_steps / setup.prior.schedule.num_times
    sampler = LGD(setup.prior, setup.noisy, zeta)
    return Run(sampler, setup.times, {"zeta": zeta, "num_images": sampler.num_images, **setup.noise_settings})


MCG_ZETA = 0.2
"""MCG's step size: the paper's 0.1, times 2 for the norm that is not squared."""


def mcg(setup: Setup) -> Run:
    """With a gradient step that is scaled to image and steps."""
    from jaxdiff.samplers import MCG, scale_zeta

    zeta = scale_zeta(setup.zeta(MCG_ZETA), setup.prior.image_shape, setup.whole_steps)
    return Run(MCG(setup.prior, setup.measurement, zeta), setup.times, {"zeta": zeta})


REPAINT_REPEATS = 3
"""How often RePaint goes down every tenth of the times. The paper has 10, in more than 2000 network calls."""


def repaint(setup: Setup) -> Run:
    """Through times that go up again, of which there are as many steps as were asked for, or a few less."""
    from jaxdiff.priors.denoiser import last_time
    from jaxdiff.samplers import RePaint, repaint_times

    num_times, start = setup.prior.schedule.num_times, last_time(setup.prior)
    down = lambda n: repaint_times(num_times, n, max(n // 10, 1), REPAINT_REPEATS, start)
    fitting = max(n for n in range(1, min(setup.steps, start + 1) + 1) if len(down(n)) - 1 <= setup.steps)
    settings = {"different times": fitting, "jump": max(fitting // 10, 1), "repeats": REPAINT_REPEATS}
    return Run(RePaint(setup.prior, setup.measurement), down(fitting), settings)


def daps(setup: Setup) -> Run:
    """With the numbers of inner steps that it has by default."""
    from jaxdiff.samplers import DAPS

    sampler = DAPS(setup.prior, setup.noisy)
    names = "ode_steps", "langevin_steps", "step_size"
    return Run(sampler, setup.times, {name: getattr(sampler, name) for name in names} | setup.noise_settings)


def red_diff(setup: Setup) -> Run:
    """With the authors' settings."""
    from jaxdiff.samplers import REDDiff

    sampler = REDDiff(setup.prior, setup.measurement)
    return Run(sampler, setup.times, {"lambda": sampler.lambda_, "rate": sampler.rate})


SMALLEST_COUPLING = 1 / 3
"""Noise level at which PnPDM ends, over that of the data: there the flattened likelihood is 5 % wider than it is."""


def pnp_dm(setup: Setup) -> Run:
    """Through noise levels that fall by equal factors, from the paper's first to one below the noise of the data."""
    from jaxdiff.priors.denoiser import last_time
    from jaxdiff.samplers import PnPDM, annealed_times

    sampler, schedule = PnPDM(setup.prior, setup.noisy), setup.prior.schedule
    alpha, sigma = schedule(last_time(setup.prior))
    largest = min(10.0, float(sigma / alpha))
    smallest = min(SMALLEST_COUPLING * setup.noise_settings["sigma_y"], largest)
    times = annealed_times(schedule, setup.steps, largest, smallest)
    settings = {"prior_steps": sampler.prior_steps, "largest": largest, "smallest": smallest}
    return Run(sampler, times, settings | setup.noise_settings)
