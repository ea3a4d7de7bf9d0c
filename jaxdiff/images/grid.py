"""Figures on the host: grids of images with titles, and colours for maps (numpy and Pillow)."""

from collections.abc import Sequence
from math import ceil

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from jaxdiff.images.files import equal_images, to_picture

_WHITE = 1.0


def grid(
    images: Sequence[Float[ArrayLike, "h w c"]] | Float[ArrayLike, "n h w c"],
    columns: int,
    padding: int = 2,
) -> Float[np.ndarray, "H W c"]:
    """Puts equally sized images side by side, row by row, with white between and around them.

    Args:
        images: at least one image; cells left over in the last row stay white.
        columns: images per row.
        padding: width of the white lines, in pixels.

    Raises:
        ValueError: if there is no image, the shapes differ, `columns` < 1 or `padding` < 0.
    """
    stack = equal_images(images, "images")
    if columns < 1 or padding < 0:
        raise ValueError(f"`columns` must be at least 1 and `padding` at least 0, got {columns} and {padding}.")
    n, h, w, c = stack.shape
    rows, columns = ceil(n / columns), min(columns, n)
    high, wide = h + padding, w + padding
    sheet = np.full((rows * high + padding, columns * wide + padding, c), _WHITE, np.float32)
    for i, image in enumerate(stack):
        top, left = padding + i // columns * high, padding + i % columns * wide
        sheet[top : top + h, left : left + w] = image
    return sheet


def heat(x: Float[ArrayLike, "h w"], vmax: float) -> Float[np.ndarray, "h w 3"]:
    """Colours a non-negative map: 0 is black, then purple and orange, `vmax` and more is white.

    Lightness rises with the value at an even pace, so the picture reads the same in grey.

    Args:
        x: the map, for instance a per-pixel standard deviation.
        vmax: the value shown white, in the unit of `x`; use one for maps that are to be compared.

    Raises:
        ValueError: if `x` is not a finite, non-negative map `(h, w)`, or `vmax` is not positive.
    """
    array = np.asarray(x)
    if array.ndim != 2 or not np.all(np.isfinite(array)) or np.any(array < 0):
        raise ValueError(f"`x` must be a finite, non-negative map (h, w), got shape {array.shape}.")
    if not 0 < vmax < np.inf:
        raise ValueError(f"`vmax` must be positive and finite, got {vmax}.")
    channels = [np.interp(array / vmax, _HEAT_AT, values) for values in _HEAT_RGB.T]
    return np.stack(channels, axis=-1).astype(np.float32) * 2 - 1


# Each anchor stands at its CIE lightness / 100, which is what makes the ramp even.
_HEAT_AT = np.array([0.0, 0.26, 0.49, 0.72, 1.0])
_HEAT_RGB = np.array([[0, 0, 0], [0.38, 0.10, 0.50], [0.78, 0.27, 0.40], [0.98, 0.60, 0.25], [1, 1, 1]])


