"""Cartoon faces drawn from a key: an endless, licence-free set of images to train and test with.

Every part is a signed distance (negative inside), turned into an opacity and laid over what is
below it. Lengths are in units of the image (-1 to 1, y down) or of the head (the chin is at y = 1),
so a key means the same face at every resolution.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff.faces.attributes import Backdrop, Colour, Face, Hair, Scalar, sample_face

Plane = Float[Array, "h w"]
Canvas = Float[Array, "3 h w"]


class Grid(NamedTuple):
    """Coordinates of the points that are drawn, and the distance between two of them."""

    x: Plane
    y: Plane
    step: Scalar | float

    def fill(self, distance: Plane) -> Plane:
        """The opacity of a shape: 1 inside, 0 outside, over one step in between."""
        return jnp.clip(0.5 - distance / self.step, 0, 1)


def over(canvas: Colour | Canvas, colour: Colour | Canvas | float, opacity: Plane | Float[Array, ""]) -> Canvas:
    """Lays a colour over the canvas."""
    return canvas + opacity * (colour - canvas)


def ellipse(x: Plane, y: Plane, width: Any, height: Any) -> Plane:
    """Distance to an ellipse around 0, to first order."""
    u, v = x / width, y / height
    square = u * u + v * v
    slope = jnp.sqrt((u / width) ** 2 + (v / height) ** 2 + 1e-6)
    return (square - 1) / (2 * slope + 1e-3)


def parabolas(x: Plane, y: Plane, width: Any, top: Any, bottom: Any) -> Plane:
    """Distance to the region between two parabolas through (±width, 0)."""
    arch = 1 - (x / width) ** 2
    steep = jnp.maximum(jnp.abs(top), jnp.abs(bottom)) * 2 * jnp.abs(x) / width**2
    return jnp.maximum(top * arch - y, y - bottom * arch) / jnp.sqrt(1 + jnp.minimum(steep, 2.0) ** 2)


def box(x: Plane, y: Plane, width: Any, height: Any, corner: Any) -> Plane:
    """Distance to a box around 0 with rounded corners."""
    u, v = jnp.abs(x) - width + corner, jnp.abs(y) - height + corner
    outside = jnp.sqrt(jnp.maximum(u, 0) ** 2 + jnp.maximum(v, 0) ** 2 + 1e-9)
    return outside + jnp.minimum(jnp.maximum(u, v), 0) - corner


def glow(x: Plane, y: Plane, width: Any, height: Any) -> Plane:
    """A soft spot around 0."""
    return jnp.exp(-((x / width) ** 2) - (y / height) ** 2)


def draw_backdrop(at: Grid, backdrop: Backdrop) -> Canvas:
    """Paints the gradient and the blobs."""
    along = at.x * jnp.cos(backdrop.angle) + at.y * jnp.sin(backdrop.angle)
    canvas = over(backdrop.near, backdrop.far, jnp.clip(0.5 + 0.45 * along, 0, 1))
    for side, strength in ((-1, backdrop.left), (1, backdrop.right)):
        spot = glow(at.x - 0.8 * side, at.y - backdrop.blob_y * side, 0.7, 0.7)
        canvas = over(canvas, backdrop.blob, jnp.maximum(strength, 0) * spot)
    return canvas


def draw_body(canvas: Canvas, at: Grid, light: Plane, face: Face) -> Canvas:
    """Paints the neck, with the shadow of the chin, and the clothes."""
    skin, outfit = face.head.skin, face.outfit
    flare = face.head.neck + 0.5 * jnp.maximum(at.y - 1.1, 0) ** 2
    shadow = 0.86 - 0.3 * glow(at.x, at.y - 0.85, 0.6, 0.35)
    neck = jnp.maximum(jnp.abs(at.x) - flare, 0.3 - at.y)
    canvas = over(canvas, skin * shadow * light, at.fill(neck))
    shoulders = ellipse(at.x, at.y - 1.95, 1.45, 0.9)
    opening = ellipse(at.x, at.y - 1.02, face.head.neck + 0.06, outfit.neckline)
    fold = 1 + 0.5 * face.pose.light_x * at.x - 0.2 * at.x**2
    clothes = jnp.maximum(shoulders, -opening)
    collar = jnp.maximum(shoulders, jnp.abs(opening) - 0.06)
    canvas = over(canvas, outfit.cloth * fold, at.fill(clothes))
    return over(canvas, outfit.trim * fold, at.fill(collar))


def crown(at: Grid, face: Face) -> Plane:
    """Distance to the outline of the hair on top of the head."""
    width = face.head.width + 0.04 + face.hair.volume
    return ellipse(at.x, at.y + 0.12, width, 0.92 + face.hair.volume)


def hair_colour(at: Grid, light: Plane, hair: Hair) -> Canvas:
    """The hair with its strands, which run from the top of the head."""
    angle = at.x / (1.6 + at.y.clip(-1.0, 1.5))
    strands = 1 + hair.strands * jnp.cos(22 * angle + 3 * hair.swoop * at.y)
    sheen = 0.12 * glow(at.x - 0.2 * hair.swoop, at.y + 0.85, 0.5, 0.16)
    return hair.colour * strands * light + sheen


def draw_back_hair(canvas: Canvas, at: Grid, light: Plane, face: Face) -> Canvas:
    """Paints the hair behind the head."""
    hair = face.hair
    width = face.head.width + 0.06 + 0.8 * hair.volume + hair.wave * jnp.sin(9 * at.y)
    width = width + 0.1 * jnp.maximum(at.y, 0)
    mid, half = hair.length / 2 - 0.15, hair.length / 2 + 0.15
    fall = box(at.x, at.y - mid, width, half, 0.1 + 0.2 * hair.volume)
    top = jnp.maximum(crown(at, face), at.y - 2 * hair.volume)
    bun = ellipse(at.x - 0.5 * hair.part, at.y + 1.15, 0.3, 0.26) + 1e3 * (1 - hair.bun)
    shape = jnp.minimum(jnp.minimum(fall, top), bun)
    colour = 0.8 * hair_colour(at, light, hair)
    return over(canvas, colour, hair.present * at.fill(shape))


def draw_front_hair(canvas: Canvas, at: Grid, turned: Grid, light: Plane, face: Face) -> Canvas:
    """Paints the hair above the forehead: fringe, parting and temples."""
    hair = face.hair
    x = turned.x
    line = hair.line + hair.temples * (x / face.head.width) ** 4 + hair.swoop * x
    line = line + hair.part_depth * (jnp.sqrt((x - hair.part) ** 2 + 0.01) - 0.4)
    line = line + hair.jag * jnp.cos(16 * (x - hair.part))
    shape = jnp.maximum(crown(at, face), turned.y - jnp.minimum(line, 0.25))
    shade = over(canvas, canvas * 0.72, glow(0 * x, jnp.maximum(turned.y - line, 0), 1, 0.12))
    canvas = over(canvas, shade, hair.present * at.fill(ellipse(at.x, at.y, face.head.width, 1)))
    return over(canvas, hair_colour(at, light, hair), hair.present * at.fill(shape))


def draw_head(canvas: Canvas, at: Grid, turned: Grid, light: Plane, face: Face) -> Canvas:
    """Paints ears, skull, cheeks and beard."""
    head, hair, outfit = face.head, face.hair, face.outfit
    skin = head.skin * light
    ear = ellipse(jnp.abs(at.x) - head.width, at.y - 0.08, head.ear * 0.75, head.ear * 1.2)
    canvas = over(canvas, skin * 0.9, at.fill(ear))
    canvas = over(canvas, skin * 0.7, at.fill(ear + 0.08))
    ring = ellipse(jnp.abs(at.x) - head.width - 0.03, at.y - 0.34, 0.07, 0.09)
    canvas = over(canvas, outfit.trim, outfit.earring * at.fill(ring))
    narrow = 1 + head.jaw * jnp.clip(at.y, 0, 1) ** 2
    skull = at.fill(ellipse(at.x * narrow, at.y, head.width, 1))
    canvas = over(canvas, skin, skull)
    rosy = glow(jnp.abs(turned.x) - 0.45, turned.y - 0.32, 0.2, 0.16)
    canvas = over(canvas, skin * jnp.array([1.05, 0.72, 0.7])[:, None, None], head.blush * rosy)
    top = 0.5 + 0.35 * jnp.abs(turned.x) - 1.1 * (turned.x / head.width) ** 4
    cheeks = jnp.maximum(top - turned.y, jnp.abs(turned.x) - hair.beard_width)
    beard = jnp.clip(0.5 - cheeks / 0.1, 0, 1) * hair.beard
    return over(canvas, hair.colour * 0.9 * light, skull * beard)


def draw_nose(canvas: Canvas, at: Grid, face: Face) -> Canvas:
    """Paints the nose by its shadows and its highlight."""
    head, side = face.head, jnp.sign(face.pose.light_x)
    y = at.y - head.nose_y
    bridge = glow(at.x + side * 0.09, y + 0.16, 0.06, 0.2)
    canvas = over(canvas, canvas * 0.78, 0.7 * bridge)
    canvas = over(canvas, canvas * 0.8, at.fill(ellipse(at.x, y - 0.02, head.nose_width, 0.085)))
    canvas = over(canvas, canvas / 0.84, at.fill(ellipse(at.x, y + 0.03, head.nose_width * 0.8, 0.1)))
    nostril = ellipse(jnp.abs(at.x) - head.nose_width * 0.5, y - 0.05, 0.04, 0.025)
    canvas = over(canvas, canvas * 0.45, at.fill(nostril))
    return over(canvas, 1.0, 0.25 * glow(at.x - side * 0.03, y + 0.02, 0.06, 0.06))


def draw_mouth(canvas: Canvas, at: Grid, light: Plane, face: Face) -> Canvas:
    """Paints the moustache, the lips and, when it is open, the inside of the mouth."""
    mouth, head, hair = face.mouth, face.head, face.hair
    x = at.x
    y = at.y - mouth.y + mouth.smile * ((x / mouth.width) ** 2 - 0.4) + mouth.skew * x
    whiskers = parabolas(x, y + 0.06 + mouth.thick, mouth.width * 1.15, -0.12, 0.05)
    canvas = over(canvas, hair.colour * light, hair.moustache * at.fill(whiskers))
    natural = head.skin * jnp.array([0.88, 0.62, 0.6])[:, None, None]
    colour = over(natural, mouth.lips, mouth.lipstick * 0.85) * light
    up, down = -0.35 * mouth.open, 0.65 * mouth.open
    lips = parabolas(x, y, mouth.width, up - mouth.thick, down + mouth.thick * 1.2)
    canvas = over(canvas, colour, at.fill(lips))
    seam = jnp.maximum(jnp.abs(y) - 0.022, jnp.abs(x) - mouth.width * 0.97)
    canvas = over(canvas, colour * 0.35, at.fill(seam) * (mouth.open == 0))
    hole = at.fill(parabolas(x, y, mouth.width * 0.88, up, down)) * (mouth.open > 0)
    inside = over(jnp.array([0.3, 0.06, 0.08])[:, None, None], 0.93, at.fill(y - up - mouth.teeth))
    tongue = at.fill(ellipse(x, y - down - 0.02, mouth.width * 0.55, 0.12))
    inside = over(inside, jnp.array([0.8, 0.35, 0.38])[:, None, None], tongue)
    return over(canvas, inside, hole)


def draw_eyes(canvas: Canvas, at: Grid, light: Plane, face: Face) -> Canvas:
    """Paints both eyes and brows, folded onto one by the symmetry of the face."""
    eyes, hair = face.eyes, face.hair
    side = jnp.sign(at.x)
    outward = jnp.abs(at.x) - eyes.apart
    y = at.y - eyes.y
    canvas = over(canvas, canvas * 0.6, eyes.shadow * glow(outward, y + 0.08, 0.3, 0.2))
    opening = eyes.open * (1 - jnp.clip(3 * eyes.wink * side, 0, 1))
    # An eye shuts by its upper lid coming down onto the lower one, not by both meeting midway.
    lid = eyes.lower - (eyes.lower + eyes.upper) * opening
    tilted = y + eyes.slant * outward
    almond = parabolas(outward, tilted, eyes.width, lid, eyes.lower)
    white = at.fill(jnp.maximum(almond, jnp.abs(outward) - eyes.width)) * (opening > 0)
    x_iris, y_iris = outward - side * eyes.gaze_x, y - eyes.gaze_y
    radius = jnp.sqrt(x_iris**2 + y_iris**2 + 1e-9)
    ball = over(jnp.full((3, 1, 1), 0.95), eyes.iris, at.fill(radius - eyes.iris_size))
    ball = over(ball, 0.04, at.fill(radius - eyes.iris_size * 0.5))
    glint = ellipse(x_iris - 0.12 * side * face.pose.light_x, y_iris + 0.04, 0.032, 0.032)
    ball = over(ball, 1.0, at.fill(glint)) * (1 - 0.35 * glow(0 * y, tilted - lid, 1, 0.06))
    canvas = over(canvas, ball, white)
    arch = lid * (1 - (outward / eyes.width) ** 2)
    lash = jnp.maximum(jnp.abs(tilted - arch) - 0.028, jnp.abs(outward) - eyes.width * 1.04)
    canvas = over(canvas, 0.22 * face.head.skin, at.fill(lash))
    bend = eyes.brow_bend * (1 - (outward / 0.24) ** 2)
    y_brow = y + eyes.brow_y + bend + eyes.brow_angle * outward
    brow = box(outward - 0.02, y_brow, 0.24, eyes.brow_thick, eyes.brow_thick)
    return over(canvas, hair.colour * 0.75 * light, 0.92 * at.fill(brow))


def draw_outfit(canvas: Canvas, at: Grid, turned: Grid, light: Plane, face: Face) -> Canvas:
    """Paints glasses or sunglasses, and the hat."""
    outfit, eyes = face.outfit, face.eyes
    outward, y = jnp.abs(turned.x) - eyes.apart, turned.y - eyes.y - 0.02
    lens = box(outward, y, outfit.lens_width, outfit.lens_height, outfit.lens_round)
    worn = jnp.maximum(outfit.glasses, outfit.shades)
    arms = jnp.maximum(jnp.abs(y + 0.06) - 0.025, -lens)
    frame = jnp.minimum(jnp.abs(lens) - 0.03, arms)
    frame = jnp.maximum(frame, jnp.abs(at.x) - face.head.width)
    tint = over(canvas, 0.06 + 0.25 * outfit.frame * (0.8 - y), jnp.full_like(y, 0.93))
    canvas = over(canvas, tint, outfit.shades * at.fill(lens))
    canvas = over(canvas, 1.0, 0.12 * outfit.glasses * at.fill(jnp.maximum(lens, y + 0.7 * outward)))
    canvas = over(canvas, outfit.frame, worn * at.fill(frame))
    edge = outfit.hat_y - 0.12 * turned.x**2
    top = ellipse(at.x, at.y + 0.2, face.head.width + 0.16, 1.05)
    hat = outfit.hat_colour * light
    canvas = over(canvas, hat, outfit.hat * at.fill(jnp.maximum(top, turned.y - edge)))
    band = jnp.maximum(top - 0.03, jnp.abs(turned.y - edge + 0.06) - 0.09)
    brim = box(turned.x, turned.y - edge, face.head.width + 0.4, 0.05, 0.05)
    canvas = over(canvas, hat * 0.75, outfit.hat * at.fill(band))
    return over(canvas, hat * 0.65, outfit.hat * outfit.brim * at.fill(brim))


def render(face: Face, size: int, supersample: int = 2) -> Float[Array, "size size 3"]:
    """Draws a face at `supersample` times the size and averages.

    Args:
        face: the attributes.
        size: height and width in pixels, static.
        supersample: points per pixel along each axis, static.

    Raises:
        ValueError: if `size` or `supersample` is below 1.
    """
    if size < 1 or supersample < 1:
        raise ValueError(
            f"`size` and `supersample` must be at least 1, got {size} and {supersample}; "
            "sizes from 32 on show a face well"
        )
    fine = size * supersample
    line = (jnp.arange(fine) + 0.5) * 2 / fine - 1
    image_x, image_y = jnp.meshgrid(line, line)
    pose, head = face.pose, face.head
    step = 2 / fine / pose.size
    x, y = (image_x - pose.x) / pose.size, (image_y - pose.y) / pose.size
    body = Grid(x - 0.5 * pose.tilt, y, step)
    cos, sin = jnp.cos(pose.tilt), jnp.sin(pose.tilt)
    at = Grid(cos * x + sin * y, cos * y - sin * x, step)
    # What is near the middle of the head is nearest to the viewer, so it moves most when it turns.
    near = jnp.clip(1 - (at.x / head.width) ** 2, 0, 1)
    turned = Grid(at.x - pose.yaw * near, at.y - pose.pitch * jnp.clip(1 - at.y**2, 0, 1), step)
    depth = jnp.sqrt(jnp.clip(1.1 - 0.5 * (at.x / head.width) ** 2 - 0.4 * at.y**2, 0.05, 1))
    light = jnp.clip(0.22 + 0.8 * depth + pose.light_x * at.x + pose.light_y * at.y, 0.3, 1.08)

    canvas = draw_backdrop(Grid(image_x, image_y, 2 / fine), face.backdrop)
    canvas = draw_back_hair(canvas, at, light, face)
    canvas = draw_body(canvas, body, light, face)
    canvas = draw_head(canvas, at, turned, light, face)
    canvas = draw_nose(canvas, turned, face)
    canvas = draw_mouth(canvas, turned, light, face)
    canvas = draw_eyes(canvas, turned, light, face)
    canvas = draw_front_hair(canvas, at, turned, light, face)
    canvas = draw_outfit(canvas, at, turned, light, face)
    blocks = canvas.reshape(3, size, supersample, size, supersample).mean((2, 4))
    return jnp.clip(2 * blocks.transpose(1, 2, 0) - 1, -1, 1)


@partial(jax.jit, static_argnums=1)
def draw_face(key: PRNGKeyArray, size: int) -> Float[Array, "size size 3"]:
    """Draws the face of a key, `render(sample_face(key), size)`.

    Args:
        key: a key; the same key is the same face, at every size.
        size: height and width in pixels, static.
    """
    return render(sample_face(key), size)
