"""Posterior sampling for imaging inverse problems with diffusion priors, in JAX."""

from jaxdiff import faces, operators
from jaxdiff.checkpoint import PriorError, load_prior
from jaxdiff.denoiser import Denoiser, GaussianDenoiser, Prediction
from jaxdiff.samplers import DDIM, DDPM, DPS, DPSLikelihood, DPSNorm, ScoreALD, SDEdit, scale_gamma, scale_zeta
from jaxdiff.sampling import sample, sample_many
from jaxdiff.schedule import Schedule, time_grid

__all__ = [
    "DDIM",
    "DDPM",
    "DPS",
    "DPSLikelihood",
    "DPSNorm",
    "Denoiser",
    "GaussianDenoiser",
    "Prediction",
    "PriorError",
    "SDEdit",
    "Schedule",
    "ScoreALD",
    "faces",
    "load_prior",
    "operators",
    "sample",
    "sample_many",
    "scale_gamma",
    "scale_zeta",
    "time_grid",
]
__version__ = "0.1.0"
