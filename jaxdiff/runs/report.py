"""A report as one HTML file that opens offline: blocks of HTML, put together by `page`."""

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
from jaxdiff.images.grid import heat
from jaxdiff.metrics.diagnosis import Diagnosis, Verdict
from jaxdiff.runs.chart import chart
from jaxdiff.runs.scores import HIGHER_IS_BETTER, LABELS, NOT_AVAILABLE, mean_and_std
from jaxdiff.runs.tables import Row

SHOWN = 256
"""Pixels on the screen that the height of a smaller image fills, as far as a whole number of times goes."""

_PAGE = Path(__file__).parent / "page"
_COLUMNS = {
    "seed": "seed",
    **{name: f"{LABELS[name]} {'↑' if higher else '↓'}" for name, higher in HIGHER_IS_BETTER.items()},
    "residual_ratio": "residual / noise",
}


def page(title: str, blocks: Sequence[str]) -> str:
    """Puts blocks of HTML together to a document that needs no other file.

    Args:
        title: name of the page, and its first heading.
        blocks: what the other functions here return; any other HTML is taken as it is.
    """
    template, style, script = ((_PAGE / name).read_text() for name in ("page.html", "style.css", "script.js"))
    return template.format(title=escape(title), style=style, script=script, body="\n".join(blocks))


