"""What decides how a face looks: the attributes, and the distributions they are drawn from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Scalar = Float[Array, ""]
Colour = Float[Array, "3 1 1"]

SKIN = "f5cfb5 e3b08c bd855e 855438 4d3124"
HAIR = "110f14 1c1412 33201a 4a2a1a 663d24 94451e 996638 deb265 edd194 bdb9b5 8c8c90"
IRIS = "4d2814 80491f a8752a 4f8f3f 6b8592 3373cc"
LIPS = "8c1a26 cc1f33 b3335a"


def span(low: float, high: float) -> Any:
    """A number between `low` and `high`."""
    return lambda u: low + (high - low) * u[0]


def chance(probability: float) -> Any:
    """1 with this probability, else 0."""
    return lambda u: (u[0] < probability).astype(jnp.float32)


def either(probability: float, common: Any, rare: Any) -> Any:
    """A draw of `rare` with this probability, else of `common`."""
    return lambda u: jnp.where(u[3] < probability, rare(u), common(u))


def paint(saturation: tuple[float, float], value: tuple[float, float]) -> Any:
    """A colour of any hue."""

    def draw_colour(u):
        ramp = jnp.abs((u[0] * 6 + jnp.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
        s, v = span(*saturation)(u[1:]), span(*value)(u[2:])
        return (v * (1 - s + s * jnp.clip(ramp, 0, 1)))[:, None, None]

    return draw_colour


def blend(colours: str) -> Any:
    """A colour on the path through some (in hexadecimal), a little warmer or cooler."""
    stops = np.array([list(bytes.fromhex(c)) for c in colours.split()], np.float32) / 255

    def draw_colour(u):
        weights = jnp.clip(1 - jnp.abs(u[0] * (len(stops) - 1) - jnp.arange(len(stops))), 0, 1)
        warmth = 1 + (u[1] - 0.5) * jnp.array([0.1, -0.02, -0.2])
        return ((weights[:, None] * stops).sum(0) * warmth)[:, None, None]

    return draw_colour


# In the classes below the default of a field is not a value but the distribution it is drawn from.


class Pose(NamedTuple):
    """Where the head is, how it is turned, where the light comes from (in image units, radians)."""

    x: Scalar = span(-0.12, 0.12)
    y: Scalar = span(-0.06, 0.14)
    size: Scalar = span(0.7, 0.88)
    tilt: Scalar = span(-0.2, 0.2)
    yaw: Scalar = span(-0.22, 0.22)
    pitch: Scalar = span(-0.1, 0.1)
    light_x: Scalar = span(-0.3, 0.3)
    light_y: Scalar = span(-0.25, 0.0)


class Head(NamedTuple):
    """Skull, skin, nose, ears and neck (in units of the head, as all that follow)."""

    skin: Colour = blend(SKIN)
    width: Scalar = span(0.7, 0.9)
    jaw: Scalar = span(-0.08, 0.3)
    blush: Scalar = span(0.0, 0.3)
    ear: Scalar = span(0.13, 0.2)
    neck: Scalar = span(0.3, 0.46)
    nose_y: Scalar = span(0.28, 0.4)
    nose_width: Scalar = span(0.11, 0.19)


class Hair(NamedTuple):
    """Hair on the head and in the face."""

    colour: Colour = either(0.05, blend(HAIR), paint((0.4, 0.8), (0.3, 0.75)))
    present: Scalar = chance(0.9)
    volume: Scalar = either(0.15, span(0.04, 0.16), span(0.2, 0.42))
    length: Scalar = either(0.4, span(-0.1, 0.25), span(0.5, 1.5))
    line: Scalar = span(-0.75, -0.32)
    temples: Scalar = span(0.2, 0.9)
    part: Scalar = span(-0.45, 0.45)
    part_depth: Scalar = either(0.5, span(0.0, 0.0), span(0.1, 0.7))
    swoop: Scalar = span(-0.3, 0.3)
    jag: Scalar = either(0.35, span(0.0, 0.0), span(0.03, 0.1))
    wave: Scalar = either(0.4, span(0.0, 0.0), span(0.02, 0.09))
    strands: Scalar = span(0.0, 0.25)
    bun: Scalar = chance(0.07)
    beard: Scalar = either(0.35, span(0.0, 0.0), span(0.4, 1.0))
    beard_width: Scalar = either(0.3, span(1.0, 1.0), span(0.3, 0.5))
    moustache: Scalar = chance(0.25)


class Eyes(NamedTuple):
    """Eyes and brows; `wink` closes one eye, below 0 the left one of the picture."""

    iris: Colour = blend(IRIS)
    iris_size: Scalar = span(0.1, 0.13)
    y: Scalar = span(-0.1, 0.02)
    apart: Scalar = span(0.33, 0.41)
    width: Scalar = span(0.2, 0.26)
    upper: Scalar = span(0.12, 0.19)
    lower: Scalar = span(0.06, 0.12)
    slant: Scalar = span(-0.18, 0.25)
    open: Scalar = either(0.08, span(0.45, 1.1), span(0.0, 0.0))
    wink: Scalar = either(0.04, span(0.0, 0.0), span(-1.0, 1.0))
    gaze_x: Scalar = span(-0.09, 0.09)
    gaze_y: Scalar = span(-0.05, 0.05)
    shadow: Scalar = span(0.05, 0.3)
    brow_y: Scalar = span(0.22, 0.36)
    brow_angle: Scalar = span(-0.35, 0.35)
    brow_bend: Scalar = span(0.0, 0.1)
    brow_thick: Scalar = span(0.022, 0.055)


class Mouth(NamedTuple):
    """The mouth; a positive `smile` lifts its corners."""

    lipstick: Scalar = chance(0.3)
    lips: Colour = blend(LIPS)
    y: Scalar = span(0.58, 0.68)
    width: Scalar = span(0.2, 0.38)
    smile: Scalar = span(-0.12, 0.22)
    skew: Scalar = span(-0.14, 0.14)
    open: Scalar = either(0.45, span(0.0, 0.0), span(0.08, 0.34))
    thick: Scalar = span(0.03, 0.085)
    teeth: Scalar = span(0.0, 0.12)


class Outfit(NamedTuple):
    """What is worn."""

    glasses: Scalar = chance(0.25)
    shades: Scalar = chance(0.07)
    frame: Colour = either(0.35, paint((0.0, 0.3), (0.05, 0.2)), paint((0.3, 0.8), (0.25, 0.7)))
    lens_width: Scalar = span(0.25, 0.3)
    lens_height: Scalar = span(0.17, 0.26)
    lens_round: Scalar = span(0.06, 0.16)
    hat: Scalar = chance(0.14)
    brim: Scalar = chance(0.5)
    hat_colour: Colour = paint((0.1, 0.7), (0.25, 0.9))
    hat_y: Scalar = span(-0.62, -0.42)
    earring: Scalar = chance(0.15)
    cloth: Colour = paint((0.0, 0.8), (0.15, 0.95))
    trim: Colour = paint((0.0, 0.5), (0.2, 0.95))
    neckline: Scalar = span(0.1, 0.4)


class Backdrop(NamedTuple):
    """A gradient between two colours, and two soft blobs."""

    near: Colour = paint((0.0, 0.6), (0.2, 0.95))
    far: Colour = paint((0.0, 0.6), (0.2, 0.95))
    angle: Scalar = span(0.0, 6.283)
    blob: Colour = paint((0.0, 0.6), (0.2, 1.0))
    blob_y: Scalar = span(-0.9, 0.9)
    left: Scalar = span(-0.4, 0.6)
    right: Scalar = span(-0.4, 0.6)


class Face(NamedTuple):
    """All that decides how a face looks."""

    pose: Pose
    head: Head
    hair: Hair
    eyes: Eyes
    mouth: Mouth
    outfit: Outfit
    backdrop: Backdrop


def sample_face(key: PRNGKeyArray) -> Face:
    """Draws the attributes of one face, each from the distribution beside its name.

    Args:
        key: a key; the same key is the same face.
    """

    parts = Face.__annotations__.values()
    # One draw for all fields: a generator per part would take longer to compile than the drawing.
    numbers = iter(jax.random.uniform(key, (sum(len(part._fields) for part in parts), 4)))
    face = Face(*(part(*(f(next(numbers)) for f in part._field_defaults.values())) for part in parts))
    beardless = (face.hair.length < 0.5) * (1 - face.mouth.lipstick)
    hair = face.hair._replace(beard=face.hair.beard * beardless, moustache=face.hair.moustache * beardless)
    return face._replace(hair=hair)
