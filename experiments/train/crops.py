"""Random crops of a folder of photographs, at full, half and quarter size."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image, to_uint8

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_SCALES = 3

Pyramid = list[UInt8[np.ndarray, "h w 3"]]
"""A photograph at full, half, quarter size."""


def read_photographs(folder: Path, held_out: tuple[str, ...]) -> tuple[list[Pyramid], list[Pyramid]]:
    """Reads the photographs to train on, and those held out, in the order of their names.

    Raises:
        UserError: if there is no photograph to train on, or one to hold out is missing.
    """
    paths = sorted(p for p in folder.glob("**/*") if p.suffix.lower() in _SUFFIXES)
    if missing := set(held_out) - {p.name for p in paths}:
        raise UserError(f"no {', '.join(sorted(missing))} in {folder} to hold out; name others with --held-out.")
    train = [p for p in paths if p.name not in held_out]
    if not train:
        raise UserError(f"no png, jpg or webp photograph in {folder} to train on.")
    return [_pyramid(p) for p in train], [_pyramid(p) for p in paths if p.name in held_out]


def random_crops(
    rng: np.random.Generator, photographs: list[Pyramid], n: int, size: int
) -> UInt8[np.ndarray, "n s s 3"]:
    """Cuts `n` squares at a random place and scale, flipped and turned at random."""
    return np.stack([_crop(rng, photographs, size) for _ in range(n)])


def to_images(crops: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w 3"]:
    """Maps 0..255 to [-1, 1]."""
    return crops.astype(np.float32) / 127.5 - 1


def _pyramid(path: Path) -> Pyramid:
    image = read_image(path)
    levels = [to_uint8(image)]
    for _ in range(_SCALES - 1):
        h, w = (side // 2 for side in image.shape[:2])
        if min(h, w) < 1:
            break
        # Means over areas, as a camera with larger pixels would take them.
        image = image[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).mean((1, 3))
        levels.append(to_uint8(image))
    return levels


def _crop(rng: np.random.Generator, photographs: list[Pyramid], size: int) -> UInt8[np.ndarray, "s s 3"]:
    pyramid = photographs[rng.integers(len(photographs))]
    fitting = [level for level in pyramid if min(level.shape[:2]) >= size]
    if not fitting:
        raise UserError(f"a photograph of {pyramid[0].shape[:2]} pixels is smaller than a crop of {size}.")
    level = fitting[rng.integers(len(fitting))]
    top, left = (rng.integers(side - size + 1) for side in level.shape[:2])
    crop = np.rot90(level[top : top + size, left : left + size], int(rng.integers(4)))
    return crop[:, ::-1] if rng.integers(2) else crop
