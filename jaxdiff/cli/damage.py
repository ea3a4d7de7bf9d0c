"""The damaged picture that `jaxdiff restore` is given: read, brought to the prior's size, and its forward model."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from rich.console import Console

from jaxdiff.cli.request import Restore
from jaxdiff.errors import UserError
from jaxdiff.images.fit import Fit, Window, pixels
from jaxdiff.images.kernels import check_kernel, read_kernel, scale_kernel
from jaxdiff.images.masks import check_hidden, read_mask
from jaxdiff.images.opening import PictureWarning, read_compression
from jaxdiff.images.photo import Photo, read_photo
from jaxdiff.measurement import Measurement, measure
from jaxdiff.operators import JPEG, Bicubic, Blur, GaussianBlur, Grey, Identity, Mask, motion_kernel, observed
from jaxdiff.operators.base import Operator
from jaxdiff.operators.jpeg import SUBSAMPLING
from jaxdiff.priors.denoiser import Prior, any_size
from jaxdiff.runs.fitting import fit_of_holes
from jaxdiff.runs.methods import describe_sigma


@dataclass(frozen=True)
class Damage:
    """A damaged picture at the prior's size, and how it came about.

    Attributes:
        photo: the picture as given, at its own size.
        fit: how it was brought to the prior's size.
        hidden: which of its pixels are hidden; None unless inpainting.
        measurement: what was measured, at the prior's size.
        image_shape: `(h, w, 3)` of the image that was measured.
        truth: the clean image, if the damage is simulated.
    """

    photo: Photo
    fit: Fit
    hidden: Bool[np.ndarray, "H W"] | None
    measurement: Measurement
    image_shape: tuple[int, int, int]
    truth: Float[Array, "h w 3"] | None

    @property
    def wanted(self) -> Bool[np.ndarray, "h w"] | None:
        """The pixels of which the data say nothing, if they say all of the others; None for all."""
        if self.hidden is None or not self.measurement.noiseless:
            return None
        return np.asarray(self.measurement.observed)[..., 0] == 0

    @property
    def pasted(self) -> Bool[np.ndarray, "H W"] | None:
        """The pixels of the photo that a restoration replaces; None if it replaces all, or the damage is simulated."""
        if self.hidden is None or self.truth is not None:
            return None
        replaced = np.zeros_like(self.hidden)
        replaced[self.fit.kept] = self.hidden[self.fit.kept]
        return replaced

    def shown(self, x: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h2 w2 3"]:
        """Returns a restored image without its padding; one that was enlarged has none."""
        return self.fit.undo(x) if x.shape[:2] == self.fit.prior else x


class _Seen(NamedTuple):
    """What the forward model of a task is made from."""

    request: Restore
    photo: Photo
    hidden: Bool[np.ndarray, "H W"] | None
    fit: Fit
    console: Console


def say(console: Console, text: str) -> None:
    """Prints a line as it is; what the console cannot show is escaped."""
    encoding = console.encoding
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def warnings_said(console: Console) -> Iterator[None]:
    """Prints what is warned of while pictures are read."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", PictureWarning)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            say(console, str(message)) if issubclass(category, PictureWarning) else shown(message, category, *rest)

        warnings.showwarning = show
        yield


