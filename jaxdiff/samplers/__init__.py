"""One file per algorithm."""

from jaxdiff.samplers.ddim import DDIM
from jaxdiff.samplers.ddpm import DDPM
from jaxdiff.samplers.dps import DPS, DPSLikelihood, DPSNorm, scale_zeta
from jaxdiff.samplers.mmps import MMPS
from jaxdiff.samplers.pigdm import PiGDM
from jaxdiff.samplers.score_ald import ScoreALD, over_gamma, over_variance, scale_gamma, twice_over_variance
from jaxdiff.samplers.sdedit import SDEdit
from jaxdiff.samplers.tmpd import TMPD

__all__ = [
    "DDIM",
    "DDPM",
    "DPS",
    "MMPS",
    "TMPD",
    "DPSLikelihood",
    "DPSNorm",
    "PiGDM",
    "SDEdit",
    "ScoreALD",
    "over_gamma",
    "over_variance",
    "scale_gamma",
    "scale_zeta",
    "twice_over_variance",
]