def labelled_grid(
    rows: Sequence[Sequence[Float[ArrayLike, "_ _ _"] | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str] | None = None,
    *,
    captions: Sequence[Sequence[str | None]] | None = None,
    scale: int = 1,
) -> Float[np.ndarray, "H W 3"]:
    """Draws a figure: rows of images on white, with titles above and to the left.

    The largest image sets the size of all cells. Smaller ones (a low-resolution measurement) are
    enlarged by the largest whole number that fits, without smoothing, and centred.

    Args:
        rows: images in [-1, 1], grey or colour; None leaves a cell blank.
        column_titles: one per column; may have line breaks. Text is ASCII (and "±"): the built-in
            font has no other characters, "?" stands for them.
        row_titles: one per row, or None for no titles on the left.
        captions: one short text (or None) per cell, shown under it.
        scale: enlargement of the largest image, a whole number; small images need 4 or more for
            the text to look well beside them.

    Raises:
        ValueError: if the numbers of rows, columns, titles and captions do not fit together, there is
            no image at all, an image has another shape than (h, w, 1 or 3), or `scale` < 1.
    """
    _check_table(rows, column_titles, row_titles, captions, scale)
    cells = [[None if x is None else to_picture(x).convert("RGB") for x in row] for row in rows]
    present = [cell for row in cells for cell in row if cell is not None]
    width = scale * max(cell.width for cell in present)
    height = scale * max(cell.height for cell in present)
    size = min(max(height // 10, 13), 28)
    texts = _Texts(size)
    gap = max(6, size // 2)
    captions = captions or [[None] * len(column_titles)] * len(rows)
    columns = [max(width, texts.width([title, *(row[i] for row in captions)])) for i, title in enumerate(column_titles)]
    low = height + texts.height([caption for row in captions for caption in row])
    left = gap + (texts.width(row_titles) + gap if row_titles else 0)
    top = gap + texts.height(column_titles)
    lefts = np.cumsum([left, *(w + gap for w in columns)]).tolist()
    tops = [top + i * (low + gap) for i in range(len(rows) + 1)]

    sheet = Image.new("RGB", (lefts[-1], tops[-1]), "white")
    draw = ImageDraw.Draw(sheet)
    for x, w, title in zip(lefts, columns, column_titles, strict=False):
        texts.draw(draw, (x + w // 2, top - gap // 2), title, "md")
    for y, title in zip(tops, row_titles or [], strict=False):
        texts.draw(draw, (left - gap, y + height // 2), title, "rm")
    for y, row, below in zip(tops, cells, captions, strict=False):
        for x, w, cell, caption in zip(lefts, columns, row, below, strict=False):
            if cell is not None:
                _paste(sheet, cell, (x + (w - width) // 2, y, width, height))
            texts.draw(draw, (x + w // 2, y + height + gap // 4), caption, "ma")
    return np.asarray(sheet, np.float32) / 127.5 - 1


class _Texts:
    """Measures and draws text in Pillow's built-in font at one size."""

    def __init__(self, size: int):
        self.font = ImageFont.load_default(size=size)
        self.line = round(1.35 * size)
        self.ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def width(self, texts: Sequence[str | None]) -> int:
        boxes = [self.ruler.multiline_textbbox((0, 0), _plain(t), self.font) for t in texts if t]
        return ceil(max((box[2] for box in boxes), default=0))

    def height(self, texts: Sequence[str | None]) -> int:
        return self.line * max((t.count("\n") + 1 for t in texts if t), default=0)

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str | None, anchor: str) -> None:
        if text:
            align = "right" if anchor[0] == "r" else "center"
            draw.multiline_text(at, _plain(text), "black", self.font, anchor, align=align)


def _plain(text: str) -> str:
    # The built-in font draws a box for any other character.
    return "".join(c if c.isascii() or c == "±" else "?" for c in text)


def _paste(sheet: Image.Image, cell: Image.Image, box: tuple[int, int, int, int]) -> None:
    left, top, width, height = box
    factor = min(width // cell.width, height // cell.height)
    large = cell.resize((factor * cell.width, factor * cell.height), Image.Resampling.NEAREST)
    x, y = left + (width - large.width) // 2, top + (height - large.height) // 2
    sheet.paste(large, (x, y))
    outline = (x - 1, y - 1, x + large.width, y + large.height)
    ImageDraw.Draw(sheet).rectangle(outline, outline="silver")


def _check_table(rows, column_titles, row_titles, captions, scale) -> None:
    if scale < 1:
        raise ValueError(f"`scale` must be a whole number of at least 1, got {scale}.")
    if not any(x is not None for row in rows for x in row):
        raise ValueError("`rows` must hold at least one image.")
    for name, table in (("rows", rows), ("captions", captions)):
        if table is not None and {len(row) for row in table} != {len(column_titles)}:
            raise ValueError(
                f"each row of `{name}` must have {len(column_titles)} cells, one per column title, "
                f"got {[len(row) for row in table]}; fill blank cells with None."
            )
    for name, values in (("row_titles", row_titles), ("captions", captions)):
        if values is not None and len(values) != len(rows):
            raise ValueError(f"`{name}` must have {len(rows)} entries, one per row, got {len(values)}.")
