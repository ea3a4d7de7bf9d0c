"""A page as one HTML file that opens offline: blocks of HTML, put together by `document`."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, UInt8
from PIL import Image

from jaxdiff.disk import write_atomically
from jaxdiff.images.files import to_uint8
from jaxdiff.runs.tables import NOT_AVAILABLE, Row

SHOWN = 256
"""Pixels on the screen that the height of a smaller image fills, as far as a whole number of times goes."""

_FILES = Path(__file__).parent


def document(title: str, blocks: Sequence[str]) -> str:
    """Puts blocks of HTML together to a document that needs no other file.

    Args:
        title: name of the page, and its first heading.
        blocks: what the other functions here return; any other HTML is taken as it is.
    """
    template, style, script = ((_FILES / name).read_text() for name in ("page.html", "style.css", "script.js"))
    return template.format(title=escape(title), style=style, script=script, body="\n".join(blocks))


def write_page(path: str | os.PathLike, title: str, blocks: Sequence[str]) -> None:
    """Writes `document(title, blocks)` to a file, which is complete or not there at all."""
    write_atomically(path, document(title, blocks))


def heading(text: str, level: int = 2) -> str:
    """Returns a heading; the title of the page has level 1.

    >>> heading("Settings & times")
    '<h2>Settings &amp; times</h2>'
    """
    return f"<h{level:d}>{escape(text)}</h{level:d}>"


def paragraph(text: str) -> str:
    """Returns a paragraph."""
    return f"<p>{escape(text)}</p>"


def command(text: str) -> str:
    """Returns a command line; one click selects all of it."""
    return f'<pre class="command">{escape(text)}</pre>'


def settings(mapping: Mapping[str, Any]) -> str:
    """Returns names and values, mappings inside mappings indented, floats with 4 significant digits."""
    items = [f"<dt>{escape(str(name))}</dt><dd>{_value(value)}</dd>" for name, value in mapping.items()]
    return f'<dl class="settings">{"".join(items)}</dl>'


def table(
    rows: Sequence[Row], caption: str = "", labels: Mapping[str, str] | None = None, *, summary: Sequence[Row] = ()
) -> str:
    """Returns a table with the columns of its first row.

    Numbers are right-aligned. Floats have 2 digits after the point, or 3 in a column that stays below 1.

    Args:
        rows: at least one.
        caption: text above.
        labels: heads of the columns whose key does not say enough.
        summary: rows set apart at the foot, such as means.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("`rows` must hold at least one row.")
    columns = []
    for name in rows[0]:
        values = [row.get(name, "") for row in (*rows, *summary)]
        side = ' class="number"' if all(_is_number(v) or v == NOT_AVAILABLE for v in values) else ""
        head = f'<th scope="col"{side}>{escape((labels or {}).get(name, name))}</th>'
        columns.append([head, *(f"<td{side}>{escape(text)}</td>" for text in _cells(values))])
    head, *lines = (f"<tr>{''.join(cells)}</tr>" for cells in zip(*columns, strict=True))
    body, foot = "".join(lines[: len(rows)]), "".join(lines[len(rows) :])
    title = f"<caption>{escape(caption)}</caption>" * bool(caption)
    parts = f"<thead>{head}</thead><tbody>{body}</tbody>" + f"<tfoot>{foot}</tfoot>" * bool(foot)
    return f'<div class="scroll"><table>{title}{parts}</table></div>'


def picture(x: Float[ArrayLike, "h w c"], caption: str = "", width: int | None = None) -> str:
    """Returns an image in [-1, 1], enlarged without smoothing if it is small.

    Args:
        x: grey (1 channel) or colour (3); clipped and rounded.
        caption: text below.
        width: pixels on the screen; by default small images are shown about 256 pixels high.
    """
    return with_caption(image_tag(x, caption), width or shown_width(np.shape(x)), caption)


def gallery(pictures: Sequence[tuple[Float[ArrayLike, "_ _ _"], str]]) -> str:
    """Returns images with their captions, side by side as far as there is room."""
    return row([picture(x, caption) for x, caption in pictures], "gallery")


