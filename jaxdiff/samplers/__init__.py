"""Samplers: how a chain starts, and how it goes from one time to the next. One file per algorithm."""

from jaxdiff.samplers.base import sample
from jaxdiff.samplers.ddim import DDIM
from jaxdiff.samplers.ddpm import DDPM
from jaxdiff.samplers.ddrm import DDRM
from jaxdiff.samplers.dpm_solver import DPMSolver
from jaxdiff.samplers.dps import DPS, DPSLikelihood, DPSNorm, scale_zeta
from jaxdiff.samplers.heun import Heun
from jaxdiff.samplers.score_ald import ScoreALD, over_gamma, over_variance, scale_gamma, twice_over_variance
from jaxdiff.samplers.sdedit import SDEdit
from jaxdiff.samplers.start_at import StartAt

__all__ = [
    "DDIM",
    "DDPM",
    "DDRM",
    "DPS",
    "DPMSolver",
    "DPSLikelihood",
    "DPSNorm",
    "Heun",
    "SDEdit",
    "ScoreALD",
    "StartAt",
    "over_gamma",
    "over_variance",
    "sample",
    "scale_gamma",
    "scale_zeta",
    "twice_over_variance",
]
