"""Masks from pictures: which pixels are hidden, said by white paint, by transparency or by a colour."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from jaxdiff.errors import UserError
from jaxdiff.images.fit import pixels
from jaxdiff.images.opening import warn
from jaxdiff.images.photo import Photo, read_photo

_WHITE_IS_HIDDEN = "white marks what is to be filled, and --invert-mask turns that round"
_MOST_BETWEEN = 0.1  # share of the pixels of a mask, as antialiased edges are
_CLOSE = 0.05  # share of the range, as JPEG changes colours a little


@dataclass(frozen=True)
class MaskRule:
    """How a picture says which of its pixels are hidden.

    Args:
        invert: the rule says what is known instead.
        alpha: what is transparent is hidden.
        colour: what has this colour is hidden, `RRGGBB` in hexadecimal digits; a channel may differ by 5 % of the
            range.
        threshold: what is at least as bright as this fraction of white is hidden, or with `alpha` less opaque.
            By default half-way between the darkest and the brightest, of a mask that is nearly two-valued.

    Raises:
        UserError: if a setting is out of range, or two do not go together.
    """

    invert: bool = False
    alpha: bool = False
    colour: str | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.colour is not None and not re.fullmatch("#?[0-9a-fA-F]{6}", self.colour):
            raise UserError(
                f"--mask-colour must be six hexadecimal digits such as FF0000 for red, got {self.colour!r}."
            )
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UserError(
                f"--mask-threshold must be a fraction of white above 0 and up to 1, got {self.threshold:g}."
            )
        if self.colour is not None and (self.alpha or self.threshold is not None):
            raise UserError("--mask-colour goes with neither --mask-alpha nor --mask-threshold; choose one.")

    def hidden(self, picture: Photo, what: str) -> Bool[np.ndarray, "h w"]:
        """Returns which pixels of a picture are hidden; what was taken for what without being asked is warned of.

        Without a setting, transparency says it where colours do not: where they are the same everywhere or those of a
        photo. Otherwise white does, and what is transparent was not painted and is known, with `invert` too.

        Args:
            picture: the mask, or a photo with a hole or with painted strokes.
            what: its name, with which messages begin.

        Raises:
            UserError: if the picture does not say it, or hides nothing or everything.
        """
        grey = _painted(picture, 1.0 if self.invert else 0.0)
        if self.colour is not None:
            hidden = _has_colour(picture, self.colour, what) != self.invert
        elif self.alpha or (self.threshold is None and _erased(picture, grey)):
            hidden = self._transparent(picture, what) != self.invert
        else:
            hidden = self._white(picture, grey, what) != self.invert
        check_hidden(hidden, what)
        return hidden

    def _transparent(self, picture: Photo, what: str) -> Bool[np.ndarray, "h w"]:
        if picture.alpha is None or picture.transparent is None:
            raise UserError(f"{what} has no transparent pixel; erase what is to be filled, and save it as PNG.")
        clear = 1 - picture.alpha / picture.limit
        if self.threshold is None:
            _check_two_valued(clear, what, "fully transparent nor opaque")
        if not self.alpha:
            taken, other = ("known", "hidden") if self.invert else ("hidden", "known")
            warn(
                f"{what}: transparent pixels are taken as {taken} and opaque ones as {other}; --invert-mask swaps them"
            )
        return clear > 1 - (self.threshold or 0.5)

    def _white(self, picture: Photo, grey: Float[np.ndarray, "h w"], what: str) -> Bool[np.ndarray, "h w"]:
        if self.threshold is not None:
            return grey >= self.threshold
        _check_two_valued(grey, what, "black nor white")
        if picture.transparent is not None:
            warn(f"{what}: transparent pixels are taken as not painted, so as known; --mask-alpha takes them as hidden")
        low, high = float(grey.min()), float(grey.max())
        if low == high or low < 0.5 <= high:
            return grey >= 0.5
        levels = f"{round(low * picture.limit)} and {round(high * picture.limit)} of {picture.limit}"
        warn(f"{what} has only values between {levels}; those in its brighter half are taken as white")
        return grey >= (low + high) / 2


def read_mask(
    path: Path, like_shape: tuple[int, ...], invert: bool = False, rule: MaskRule | None = None
) -> Bool[np.ndarray, "h w"]:
    """Reads which pixels of a picture are hidden.

    Args:
        path: a picture file.
        like_shape: `(h, w, ...)` of the picture that the mask belongs to.
        invert: black, or what is opaque, marks what is hidden.
        rule: how the file says it, if not as `MaskRule(invert)`.

    Raises:
        UserError: if the file is no picture or of another size, does not say it, or hides nothing or everything.
    """
    mask = read_photo(path)
    check_size(mask, like_shape, f"the mask {path}")
    return (rule or MaskRule(invert)).hidden(mask, f"the mask {path}")


def check_size(mask: Photo, like_shape: tuple[int, ...], what: str) -> None:
    """Refuses a mask of another size than `(h, w, ...)`."""
    h, w = like_shape[:2]
    if mask.samples.shape[:2] != (h, w):
        found = pixels(*mask.samples.shape[:2])
        raise UserError(f"{what} has {found} pixels, the picture {pixels(h, w)}; bring the mask to that size.")


def check_hidden(hidden: Bool[np.ndarray, "h w"], what: str, fix: str = _WHITE_IS_HIDDEN) -> None:
    """Refuses a mask that hides nothing or everything, also after a `Fit`.

    Args:
        hidden: True where a pixel is hidden.
        what: the mask's name, with which the message begins.
        fix: how to mend it, with which the message ends.
    """
    if not hidden.any():
        raise UserError(f"{what} hides no pixel; {fix}.")
    if hidden.all():
        raise UserError(f"{what} hides every pixel; {fix}.")


def _painted(picture: Photo, background: float) -> Float[np.ndarray, "h w"]:
    """Returns the brightness, 0 to 1, over a grey background."""
    grey = picture.samples.mean(axis=-1, dtype=np.float64) / picture.limit
    if picture.alpha is None:
        return grey
    opacity = picture.alpha / picture.limit
    return opacity * grey + (1 - opacity) * background


def _erased(picture: Photo, grey: Float[np.ndarray, "h w"]) -> bool:
    """Tells whether transparency says what is hidden, as colours cannot."""
    if picture.transparent is None or picture.transparent.all():
        return False
    one_colour = (picture.samples == picture.samples[:1, :1]).all()
    return bool(one_colour or grey.min() == grey.max() or _between(grey) > _MOST_BETWEEN)


def _between(values: Float[np.ndarray, "h w"]) -> float:
    """Returns the share of values that are near neither the smallest nor the largest; edges of shapes are."""
    low, high = values.min(), values.max()
    if low == high:
        return 0.0
    unit = (values - low) / (high - low)
    dark, bright = (unit <= 0.1).mean(), (unit >= 0.9).mean()
    between = float(1 - dark - bright)
    # Of a night's photo few pixels are, but more than there are bright ones.
    return 1.0 if between > min(dark, bright) else between


def _check_two_valued(values: Float[np.ndarray, "h w"], what: str, neither: str) -> None:
    between = _between(values)
    if between > _MOST_BETWEEN:
        raise UserError(
            f"{what} looks like a photo, as too many of its pixels are neither {neither}; say what is hidden: the "
            "transparent with --mask-alpha, a colour with --mask-colour FF0000, the bright with --mask-threshold 0.5."
        )


def _has_colour(picture: Photo, colour: str, what: str) -> Bool[np.ndarray, "h w"]:
    digits = colour.lstrip("#").upper()
    distance = np.abs(picture.x - (np.array([*bytes.fromhex(digits)]) / 127.5 - 1)).max(axis=-1) / 2
    if not (distance <= _CLOSE).any():
        nearest = picture.x[np.unravel_index(distance.argmin(), distance.shape)]
        found = bytes(np.rint((nearest + 1) * 127.5).astype(np.uint8)).hex().upper()
        raise UserError(f"{what} has no pixel of the colour {digits}; the nearest is {found}.")
    return distance <= _CLOSE