def animation(frames: UInt8[np.ndarray, "f h w c"], caption: str = "", ms: int = 150) -> str:
    """Returns frames as an endless GIF that rests on the last.

    Args:
        frames: at least one, in 0..255.
        caption: text below.
        ms: how long a frame is shown, in milliseconds.

    Raises:
        ValueError: if the frames are not of this kind.
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) == 0:
        raise ValueError(f"`frames` must be uint8 (f, h, w, c), got {frames.dtype} {frames.shape}.")
    first, *rest = (_pillow(frame).convert("RGB") for frame in frames)
    file = io.BytesIO()
    times = [ms] * len(rest) + [1500]
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=times, loop=0)
    shape = frames.shape[1:]
    return with_caption(_tag("gif", file.getvalue(), shape, caption), shown_width(shape), caption)


def figure_file(source: str | os.PathLike | bytes, caption: str = "") -> str:
    """Returns a PNG file, or its bytes, as it is: a curve, or a figure for a paper.

    Raises:
        ValueError: if it is no PNG.
    """
    png = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not png.startswith(b"\x89PNG"):
        raise ValueError(f"{'the figure' if isinstance(source, bytes) else source} is not a PNG.")
    width, height = Image.open(io.BytesIO(png)).size
    return with_caption(_tag("png", png, (height, width), caption), width, caption)


def slider(
    before: Float[ArrayLike, "_ _ _"], after: Float[ArrayLike, "_ _ _"], before_label: str, after_label: str
) -> str:
    """Returns two images over each other, with a boundary that mouse, finger and arrow keys move.

    Args:
        before: left of the boundary; drawn at the size of the other.
        after: right of it.
        before_label: what the left one is.
        after_label: what the right one is.
    """
    images = image_tag(after, after_label, "after") + image_tag(before, before_label, "before")
    handle = '<input type="range" min="0" max="100" value="50" aria-label="boundary"><span class="boundary"></span>'
    labels = f'<span>{escape(before_label)}</span><span class="after-label">{escape(after_label)}</span>'
    stack = f'<div class="stack">{images}{handle}</div><figcaption>{labels}</figcaption>'
    return f'<figure class="slider" style="--width: {shown_width(np.shape(after))}px">{stack}</figure>'


def image_tag(x: ArrayLike, alt: str, css: str = "") -> str:
    """Returns an image in [-1, 1], grey or colour, without a frame.

    Raises:
        ValueError: if it has another shape.
    """
    pixels = to_uint8(x)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or pixels.size == 0:
        raise ValueError(f"an image must have shape (h, w, 1) or (h, w, 3), got {pixels.shape}.")
    file = io.BytesIO()
    _pillow(pixels).save(file, format="PNG")
    return _tag("png", file.getvalue(), pixels.shape, alt, css)


def _pillow(pixels: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _tag(kind: str, data: bytes, shape: Sequence[int], alt: str, css: str = "") -> str:
    css += " pixels" * (2 * shape[0] <= SHOWN)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img class="{css.strip()}" width="{shape[1]}" height="{shape[0]}" alt="{escape(alt)}" src="{source}">'


def shown_width(shape: Sequence[int]) -> int:
    """Returns how many pixels of the screen an image of this shape is wide."""
    return max(1, SHOWN // shape[0]) * shape[1]


def with_caption(image: str, width: int, caption: str, scale: str = "") -> str:
    """Returns an image with its caption, after a scale if there is one."""
    text = f"<figcaption>{scale}{escape(caption)}</figcaption>" * bool(caption)
    return f'<figure style="--width: {width}px">{image}{text}</figure>'


def row(figures: Sequence[str], css: str = "") -> str:
    """Returns figures side by side."""
    return f'<div class="row {css}">{"".join(figures)}</div>'


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        return settings(value)
    if isinstance(value, list | tuple | Mapping):
        return ", ".join(_value(v) for v in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{float(value):.4g}" if _is_float(value) else escape(str(value))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_float(value: object) -> bool:
    return _is_number(value) and not isinstance(value, Integral)


def _cells(values: Sequence[Any]) -> list[str]:
    largest = max((abs(float(v)) for v in values if _is_float(v)), default=0.0)
    digits = 2 if largest >= 1 else 3
    return [f"{float(v):.{digits}f}" if _is_float(v) else str(v) for v in values]
