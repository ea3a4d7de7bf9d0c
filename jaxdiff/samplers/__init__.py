"""Samplers: how a chain starts, and how it goes from one time to the next. One file per algorithm."""

from jaxdiff.samplers.base import sample
from jaxdiff.samplers.daps import DAPS
from jaxdiff.samplers.ddim import DDIM
from jaxdiff.samplers.ddpm import DDPM
from jaxdiff.samplers.ddrm import DDRM
from jaxdiff.samplers.dpm_solver import DPMSolver
from jaxdiff.samplers.dps import DPS, DPSLikelihood, DPSNorm, scale_zeta
from jaxdiff.samplers.dsg import DSG
from jaxdiff.samplers.heun import Heun
from jaxdiff.samplers.lgd import LGD
from jaxdiff.samplers.matheron import Matheron
from jaxdiff.samplers.mcg import MCG
from jaxdiff.samplers.mpgd import MPGD
from jaxdiff.samplers.pnp_dm import PnPDM, annealed_times
from jaxdiff.samplers.red_diff import REDDiff
from jaxdiff.samplers.repaint import RePaint, repaint_times
from jaxdiff.samplers.score_ald import ScoreALD, over_gamma, over_variance, scale_gamma, twice_over_variance
from jaxdiff.samplers.sdedit import SDEdit
from jaxdiff.samplers.start_at import StartAt

__all__ = [
    "DAPS",
    "DDIM",
    "DDPM",
    "DDRM",
    "DPS",
    "DSG",
    "LGD",
    "MCG",
    "MPGD",
    "DPMSolver",
    "DPSLikelihood",
    "DPSNorm",
    "Heun",
    "Matheron",
    "PnPDM",
    "REDDiff",
    "RePaint",
    "SDEdit",
    "ScoreALD",
    "StartAt",
    "annealed_times",
    "over_gamma",
    "over_variance",
    "repaint_times",
    "sample",
    "scale_gamma",
    "scale_zeta",
    "twice_over_variance",
]
