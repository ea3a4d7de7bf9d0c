"""The damages that `experiments.photos` tries."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont

from jaxdiff.operators import JPEG, Bicubic, CircularBlur, GaussianBlur, Identity, Mask, motion_kernel

Picture = Float[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Damaging:
    """A damage.

    Attributes:
        title: in words.
        task: the key in `jaxdiff.runs.methods.TASKS`.
        make: `(h, w, random numbers) -> (operator, hidden pixels or None)`.
        sigma_y: standard deviation of the noise, in [-1, 1] units.
        margin: pixels along the edges that are not scored: peers that blur assume other edges.
        settings: what peers are told.
    """

    title: str
    task: str
    make: Callable[[int, int, np.random.Generator], tuple[Any, Bool[np.ndarray, "h w"] | None]]
    sigma_y: float = 0.0
    margin: int = 0
    settings: tuple[tuple[str, Any], ...] = ()


def _hide(draw: Callable[[int, int, np.random.Generator], Bool[np.ndarray, "h w"]]) -> Callable[..., Any]:
    def make(h: int, w: int, rng: np.random.Generator) -> tuple[Any, Bool[np.ndarray, "h w"]]:
        hidden = draw(h, w, rng)
        return Mask(1.0 - hidden[..., None].astype(np.float32)), hidden

    return make


def scratches(h: int, w: int, rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """Draws four broken lines, 5 pixels wide."""
    mask = Image.new("1", (w, h))
    for _ in range(4):
        steps = rng.normal(0, 1, (5, 2)) * [w / 6, h / 6]
        corners = np.cumsum(np.vstack([rng.uniform(0, [w, h]), steps]), 0)
        ImageDraw.Draw(mask).line([tuple(corner) for corner in corners.tolist()], fill=1, width=5)
    return np.asarray(mask)


def text(h: int, w: int, rng: np.random.Generator) -> Bool[np.ndarray, "h w"]:
    """Writes lines of text over all of it, in letters of a tenth of the width."""
    mask = Image.new("1", (w, h))
    font = ImageFont.load_default(w / 10)
    for top in range(int(rng.integers(0, 12)), h, h // 5):
        ImageDraw.Draw(mask).text((4, top), "posterior samples", fill=1, font=font)
    return np.asarray(mask)


def _blurred(kernel: Callable[[], Any]) -> Callable[..., Any]:
    return lambda h, w, rng: (CircularBlur(kernel()), None)


TRIALS = {
    "scratches": Damaging("scratches, 5 pixels wide", "inpaint", _hide(scratches)),
    "text": Damaging("text", "inpaint", _hide(text)),
    "missing-50": Damaging("50 % of the pixels missing", "inpaint", _hide(lambda h, w, rng: rng.random((h, w)) < 0.5)),
    "missing-80": Damaging("80 % of the pixels missing", "inpaint", _hide(lambda h, w, rng: rng.random((h, w)) < 0.8)),
    "gaussian-blur": Damaging(
        "Gaussian blur of 1.6 pixels, noise 2/255",
        "deblur",
        _blurred(lambda: GaussianBlur(1.6).kernel),
        2 / 127.5,
        16,
    ),
    "motion-blur": Damaging(
        "motion blur of 15 pixels, noise 2/255", "deblur", _blurred(lambda: motion_kernel(15, 30)), 2 / 127.5, 16
    ),
    "x2": Damaging("x2, bicubic", "upscale", lambda h, w, rng: (Bicubic(2), None), settings=(("factor", 2),)),
    "x4": Damaging("x4, bicubic", "upscale", lambda h, w, rng: (Bicubic(4), None), settings=(("factor", 4),)),
    "jpeg-10": Damaging("JPEG of quality 10", "jpeg", lambda h, w, rng: (JPEG(10), None)),
    "jpeg-30": Damaging("JPEG of quality 30", "jpeg", lambda h, w, rng: (JPEG(30), None)),
    "noise-15": Damaging("noise 15/255", "denoise", lambda h, w, rng: (Identity(), None), 15 / 127.5),
    "noise-25": Damaging("noise 25/255", "denoise", lambda h, w, rng: (Identity(), None), 25 / 127.5),
    "noise-50": Damaging("noise 50/255", "denoise", lambda h, w, rng: (Identity(), None), 50 / 127.5),
}
"""The damages by the names that `--trials` takes."""


def measured(y: Any, operator: Any, key: Any, sigma_y: float) -> Any:
    """Adds noise, and rounds to 8 bits where there is none: what a file would hold."""
    if sigma_y:
        return y + sigma_y * jax.random.normal(key, y.shape)
    return jnp.round((jnp.clip(y, -1, 1) + 1) * 127.5) / 127.5 - 1
