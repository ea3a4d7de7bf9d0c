"""A red panda, drawn: an animal for priors that have seen nothing but human faces."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.faces.drawing import Canvas, Grid, ellipse, glow, over

RUSSET = (0.72, 0.30, 0.11)
CREAM = (0.97, 0.92, 0.85)
BROWN = (0.23, 0.12, 0.08)
BLACK = (0.06, 0.04, 0.04)


def colour(rgb: tuple[float, float, float]) -> Float[Array, "3 1 1"]:
    """Returns a colour in [0, 1] that can be laid over a canvas."""
    return jnp.array(rgb)[:, None, None]


def draw_behind(at: Grid) -> Canvas:
    """Paints leaves out of focus, and the dark chest between russet shoulders."""
    canvas = over(colour((0.42, 0.55, 0.30)), colour((0.13, 0.27, 0.16)), jnp.clip(0.5 + 0.4 * at.y + 0.2 * at.x, 0, 1))
    for x, y in ((-0.7, -0.6), (0.75, -0.15), (-0.85, 0.35)):
        canvas = over(canvas, colour((0.62, 0.74, 0.42)), 0.6 * glow(at.x - x, at.y - y, 0.28, 0.2))
    canvas = over(canvas, colour(RUSSET) * 0.75, at.fill(ellipse(at.x, at.y - 1.15, 0.85, 0.6)))
    return over(canvas, colour(BROWN), at.fill(ellipse(at.x, at.y - 1.1, 0.5, 0.5)))


def draw_ears(canvas: Canvas, at: Grid) -> Canvas:
    """Paints russet ears with a broad cream rim and a dark inside."""
    x, y = jnp.abs(at.x) - 0.56, at.y + 0.5
    for rgb, width, height in ((RUSSET, 0.27, 0.32), (CREAM, 0.22, 0.26), (BROWN, 0.12, 0.17)):
        canvas = over(canvas, colour(rgb), at.fill(ellipse(x + 0.4 * y, y - 0.3 * x, width, height)))
    return canvas


def draw_panda_head(canvas: Canvas, at: Grid) -> Canvas:
    """Paints the russet head, its cream cheeks and brows, and the tear marks from the eyes down."""
    x = jnp.abs(at.x)
    head = ellipse(at.x, at.y - 0.1, 0.76, 0.62)
    light = 1.12 - 0.35 * (at.x**2 + (at.y - 0.1) ** 2) - 0.12 * at.x - 0.2 * at.y
    canvas = over(canvas, colour(RUSSET) * light, at.fill(head))
    cheek = jnp.maximum(ellipse(x - 0.56, at.y - 0.26, 0.25, 0.27), head)
    canvas = over(canvas, colour(CREAM), at.fill(cheek))
    canvas = over(canvas, colour(CREAM), at.fill(ellipse(x - 0.3 + 0.3 * at.y, at.y + 0.22, 0.12, 0.1)))
    tear = ellipse(x - 0.33 - 0.15 * (at.y - 0.3), at.y - 0.3, 0.12, 0.3)
    return over(canvas, colour(RUSSET) * 0.62, at.fill(tear))


def draw_muzzle(canvas: Canvas, at: Grid) -> Canvas:
    """Paints the cream muzzle with nose and mouth."""
    canvas = over(canvas, colour(CREAM), at.fill(ellipse(at.x, at.y - 0.38, 0.3, 0.25)))
    canvas = over(canvas, colour(CREAM), at.fill(ellipse(at.x, at.y - 0.2, 0.15, 0.2)))
    canvas = over(canvas, colour(BLACK), at.fill(ellipse(at.x, at.y - 0.27, 0.13, 0.09)))
    canvas = over(canvas, 1.0, 0.5 * glow(at.x + 0.03, at.y - 0.23, 0.05, 0.03))
    smile = jnp.abs(at.y - 0.48 + 4 * (jnp.abs(at.x) - 0.09) ** 2) - 0.02
    canvas = over(canvas, colour(BROWN), at.fill(jnp.maximum(smile, jnp.abs(at.x) - 0.17)))
    return over(canvas, colour(BROWN), at.fill(jnp.maximum(jnp.abs(at.x) - 0.014, jnp.abs(at.y - 0.4) - 0.06)))


def draw_panda_eyes(canvas: Canvas, at: Grid) -> Canvas:
    """Paints dark round eyes with a glint."""
    x = jnp.abs(at.x) - 0.3
    canvas = over(canvas, colour(BLACK), at.fill(ellipse(x, at.y - 0.04, 0.105, 0.115)))
    canvas = over(canvas, colour((0.30, 0.15, 0.06)), 0.8 * glow(x, at.y - 0.09, 0.05, 0.04))
    return over(canvas, 1.0, at.fill(ellipse(jnp.abs(at.x + 0.03) - 0.3, at.y, 0.035, 0.035)))


@partial(jax.jit, static_argnames=("size", "supersample"))
def draw_panda(size: int, supersample: int = 4) -> Float[Array, "size size 3"]:
    """Draws the red panda at `supersample` times the size and averages; in [-1, 1].

    Args:
        size: height and width in pixels; it is easily known from 32 on.
        supersample: points per pixel along each axis.
    """
    fine = size * supersample
    line = (jnp.arange(fine) + 0.5) * 2 / fine - 1
    x, y = jnp.meshgrid(line, line)
    at = Grid(x, y, 2 / fine)
    canvas = draw_behind(at)
    for paint in (draw_ears, draw_panda_head, draw_muzzle, draw_panda_eyes):
        canvas = paint(canvas, at)
    blocks = canvas.reshape(3, size, supersample, size, supersample).mean((2, 4))
    return jnp.clip(2 * blocks.transpose(1, 2, 0) - 1, -1, 1)
