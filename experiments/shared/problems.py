"""The reports' three problems, and others: operators, measurements, and the images they are made of.

Sizes in the literature belong to 256x256 images. Here they scale: the box is half the image's side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff import Denoiser, Measurement, load_prior, measure
from jaxdiff.errors import UserError, check_name
from jaxdiff.faces import draw_face
from jaxdiff.images.fit import read_fitted
from jaxdiff.networks.precision import Dtype
from jaxdiff.operators import (
    Bicubic,
    Blur,
    BoxMask,
    FourierMask,
    FreeFormMask,
    GaussianBlur,
    Grey,
    Hadamard,
    HighDynamicRange,
    Mask,
    PhaseRetrieval,
    Quantisation,
    RandomMask,
    motion_kernel_from_key,
    pinv,
    radial_lines,
)
from jaxdiff.presets import preset

Shape = tuple[int, int, int]

RANDOM_KEEP = 0.3
"""Fraction of pixels that random inpainting keeps (DAPS hides 70 %; the reports do not print theirs)."""


@dataclass(frozen=True)
class ProblemKind:
    """A row of the table of problems.

    Attributes:
        title: in words.
        task: the key in `jaxdiff.runs.methods.TASKS` that decides a method's defaults.
        make: `(image_shape, key) -> (operator, what to write down about it)`.
        show: `(measurement, image_shape) -> picture` of that shape; the measurement itself by default.
    """

    title: str
    task: str
    make: Callable[[Shape, PRNGKeyArray], tuple[Any, dict[str, Any]]]
    show: Callable[[Measurement, Shape], Array] = lambda measurement, image_shape: measurement.y


def _box(image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    h, w, _ = image_shape
    sides = {"top": h // 4, "left": w // 4, "height": h // 2, "width": w // 2}
    # Masks of all kinds are arrays here, so that the tasks share their programs.
    return Mask(BoxMask(**sides).observed(jnp.zeros((h, w, 1)))), sides


def _random(image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    return Mask(RandomMask(key, image_shape, RANDOM_KEEP).mask), {"keep": RANDOM_KEEP}


def _blur(image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    # 3 pixels at 256x256; the same share of a small image would not blur it at all.
    std = max(3.0 * min(image_shape[:2]) / 256, 1.2)
    return GaussianBlur(std), {"std_pixels": std}


PROBLEMS = {
    "box": ProblemKind("box inpainting", "inpaint", _box),
    "random": ProblemKind("random inpainting", "inpaint", _random),
    "blur": ProblemKind("Gaussian deblurring", "deblur", _blur),
}
"""The problems by the names that `--tasks` takes."""

KNOWN_PROBLEMS = ", ".join(PROBLEMS)
"""Their names, for help texts."""


def _motion(image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    # 61 pixels at 256x256, and enough to be seen in a small image.
    size = 2 * max(round(30 * min(image_shape[:2]) / 256), 4) + 1
    return Blur(motion_kernel_from_key(key, size)), {"size": size, "intensity": 0.5}


def _fourier(image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    # A quarter to a third of the frequencies.
    lines = max(round(min(image_shape[:2]) / 4), 1)
    return FourierMask(radial_lines(image_shape, lines)), {"radial_lines": lines}


def _hadamard(image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    return Hadamard(key, image_shape, 0.25), {"keep": 0.25}


def _inverse(measurement: Measurement, image_shape: Shape) -> Array:
    """The picture of the smallest norm with this measurement."""
    return pinv(measurement.operator, jax.ShapeDtypeStruct(image_shape, jnp.float32))(measurement.y)


def _spectrum(measurement: Measurement, image_shape: Shape) -> Array:
    """The middle of the amplitudes, the frequency zero in its centre, from zero to the largest in decades."""
    y = jnp.fft.fftshift(jnp.abs(measurement.y), (0, 1))
    top, left = ((long - short) // 2 for long, short in zip(y.shape, image_shape[:2], strict=False))
    seen = jnp.log10(jnp.maximum(y, 1e-3))[top : top + image_shape[0], left : left + image_shape[1]]
    return 2 * (seen - seen.min()) / (seen.max() - seen.min()) - 1


MORE_PROBLEMS = {
    "strokes": ProblemKind(
        "inpainting of strokes",
        "inpaint",
        lambda image_shape, key: (Mask(FreeFormMask(key, image_shape).mask), {"strokes": 4}),
    ),
    "motion": ProblemKind("motion deblurring", "deblur", _motion),
    "upscale": ProblemKind(
        "super-resolution", "upscale", lambda image_shape, key: (Bicubic(4), {"factor": 4}), _inverse
    ),
    "colourise": ProblemKind(
        "colourisation",
        "colourise",
        lambda image_shape, key: (Grey(), {}),
        lambda measurement, image_shape: jnp.broadcast_to(measurement.y, image_shape),
    ),
    "fourier": ProblemKind("undersampled Fourier transform", "inpaint", _fourier, _inverse),
    "compressed-sensing": ProblemKind("compressed sensing", "inpaint", _hadamard, _inverse),
    "phase": ProblemKind(
        "phase retrieval", "inpaint", lambda image_shape, key: (PhaseRetrieval(), {"oversampling": 2.0}), _spectrum
    ),
    "hdr": ProblemKind("high dynamic range", "inpaint", lambda image_shape, key: (HighDynamicRange(), {"factor": 2.0})),
    "few-levels": ProblemKind("quantisation", "inpaint", lambda image_shape, key: (Quantisation(4), {"levels": 4})),
}
"""Problems that the reports do not have."""

ALL_PROBLEMS = PROBLEMS | MORE_PROBLEMS
"""Both."""


@dataclass(frozen=True)
class Problem:
    """A problem with its simulated measurement.

    Attributes:
        name: a key of `ALL_PROBLEMS`.
        measurement: what was measured.
        operator_settings: what to write down about the operator.
        picture: what to show of the measurement; None for itself.
    """

    name: str
    measurement: Measurement
    operator_settings: dict[str, Any]
    picture: Array | None = None

    @property
    def shown(self) -> Float[Array, "h w c"]:
        """The measurement as a picture of the size of the image."""
        return self.measurement.y if self.picture is None else self.picture

    @property
    def title(self) -> str:
        """The problem in words."""
        return ALL_PROBLEMS[self.name].title

    @property
    def task(self) -> str:
        """What decides a method's defaults."""
        return ALL_PROBLEMS[self.name].task


