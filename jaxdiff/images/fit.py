"""Pictures and masks of any size, brought to the size of a prior and back.

Sizes in messages are width x height, as image viewers print them. Everything wrong with a file is a `UserError`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Real
from PIL import Image

from jaxdiff.errors import UserError, check_name
from jaxdiff.images.photo import read_photo


@dataclass(frozen=True)
class Fit:
    """How a picture is brought to the size of a prior: cut or padded to its aspect ratio, then made smaller.

    This is the one way by which pictures change their size. A small pixel is the mean of the area it covers. That is
    what a coarser camera would have measured; it keeps white noise white where the sizes divide, and no pixel reaches
    beyond its own area.

    Args:
        name: the picture's name in messages.
        picture: `(height, width)` of the picture, in pixels.
        prior: `(height, width)` that the prior needs.
        mode: "crop" keeps the largest centred part of the prior's aspect ratio, "pad" the whole picture in the middle
            of a frame of that ratio, with its edges repeated.

    Raises:
        UserError: if the frame has fewer pixels along a side than the prior: details that were never measured cannot be
            handed to a sampler as a measurement.
    """

    name: str
    picture: tuple[int, int]
    prior: tuple[int, int]
    mode: str = "crop"

    def __post_init__(self) -> None:
        check_name(self.mode, ("crop", "pad"), "fit")
        if any(side < needed for side, needed in zip(self.frame, self.prior, strict=True)):
            raise UserError(
                f"{self.name} has {pixels(*self.picture)} pixels, fewer than the {pixels(*self.prior)} that the prior "
                "needs; take a larger picture, or a prior of smaller ones with --prior."
            )

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of what becomes the prior's picture, in pixels of the picture."""
        (height, width), (h, w) = self.picture, self.prior
        if (height * w <= width * h) == (self.mode == "crop"):
            return height, round(height * w / h)
        return round(width * h / w), width

    @property
    def scale(self) -> float:
        """Pixels of the picture per pixel of the prior, along one side; at least 1."""
        return self.frame[0] / self.prior[0]

    @property
    def kept(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the prior sees."""
        return _centre(self.picture[0], self.frame[0]), _centre(self.picture[1], self.frame[1])

    @property
    def _inside(self) -> tuple[slice, slice]:
        """Rows and columns of the frame that come from the picture."""
        return _centre(self.frame[0], self.picture[0]), _centre(self.frame[1], self.picture[1])

    @property
    def _margins(self) -> list[tuple[int, int]]:
        return [(span.start, side - span.stop) for span, side in zip(self._inside, self.frame, strict=True)]

    def describe(self) -> str:
        """Says in one line what happens to the picture."""
        has = f"{self.name}: {pixels(*self.picture)} pixels"
        frame = pixels(*self.frame)
        done = []
        if self.picture != self.frame:
            cut = f"the central {frame} are kept"
            done.append(cut if self.mode == "crop" else f"padded to {frame} by repeating its edges")
        if self.frame != self.prior:
            done.append(f"resized to {pixels(*self.prior)}")
        return f"{has}; {' and '.join(done)}" if done else f"{has}, used as they are"

    def apply(self, x: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h2 w2 3"]:
        """Returns the picture as the prior sees it; one that has the prior's size already, unchanged."""
        framed = np.pad(x[self.kept], [*self._margins, (0, 0)], mode="edge")
        if self.frame == self.prior:
            return framed
        down, across = self._weights()
        return np.clip(across @ np.tensordot(down, framed, 1), -1, 1)

    def apply_hidden(self, hidden: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h2 w2"]:
        """Returns which pixels of `apply`'s picture are hidden: those that hold any part of a hidden one.

        So the values under the mask reach no known pixel. Padding counts as hidden: it was never measured.
        """
        framed = np.pad(hidden[self.kept], self._margins, constant_values=True)
        down, across = ((weights > 0).astype(np.float32) for weights in self._weights())
        return down @ framed @ across.T > 0

    def undo(self, x: Float[np.ndarray, "h2 w2 3"]) -> Float[np.ndarray, "h w 3"]:
        """Returns a sample without its padding, so with the shape of what was kept, at the prior's resolution."""
        rows, columns = (
            slice(span.start * size // side, -(-span.stop * size // side))
            for span, size, side in zip(self._inside, self.prior, self.frame, strict=True)
        )
        return x[rows, columns]

    def paste(
        self,
        original: Float[np.ndarray, "h w 3"],
        sample: Float[np.ndarray, "h2 w2 3"],
        hidden: Bool[np.ndarray, "h w"],
    ) -> Float[np.ndarray, "h w 3"]:
        """Fills the hidden pixels of the original from a sample, enlarged by bicubic interpolation.

        Known pixels come back bit by bit. So do hidden ones outside of `kept`, for which there is no sample.
        """
        filled = np.array(original)
        holes = hidden[self.kept]
        filled[self.kept][holes] = _enlarge(np.asarray(sample), self.frame)[self._inside][holes]
        return filled

    def _weights(self) -> list[Float[np.ndarray, "size side"]]:
        # Edges in units of 1 / (size side) pixels are whole numbers, so that a weight is zero or not without rounding.
        return [
            (overlaps(np.arange(side + 1) * size, np.arange(size + 1) * side) / side).astype(np.float32)
            for size, side in zip(self.prior, self.frame, strict=True)
        ]


@dataclass(frozen=True)
class Window(Fit):
    """A part of a picture, or all of it, as it is: for priors that take pictures of any size.

    Args:
        window: its rows and columns; `prior` is its height and width.
    """

    window: tuple[slice, slice] = (slice(None), slice(None))

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of the part."""
        return self.prior

    @property
    def kept(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return self.window

    def describe(self) -> str:
        """Says in one line what is looked at."""
        has = f"{self.name}: {pixels(*self.picture)} pixels"
        return f"{has}, at their own size" + f"; {pixels(*self.prior)} around the holes are sampled" * (
            self.prior != self.picture
        )


CONTEXT = 48
"""Pixels around a hole that a prior of any size is shown: twelve 3x3 layers on 2x2 blocks see 24."""


def around(hidden: Bool[np.ndarray, "h w"], name: str, context: int = CONTEXT) -> Window:
    """Returns the part of a picture that holds all hidden pixels and what is near them.

    Args:
        hidden: True where a pixel is hidden; some are.
        name: the picture's name in messages.
        context: pixels to every side.
    """
    spans = []
    for axis, side in enumerate(hidden.shape):
        found = np.flatnonzero(hidden.any(axis=1 - axis))
        spans.append(slice(max(int(found[0]) - context, 0), min(int(found[-1]) + 1 + context, side)))
    rows, columns = spans
    return Window(name, hidden.shape, (rows.stop - rows.start, columns.stop - columns.start), window=(rows, columns))


def read_fitted(path: Path, prior: tuple[int, int]) -> tuple[Float[np.ndarray, "h w 3"], Fit]:
    """Reads a photo at the size of a prior, cut to its middle and made smaller where needed; for scripts.

    Args:
        path: a picture file.
        prior: `(height, width)` that the prior needs.

    Raises:
        UserError: if the file is no picture, damaged, or too small.
    """
    picture = read_photo(path).over(1.0)
    fit = Fit(str(path), picture.shape[:2], prior)
    return fit.apply(picture), fit


def reduced(x: Float[np.ndarray, "h w c"], most: int) -> Float[np.ndarray, "h2 w2 c"]:
    """Returns an image of at most so many pixels: the means of the smallest blocks for which that holds, or itself."""
    h, w, c = x.shape
    factor = max(1, int(np.ceil(np.sqrt(h * w / max(most, 1)))))
    factor = min(factor, h, w)
    if factor == 1:
        return x
    cut = x[: h // factor * factor, : w // factor * factor]
    return cut.reshape(h // factor, factor, w // factor, factor, c).mean((1, 3))


def _enlarge(x: Float[np.ndarray, "h2 w2 3"], size: tuple[int, int]) -> Float[np.ndarray, "h w 3"]:
    if size != x.shape[:2]:
        # Channel by channel in float: Pillow resizes colour pictures only in 8 bits.
        channels = [Image.fromarray(np.ascontiguousarray(x[..., i])) for i in range(3)]
        large = [np.asarray(channel.resize((size[1], size[0]), Image.Resampling.BICUBIC)) for channel in channels]
        x = np.stack(large, axis=-1)
    return np.clip(x, -1, 1)


def overlaps(old: np.ndarray, new: np.ndarray) -> Real[np.ndarray, "m n"]:
    """Returns the length that the new interval `i` and the old interval `j` share, given the edges of both."""
    starts, stops = np.maximum(new[:-1, None], old[:-1]), np.minimum(new[1:, None], old[1:])
    return np.maximum(stops - starts, 0)


def _centre(length: int, kept: int) -> slice:
    """Returns the central `kept` of `length` indices, or all if there are fewer."""
    start = max((length - kept) // 2, 0)
    return slice(start, start + min(length, kept))


def pixels(height: int, width: int) -> str:
    """Returns width x height, as image viewers print it."""
    return f"{width}x{height}"