def write_page(path: str | os.PathLike, title: str, blocks: Sequence[str]) -> None:
    """Writes `page(title, blocks)` to a file, which is complete or not there at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(title, blocks))


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
    return _figure(_img(x, caption), width or _shown_width(np.shape(x)), caption)


def gallery(pictures: Sequence[tuple[Float[ArrayLike, "h w c"], str]]) -> str:
    """Returns images with their captions, side by side as far as there is room."""
    return _row([picture(x, caption) for x, caption in pictures], "gallery")


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
    return _figure(_tag("gif", file.getvalue(), shape, caption), _shown_width(shape), caption)


def figure_file(figure: str | os.PathLike | bytes, caption: str = "") -> str:
    """Returns a PNG file, or its bytes, as it is: a curve, or a figure for a paper.

    Raises:
        ValueError: if it is no PNG.
    """
    png = figure if isinstance(figure, bytes) else Path(figure).read_bytes()
    if not png.startswith(b"\x89PNG"):
        raise ValueError(f"{'the figure' if isinstance(figure, bytes) else figure} is not a PNG.")
    width, height = Image.open(io.BytesIO(png)).size
    return _figure(_tag("png", png, (height, width), caption), width, caption)


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
    images = _img(after, after_label, "after") + _img(before, before_label, "before")
    handle = '<input type="range" min="0" max="100" value="50" aria-label="boundary"><span class="boundary"></span>'
    labels = f'<span>{escape(before_label)}</span><span class="after-label">{escape(after_label)}</span>'
    stack = f'<div class="stack">{images}{handle}</div><figcaption>{labels}</figcaption>'
    return f'<figure class="slider" style="--width: {_shown_width(np.shape(after))}px">{stack}</figure>'


def samples_section(
    title: str,
    *,
    samples: Float[ArrayLike, "n h w c"],
    measurement: Float[ArrayLike, "_ _ _"],
    truth: Float[ArrayLike, "h w c"] | None,
    rows: Sequence[Row],
    std_max: float | None = None,
    frames: UInt8[np.ndarray, "f _ _ c"] | None = None,
    verdict: Verdict | None = None,
    curve: Diagnosis | None = None,
) -> str:
    """Returns all about the samples that one method drew for one task.

    Args:
        title: task and method.
        samples: one per seed; clipped to [-1, 1], also for their mean and standard deviation.
        measurement: as an image.
        truth: the image measured, if it is known.
        rows: one row of scores per sample, as from `jaxdiff.runs.scores.score`; columns with other names are left out.
        std_max: the standard deviation shown white; the largest by default.
        frames: snapshots of the first sample, `x_t` beside `x0_hat`.
        verdict: what the samples are worth.
        curve: what was observed along the run, `(segments, n)`.

    Raises:
        ValueError: if there is not one row per sample.
    """
    x = np.clip(np.asarray(samples), -1, 1)
    if len(x) == 0 or len(rows) != len(x):
        raise ValueError(f"`rows` must have one row per sample, got {len(rows)} rows and {len(x)} samples.")
    names = [f"sample, seed {row['seed']}" for row in rows]
    lefts = [(measurement, "measurement"), *([] if truth is None else [(truth, "truth")])]
    top = [slider(image, x[0], label, names[0]) for image, label in lefts]
    if frames is not None and len(frames):
        top.append(animation(frames, "the first sample as it forms: x_t, and beside it the estimate x0_hat"))
    pictures = [picture(*pair) for pair in reversed(lefts)]
    note = paragraph("A standard deviation needs at least two samples.")
    if len(x) > 1:
        mean = f"mean of {len(x)} samples"
        pictures += [_choosable(x.mean(0), mean), _std_map(x, std_max)]
        note = _choice([mean, *names], selected=1)
    drawn = [_choosable(*pair) for pair in zip(x, names, strict=True)]
    blocks = [heading(title), _row(top), note, _row(pictures, "gallery"), _row(drawn, "gallery"), _scores(rows)]
    if verdict is not None:
        blocks.append(f"<p><strong>{escape(verdict.word)}</strong>: {escape(verdict.sentence)}</p>")
    if curve is not None:
        blocks.append(_along(curve))
    return "\n".join(["<section>", *blocks, "</section>"])


def _along(curve: Diagnosis) -> str:
    charts = (
        chart(curve.residual, "residual of the estimate x0_hat along the run, in units of the noise if there is any"),
        chart(curve.noise_level, "noise of the image beside the estimate, over the noise of its time"),
    )
    return _row(charts)


def _scores(rows: Sequence[Row]) -> str:
    shown: list[Row] = [{name: row[name] for name in _COLUMNS if name in row} for row in rows]
    found = {name: mean_and_std([row[name] for row in shown]) for name in shown[0] if name != "seed"}
    summary: list[Row] = [
        {"seed": word, **{name: NOT_AVAILABLE if pair is None else pair[i] for name, pair in found.items()}}
        for i, word in enumerate(("mean", "std"))
    ]
    caption = "↑ higher is better, ↓ lower is better" if HIGHER_IS_BETTER.keys() & found.keys() else ""
    return table(shown, caption, _COLUMNS, summary=summary if len(rows) > 1 else ())


def _choosable(x: Float[ArrayLike, "h w c"], caption: str) -> str:
    return _figure(_img(x, caption, "choosable"), _shown_width(np.shape(x)), caption)


def _choice(names: Sequence[str], selected: int) -> str:
    marks = ["", " selected"]
    options = "".join(f"<option{marks[i == selected]}>{escape(name)}</option>" for i, name in enumerate(names))
    return f'<p class="choice" hidden><label>On the right: <select>{options}</select></label></p>'


def _std_map(samples: Float[np.ndarray, "n h w c"], std_max: float | None) -> str:
    std = samples.std(0).mean(-1)
    vmax = std_max or float(std.max()) or 1.0
    ramp = _img(heat(np.linspace(0, 1, 256)[None], 1.0), "from black to white")
    scale = f'<span class="ramp">0 {ramp} {vmax:.2g}</span>'
    caption = f"standard deviation of {len(samples)} samples, {std.mean():.2g} on average"
    return _figure(_img(heat(std, vmax), caption), _shown_width(std.shape), caption, scale)


def _img(x: ArrayLike, alt: str, css: str = "") -> str:
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


def _shown_width(shape: Sequence[int]) -> int:
    return max(1, SHOWN // shape[0]) * shape[1]


def _figure(image: str, width: int, caption: str, scale: str = "") -> str:
    text = f"<figcaption>{scale}{escape(caption)}</figcaption>" * bool(caption)
    return f'<figure style="--width: {width}px">{image}{text}</figure>'


def _row(figures: Sequence[str], css: str = "") -> str:
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
