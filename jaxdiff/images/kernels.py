"""Blur kernels from files, at the size of the pictures that they blur."""

from math import ceil
from pathlib import Path
from tokenize import TokenError

import numpy as np
from jaxtyping import Float

from jaxdiff.errors import UserError
from jaxdiff.images.fit import overlaps, pixels
from jaxdiff.images.opening import warn
from jaxdiff.images.photo import read_photo

_OTHER = (".mat", ".npz", ".txt", ".csv", ".pt", ".pth", ".pkl")


def read_kernel(path: Path) -> Float[np.ndarray, "kh kw"]:
    """Reads a blur kernel for `jaxdiff.operators.Blur` from a grey picture or a matrix in a `.npy` file.

    The file shows what becomes of one point of light. `Blur` correlates, so the kernel is turned by 180 degrees; files
    of codes that correlate too (DPS is one) are to be saved as `kernel[::-1, ::-1]`. Its centre is the middle
    pixel; an even side gets a row or column of zeros at the end first. Empty margins are cut off evenly, and the sum
    becomes 1. A picture's transparent pixels count as black. A warning tells how much weight lies on a background
    that is not black.

    Raises:
        UserError: if the file is neither, or holds no matrix of finite numbers with a positive sum.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _OTHER:
        raise UserError(f"the kernel {path} is neither a picture nor a .npy file; write its matrix with numpy.save.")
    if suffix == ".npy":
        kernel = _read_matrix(Path(path))
    else:
        kernel = (read_photo(path).over(-1.0).mean(axis=-1, dtype=np.float64) + 1) / 2
    if not np.isfinite(kernel).all():
        raise UserError(f"the kernel {path} holds NaN or infinite numbers; save finite ones.")
    total = kernel.sum()
    # Rounding leaves a little of the sum of an edge filter, to which nothing may be normalised.
    if total <= 1e-3 * np.abs(kernel).sum():
        raise UserError(f"the kernel {path} has no positive sum; bright pixels or positive numbers are its weights.")
    _warn_of_background(kernel, path)
    odd = np.pad(kernel / total, [(0, 1 - side % 2) for side in kernel.shape])
    return _trim(_trim(odd).T).T[::-1, ::-1].astype(np.float32)


def scale_kernel(kernel: Float[np.ndarray, "kh kw"], scale: float) -> Float[np.ndarray, "_ _"]:
    """Returns the kernel for a picture made smaller by `scale`: areas are added up around the centre, the sum stays 1.

    The sides stay odd. A result of 1x1 is no blur: the kernel lies within one pixel.
    """
    for _ in range(2):
        side = len(kernel)
        new_side = 2 * ceil((side / scale - 1) / 2) + 1
        old, new = (np.arange(side + 1) - side / 2) / scale, np.arange(new_side + 1) - new_side / 2
        kernel = (overlaps(old, new) @ kernel).T
    return (kernel / kernel.sum()).astype(np.float32)


def check_kernel(kernel: Float[np.ndarray, "kh kw"], image: tuple[int, int], what: str) -> None:
    """Refuses a kernel that is too large for images of this height and width, whose edges are reflected."""
    largest = [2 * side - 1 for side in image]
    if any(side > limit for side, limit in zip(kernel.shape, largest, strict=True)):
        raise UserError(
            f"{what} has {pixels(*kernel.shape)} pixels at the prior's resolution, "
            f"more than {pixels(*largest)}; cut its margins off."
        )


def _warn_of_background(kernel: Float[np.ndarray, "kh kw"], path: Path) -> None:
    """Warns if more than a tenth of the weight lies on a flat background: most pixels, of the border's level.

    A box is no background: it is flat everywhere. Small matrices are weights chosen by hand.
    """
    if kernel.size < 64 or kernel.min() < 0:
        return
    border = np.concatenate([kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1]])
    background = np.abs(kernel - np.median(border)) <= 0.02 * kernel.max()
    share = kernel[background].sum() / kernel.sum()
    if 0.5 <= background.mean() < 1 and share > 0.1:
        warn(
            f"the kernel {path} has only {1 - share:.0%} of its weight on its stroke, the rest on its background of "
            f"{np.median(border) / kernel.max():.1%} of the peak; make the background black, and the stroke bright"
        )


def _read_matrix(path: Path) -> Float[np.ndarray, "kh kw"]:
    try:
        # Memory-mapped, so that a damaged header asks for no memory; objects are refused, never unpickled.
        matrix = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise UserError(f"there is no kernel {path}.") from error
    except (OSError, ValueError, TypeError, SyntaxError, TokenError, OverflowError) as error:
        raise UserError(f"{path} is not a whole .npy file of numbers; write it with numpy.save.") from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise UserError(f"the kernel {path} must be a matrix of real numbers, got {matrix.dtype} of {matrix.shape}.")
    return np.array(matrix, np.float64)


def _trim(kernel: Float[np.ndarray, "kh kw"]) -> Float[np.ndarray, "_ kw"]:
    """Cuts off rows of zeros, as many above as below."""
    rows, middle = np.flatnonzero(kernel.any(axis=1)), len(kernel) // 2
    radius = max(middle - rows[0], rows[-1] - middle)
    return kernel[middle - radius : middle + radius + 1]
