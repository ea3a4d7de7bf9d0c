"""Forward models `A`: PyTree callables from an image to what is measured of it. One family per file."""

from jaxdiff.operators.base import Operator, SpectralOperator, adjoint, observed, pinv
from jaxdiff.operators.blur import Blur, CircularBlur, GaussianBlur
from jaxdiff.operators.masks import BoxMask, Identity, Mask, RandomMask
from jaxdiff.operators.resize import Bicubic, BlockMean

__all__ = [
    "Bicubic",
    "BlockMean",
    "Blur",
    "BoxMask",
    "CircularBlur",
    "GaussianBlur",
    "Identity",
    "Mask",
    "Operator",
    "RandomMask",
    "SpectralOperator",
    "adjoint",
    "observed",
    "pinv",
]
