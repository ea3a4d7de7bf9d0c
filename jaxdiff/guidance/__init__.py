"""Guided priors: a prior and a measurement in, a prior out. One file per rule."""

from jaxdiff.guidance.ddnm import DDNM
from jaxdiff.guidance.diffpir import DiffPIR
from jaxdiff.guidance.fast_dips import FASTDIPS
from jaxdiff.guidance.mmps import MMPS
from jaxdiff.guidance.pigdm import PiGDM
from jaxdiff.guidance.tmpd import TMPD

__all__ = ["DDNM", "FASTDIPS", "MMPS", "TMPD", "DiffPIR", "PiGDM"]
