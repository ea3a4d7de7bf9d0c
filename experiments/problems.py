"""The reports' three tasks and three methods: operators, and hyper-parameters that work, with their sources.

Sizes and step sizes in the literature belong to 256x256 images and 1000 steps. Here they scale: the box is half the
image's side, `zeta` follows `jaxdiff.scale_zeta`, gamma `jaxdiff.scale_gamma`.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.errors import UserError
from jaxdiff import DPS, Denoiser, ScoreALD, SDEdit, load_prior, scale_gamma, scale_zeta, time_grid
from jaxdiff.faces import draw
from jaxdiff.images import read_image
from jaxdiff.operators import BoxMask, GaussianBlur, RandomMask
from jaxdiff.samplers import over_gamma

TASKS = {"box": "box inpainting", "random": "random inpainting", "blur": "Gaussian deblurring"}
METHODS = {"sdedit": "SDEdit", "score-ald": "ScoreALD", "dps": "DPS"}

RANDOM_KEEP = 0.3
"""Fraction of pixels that random inpainting keeps (DAPS hides 70 %; the reports do not print theirs)."""

SDEDIT_START = 500
"""SDEdit's start time: used by Zhu, best in Qi."""

ZETA = {"box": 1.0, "random": 1.0, "blur": 0.3}
"""At 256x256: Zhu and Jacques use 1.0 for the box and 0.3 for the blur. For random inpainting 1.0 has Jacques' best
PSNR, and Zhu's 0.1 fails."""

SMALL_ZETA = ZETA | {"blur": 1.0}
"""Below 256x256. Scaled down, the blur's 0.3 is too weak: on `faces-32` it leaves a residual of 1.4 times the noise.
Chosen by trying 0.15 to 1.5 on held-out faces 0 to 2."""

GAMMA = {"box": (28.0, 33.0), "random": (28.0, 33.0), "blur": (10.0, 15.0)}
"""Jacques' best gamma at t = 0 and t = T - 1, for the weighting 1 / gamma."""


def held_out_face(index: int, size: int) -> Float[Array, "size size 3"]:
    """Draws a face that no training run has seen: training draws from other keys."""
    return draw(jax.random.fold_in(jax.random.key(20_000), index), size)


def chosen(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Returns the names without repetition; an unknown one ends the script with the nearest that is known."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"unknown {what} {name!r}{hint}; known: {', '.join(known)}.")
    if not names:
        raise UserError(f"no {what} given; known: {', '.join(known)}.")
    return list(dict.fromkeys(names))


def load_truth(prior: str, image: Path | None, face: int, size: int | None) -> tuple[Denoiser, Float[Array, "h w 3"]]:
    """Loads a prior and the clean image to measure, at the prior's size or at `size`."""
    denoiser = load_prior(prior)
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


@dataclass(frozen=True)
class Run:
    """A sampler ready to run.

    Attributes:
        sampler: the algorithm with its measurement.
        times: the times of its steps.
        settings: the hyper-parameters actually used.
    """

    sampler: Any
    times: np.ndarray
    settings: dict[str, Any]


def make_run(method: str, task: str, denoiser: Denoiser, operator: Any, y: Array, sigma_y: float, steps: int) -> Run:
    """Sets a method up for a task, with the defaults of this module scaled to image size and number of steps."""
    num_times = denoiser.schedule.num_times
    times = time_grid(num_times, steps)
    if method == "sdedit":
        start = min(SDEDIT_START, num_times - 1)
        part = max(round(steps * (start + 1) / num_times), 1)
        return Run(SDEdit(denoiser, y), time_grid(num_times, part, start), {"start": start, "steps": part})
    if method == "score-ald":
        clean, noisy = (scale_gamma(gamma, over_gamma, steps, num_times) for gamma in GAMMA[task])
        sampler = ScoreALD(denoiser, operator, y, sigma_y, clean, noisy)
        return Run(sampler, times, {"weighting": "over_gamma", "gamma_clean": clean, "gamma_noisy": noisy})
    zetas = ZETA if min(denoiser.image_shape[:2]) >= 256 else SMALL_ZETA
    zeta = scale_zeta(zetas[task], denoiser.image_shape, steps)
    return Run(DPS(denoiser, operator, y, zeta), times, {"form": "unit gradient", "zeta": zeta})
