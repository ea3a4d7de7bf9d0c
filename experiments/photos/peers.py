"""What people use to restore photographs, as functions of what was measured. An extra: `pip install "jaxdiff[photos]"`.

Where a filter has a number to choose, the one with the best PSNR against the truth is taken: a favour to it.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

Picture = Float[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Given:
    """What a peer gets, in [0, 1].

    Attributes:
        y: the measurement.
        hidden: which pixels are hidden; None unless inpainting.
        kernel: the blur kernel; None unless deblurring.
        sigma: standard deviation of the noise.
        size: `(h, w)` of the picture to make.
    """

    y: Picture
    hidden: Bool[np.ndarray, "h w"] | None
    kernel: Float[np.ndarray, "k k"] | None
    sigma: float
    size: tuple[int, int]

    def padded_kernel(self) -> Float[np.ndarray, "k k"]:
        """Returns the kernel; there is one."""
        assert self.kernel is not None
        return self.kernel


Peer = Callable[[Given], list[Picture]]
"""Makes one picture, or one for each value of the number to choose."""


def _opencv(method: str) -> Peer:
    def run(given: Given) -> list[Picture]:
        import cv2  # pyright: ignore[reportMissingImports]

        assert given.hidden is not None
        eight = np.rint(given.y * 255).astype(np.uint8)  # as a file would hold it
        return [cv2.inpaint(eight, given.hidden.astype(np.uint8), 3, getattr(cv2, method)) / 255.0]

    return run


def _biharmonic(given: Given) -> list[Picture]:
    # scikit-image 0.26 reads memory that it has not filled, and fails where that is not zero: not in a fresh process.
    assert given.hidden is not None
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return [process.submit(_fill, given.y, given.hidden).result()]


def _fill(y: Picture, hidden: Bool[np.ndarray, "h w"]) -> Picture:
    from skimage.restoration import inpaint_biharmonic  # pyright: ignore[reportMissingImports]

    return inpaint_biharmonic(y, hidden.copy(), channel_axis=-1)


def _by_channel(function: Callable[[Any], Any], picture: Picture) -> Picture:
    return np.stack([function(picture[..., i]) for i in range(3)], -1)


def _wiener(given: Given) -> list[Picture]:
    from skimage.restoration import wiener  # pyright: ignore[reportMissingImports]

    balances = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)
    return [_by_channel(lambda x, b=b: wiener(x, given.padded_kernel()[::-1, ::-1], b), given.y) for b in balances]


def _richardson_lucy(given: Given) -> list[Picture]:
    from skimage.restoration import richardson_lucy  # pyright: ignore[reportMissingImports]

    flipped = given.padded_kernel()[::-1, ::-1]
    return [
        _by_channel(lambda x, n=n: richardson_lucy(np.maximum(x, 1e-6), flipped, n), given.y) for n in (5, 10, 20, 40)
    ]


def _non_local_means(given: Given) -> list[Picture]:
    from skimage.restoration import denoise_nl_means  # pyright: ignore[reportMissingImports]

    return [
        denoise_nl_means(given.y, 5, 6, h * given.sigma, sigma=given.sigma, fast_mode=True, channel_axis=-1)
        for h in (0.6, 0.8, 1.0)
    ]


def _total_variation(given: Given) -> list[Picture]:
    from skimage.restoration import denoise_tv_chambolle  # pyright: ignore[reportMissingImports]

    return [denoise_tv_chambolle(given.y, w, channel_axis=-1) for w in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)]


def _bm3d(given: Given) -> list[Picture]:
    from bm3d import bm3d_rgb  # pyright: ignore[reportMissingImports]

    return [np.asarray(bm3d_rgb(given.y, given.sigma))]


def _enlarged(filter: Image.Resampling) -> Peer:
    def run(given: Given) -> list[Picture]:
        enlarge = lambda x: np.asarray(
            Image.fromarray(x.astype(np.float32)).resize((given.size[1], given.size[0]), filter)
        )
        return [_by_channel(enlarge, given.y)]

    return run


def _for_unknown_noise(peer: Peer, *sigmas: float) -> Peer:
    return lambda given: [picture for sigma in sigmas for picture in peer(replace(given, sigma=sigma))]


PEERS: dict[str, dict[str, Peer]] = {
    "inpaint": {
        "OpenCV Telea": _opencv("INPAINT_TELEA"),
        "OpenCV Navier-Stokes": _opencv("INPAINT_NS"),
        "scikit-image biharmonic": _biharmonic,
    },
    "deblur": {
        "measurement": lambda given: [given.y],
        "Wiener, best of 6": _wiener,
        "Richardson-Lucy, best of 4": _richardson_lucy,
    },
    "upscale": {
        "bicubic": _enlarged(Image.Resampling.BICUBIC),
        "Lanczos": _enlarged(Image.Resampling.LANCZOS),
    },
    "jpeg": {
        "the file as it is": lambda given: [given.y],
        "non-local means, best of 3": _for_unknown_noise(_non_local_means, 0.04),
        "total variation, best of 6": _total_variation,
        "BM3D, best of 3": _for_unknown_noise(_bm3d, 0.02, 0.04, 0.06),
    },
    "denoise": {
        "measurement": lambda given: [given.y],
        "non-local means, best of 3": _non_local_means,
        "total variation, best of 6": _total_variation,
        "BM3D": _bm3d,
    },
}
"""What is tried for each task."""
