"""Picture files of any kind opened: one page, upright, or one sentence that says why not (Pillow)."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

from jaxdiff.errors import UserError

LARGEST = 300_000_000
"""Most pixels of a picture that is read; beyond them memory runs out before anything is restored."""

_ORIENTATION = 0x0112
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, NotImplementedError, Image.DecompressionBombError)
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef")
_HEIF = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC")
_WAY_OUT = {"AVIF": "Pillow 11.3 or later", "HEIC": 'the plug-in ("pip install pillow-heif")'}


class PictureWarning(UserWarning):
    """A picture was taken for something that its user may not have meant."""


def warn(sentence: str) -> None:
    """Warns of what a picture was taken for."""
    warnings.warn(sentence, PictureWarning, stacklevel=3)


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Opens a picture file; whatever goes wrong until the block ends, decoding included, is one sentence.

    Of several pages the largest is taken, as the first may be a thumbnail; of an animation the first frame.

    Raises:
        UserError: if there is no such file, it may not be read, or it is a folder, no picture, damaged, or has more
            than `LARGEST` pixels.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an image.")
    if path.suffix.lower() in _RAW:
        raise UserError(f"{path} is a camera's raw file; develop it, and save it as TIFF or PNG.")
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"there is no image {path}.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    with file, _no_limit():
        try:
            yield _page(path, _open(file))
        except UserError:
            raise
        except UnidentifiedImageError:
            _refuse_format(path, file)
        except _DAMAGE as error:
            raise UserError(f"{path} is a damaged or unusual image: {' '.join(str(error).split())}.") from error


class Compression(NamedTuple):
    """How a JPEG file is compressed.

    Attributes:
        tables: of luma and chroma, in rows.
        shared: how many pixels share a chroma sample, down and across.
        orientation: how the stored picture is turned, 1 to 8 as in EXIF.
    """

    tables: Float[np.ndarray, "2 8 8"]
    shared: tuple[int, int]
    orientation: int


def read_compression(path: str | os.PathLike) -> Compression:
    """Reads how a JPEG file is compressed.

    Raises:
        UserError: if it is no JPEG file of grey or of luma and chroma.
    """
    with opened(path) as image:
        if image.mode == "CMYK":
            raise UserError(
                f"{path} is in CMYK, whose four inks --task jpeg does not know; it needs the RGB file that the camera "
                "left."
            )
        if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
            raise UserError(f"{path} is no JPEG file of grey or colour; --task jpeg needs one as the camera left it.")
        layers = image.layer  # pyright: ignore[reportAttributeAccessIssue]  # (name, across, down, table) each
        if image.info.get("adobe_transform") == 0 or [layer[0] for layer in layers] == [*b"RGB"]:
            raise UserError(f"{path} keeps red, green and blue; --task jpeg needs a file of luma and chroma.")
        tables = [image.quantization[layer[3]] for layer in layers]  # pyright: ignore
        (across, down), *chroma = [layer[1:3] for layer in layers]
        if chroma[1:] != chroma[:1] or tables[2:] != tables[1:2] or any(across % c or down % d for c, d in chroma[:1]):
            raise UserError(f"{path} keeps its two chroma channels each in a way of its own, which is not supported.")
        shared = (down // chroma[0][1], across // chroma[0][0]) if chroma else (1, 1)
        orientation = image.getexif().get(_ORIENTATION, 1)
        known = orientation if orientation in range(1, 9) else 1
        return Compression(np.array([tables[0], tables[-1]], np.float32).reshape(2, 8, 8), shared, known)


@contextmanager
def _no_limit() -> Iterator[None]:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _open(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        with suppress(ImportError):
            from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]

            register_heif_opener()
            file.seek(0)
            return Image.open(file)
        raise


def _page(path: Path, image: Image.Image) -> Image.Image:
    count = getattr(image, "n_frames", 1)
    if count > 1:
        largest = 0
        if image.format in ("TIFF", "MPO"):
            sizes = []
            for index in range(count):
                image.seek(index)
                sizes.append(image.width * image.height)
            largest = sizes.index(max(sizes))
            image.seek(largest)
        warn(f"{path} holds {count} pictures; number {largest + 1} is taken, {image.width}x{image.height} pixels")
    if image.width * image.height > LARGEST:
        raise UserError(
            f"{path} has {image.width}x{image.height} pixels, more than {LARGEST // 10**6} million; make it smaller."
        )
    return image


def _refuse_format(path: Path, file: IO[bytes]) -> NoReturn:
    file.seek(0)
    head = file.read(12)
    name = _HEIF.get(head[8:]) if head[4:8] == b"ftyp" else None
    if name:
        raise UserError(f"{path} is in the format {name}, which needs {_WAY_OUT[name]}; or save it as PNG or JPEG.")
    raise UserError(f"{path} is not an image in a format that Pillow knows; save it as PNG, TIFF or JPEG.")
