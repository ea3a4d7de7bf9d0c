"""A picture and a prior brought together: the part of the picture that is sampled, and the prior at its size."""

import numpy as np
from jaxtyping import Bool

from jaxdiff.images.fit import Fit, around
from jaxdiff.priors.denoiser import Prior, any_size
from jaxdiff.priors.tiles import tiled

TILE = 208
"""Side of the tiles of large images, in pixels."""

MANY_PIXELS = 2**20
"""Of an image with more, all samples at once may need more memory than there is."""


def fit_of_holes(prior: Prior, hidden: Bool[np.ndarray, "h w"], name: str, mode: str = "crop") -> Fit:
    """Returns how a picture with holes is brought to a prior.

    A prior of any size gets the part of it that is around the holes, as it is.

    Args:
        prior: the prior.
        hidden: True where a pixel is hidden; some are.
        name: the picture's name in messages.
        mode: for a prior of one size, "crop" or "pad", see `Fit`.

    Raises:
        UserError: if the picture is too small for a prior of one size.
    """
    if any_size(prior):
        return around(hidden, name)
    return Fit(name, hidden.shape, prior.image_shape[:2], mode)


def fitted_prior(
    prior: Prior, image_shape: tuple[int, int, int], wanted: Bool[np.ndarray, "h w"] | None = None
) -> Prior:
    """Returns the prior for an image, in tiles if it takes any size and this one is large.

    Args:
        prior: the prior.
        image_shape: `(h, w, c)` of the image; that of the prior if it takes no other.
        wanted: pixels whose estimate is needed; all by default.
    """
    return tiled(prior, image_shape, TILE, wanted) if any_size(prior) else prior
