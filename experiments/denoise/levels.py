"""One noise level of one-step denoising: the estimates, their predicted errors, and how good both are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import rankdata
from jaxtyping import Array, Float

from jaxdiff import Measurement
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.metrics.pixels import psnr
from jaxdiff.operators import Identity
from jaxdiff.runs.scores import LABELS, mean_text, score_samples
from jaxdiff.runs.tables import NOT_AVAILABLE, Row

PUBLISHED = {50: "Qi: - / 0.055", 200: "Qi: 29.6 / 0.153", 300: "Zhu: 27.36 ± 0.18 / 0.199 ± 0.009"}
"""PSNR in dB / LPIPS of one FFHQ-256 face in the reports; Zhu over 5 noise draws."""

Draws = Float[np.ndarray, "n h w 3"]


@dataclass(frozen=True)
class Level:
    """What one noise level gave.

    Attributes:
        t: its time.
        noise: `sigma_t / alpha_t`.
        truth: the clean image.
        x_t: the noisy images, one per noise draw.
        x0_hat: their estimates.
        variance: their predicted variances; negative where the network is no exact posterior mean, or by chance.
        rows: the scores, one row per noise draw.
    """

    t: int
    noise: float
    truth: Float[np.ndarray, "h w 3"]
    x_t: Draws
    x0_hat: Draws
    variance: Draws
    rows: list[Row] = field(default_factory=list)

    def maps(self, draw: int) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
        """Returns true error and predicted standard deviation of a draw, as root mean squares over the colours."""
        error = np.sqrt(((self.x0_hat[draw] - self.truth) ** 2).mean(-1))
        return error, np.sqrt(np.maximum(self.variance[draw].mean(-1), 0))

    def mean(self, column: str, digits: int) -> str:
        """Returns mean and standard deviation of a score over the noise draws, as text."""
        return mean_text([row[column] for row in self.rows], digits)

    def rms(self, column: str) -> float:
        """Returns the root mean square of a score over the noise draws."""
        return float(np.sqrt(np.mean([float(row[column]) ** 2 for row in self.rows])))

    @property
    def ratio(self) -> float:
        """True error over predicted error; 1 is right, more is too sure."""
        predicted = self.rms("predicted_error")
        return self.rms("error") / predicted if predicted > 0 else float("inf")

    def scores(self, nets: Mapping[str, LPIPS]) -> list[Row]:
        """Scores every estimate and its predicted error, one row per noise draw."""
        noisy = np.asarray(jax.vmap(psnr, (0, None))(jnp.clip(self.x_t, -1, 1), self.truth)).tolist()
        truth = jnp.asarray(self.truth)
        rows: list[Row] = []
        for k, scores in enumerate(
            score_samples(self.x0_hat, Measurement(Identity(), truth, 0.0), truth=truth, nets=nets)
        ):
            del scores["residual_ratio"]
            error, _ = self.maps(k)
            predicted: Row = {
                "error": float(np.sqrt((error**2).mean())),
                "predicted_error": float(np.sqrt(max(self.variance[k].mean(), 0))),
                "rank_correlation": rank_correlation(*self.maps(k)),
            }
            rows.append({"t": self.t, **scores, "psnr_noisy": noisy[k], **predicted})
        return rows


def rank_correlation(a: Float[Array | np.ndarray, "h w"], b: Float[Array | np.ndarray, "h w"]) -> float | str:
    """Returns Spearman's correlation of two maps.

    >>> ramp = np.arange(6.0).reshape(2, 3)
    >>> round(rank_correlation(ramp, np.exp(ramp)), 2), round(rank_correlation(ramp, -(ramp**3)), 2)
    (1.0, -1.0)
    """
    ranks = [np.asarray(rankdata(x.ravel())) for x in (a, b)]
    if min(rank.std() for rank in ranks) == 0:
        return NOT_AVAILABLE
    return float(np.corrcoef(ranks)[0, 1])


def quality(levels: Sequence[Level], *, published: bool) -> list[Row]:
    """Returns a table of how good the estimates are.

    Args:
        levels: with their scores.
        published: also give the reports' numbers, which belong to FFHQ-256.
    """
    return [
        {
            "t": str(level.t),
            "noise / signal": f"{level.noise:.2f}",
            "noisy: PSNR (dB)": level.mean("psnr_noisy", 2),
            **{f"denoised: {label}": level.mean(name, 2 if name == "psnr" else 3) for name, label in LABELS.items()},
            **({"reports: PSNR / LPIPS": PUBLISHED.get(level.t, "")} if published else {}),
        }
        for level in levels
    ]


def uncertainty(levels: Sequence[Level]) -> list[Row]:
    """Returns a table of how well the errors are predicted."""
    return [
        {
            "t": str(level.t),
            "true error": f"{level.rms('error'):.3f}",
            "predicted error": f"{level.rms('predicted_error'):.3f}",
            "true / predicted": f"{level.ratio:.2f}",
            "rank correlation": level.mean("rank_correlation", 2),
        }
        for level in levels
    ]


def uncertainty_in_words(levels: Sequence[Level]) -> str:
    """Says whether the predicted errors are as large as the true ones."""
    ratios = [level.ratio for level in levels]
    span = " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (min(ratios), max(ratios))))
    return (
        f"On this image the true error is {span} times the predicted one. The prediction is right if that is 1 on "
        "average over images; one image may be harder (above 1) or easier (below 1) than most. The rank correlation "
        "tells whether errors are large at the pixels where they are predicted to be. It stays below 1 even for a "
        "perfect prediction, because an error is a single draw and the map is estimated from random probes."
    )
