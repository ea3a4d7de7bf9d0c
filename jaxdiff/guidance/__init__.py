"""Guided priors: a prior and a measurement in, a prior out. One file per rule."""

from jaxdiff.guidance.mmps import MMPS
from jaxdiff.guidance.pigdm import PiGDM
from jaxdiff.guidance.tmpd import TMPD

__all__ = ["MMPS", "TMPD", "PiGDM"]
