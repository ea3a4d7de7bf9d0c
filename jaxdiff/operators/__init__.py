"""Forward models `A`: PyTree callables from an image to what is measured of it. One family per file."""

from jaxdiff.operators.base import Operator, SpectralOperator, adjoint, observed, pinv
from jaxdiff.operators.blur import Blur, CircularBlur, GaussianBlur
from jaxdiff.operators.colour import Grey
from jaxdiff.operators.composition import Composition, Stack
from jaxdiff.operators.compressed_sensing import DenseGaussian, Hadamard
from jaxdiff.operators.fourier import FourierMask, cartesian_lines, radial_lines
from jaxdiff.operators.intensity import HighDynamicRange, Quantisation
from jaxdiff.operators.jpeg import JPEG
from jaxdiff.operators.masks import BoxMask, FreeFormMask, Identity, Mask, RandomMask
from jaxdiff.operators.motion import motion_kernel, motion_kernel_from_key
from jaxdiff.operators.phase import PhaseRetrieval
from jaxdiff.operators.resize import Bicubic, BlockMean

__all__ = [
    "JPEG",
    "Bicubic",
    "BlockMean",
    "Blur",
    "BoxMask",
    "CircularBlur",
    "Composition",
    "DenseGaussian",
    "FourierMask",
    "FreeFormMask",
    "GaussianBlur",
    "Grey",
    "Hadamard",
    "HighDynamicRange",
    "Identity",
    "Mask",
    "Operator",
    "PhaseRetrieval",
    "Quantisation",
    "RandomMask",
    "SpectralOperator",
    "Stack",
    "adjoint",
    "cartesian_lines",
    "motion_kernel",
    "motion_kernel_from_key",
    "observed",
    "pinv",
    "radial_lines",
]
