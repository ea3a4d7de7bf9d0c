"""The reports' three problems: operators, measurements, and the images they are made of.

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
from jaxdiff.operators import BoxMask, GaussianBlur, RandomMask

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
    """

    title: str
    task: str
    make: Callable[[Shape, PRNGKeyArray], tuple[Any, dict[str, Any]]]


def _box(image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    h, w, _ = image_shape
    sides = {"top": h // 4, "left": w // 4, "height": h // 2, "width": w // 2}
    return BoxMask(**sides), sides


def _random(image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    return RandomMask(key, image_shape, RANDOM_KEEP), {"keep": RANDOM_KEEP}


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


@dataclass(frozen=True)
class Problem:
    """A problem with its simulated measurement.

    Attributes:
        name: a key of `PROBLEMS`.
        measurement: what was measured.
        operator_settings: what to write down about the operator.
    """

    name: str
    measurement: Measurement
    operator_settings: dict[str, Any]

    @property
    def title(self) -> str:
        """The problem in words."""
        return PROBLEMS[self.name].title

    @property
    def task(self) -> str:
        """What decides a method's defaults."""
        return PROBLEMS[self.name].task


def make_problem(name: str, truth: Float[Array, "h w 3"], sigma_y: float, seed: int) -> Problem:
    """Builds a problem's operator and simulates its measurement.

    Raises:
        UserError: if the name is unknown.
    """
    root, index = jax.random.key(seed), list(PROBLEMS).index(check_name(name, list(PROBLEMS), "task"))
    key_mask, key_noise = (jax.random.fold_in(jax.random.fold_in(root, i), index) for i in (0, 1))
    h, w, c = truth.shape
    operator, settings = make_operator(name, (h, w, c), key_mask)
    return Problem(name, measure(key_noise, operator, truth, sigma_y), settings)


def make_operator(name: str, image_shape: Shape, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    """Returns a problem's operator, and what to write down about it.

    Raises:
        UserError: if the name is unknown.
    """
    return PROBLEMS[check_name(name, list(PROBLEMS), "task")].make(image_shape, key)


KEYS = (
    "root = jax.random.key(seed); mask of a task: fold_in(fold_in(root, 0), task index); noise of its measurement: "
    "fold_in(fold_in(root, 1), task index); sample k, for all tasks and methods: fold_in(fold_in(root, 2), k); "
    "step from t: fold_in(sample key, t); initial noise: fold_in(sample key, -1); task index: box 0, random 1, blur 2"
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
    loaded = load_prior(prior, dtype=dtype)
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