def make_problem(
    name: str, truth: Float[Array, "h w 3"], sigma_y: float, seed: int, setting: str | None = None
) -> Problem:
    """Builds a problem's operator and simulates its measurement.

    Args:
        name: a key of `ALL_PROBLEMS`.
        truth: the image.
        sigma_y: standard deviation of the noise, in [-1, 1] units.
        seed: decides what is random.
        setting: a key of `jaxdiff.presets.PRESETS`, whose operator and noise are taken instead.

    Raises:
        UserError: if a name is unknown.
    """
    root, index = jax.random.key(seed), list(ALL_PROBLEMS).index(check_name(name, list(ALL_PROBLEMS), "task"))
    key_mask, key_noise = (jax.random.fold_in(jax.random.fold_in(root, i), index) for i in (0, 1))
    h, w, c = truth.shape
    if setting is None:
        operator, settings = make_operator(name, (h, w, c), key_mask)
        measurement = measure(key_noise, operator, truth, sigma_y)
    else:
        published = preset(setting, name, key_mask, (h, w, c))
        measurement, settings = published.measure(key_noise, truth), {"setting": setting}
    return Problem(name, measurement, settings, ALL_PROBLEMS[name].show(measurement, (h, w, c)))


def make_operator(name: str, image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    """Returns a problem's operator, and what to write down about it.

    Raises:
        UserError: if the name is unknown.
    """
    return ALL_PROBLEMS[check_name(name, list(ALL_PROBLEMS), "task")].make(image_shape, key)


KEYS = (
    "root = jax.random.key(seed); mask of a task: fold_in(fold_in(root, 0), task index); noise of its measurement: "
    "fold_in(fold_in(root, 1), task index); sample k, for all tasks and methods: fold_in(fold_in(root, 2), k); "
    "step from t: fold_in(sample key, t); initial noise: fold_in(sample key, -1); task index: "
    + ", ".join(f"{name} {index}" for index, name in enumerate(ALL_PROBLEMS))
)


def held_out_face(index: int, size: int) -> Float[Array, "size size 3"]:
    """Draws a face that no training run has seen: training draws from other keys."""
    return draw_face(jax.random.fold_in(jax.random.key(20_000), index), size)


def load_truth(
    prior: str, image: Path | None, face: int, size: int | None, dtype: Dtype = "float32"
) -> tuple[Denoiser, Float[Array, "h w 3"]]:
    """Loads a prior and the clean image to measure, at the prior's size or at `size` x `size`.

    Raises:
        UserError: if the prior does not take this size, or the image is not usable.
    """
    loaded = load_prior(prior, dtype=dtype, channels=3)
    shape = loaded.image_shape if size is None else (size, size, loaded.image_shape[2])
    if min(shape[:2]) < 16:
        raise UserError(f"--size must be at least 16, got {size}.")
    try:
        loaded = loaded.at(shape)
    except ValueError as error:
        raise UserError(f"--size {size} does not suit this prior: {error}") from error
    return loaded, held_out_face(face, shape[0]) if image is None else read_fitted_photo(image, shape[:2])


def read_fitted_photo(path: Path, size: tuple[int, int]) -> Float[Array, "h w 3"]:
    """Reads a photo at a prior's height and width, and says what was done to it."""
    photo, fit = read_fitted(path, size)
    if fit.picture != size:
        print(fit.describe())
    return jnp.asarray(photo)
