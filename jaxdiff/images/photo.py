"""Photos that go out as they came in: mode, depth, colour profile, EXIF, transparency and every pixel not changed."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt
from PIL import Image, ImageOps

from jaxdiff.disk import write_atomically
from jaxdiff.images.opening import opened, warn

_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
}
_ORIENTATION, _EXIF, _GPS = 0x0112, 0x8769, 0x8825
# What a TIFF file says of the photo; its other tags are about the file.
_ABOUT_THE_PHOTO = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, _EXIF, _GPS)


@dataclass(frozen=True)
class Photo:
    """A picture file as it was read, with all that is to go out again.

    Numbers stay in the photo's own colour space: its ICC profile is not converted, and goes out with them. Pillow holds
    colour in 8 bits only: of a 16-bit colour file the upper 8 bits are read, with a warning. 16-bit grey is kept.

    Attributes:
        path: where it was read from.
        samples: the numbers in the file, upright, 8 or 16 bits; one channel for grey, three for colour.
        alpha: how opaque each pixel is, in the same range; None if all are and the file has no such channel.
        icc_profile: the colour profile.
        exif: what the camera wrote, with the orientation of upright pixels.
        colourised: whether a picture without colours may get some.
    """

    path: Path
    samples: UInt[np.ndarray, "h w c"]
    alpha: UInt[np.ndarray, "h w"] | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    colourised: bool = False

    @property
    def limit(self) -> int:
        """The number that means white or opaque: 255, or 65535 for 16 bits."""
        return int(np.iinfo(self.samples.dtype).max)

    @cached_property
    def x(self) -> Float[np.ndarray, "h w 3"]:
        """The image that samplers get, `x = 2 v / limit - 1`; transparent pixels have their stored colour."""
        unit = self.samples.astype(np.float32) / self.limit
        return np.repeat(2 * unit - 1, 3 // unit.shape[-1], axis=-1)

    def over(self, background: float) -> Float[np.ndarray, "h w 3"]:
        """Returns the image with transparency laid over a grey in [-1, 1]."""
        if self.alpha is None:
            return self.x
        opacity = self.alpha[..., None].astype(np.float32) / self.limit
        return 2 * (opacity * (self.x + 1) / 2 + (1 - opacity) * (background + 1) / 2) - 1

    @property
    def transparent(self) -> Bool[np.ndarray, "h w"] | None:
        """Which pixels are more transparent than opaque; None if none is."""
        if self.alpha is None:
            return None
        found = self.alpha <= self.limit // 2
        return found if found.any() else None

    def opaque(self, where: Bool[np.ndarray, "h w"]) -> "Photo":
        """Returns the photo with these pixels made opaque, so that what fills them is seen."""
        return self if self.alpha is None else replace(self, alpha=np.where(where, self.limit, self.alpha))

    def in_colour(self) -> "Photo":
        """Returns the photo with three channels of 8 bits, which may get colours; a profile of greys is dropped."""
        grey = self.samples.shape[-1] == 1
        eight = lambda values: np.rint(values / (self.limit / 255)).astype(np.uint8)
        return replace(
            self,
            samples=np.broadcast_to(eight(self.samples), (*self.samples.shape[:2], 3)),
            alpha=None if self.alpha is None else eight(self.alpha),
            icc_profile=None if grey else self.icc_profile,
            colourised=True,
        )

    def part(self, rows: slice, columns: slice) -> "Photo":
        """Returns a photo of some rows and columns."""
        alpha = None if self.alpha is None else self.alpha[rows, columns]
        return replace(self, samples=self.samples[rows, columns], alpha=alpha)

    def write(
        self, path: str | os.PathLike, x: Float[np.ndarray, "h2 w2 3"], changed: Bool[np.ndarray, "h w"] | None = None
    ) -> None:
        """Writes an image as this photo: in its mode and depth, with its profile, EXIF and transparency.

        Where nothing changed, the file gets the very numbers that were read. Where something did, `x` is clipped and
        rounded, `v = rint(limit (x + 1) / 2)`; a grey photo, in one channel or three equal ones, gets the mean of the
        colours.

        Args:
            path: a name that ends in `.png`, `.tif` or `.webp` (both lossless too), or `.jpg` (lossy).
            x: the image in [-1, 1]; of another size than the photo, transparency is resized.
            changed: where `x` counts; everywhere by default.

        Raises:
            ValueError: if the suffix is another, the format cannot hold the photo, `x` is not finite, or `changed` is
                not of the size of the photo and of `x`.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in _FORMATS:
            raise ValueError(f"`path` must end in one of {', '.join(_FORMATS)}, got {path}.")
        samples, alpha = self._samples_of(x, changed), self._alpha_for(x.shape[0], x.shape[1])
        if (suffix in (".jpg", ".jpeg") and alpha is not None) or (
            self.limit > 255 and suffix[:4] not in (".png", ".tif")
        ):
            raise ValueError(f"`path` must end in .png or .tif, as {suffix} cannot hold this photo, got {path}.")
        name, options = _FORMATS[suffix]
        kept = {"icc_profile": self.icc_profile, "exif": self.exif}
        options = options | {key: value for key, value in kept.items() if value}
        picture = _picture(samples, alpha)
        write_atomically(path, lambda file: picture.save(file, format=name, **options))

    def _samples_of(
        self, x: Float[np.ndarray, "h2 w2 3"], changed: Bool[np.ndarray, "h w"] | None
    ) -> UInt[np.ndarray, "h2 w2 c"]:
        if x.ndim != 3 or x.shape[-1] != 3 or not np.isfinite(x).all():
            raise ValueError(f"`x` must be finite, of shape (h, w, 3), got {x.shape}.")
        if changed is not None and not changed.shape == x.shape[:2] == self.samples.shape[:2]:
            raise ValueError(f"`changed` must have the size of the photo and of `x`, got {changed.shape}.")
        known = self.samples if changed is None or changed.all() else self.samples[~changed]
        if not self.colourised and (known == known[..., :1]).all():
            x = x.mean(axis=-1, dtype=np.float64, keepdims=True)
        x = np.broadcast_to(x, (*x.shape[:2], self.samples.shape[-1])).astype(np.float64)
        new = np.rint((np.clip(x, -1, 1) + 1) / 2 * self.limit).astype(self.samples.dtype)
        return new if changed is None else np.where(changed[..., None], new, self.samples)

    def _alpha_for(self, height: int, width: int) -> UInt[np.ndarray, "h2 w2"] | None:
        if self.alpha is None or self.alpha.shape == (height, width):
            return self.alpha
        resized = Image.fromarray(self.alpha.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        return np.rint(np.clip(np.asarray(resized), 0, self.limit)).astype(self.alpha.dtype)


def read_photo(path: str | os.PathLike) -> Photo:
    """Reads a picture file with all that is to go out again.

    The camera's orientation is applied. Palettes become colour, black-and-white becomes grey. CMYK becomes RGB, with a
    warning; its profile, which is about inks, is dropped.

    Raises:
        UserError: if the file is no picture, damaged, too large, or holds floats.
    """
    with opened(path) as image:
        deep = not image.mode.startswith("I") and any(";16" in str(tile) for tile in getattr(image, "tile", ()))
        exif = _upright_exif(image)
        image = ImageOps.exif_transpose(image)
        samples, alpha = _decode(image)
    profile = image.info.get("icc_profile")
    if deep:
        warn(f"{path} has 16 bits per colour, of which the upper 8 are read and written")
    if image.mode.startswith("I") and image.has_transparency_data:
        warn(f"{path} has 16 bits and a transparent grey, which is read and written as opaque")
    if image.mode == "CMYK":
        warn(f"{path} is in CMYK; it is read as RGB and written as such, without its profile")
        profile = None
    return Photo(Path(path), samples, alpha, profile, exif)


def _decode(image: Image.Image) -> tuple[UInt[np.ndarray, "h w c"], UInt[np.ndarray, "h w"] | None]:
    if image.mode == "F":
        raise ValueError("it holds floats, whose range is not known")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it holds grey values outside 0..65535")
        return values.astype(np.uint16)[..., None], None
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        samples = np.asarray(image.convert(mode))
        return samples.reshape(*samples.shape[:2], -1), None
    both = np.asarray(image.convert(mode + "A"))
    return both[..., :-1], both[..., -1]


def _upright_exif(image: Image.Image) -> bytes | None:
    given = image.getexif()
    if image.format != "TIFF" and given.get(_ORIENTATION, 1) == 1:
        return image.info.get("exif")
    exif = Image.Exif()
    for tag, value in given.items():
        if image.format != "TIFF" or tag in _ABOUT_THE_PHOTO:
            exif[tag] = given.get_ifd(tag) if tag in (_EXIF, _GPS) else value
    if _ORIENTATION in given:
        exif[_ORIENTATION] = 1
    return exif.tobytes() if len(exif) else None


def _picture(samples: UInt[np.ndarray, "h w c"], alpha: UInt[np.ndarray, "h w"] | None) -> Image.Image:
    if alpha is not None:
        samples = np.concatenate([samples, alpha[..., None]], axis=-1)
    mode = {1: None, 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[-1]]
    picture = Image.fromarray(samples[..., 0] if mode is None else np.ascontiguousarray(samples))
    assert mode in (None, picture.mode)
    return picture
