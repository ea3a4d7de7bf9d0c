"""The measurements of published comparisons, by name: operators, noise, and what is done to hidden pixels.

Papers print "sigma = 0.05" for two noise levels: DPS and DAPS add it to images in [-1, 1], DDRM and DiffPIR to images
in [0, 1], where it is 0.10 in the units of this library. They differ too in where a box may lie, how many pixels are
hidden, and whether noise falls on these.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.errors import check_name
from jaxdiff.measurement import Measurement, measure
from jaxdiff.noise import GaussianNoise
from jaxdiff.operators import (
    Bicubic,
    BlockMean,
    Blur,
    BoxMask,
    CircularBlur,
    GaussianBlur,
    Grey,
    HighDynamicRange,
    Operator,
    PhaseRetrieval,
    RandomMask,
    motion_kernel_from_key,
)

Shape = tuple[int, int, int]


class Preset(NamedTuple):
    """How a comparison measures its images.

    Attributes:
        operator: the forward model.
        noise: Gaussian, with `sigma_y` in [-1, 1] units.
        noise_on_hidden: whether hidden pixels of `y` carry noise too, which lengthens the residual of `DPSNorm`.
    """

    operator: Operator
    noise: GaussianNoise
    noise_on_hidden: bool

    def measure(self, key: PRNGKeyArray, x: Float[Array, "h w c"]) -> Measurement:
        """Simulates the measurement of an image in [-1, 1]."""
        if self.noise_on_hidden:
            return Measurement(self.operator, self.noise.sample(key, self.operator(x)), self.noise)
        return measure(key, self.operator, x, self.noise)


class _Task(NamedTuple):
    """A task of a comparison: `make(key, image_shape)`, its noise in [-1, 1] units, and what falls on hidden pixels."""

    make: Callable[[PRNGKeyArray, Shape], Any]
    sigma_y: float
    noise_on_hidden: bool = False


def preset(name: str, task: str, key: PRNGKeyArray, image_shape: Shape) -> Preset:
    """Returns how a published comparison measures its images.

    >>> preset("ddrm", "upscale", jax.random.key(0), (256, 256, 3)).noise
    GaussianNoise(sigma_y=0.1)

    Args:
        name: a key of `PRESETS`: "dps2022", "daps", "ddrm" or "diffpir".
        task: a key of its row: "box", "random", "blur", "motion", "upscale", "colourise", "phase" or "hdr", as far as
            the comparison has it.
        key: decides what is random of the operator: place of a box, hidden pixels, path of a motion.
        image_shape: `(h, w, c)`. Boxes, margins and the kernels of 61 pixels are given at 256x256; at other sizes they
            are the same share of the shorter side.

    Raises:
        UserError: if the comparison or its task is not known.

    Deviations:
        Paths of motion follow another law than those of the package `motionblur`. The DPS code's configuration hides
        30 to 70 % of the pixels, its paper 92 %, as here. DDRM's blur meets zeros beyond the edges; here it is on a
        torus, so that its singular system is known. DiffPIR's motion kernels are files; here they are drawn.
    """
    tasks = PRESETS[check_name(name, list(PRESETS), "preset")]
    row = tasks[check_name(task, list(tasks), f"task of {name}")]
    return Preset(row.make(key, image_shape), GaussianNoise(row.sigma_y), row.noise_on_hidden)


def _share(image_shape: Shape, pixels: float) -> float:
    return pixels * min(image_shape[:2]) / 256


def _box(margin: int) -> Callable[[PRNGKeyArray, Shape], BoxMask]:
    """A box of 128 pixels whose corner is uniform, so that a margin stays around it."""

    def make(key: PRNGKeyArray, image_shape: Shape) -> BoxMask:
        side, around = (round(_share(image_shape, pixels)) for pixels in (128, margin))
        ends = np.array(image_shape[:2]) - around - side
        top, left = np.asarray(jax.random.randint(key, (2,), around, jnp.asarray(ends)))
        return BoxMask(int(top), int(left), side, side)

    return make


def _random(hidden: float) -> Callable[[PRNGKeyArray, Shape], RandomMask]:
    return lambda key, image_shape: RandomMask(key, image_shape, 1 - hidden)


def _kernel_side(image_shape: Shape) -> int:
    return 2 * round((_share(image_shape, 61) - 1) / 2) + 1


def _gaussian(key: PRNGKeyArray, image_shape: Shape) -> GaussianBlur:
    return GaussianBlur(_share(image_shape, 3.0), _kernel_side(image_shape))


def _motion(key: PRNGKeyArray, image_shape: Shape) -> Blur:
    return Blur(motion_kernel_from_key(key, _kernel_side(image_shape), 0.5))


def _five_taps(key: PRNGKeyArray, image_shape: Shape) -> CircularBlur:
    """Five pixels of a Gaussian of ten, at any size of the image."""
    taps = np.exp(-0.5 * (np.arange(-2, 3) / 10) ** 2)
    return CircularBlur(np.outer(taps, taps).astype(np.float32) / taps.sum() ** 2)


def _on_torus(make: Callable[[PRNGKeyArray, Shape], Any]) -> Callable[[PRNGKeyArray, Shape], CircularBlur]:
    return lambda key, image_shape: CircularBlur(make(key, image_shape).kernel)


_DPS = {
    "box": _Task(_box(16), 0.05, noise_on_hidden=True),
    "random": _Task(_random(0.92), 0.05, noise_on_hidden=True),
    "blur": _Task(_gaussian, 0.05),
    "motion": _Task(_motion, 0.05),
    "upscale": _Task(lambda key, image_shape: Bicubic(4, border="mirror"), 0.05),
    "phase": _Task(lambda key, image_shape: PhaseRetrieval(2.0, shifted=False), 0.05),
}

PRESETS: dict[str, dict[str, _Task]] = {
    "dps2022": _DPS,
    "daps": {
        **_DPS,
        "box": _Task(_box(32), 0.05, noise_on_hidden=True),
        "random": _Task(_random(0.7), 0.05, noise_on_hidden=True),
        "phase": _Task(lambda key, image_shape: PhaseRetrieval(2.0, shifted=True), 0.05),
        "hdr": _Task(lambda key, image_shape: HighDynamicRange(2.0), 0.05),
    },
    "ddrm": {
        "blur": _Task(_five_taps, 0.10),
        "upscale": _Task(lambda key, image_shape: BlockMean(4), 0.10),
        "colourise": _Task(lambda key, image_shape: Grey((1 / 3, 1 / 3, 1 / 3)), 0.10),
    },
    "diffpir": {
        "random": _Task(_random(0.5), 0.0),
        "blur": _Task(_on_torus(_gaussian), 0.10),
        "motion": _Task(_on_torus(_motion), 0.10),
    },
}
"""Comparisons by name, and their tasks.

The sources are Chung et al., 2022, https://arxiv.org/abs/2209.14687 (dps2022); Zhang et al., 2024,
https://arxiv.org/abs/2407.01521 (daps); Kawar et al., 2022, https://arxiv.org/abs/2201.11793 (ddrm); Zhu et al., 2023,
https://arxiv.org/abs/2305.08995 (diffpir); and the code of each.
"""
