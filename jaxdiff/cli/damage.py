"""The damaged picture that `jaxdiff restore` is given: read, brought to the prior's size, and its forward model."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from rich.console import Console

from jaxdiff.cli.request import Restore
from jaxdiff.errors import UserError
from jaxdiff.images.fit import Fit, Window, around, pixels
from jaxdiff.images.kernels import check_kernel, read_kernel, scale_kernel
from jaxdiff.images.masks import check_hidden, read_mask
from jaxdiff.images.opening import PictureWarning
from jaxdiff.images.photo import Photo, read_photo
from jaxdiff.measurement import Measurement, measure
from jaxdiff.operators import Blur, GaussianBlur, Identity, Mask, observed
from jaxdiff.priors.denoiser import Denoiser
from jaxdiff.runs.methods import describe_sigma


@dataclass(frozen=True)
class Damage:
    """A damaged picture at the prior's size, and how it came about.

    Attributes:
        photo: the picture as given, at its own size.
        fit: how it was brought to the prior's size.
        hidden: which of its pixels are hidden; None unless inpainting.
        measurement: what was measured, at the prior's size.
        truth: the clean image, if the damage is simulated.
    """

    photo: Photo
    fit: Fit
    hidden: Bool[np.ndarray, "H W"] | None
    measurement: Measurement
    truth: Float[Array, "h w 3"] | None


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


def read_damage(request: Restore, prior: Denoiser, console: Console) -> Damage:
    """Reads the picture and what belongs to it, brings them to the prior's height and width, and says how.

    A prior of any size gets the picture as it is, or the part of it that is around the holes.
    """
    with warnings_said(console):
        photo = read_photo(request.damaged)
        picture, hidden = photo.x, None
        fit = fit_for(request, prior, picture.shape[:2])
        if request.task == "inpaint":
            photo, hidden = find_holes(request, photo)
            fit = around(hidden, str(request.damaged)) if prior.any_size else fit
        say(console, fit.describe())
        if hidden is not None:
            operator = read_holes(request, photo, hidden, fit, console)
        elif request.task == "deblur":
            operator = read_blur(request, fit, console)
        else:
            operator = Identity()
    image = jnp.asarray(fit.apply(picture))
    given = request.sigma_y
    if request.simulate:
        assert given is not None
        key = jax.random.fold_in(jax.random.key(request.seed), 1)
        damage = Damage(photo, fit, hidden, measure(key, operator, image, given), image)
    else:
        # The mean of n pixels has 1 / sqrt(n) of their noise.
        sigma_y = (estimate_sigma(picture) if given is None else given) / fit.scale
        measurement = Measurement(operator, observed(operator, image) * image, sigma_y)
        damage = Damage(photo, fit, hidden, measurement, None)
    estimated = " (estimated from the picture; --sigma sets it)" if given is None else ""
    averaged = (
        f" after averaging {fit.scale:.3g} x {fit.scale:.3g} pixels" if fit.scale > 1 and not request.simulate else ""
    )
    say(console, f"noise: {describe_sigma(float(damage.measurement.sigma_y))}{averaged}{estimated}")
    return damage


def fit_for(request: Restore, prior: Denoiser, size: tuple[int, int]) -> Fit:
    """Returns how a picture of this size is brought to the prior's."""
    name = str(request.damaged)
    if not prior.any_size:
        return Fit(name, size, prior.image_shape[:2], request.fit)
    return Window(name, size, size)


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


def read_holes(request: Restore, photo: Photo, hidden: Bool[np.ndarray, "H W"], fit: Fit, console: Console) -> Mask:
    """Returns the mask as the prior sees it, and says how much is hidden."""
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


def read_blur(request: Restore, fit: Fit, console: Console) -> Blur | GaussianBlur:
    """Returns the blur as it looks at the prior's size."""
    size = pixels(*fit.prior)
    if request.blur_std is not None:
        operator = GaussianBlur(request.blur_std / fit.scale, 2 * min(fit.prior) - 1)
        taps = len(operator.taps)
        words = f"a Gaussian of {request.blur_std:g} pixels, {request.blur_std / fit.scale:.3g} at {size}"
    else:
        assert request.kernel is not None
        kernel = scale_kernel(read_kernel(request.kernel), fit.scale)
        check_kernel(kernel, fit.prior, f"the kernel {request.kernel}")
        operator, taps = Blur(kernel), kernel.size
        words = f"{request.kernel}, {pixels(*kernel.shape)} at {size}"
    say(console, f"blur: {words}" + ("; that is finer than a pixel, nothing is left to deblur" if taps == 1 else ""))
    return operator
