"""Scoring samples: against the truth where it is known, and against the data always."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.measurement import Measurement
from jaxdiff.metrics.diagnosis import Diagnosis, Remedies, Verdict, verdict
from jaxdiff.metrics.lpips import LPIPS, load_lpips
from jaxdiff.metrics.pixels import SSIM_WINDOW, psnr, ssim
from jaxdiff.runs.methods import METHODS
from jaxdiff.runs.tables import NOT_AVAILABLE, Row

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips_vgg": False, "lpips_alex": False}
LABELS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips_vgg": "LPIPS (vgg)", "lpips_alex": "LPIPS (alex)"}

MOST_LPIPS_PIXELS = 2**21
"""LPIPS of a larger image reads "n/a": VGG16 needs 3 GB and half a minute of two CPU cores per megapixel and sample."""

_all_psnr, _all_ssim = (jax.jit(jax.vmap(metric, (0, None))) for metric in (psnr, ssim))
_distance = jax.jit(LPIPS.__call__)
_all_ratios = jax.jit(jax.vmap(Measurement.residual_ratio, (None, 0)))


def load_lpips_nets() -> tuple[dict[str, LPIPS], list[str]]:
    """Loads the LPIPS networks whose weights can be read; for the others one sentence each says why not."""
    found, missing = {}, []
    for net in ("vgg", "alex"):
        try:
            found[f"lpips_{net}"] = load_lpips(net)
        except (OSError, ValueError) as error:  # no score is worth losing finished samples
            missing.append(str(error))
    return found, missing


def score_samples(
    samples: Float[np.ndarray, "n h w c"],
    measurement: Measurement,
    *,
    truth: Float[Array, "h w c"] | None = None,
    nets: Mapping[str, LPIPS] | None = None,
) -> list[Row]:
    """Scores every sample, clipped to [-1, 1].

    Args:
        samples: one per seed.
        measurement: what they should agree with; without noise the residual ratio reads "n/a".
        truth: the image measured, if it is known; otherwise there is only the residual ratio. SSIM reads "n/a" where
            its window does not fit.
        nets: LPIPS networks by column; a column whose network is missing, or needs colour or an image of another
            size, reads "n/a".
    """
    clipped = jnp.clip(jnp.asarray(samples), -1, 1)
    columns: dict[str, Sequence] = {"seed": range(len(samples))}
    if truth is not None:
        columns["psnr"] = np.asarray(_all_psnr(clipped, truth)).tolist()
        fits = min(truth.shape[:2]) >= SSIM_WINDOW
        columns["ssim"] = np.asarray(_all_ssim(clipped, truth)).tolist() if fits else [NOT_AVAILABLE] * len(samples)
        for name in ("lpips_vgg", "lpips_alex"):
            columns[name] = _distances((nets or {}).get(name), clipped, truth)
    columns["residual_ratio"] = (
        [NOT_AVAILABLE] * len(samples)
        if measurement.noiseless
        else np.asarray(_all_ratios(measurement, clipped)).tolist()
    )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _distances(net: LPIPS | None, samples: Float[Array, "n h w c"], truth: Float[Array, "h w c"]) -> Sequence:
    if net is None or not net.takes(truth.shape) or truth.shape[0] * truth.shape[1] > MOST_LPIPS_PIXELS:
        return [NOT_AVAILABLE] * len(samples)
    # One after the other: all at once is no faster on a CPU and holds every sample's features.
    return [float(_distance(net, x, truth)) for x in samples]


def judge(
    samples: Float[np.ndarray, "n h w c"], measurement: Measurement, diagnosis: Diagnosis | None, method: str
) -> tuple[Verdict, list[str]]:
    """Returns the verdict on all samples, clipped to [-1, 1], and the word for every one alone.

    Args:
        samples: one per seed.
        measurement: what they should agree with.
        diagnosis: what was observed of every sample's chain, if it was.
        method: a key of `METHODS`, whose flags may help; empty for none.
    """
    ratios = np.asarray(_all_ratios(measurement, jnp.clip(jnp.asarray(samples), -1, 1)))
    row = METHODS.get(method)
    remedies = Remedies(row.weaker, row.stronger, row.sees_data) if row else Remedies(sees_data=False)

    def of(chosen: slice) -> Verdict:
        seen = None if diagnosis is None else Diagnosis(*(leaf[chosen] for leaf in diagnosis))
        return verdict(ratios[chosen], measurement, seen, remedies=remedies)

    return of(slice(None)), [of(slice(k, k + 1)).word for k in range(len(ratios))]


def mean_and_std(values: Sequence[object]) -> tuple[float, float] | None:
    """Returns mean and sample standard deviation over seeds, or None where a value is missing."""
    if not all(isinstance(v, int | float) for v in values):
        return None
    array = np.asarray(values, float)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


def mean_text(values: Sequence[object], digits: int) -> str:
    """Returns mean ± sample standard deviation over seeds, or "n/a" where a value is missing.

    >>> mean_text([1.0, 2.0], 2), mean_text(["n/a"], 2)
    ('1.50 ± 0.71', 'n/a')
    """
    found = mean_and_std(values)
    return NOT_AVAILABLE if found is None else f"{found[0]:.{digits}f} ± {found[1]:.{digits}f}"


def residual_text(measurement: Measurement) -> Callable[[Float[Array, "n h w c"]], str]:
    """Returns a function that says how far estimates are from the data, on average over the chains."""
    words = "residual {:.3f}" if measurement.noiseless else "residual {:.2f} x noise"
    return lambda x0_hat: words.format(float(jnp.mean(_all_ratios(measurement, x0_hat))))
