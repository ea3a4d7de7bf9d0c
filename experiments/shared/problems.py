"""The reports' three tasks: operators, measurements, and the images they are made of.

Sizes in the literature belong to 256x256 images. Here they scale: the box is half the image's side.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff import Denoiser, load_prior
from jaxdiff.faces import draw
from jaxdiff.images.files import read_image
from jaxdiff.measurement import measure
from jaxdiff.networks.precision import Dtype
from jaxdiff.operators import BoxMask, GaussianBlur, RandomMask
from jaxdiff.errors import UserError

TASKS = {"box": "box inpainting", "random": "random inpainting", "blur": "Gaussian deblurring"}
KINDS = {"box": "inpaint", "random": "inpaint", "blur": "deblur"}

RANDOM_KEEP = 0.3
"""Fraction of pixels that random inpainting keeps (DAPS hides 70 %; the reports do not print theirs)."""


@dataclass(frozen=True)
class Problem:
    """One task with its simulated measurement.

    Attributes:
        task: its short name.
        operator: the forward model.
        operator_settings: what to write down about it.
        y: the measurement.
        sigma_y: standard deviation of its noise, in [-1, 1] units.
    """

    task: str
    operator: Any
    operator_settings: dict[str, Any]
    y: Float[Array, "h w 3"]
    sigma_y: float


def make_problem(task: str, truth: Float[Array, "h w 3"], sigma_y: float, seed: int) -> Problem:
    """Builds a task's operator and simulates its measurement."""
    root, index = jax.random.key(seed), list(TASKS).index(task)
    key_mask, key_noise = (jax.random.fold_in(jax.random.fold_in(root, i), index) for i in (0, 1))
    h, w, c = truth.shape
    operator, settings = make_operator(task, (h, w, c), key_mask)
    return Problem(task, operator, settings, measure(key_noise, operator, truth, sigma_y), sigma_y)


def make_operator(task: str, image_shape: tuple[int, int, int], key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
    """Returns a task's operator, and what to write down about it."""
    h, w, _ = image_shape
    if task == "box":
        operator = BoxMask(top=h // 4, left=w // 4, height=h // 2, width=w // 2)
        return operator, {"top": h // 4, "left": w // 4, "height": h // 2, "width": w // 2}
    if task == "random":
        return RandomMask(key, image_shape, RANDOM_KEEP), {"keep": RANDOM_KEEP}
    # 3 pixels at 256x256; the same share of a small image would not blur it at all.
    std = max(3.0 * min(h, w) / 256, 1.2)
    return GaussianBlur(std), {"std_pixels": std}


KEYS = (
    "root = jax.random.key(seed); mask of a task: fold_in(fold_in(root, 0), task index); noise of its measurement: "
    "fold_in(fold_in(root, 1), task index); sample k, for all tasks and methods: fold_in(fold_in(root, 2), k); "
    "step from t: fold_in(sample key, t); initial noise: fold_in(sample key, -1); task index: box 0, random 1, blur 2"
)


def held_out_face(index: int, size: int) -> Float[Array, "size size 3"]:
    """Draws a face that no training run has seen: training draws from other keys."""
    return draw(jax.random.fold_in(jax.random.key(20_000), index), size)


def load_truth(
    prior: str, image: Path | None, face: int, size: int | None, dtype: Dtype = "float32"
) -> tuple[Denoiser, Float[Array, "h w 3"]]:
    """Loads a prior and the clean image to measure, at the prior's size or at `size`."""
    denoiser = load_prior(prior, dtype=dtype)
    side = denoiser.image_shape[0] if size is None else size
    factor = 2 ** (len(denoiser.network.config.channel_mult) - 1)
    if side < 16 or side % factor:
        raise UserError(f"--size must be at least 16 and a multiple of {factor} for this prior, got {side}.")
    truth = held_out_face(face, side) if image is None else read_photo(image, side)
    return replace(denoiser, image_shape=truth.shape), truth


def read_photo(path: Path, side: int) -> Float[Array, "side side 3"]:
    """Reads a photo, cut to its central square and made smaller where needed; anything amiss ends the script."""
    try:
        h, w, _ = read_image(path).shape
        photo = read_image(path, side)
    except ValueError as error:
        raise UserError(str(error)) from error
    if min(h, w) < side:
        raise UserError(f"{path} has {w}x{h} pixels, fewer than the {side}x{side} that the prior needs.")
    if (h, w) != (side, side):
        print(f"{path}: the central square of {w}x{h} pixels is resized to {side}x{side}.")
    return jnp.asarray(photo)
