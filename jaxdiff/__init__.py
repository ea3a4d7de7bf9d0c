"""Posterior sampling for imaging inverse problems with diffusion priors, in JAX."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdiff import exact, faces, gaussian, operators, posterior
    from jaxdiff.chains import plan, sample_many, sample_segments
    from jaxdiff.checkpoint import PriorError, load_prior
    from jaxdiff.denoiser import Denoiser, Prediction, tweedie_variance
    from jaxdiff.diagnostics import Diagnose, Diagnosis, Verdict, verdict
    from jaxdiff.gaussian import GaussianDenoiser, MixtureDenoiser
    from jaxdiff.samplers import (
        DDIM,
        DDPM,
        DPS,
        MMPS,
        TMPD,
        DPSLikelihood,
        DPSNorm,
        PiGDM,
        ScoreALD,
        SDEdit,
        scale_gamma,
        scale_zeta,
    )
    from jaxdiff.sampling import sample
    from jaxdiff.schedule import Schedule, time_grid

__all__ = [
    "DDIM",
    "DDPM",
    "DPS",
    "MMPS",
    "TMPD",
    "DPSLikelihood",
    "DPSNorm",
    "Denoiser",
    "Diagnose",
    "Diagnosis",
    "GaussianDenoiser",
    "MixtureDenoiser",
    "PiGDM",
    "Prediction",
    "PriorError",
    "SDEdit",
    "Schedule",
    "ScoreALD",
    "Verdict",
    "exact",
    "faces",
    "gaussian",
    "load_prior",
    "operators",
    "plan",
    "posterior",
    "sample",
    "sample_many",
    "sample_segments",
    "scale_gamma",
    "scale_zeta",
    "time_grid",
    "tweedie_variance",
    "verdict",
]
__version__ = "0.1.0"

_MODULES = {
    "chains": ("plan", "sample_many", "sample_segments"),
    "checkpoint": ("PriorError", "load_prior"),
    "denoiser": ("Denoiser", "Prediction", "tweedie_variance"),
    "diagnostics": ("Diagnose", "Diagnosis", "Verdict", "verdict"),
    "gaussian": ("GaussianDenoiser", "MixtureDenoiser"),
    "samplers": (
        "DDIM",
        "DDPM",
        "DPS",
        "DPSLikelihood",
        "DPSNorm",
        "MMPS",
        "PiGDM",
        "SDEdit",
        "ScoreALD",
        "TMPD",
        "scale_gamma",
        "scale_zeta",
    ),
    "sampling": ("sample",),
    "schedule": ("Schedule", "time_grid"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that a command line need not wait for JAX to tell its flags."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxdiff' has no attribute {name!r}")
    value = (
        getattr(import_module(f"jaxdiff.{_HOME[name]}"), name) if name in _HOME else import_module(f"jaxdiff.{name}")
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
