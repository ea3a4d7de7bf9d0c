"""Picture files and figures on the host: read, write, grids, GIFs (numpy and Pillow)."""

import os
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import IO, Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

_WHITE = 1.0
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, NotImplementedError, Image.DecompressionBombError)


def read_image(
    path: str | os.PathLike, size: int | None = None, background: float = _WHITE
) -> Float[np.ndarray, "h w 3"]:
    """Reads a picture file into a float image in [-1, 1].

    `x = 2 v / v_max - 1`, with `v_max` 255 or, for 16-bit grey files, 65535. The camera's orientation
    (EXIF) is applied, transparency is laid over white, grey is repeated to three channels.

    Args:
        path: any file that Pillow reads.
        size: if given, the largest centred square is cut out and resized to `size` x `size` pixels
            (Pillow's antialiased Lanczos filter, in float, clipped to [-1, 1]).
        background: the grey in [-1, 1] that transparency is laid over, if not white.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a picture, is damaged, or holds floats, or `size` is below 1.
    """
    path = Path(path)
    if size is not None and size < 1:
        raise ValueError(f"`size` must be at least 1 pixel, got {size}.")
    if not path.exists():
        raise FileNotFoundError(f"there is no image {path}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not an image.")
    with path.open("rb") as file:
        try:
            rgb = _decode(file, (background + 1) / 2)
        except UnidentifiedImageError as error:
            raise ValueError(f"{path} is not an image in a format that Pillow knows.") from error
        except _DAMAGE as error:
            raise ValueError(f"{path} is a damaged or unusual image: {error}.") from error
    if size is not None:
        rgb = _square(rgb, size)
    return 2 * rgb - 1


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
    picture = _picture(x)
    _write_atomically(path, ".png", lambda file: picture.save(file, format="PNG"))


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
    pictures = [_picture(frame).convert("RGB") for frame in _equal_images(frames, "frames")]
    durations = [ms] * len(pictures) if isinstance(ms, int) else list(ms)
    if len(durations) != len(pictures) or min(durations) < 20:
        raise ValueError(f"`ms` must be at least 20, one or {len(pictures)} numbers, got {ms}.")
    first, *rest = pictures
    _write_atomically(
        path,
        ".gif",
        lambda file: first.save(file, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0),
    )


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
    stack = _equal_images(images, "images")
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
    cells = [[None if x is None else _picture(x).convert("RGB") for x in row] for row in rows]
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


def _picture(x: ArrayLike) -> Image.Image:
    pixels = to_uint8(x)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or pixels.size == 0:
        raise ValueError(
            f"an image must have shape (h, w, 1) or (h, w, 3), got {pixels.shape}; index a stack, or use `grid`."
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _equal_images(images: Any, name: str) -> np.ndarray:
    arrays = [np.asarray(image) for image in images]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or len(next(iter(shapes))) != 3:
        raise ValueError(f"`{name}` must be one or more images of one shape (h, w, c), got {sorted(shapes)}.")
    return np.stack(arrays)


def _write_atomically(path: str | os.PathLike, suffix: str, save: Callable[[IO[bytes]], None]) -> None:
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"`path` must end in {suffix}, got {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            save(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _decode(file: IO[bytes], background: float) -> np.ndarray:
    """Returns the pixels as (h, w, 3) floats in [0, 1]; so is the grey behind transparent ones."""
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode == "F":
        raise ValueError("it holds floats, whose range is not known")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("it holds grey values outside 0..65535")
        return np.repeat(values[..., None] / 65535, 3, axis=-1)
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
        colour, alpha = rgba[..., :3], rgba[..., 3:]
        return alpha * colour + (1 - alpha) * background
    return np.asarray(image.convert("RGB"), np.float32) / 255


def _square(rgb: np.ndarray, size: int) -> np.ndarray:
    h, w, _ = rgb.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    rgb = rgb[top : top + side, left : left + side]
    if side == size:
        return rgb
    # Channel by channel in float: Pillow resizes colour pictures only in 8 bits.
    channels = [Image.fromarray(np.ascontiguousarray(rgb[..., i])) for i in range(3)]
    resized = [channel.resize((size, size), Image.Resampling.LANCZOS) for channel in channels]
    return np.clip(np.stack([np.asarray(channel) for channel in resized], axis=-1), 0, 1)
