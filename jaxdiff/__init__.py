"""Posterior sampling for imaging inverse problems with diffusion priors, in JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdiff import chains, faces, guidance, images, metrics, networks, operators, priors, samplers
    from jaxdiff.chains.many import sample_many, sample_segments
    from jaxdiff.chains.memory import plan
    from jaxdiff.guidance import DDNM, FASTDIPS, MMPS, TMPD, DiffPIR, PiGDM
    from jaxdiff.measurement import Measurement, measure
    from jaxdiff.metrics import lpips
    from jaxdiff.metrics.diagnosis import Diagnose, Diagnosis, Verdict, verdict
    from jaxdiff.noise import GaussianNoise, HeteroscedasticNoise, PoissonGaussianNoise, PoissonNoise
    from jaxdiff.presets import preset
    from jaxdiff.priors import exact
    from jaxdiff.priors.config import PriorError
    from jaxdiff.priors.denoiser import Denoiser, Prediction
    from jaxdiff.priors.gaussian import GaussianPrior
    from jaxdiff.priors.mixture import MixturePrior
    from jaxdiff.priors.storage import load_prior
    from jaxdiff.priors.tweedie import tweedie_variance
    from jaxdiff.samplers import (
        DAPS,
        DDIM,
        DDPM,
        DDRM,
        DPS,
        DSG,
        LGD,
        MCG,
        MPGD,
        DPMSolver,
        DPSLikelihood,
        DPSNorm,
        Heun,
        Matheron,
        PnPDM,
        REDDiff,
        RePaint,
        ScoreALD,
        SDEdit,
        annealed_times,
        repaint_times,
        scale_gamma,
        scale_zeta,
    )
    from jaxdiff.samplers.base import sample
    from jaxdiff.schedule import Schedule, time_grid

__version__ = "0.1.0"

_WINGS = ("chains", "faces", "guidance", "images", "metrics", "networks", "operators", "priors", "samplers")
_HOME = {
    "chains.many": ("sample_many", "sample_segments"),
    "chains.memory": ("plan",),
    "guidance": ("DDNM", "DiffPIR", "FASTDIPS", "MMPS", "PiGDM", "TMPD"),
    "measurement": ("Measurement", "measure"),
    "metrics.diagnosis": ("Diagnose", "Diagnosis", "Verdict", "verdict"),
    "noise": ("GaussianNoise", "HeteroscedasticNoise", "PoissonGaussianNoise", "PoissonNoise"),
    "presets": ("preset",),
    "priors.denoiser": ("Denoiser", "Prediction"),
    "priors.gaussian": ("GaussianPrior",),
    "priors.mixture": ("MixturePrior",),
    "priors.storage": ("PriorError", "load_prior"),
    "priors.tweedie": ("tweedie_variance",),
    "samplers": (
        "DAPS",
        "DSG",
        "LGD",
        "MCG",
        "MPGD",
        "PnPDM",
        "REDDiff",
        "RePaint",
        "annealed_times",
        "repaint_times",
        "DDIM",
        "DDPM",
        "DDRM",
        "DPMSolver",
        "DPS",
        "DPSLikelihood",
        "DPSNorm",
        "Heun",
        "Matheron",
        "SDEdit",
        "ScoreALD",
        "scale_gamma",
        "scale_zeta",
    ),
    "samplers.base": ("sample",),
    "schedule": ("Schedule", "time_grid"),
}
_NAMES = {name: home for home, names in _HOME.items() for name in names}
_MODULES = {"exact": "priors.exact", "lpips": "metrics.lpips", **{wing: wing for wing in _WINGS}}

__all__ = [
    "DAPS",
    "DDIM",
    "DDNM",
    "DDPM",
    "DDRM",
    "DPS",
    "DSG",
    "FASTDIPS",
    "LGD",
    "MCG",
    "MMPS",
    "MPGD",
    "TMPD",
    "DPMSolver",
    "DPSLikelihood",
    "DPSNorm",
    "Denoiser",
    "Diagnose",
    "Diagnosis",
    "DiffPIR",
    "GaussianNoise",
    "GaussianPrior",
    "HeteroscedasticNoise",
    "Heun",
    "Matheron",
    "Measurement",
    "MixturePrior",
    "PiGDM",
    "PnPDM",
    "PoissonGaussianNoise",
    "PoissonNoise",
    "Prediction",
    "PriorError",
    "REDDiff",
    "RePaint",
    "SDEdit",
    "Schedule",
    "ScoreALD",
    "Verdict",
    "annealed_times",
    "chains",
    "exact",
    "faces",
    "guidance",
    "images",
    "load_prior",
    "lpips",
    "measure",
    "metrics",
    "networks",
    "operators",
    "plan",
    "preset",
    "priors",
    "repaint_times",
    "sample",
    "sample_many",
    "sample_segments",
    "samplers",
    "scale_gamma",
    "scale_zeta",
    "time_grid",
    "tweedie_variance",
    "verdict",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that a command line need not wait for JAX to print its flags."""
    if name in _NAMES:
        value = getattr(import_module(f"jaxdiff.{_NAMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"jaxdiff.{_MODULES[name]}")
    else:
        raise AttributeError(f"module 'jaxdiff' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
