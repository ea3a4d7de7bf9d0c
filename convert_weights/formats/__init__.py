"""The formats that are read, one file or folder each, and the table of them."""

from convert_weights.formats.base import Format
from convert_weights.formats.denoising_diffusion import DENOISING_DIFFUSION
from convert_weights.formats.diffusers.config import DIFFUSERS
from convert_weights.formats.ffdnet import FFDNET
from convert_weights.formats.guided_diffusion.config import GUIDED_DIFFUSION

FORMATS: tuple[Format, ...] = (GUIDED_DIFFUSION, DIFFUSERS, FFDNET, DENOISING_DIFFUSION)
"""In the order in which a file is held against them."""
