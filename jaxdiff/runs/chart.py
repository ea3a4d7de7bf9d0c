"""Curves of a run, drawn as SVG inside a report."""

from html import escape

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

WIDTH, HEIGHT, LEFT, FOOT = 256, 132, 34, 16
"""Size in pixels on the screen, and what the numbers beside and below the curves take of it."""

SMALLEST = 1e-3
"""Values below are drawn here: a logarithm has no place for 0."""


def chart(curves: Float[ArrayLike, "points n"], caption: str, mark: float = 1.0) -> str:
    """Returns a figure of curves along a run, on a logarithmic scale.

    Args:
        curves: one per chain; what is not finite is left out.
        caption: text below.
        mark: a value to draw a dashed line at.
    """
    values = np.clip(np.asarray(curves, float), SMALLEST, None)
    shown = np.append(values[np.isfinite(values)], mark)
    low, high = np.floor(np.log10(shown.min())), np.ceil(np.log10(shown.max()))
    high = max(high, low + 1)

    def height(value: float) -> float:
        return (HEIGHT - FOOT - 4) * (high - np.log10(value)) / (high - low) + 4

    parts = []
    for tick in np.arange(low, high + 1):
        y = height(10**tick)
        parts += [f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>']
        parts += [f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{10**tick:g}</text>']
    parts += [f'<line class="mark" x1="{LEFT}" x2="{WIDTH}" y1="{height(mark):.1f}" y2="{height(mark):.1f}"/>']
    across = LEFT + (WIDTH - LEFT) * (np.arange(len(values)) + 1) / len(values)
    for curve in values.T:
        points = [f"{x:.1f},{height(v):.1f}" for x, v in zip(across, curve, strict=True) if np.isfinite(v)]
        parts.append(f'<polyline points="{" ".join(points)}"/>')
    ends = ((LEFT, "start", "noise"), (WIDTH, "end", "image"))
    parts += [f'<text x="{x}" y="{HEIGHT - 2}" text-anchor="{side}">{word}</text>' for x, side, word in ends]
    drawing = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(caption)}">'
    text = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure style="--width: {WIDTH}px">{drawing}{"".join(parts)}</svg>{text}</figure>'
