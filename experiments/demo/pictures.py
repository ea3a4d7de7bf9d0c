"""The pictures of the demo: examples to choose from, uploads, and what is painted on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from experiments.shared.photographs import PHOTOGRAPHS, find_photograph
from experiments.shared.problems import held_out_face
from jaxdiff import Denoiser
from jaxdiff.errors import UserError
from jaxdiff.images.files import to_uint8
from jaxdiff.images.fit import Fit, Window, overlaps, pixels, reduced
from jaxdiff.images.photo import Photo, read_photo

FACES = 8
"""Held-out faces to choose from."""

CANVAS = 512
"""Pixels of the longer side of a picture to paint on; small pictures fill it as far as a whole number of times goes."""

LARGEST_PHOTO = 2**24
"""Most pixels of a photo: three arrays of 200 MB."""

SCRATCHED = Path(__file__).parents[1] / "pictures" / "scratched.png"


def examples(prior: Denoiser) -> list[tuple[Photo, str]]:
    """Returns pictures to choose from, and what each is: photographs for priors of any size, otherwise faces."""
    if not prior.any_size:
        faces = [to_uint8(held_out_face(k, prior.image_shape[0])) for k in range(FACES)]
        return [
            (Photo(Path(f"face {k}.png"), face), f"Face {k}, held out of training.") for k, face in enumerate(faces)
        ]
    found = [read_upload(SCRATCHED, prior)]
    for name in PHOTOGRAPHS:
        try:
            found.append(read_upload(find_photograph(name), prior))
        except UserError:  # its package is not installed
            continue
    return found


def to_canvas(photo: Photo) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a picture to paint on: pixels of a small photo repeated, the means of those of a large one."""
    picture = photo.over(1.0)
    longer = max(picture.shape[:2])
    times = CANVAS // longer
    if times:
        return to_uint8(picture).repeat(times, axis=0).repeat(times, axis=1)
    h, w = picture.shape[:2]
    blocks = -(-longer // CANVAS)
    return to_uint8(reduced(picture, h * w // blocks**2))


def painted(layers: Sequence[UInt8[np.ndarray, "h w 4"]], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Returns which pixels of a photo are touched by paint, given the layers of paint on a picture of another size."""
    if not layers:
        return np.zeros(size, bool)
    paint = np.any([layer[..., 3] > 0 for layer in layers], axis=0)
    for axis, length in enumerate(size):
        side = paint.shape[axis]
        touched = overlaps(np.arange(side + 1) * length, np.arange(length + 1) * side) > 0
        paint = np.moveaxis(np.tensordot(touched.astype(np.float32), paint, (1, axis)), 0, axis) > 0
    return paint


def read_upload(path: Path, prior: Denoiser) -> tuple[Photo, str]:
    """Reads a photo, and says what is to become of it.

    Raises:
        UserError: if it is no picture, or too large or too small; the message names the file, not where the server
            keeps it.
    """
    try:
        photo = read_photo(path)
        h, w = photo.samples.shape[:2]
        if h * w > LARGEST_PHOTO:
            most = f"{LARGEST_PHOTO / 1e6:.0f} million"
            raise UserError(f"{path} has {pixels(h, w)} pixels, more than the {most} that this page takes.")
        fit: Any = Window if prior.any_size else Fit
        described = fit(str(path), (h, w), (h, w) if prior.any_size else prior.image_shape[:2]).describe()
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error
    return photo, f"{described.replace(str(path), path.name)}."