def read_damage(request: Restore, prior: Prior, console: Console) -> Damage:
    """Reads the picture and what belongs to it, brings them to the prior's height and width, and says how.

    A prior of any size gets the picture as it is, or the part of it that is around the holes.
    """
    with warnings_said(console):
        photo, hidden = read_photo(request.damaged), None
        fit = fit_for(request, prior, photo)
        if request.task == "inpaint":
            photo, hidden = find_holes(request, photo)
            fit = fit_of_holes(prior, hidden, str(request.damaged), request.fit)
        if request.task == "colourise":
            photo = photo.in_colour()
        say(console, fit.describe())
        operator = OPERATORS[request.task](_Seen(request, photo, hidden, fit, console))
    image = jnp.asarray(fit.apply(photo.x))
    h, w, _ = image.shape
    given = request.sigma_y
    if request.simulate:
        assert given is not None
        key = jax.random.fold_in(jax.random.key(request.seed), 1)
        damage = Damage(photo, fit, hidden, measure(key, operator, image, given), (h, w, 3), image)
    else:
        # The mean of n pixels has 1 / sqrt(n) of their noise.
        sigma_y = (estimate_sigma(photo.x) if given is None else given) / fit.scale
        y, image_shape = as_measured(request, operator, image)
        damage = Damage(photo, fit, hidden, Measurement(operator, y, sigma_y), image_shape, None)
    estimated = " (estimated from the picture; --sigma sets it)" if given is None else ""
    averaged = (
        f" after averaging {fit.scale:.3g} x {fit.scale:.3g} pixels" if fit.scale > 1 and not request.simulate else ""
    )
    say(console, f"noise: {describe_sigma(float(damage.measurement.sigma_y))}{averaged}{estimated}")
    return damage


def as_measured(
    request: Restore, operator: Operator, image: Float[Array, "h w 3"]
) -> tuple[Array, tuple[int, int, int]]:
    """Returns what a picture that is damaged already says, and the shape of the image behind it."""
    h, w, c = image.shape
    if request.task == "upscale":
        return image, (h * request.factor, w * request.factor, c)
    measured = operator(image) if request.task == "colourise" else observed(operator, image) * image
    return measured, (h, w, c)


