"""The images of an evaluation: a folder of pictures, or drawn faces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from PIL import Image

from experiments.shared.problems import held_out_face
from jaxdiff.errors import UserError
from jaxdiff.images.files import to_uint8
from jaxdiff.images.fit import read_fitted
from jaxdiff.runs.folder import digest


@dataclass(frozen=True)
class Picture:
    """One image of the data set; its pixels are read when they are needed, and rounded to 8 bits.

    Attributes:
        name: the file's, below the folder.
        sha256: digest of its pixels.
        read: gives the pixels.
    """

    name: str
    sha256: str
    read: Callable[[], Float[np.ndarray, "h w 3"]]

    def key(self, seed: int) -> PRNGKeyArray:
        """Returns the root of the image's random numbers, which depend on its pixels and not on its place."""
        first, second = np.frombuffer(bytes.fromhex(self.sha256)[:8], ">u4").astype(np.uint32)
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), first), second)


def find_pictures(
    folder: Path | None, faces: int, size: tuple[int, int], limit: int | None
) -> tuple[list[Picture], list[str]]:
    """Finds the images, every one once.

    Args:
        folder: where the pictures are; drawn faces without one.
        faces: how many of them.
        size: height and width that the prior needs.
        limit: take the first so many.

    Returns:
        The images in the order of their names, and remarks on what was left out or changed.

    Raises:
        UserError: if there is none, or one cannot be used.
    """
    remarks: list[str] = []
    if folder is None:
        readers = {f"face-{k:05d}": lambda k=k: _draw(k, size[0]) for k in range(min(faces, limit or faces))}
    else:
        paths = picture_paths(folder)[:limit]
        readers = {
            path.relative_to(folder).as_posix(): lambda path=path: _rounded(read_fitted(path, size)[0])
            for path in paths
        }
        resized = sum(_size(path) != size for path in paths)
        if resized:
            remarks.append(
                f"{resized} of {len(paths)} images are cut to their middle and resized to {size[1]}x{size[0]}."
            )
    pictures = [Picture(name, digest(to_uint8(read())), read) for name, read in readers.items()]
    first: dict[str, Picture] = {}
    twins = [p.name for p in pictures if first.setdefault(p.sha256, p) is not p]
    if twins:
        shown = ", ".join(twins[:5]) + ", ..." * (len(twins) > 5)
        remarks.append(f"{len(twins)} of {len(pictures)} images have a twin before them and are left out: {shown}")
    return list(first.values()), remarks


def picture_paths(folder: Path) -> list[Path]:
    """Returns the pictures in a folder and below, in the order of their names.

    Raises:
        UserError: if there is none.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; --faces takes drawn faces instead.")
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    shown = (path for path in folder.rglob("*") if not path.name.startswith("."))
    paths = [path for path in shown if path.suffix.lower() in known and path.is_file()]
    if not paths:
        raise UserError(f"there is no picture in {folder}.")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _size(path: Path) -> tuple[int, int]:
    """Reads height and width from the head of a file."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not an image that Pillow reads; remove it from the folder.") from error


def _draw(index: int, side: int) -> Float[np.ndarray, "side side 3"]:
    return _rounded(np.asarray(_face(index, side)))


def _rounded(x: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Rounds to 8 bits as a file would: a face drawn or a photo resized elsewhere is then the same image."""
    return 2 * (to_uint8(x) / np.float32(255)) - 1


def shard_of(pictures: Sequence[Picture], index: int, count: int) -> list[Picture]:
    """Returns every `count`-th image."""
    return list(pictures[index::count])


_face = jax.jit(held_out_face, static_argnums=1)
