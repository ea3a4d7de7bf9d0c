"""What one method drew for one task, as a section of a report."""

from collections.abc import Sequence
from html import escape

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, UInt8

from jaxdiff.images.grid import heat
from jaxdiff.metrics.diagnosis import Diagnosis, Verdict
from jaxdiff.runs.chart import chart
from jaxdiff.runs.page import (
    animation,
    heading,
    image_tag,
    paragraph,
    picture,
    row,
    shown_width,
    slider,
    table,
    with_caption,
)
from jaxdiff.runs.scores import HIGHER_IS_BETTER, LABELS, mean_and_std
from jaxdiff.runs.tables import NOT_AVAILABLE, Row

_COLUMNS = {
    "seed": "seed",
    **{name: f"{LABELS[name]} {'↑' if higher else '↓'}" for name, higher in HIGHER_IS_BETTER.items()},
    "residual_ratio": "residual / noise",
}


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
        rows: one row of scores per sample, as from `jaxdiff.runs.scores.score_samples`; columns with other
            names are left out.
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
    blocks = [heading(title), row(top), note, row(pictures, "gallery"), row(drawn, "gallery"), _scores(rows)]
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
    return row(charts)


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
    return with_caption(image_tag(x, caption, "choosable"), shown_width(np.shape(x)), caption)


def _choice(names: Sequence[str], selected: int) -> str:
    marks = ["", " selected"]
    options = "".join(f"<option{marks[i == selected]}>{escape(name)}</option>" for i, name in enumerate(names))
    return f'<p class="choice" hidden><label>On the right: <select>{options}</select></label></p>'


def _std_map(samples: Float[np.ndarray, "n h w c"], std_max: float | None) -> str:
    std = samples.std(0).mean(-1)
    vmax = std_max or float(std.max()) or 1.0
    ramp = image_tag(heat(np.linspace(0, 1, 256)[None], 1.0), "from black to white")
    scale = f'<span class="ramp">0 {ramp} {vmax:.2g}</span>'
    caption = f"standard deviation of {len(samples)} samples, {std.mean():.2g} on average"
    return with_caption(image_tag(heat(std, vmax), caption), shown_width(std.shape), caption, scale)
