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

from jaxdiff.images import heat, to_uint8
from jaxdiff.runs.folder import Row, write_atomically
from jaxdiff.runs.scores import HIGHER_IS_BETTER, LABELS, NOT_AVAILABLE, mean_and_std

SHOWN = 256
"""Pixels on the screen that the height of a smaller image fills, as far as a whole number of times goes."""

ABOUT_ONE = (0.7, 1.5)
"""Residual ratios that are called about 1."""

_COLUMNS = {
    "seed": "seed",
    **{name: f"{LABELS[name]} {'↑' if higher else '↓'}" for name, higher in HIGHER_IS_BETTER.items()},
    "residual_ratio": "residual / noise",
}

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c1e21; --soft: #5f666d; --line: #d9dde1; --fill: #f3f5f6;
  --focus: #1769d2 }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #16181b; --ink: #e4e6e8; --soft: #9da4ab; --line: #363b41; --fill: #212428; --focus: #7db4ff }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 72rem; margin: auto; padding: 1rem 1.25rem 4rem }
h1 { font-size: 1.75rem; line-height: 1.2 }
h2 { margin: 2.5rem 0 1rem; padding-top: .75rem; border-top: 1px solid var(--line); font-size: 1.25rem }
p { max-width: 46rem }
.command { padding: .75rem 1rem; border-radius: 6px; background: var(--fill); font: .875rem/1.5 ui-monospace, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; user-select: all }
.settings { display: grid; grid-template-columns: fit-content(60%) 1fr; margin: 0; font-size: .9375rem }
.settings dt, .settings dd { margin: 0; padding: .25rem 0; border-top: 1px solid var(--line); overflow-wrap: anywhere }
.settings dt { padding-right: 1.5rem; color: var(--soft) }
.settings dt:has(+ dd > dl), .settings dd:has(> dl) { grid-column: 1 / -1 }
.settings dd:has(> dl) { padding: 0 0 0 1.5rem; border-top: 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 1rem 0; font-size: .9375rem; font-variant-numeric: tabular-nums }
caption { padding: .25rem 0; color: var(--soft); font-size: .875rem; text-align: left }
th, td { padding: .3rem 1.25rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
th { color: var(--soft); font-weight: 600 }
tfoot td { border-bottom: 0; font-weight: 600 }
.number { padding: .3rem .25rem .3rem 1rem; text-align: right }
.row { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; align-items: flex-start }
figure { width: min(var(--width), 100%); margin: 0; break-inside: avoid }
figure img { display: block; width: 100%; height: auto }
.pixels { image-rendering: pixelated }
figcaption { padding-top: .3rem; color: var(--soft); font-size: .875rem; line-height: 1.35; overflow-wrap: anywhere }
.ramp { display: flex; gap: .5rem; align-items: center }
.ramp img { flex: 1; min-width: 0; height: .6rem; border: 1px solid var(--line) }
.slider { --at: 50% }
.slider figcaption { display: flex; justify-content: space-between; gap: 1rem }
.slider figcaption :last-child { text-align: right }
.stack { position: relative }
.stack .before { position: absolute; inset: 0; height: 100%; clip-path: inset(0 calc(100% - var(--at)) 0 0) }
.stack input { position: absolute; inset: 0 auto 0 -16px; width: calc(100% + 32px); height: 100%; margin: 0; opacity: 0;
  appearance: none; cursor: ew-resize; touch-action: pan-y }
.stack input::-webkit-slider-runnable-track { height: 100% }
.stack input::-webkit-slider-thumb { appearance: none; width: 32px; height: 100% }
.stack input::-moz-range-thumb { border: 0; width: 32px; height: 100% }
.boundary { position: absolute; inset: 0 auto 0 var(--at); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #000b; pointer-events: none }
.boundary::after { content: "\\2194"; position: absolute; top: 50%; left: 50%; width: 28px; height: 28px;
  transform: translate(-50%, -50%); border-radius: 50%; background: #fff; color: #1c1e21; box-shadow: 0 0 3px #000b;
  font: 16px/28px sans-serif; text-align: center }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px }
.stack:has(:focus-visible) { outline: 3px solid var(--focus); outline-offset: 2px }
.choice select { max-width: 100%; padding: .25rem; font: inherit }
@media (max-width: 40rem) {
  .slider { width: 100% }
  .gallery { gap: .75rem }
  .gallery figure { width: calc(50% - .375rem) }
}
@media print { .choice { display: none } img, .boundary { print-color-adjust: exact } h2 { break-after: avoid } }
"""

_SCRIPT = """
for (const slider of document.querySelectorAll('.slider')) {
  const input = slider.querySelector('input');
  const move = () => slider.style.setProperty('--at', input.value + '%');
  input.addEventListener('input', move);
  move();
}
for (const choice of document.querySelectorAll('.choice')) {
  const section = choice.closest('section'), select = choice.querySelector('select');
  const show = () => {
    const { src, alt } = section.querySelectorAll('.choosable')[select.selectedIndex];
    section.querySelectorAll('.after').forEach(image => Object.assign(image, { src, alt }));
    section.querySelectorAll('.after-label').forEach(label => { label.textContent = alt; });
  };
  select.addEventListener('change', show);
  choice.hidden = false;
  show();
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def page(title: str, blocks: Sequence[str]) -> str:
    """Puts blocks of HTML together to a document that needs no other file.

    Args:
        title: name of the page, and its first heading.
        blocks: what the other functions here return; any other HTML is taken as it is.
    """
    return _PAGE.format(title=escape(title), style=_STYLE, script=_SCRIPT, body="\n".join(blocks))


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
    if "residual_ratio" in rows[0]:
        blocks.append(paragraph(verdict(rows)))
    return "\n".join(["<section>", *blocks, "</section>"])


def verdict(rows: Sequence[Row]) -> str:
    """Says in one sentence whether the samples agree with the measurement."""
    found = mean_and_std([row["residual_ratio"] for row in rows])
    what = "The residual ‖y − A x‖ / (σ √m)"
    if found is None:
        return f"{what} is {NOT_AVAILABLE}: its unit is the noise, and there is none (σ = 0)."
    low, high = ABOUT_ONE
    if found[0] < low:
        words = "far below 1, so the noise of the measurement was fitted"
    elif found[0] <= high:
        words = "about 1, so the samples agree with the measurement as well as its noise allows"
    else:
        words = "far above 1, so the measurement was ignored, at least in part"
    over = f", averaged over {len(rows)} seeds" * (len(rows) > 1)
    return f"{what} is {found[0]:.2f}{over}: {words}."


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
