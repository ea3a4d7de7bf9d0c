"""Guided priors: a prior and a measurement in, a prior out. One file per rule."""

from jaxdiff.guidance.ddnm import DDNM
from jaxdiff.guidance.diffpir import DiffPIR
from jaxdiff.guidance.mmps import MMPS
from jaxdiff.guidance.pigdm import PiGDM
from jaxdiff.guidance.tmpd import TMPD

__all__ = ["DDNM", "MMPS", "TMPD", "DiffPIR", "PiGDM"]