def fit_for(request: Restore, prior: Prior, photo: Photo) -> Fit:
    """Returns how a picture of this size is brought to the prior's."""
    name, size = str(request.damaged), photo.x.shape[:2]
    enlarged = request.factor if request.task == "upscale" and not request.simulate else 1
    if not any_size(prior):
        side = tuple(side // enlarged for side in prior.image_shape[:2])
        if enlarged > 1 and (request.fit == "pad" or side * enlarged != prior.image_shape[:2]):
            raise UserError(f"a prior of {pixels(*prior.image_shape[:2])} pixels cannot enlarge this picture that way.")
        return Fit(name, size, (side[0], side[1]), request.fit)
    if request.task == "upscale" and request.simulate:
        return _middle(name, size, request.factor)
    return Window(name, size, size)


def _middle(name: str, size: tuple[int, int], factor: int) -> Window:
    """The largest part of a picture, from its upper left corner, whose sides the factor divides."""
    h, w = (side // factor * factor for side in size)
    if not h or not w:
        raise UserError(f"{name} has {pixels(*size)} pixels, fewer than --factor {factor}.")
    return Window(name, size, (h, w), window=(slice(0, h), slice(0, w)))


def estimate_sigma(picture: Float[np.ndarray, "h w 3"]) -> float:
    """Estimates the standard deviation of white noise, in [-1, 1] units, from the finest diagonal Haar details.

    Their median absolute value over 0.6745, but at least the rounding error of 8 bits.

    Raises:
        UserError: if a side is one pixel only, so that there are no details.

    References:
        Donoho & Johnstone, 1994, https://doi.org/10.1093/biomet/81.3.425
    """
    h, w, _ = picture.shape
    if min(h, w) < 2:
        raise UserError(f"the noise of a picture of {pixels(h, w)} pixels cannot be estimated; give it with --sigma.")
    x = picture[: h // 2 * 2, : w // 2 * 2]
    details = (x[::2, ::2] - x[::2, 1::2] - x[1::2, ::2] + x[1::2, 1::2]) / 2
    return max(float(np.median(np.abs(details)) / 0.6745), 2 / 255 / 12**0.5)


def find_holes(request: Restore, photo: Photo) -> tuple[Photo, Bool[np.ndarray, "H W"]]:
    """Returns what the mask hides, or without one what the photo says itself; then its hole is opaque."""
    own = request.mask is None or request.mask.resolve() == request.damaged.resolve()
    if request.mask is not None and not own:
        return photo, read_mask(request.mask, photo.x.shape, rule=request.mask_rule)
    if request.mask is None and photo.transparent is None and not (request.mask_alpha or request.mask_colour):
        raise UserError(
            "--task inpaint needs --mask MASK.png, a picture that is white where pixels are hidden; or a damaged "
            "picture that is transparent there, or painted in a colour that --mask-colour names."
        )
    rule = request.mask_rule
    if request.mask is None and request.mask_colour is None:
        rule = replace(rule, alpha=True)
    hidden = rule.hidden(photo, str(request.damaged))
    return photo.opaque(hidden) if photo.transparent is not None else photo, hidden


def _holes(seen: _Seen) -> Mask:
    """The mask as the prior sees it; says how much is hidden."""
    request, photo, hidden, fit, console = seen
    assert hidden is not None
    source = request.mask or request.damaged
    small, size = fit.apply_hidden(hidden), pixels(*fit.prior)
    fix = "a pixel of the prior is hidden if any part of it is; take a coarser mask, or a larger prior"
    check_hidden(small, f"the mask {source}, brought to the prior's {size} pixels,", fix)
    if hidden.sum() > hidden[fit.kept].sum():
        say(console, f"{source}: what it hides outside of the part kept stays as it is; --fit pad keeps it")
    say(console, f"{source}: {hidden.mean():.1%} of the pixels are hidden, {small.mean():.1%} at {size}")
    if photo.transparent is not None and (clear := (hidden & photo.transparent).mean()):
        say(console, f"{request.damaged}: {clear:.1%} of the pixels are filled and stay transparent, as they came")
    return Mask(1.0 - small[..., None].astype(np.float32))


def _blur(seen: _Seen) -> Blur | GaussianBlur:
    """The blur as it looks at the prior's size."""
    request, fit = seen.request, seen.fit
    size = pixels(*fit.prior)
    if request.blur_std is not None:
        operator = GaussianBlur(request.blur_std / fit.scale, 2 * min(fit.prior) - 1)
        taps = len(operator.taps)
        words = f"a Gaussian of {request.blur_std:g} pixels, {request.blur_std / fit.scale:.3g} at {size}"
    elif request.motion is not None:
        length, angle = request.motion
        kernel = np.asarray(motion_kernel(length / fit.scale, angle))
        check_kernel(kernel, fit.prior, f"a motion of {length:g} pixels")
        operator, taps = Blur(kernel), kernel.size
        words = f"a motion of {length:g} pixels at {angle:g} degrees"
    else:
        assert request.kernel is not None
        kernel = scale_kernel(read_kernel(request.kernel), fit.scale)
        check_kernel(kernel, fit.prior, f"the kernel {request.kernel}")
        operator, taps = Blur(kernel), kernel.size
        words = f"{request.kernel}, {pixels(*kernel.shape)} at {size}"
    nothing = "; that is finer than a pixel, nothing is left to deblur" if taps == 1 else ""
    say(seen.console, f"blur: {words}{nothing}")
    return operator


def _downsampling(seen: _Seen) -> Bicubic:
    say(seen.console, f"enlarged by {seen.request.factor}; taken to have been reduced by bicubic downsampling")
    return Bicubic(seen.request.factor)


def _compression(seen: _Seen) -> JPEG:
    request, fit = seen.request, seen.fit
    if fit.scale != 1:
        raise UserError("--task jpeg needs the picture at its own size, as --prior photos takes it.")
    if request.simulate:
        return JPEG(request.quality or 75)
    tables, shared, orientation = read_compression(request.damaged)
    subsampling = next((name for name, known in SUBSAMPLING.items() if known == shared), None)
    if subsampling is None:
        ways = ", ".join(SUBSAMPLING)
        raise UserError(f"{request.damaged}: {pixels(*shared)} pixels share a chroma sample; known are {ways}.")
    say(seen.console, f"JPEG, chroma {subsampling}; steps from {tables.min():g} to {tables.max():g} levels")
    return JPEG(tables=tables, subsampling=subsampling, orientation=orientation)


OPERATORS: dict[str, Callable[[_Seen], Operator]] = {
    "inpaint": _holes,
    "denoise": lambda seen: Identity(),
    "deblur": _blur,
    "upscale": _downsampling,
    "colourise": lambda seen: Grey(),
    "jpeg": _compression,
}
"""The forward model of every task."""
