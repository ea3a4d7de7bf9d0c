"""Picture files: read, write, and what a picture is in numbers (numpy and Pillow)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, UInt8
from PIL import Image

from jaxdiff.disk import write_atomically
from jaxdiff.images.photo import read_photo


def read_image(path: str | os.PathLike, background: float = 1.0) -> Float[np.ndarray, "h w 3"]:
    """Reads a picture file into a float image in [-1, 1].

    `x = 2 v / v_max - 1`, with `v_max` 255 or, for 16-bit grey files, 65535. The camera's orientation
    (EXIF) is applied, transparency is laid over white, grey is repeated to three channels.

    Args:
        path: any file that Pillow reads.
        background: the grey in [-1, 1] that transparency is laid over, if not white.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a picture, is damaged, or holds floats.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no image {path}.")
    return read_photo(path).over(background)


def to_uint8(x: Float[ArrayLike, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Maps [-1, 1] to 0..255: clip, then round. The range of `x` itself plays no part.

    Raises:
        ValueError: if `x` holds NaN or infinity, or is no float array.

    >>> to_uint8(np.array([-1.5, -1.0, 0.0, 1.0])).tolist()
    [0, 0, 128, 255]
    """
    array = np.asarray(x)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"`x` must be floats in [-1, 1], got {array.dtype}.")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"`x` must be finite, got {np.sum(~np.isfinite(array))} NaN or infinite.")
    return np.rint((np.clip(array, -1, 1) + 1) * 127.5).astype(np.uint8)


def write_image(path: str | os.PathLike, x: Float[ArrayLike, "h w c"]) -> None:
    """Writes an image in [-1, 1] as a PNG file, which is complete or not there at all.

    Args:
        path: a name that ends in `.png`; its folder is made if need be.
        x: the image, grey (1 channel) or colour (3); clipped and rounded, never stretched.

    Raises:
        ValueError: if the name, shape or dtype is another, or `x` is not finite.
    """
    picture = to_picture(x)
    _check_suffix(path, ".png")
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def write_gif(
    path: str | os.PathLike,
    frames: Sequence[Float[ArrayLike, "h w c"]] | Float[ArrayLike, "n h w c"],
    ms: int | Sequence[int] = 100,
) -> None:
    """Writes frames in [-1, 1] as an endless GIF file, which is complete or not there at all.

    Args:
        path: a name that ends in `.gif`; its folder is made if need be.
        frames: at least one image, all of one shape.
        ms: how long a frame is shown, in milliseconds; one number, or one per frame (for instance to
            hold the last). GIF counts in steps of 10 ms, and viewers slow down frames under 20 ms.

    Raises:
        ValueError: if the name or a shape is another, a frame is not finite, or `ms` is under 20.
    """
    pictures = [to_picture(frame).convert("RGB") for frame in equal_images(frames, "frames")]
    durations = [ms] * len(pictures) if isinstance(ms, int) else list(ms)
    if len(durations) != len(pictures) or min(durations) < 20:
        raise ValueError(f"`ms` must be at least 20, one or {len(pictures)} numbers, got {ms}.")
    first, *rest = pictures
    _check_suffix(path, ".gif")
    write_atomically(
        path,
        lambda file: first.save(file, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0),
    )


def to_picture(x: Float[ArrayLike, "h w c"]) -> Image.Image:
    """Returns an image in [-1, 1], grey (1 channel) or colour (3), as Pillow's.

    Raises:
        ValueError: if the shape or dtype is another, or `x` is not finite.
    """
    pixels = to_uint8(x)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or pixels.size == 0:
        raise ValueError(
            f"an image must have shape (h, w, 1) or (h, w, 3), got {pixels.shape}; index a stack, or use `grid`."
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def equal_images(images: Any, name: str) -> Float[np.ndarray, "n h w c"]:
    """Stacks images.

    Raises:
        ValueError: if there is none, or their shapes differ.
    """
    arrays = [np.asarray(image) for image in images]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise ValueError(f"`{name}` must be one or more images of one shape (h, w, c), got {sorted(shapes)}.")
    return np.stack(arrays)


def _check_suffix(path: str | os.PathLike, suffix: str) -> None:
    if Path(path).suffix.lower() != suffix:
        raise ValueError(f"`path` must end in {suffix}, got {path}.")
