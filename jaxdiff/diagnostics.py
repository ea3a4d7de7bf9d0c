"""Whether samples can be trusted: what is worth remembering of a run, and a verdict in words."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.denoiser import Prediction
from jaxdiff.operators import Operator, observed, residual_ratio
from jaxdiff.pytree import pytree
from jaxdiff.sampling import Time, ancestral_step
from jaxdiff.schedule import Schedule

ABOUT_ONE = (0.7, 1.5)
"""Residual ratios that are called about 1: about half to twice the energy of the noise."""

LARGEST_MISS = 0.1
"""Without noise: root mean square of the residual, in [-1, 1] units, above which the data were ignored."""

LARGEST_GUIDANCE = 1.0
"""Mean guidance above which a chain diverged: it was moved further by the data than by diffusion."""

FEW_ZEROS = 0.01
"""Share of measured entries that may be exactly 0 in spite of noise."""


class Diagnosis(NamedTuple):
    """What is remembered of a chain; with many chains every entry is an array.

    Attributes:
        residual: `||y - A(x0_hat)|| / (sigma_y sqrt(m))` in the latest step; the root mean square of the residual where
            `sigma_y = 0`.
        guidance: length of what the sampler added to DDPM's own step, over the length of that step, in the latest step.
        mean_guidance: its mean over all steps but the one to the clean image, where DDPM adds no noise.
        clipped: share of the entries of `x0_hat` at or beyond -1 or 1, in the latest step.
        zeros: share of the measured entries that are exactly 0 in spite of noise, as only hidden ones can be.
        steps: steps taken.
        first_bad: time of the first step whose result is not finite; -1 for none.
    """

    residual: Float[Array | np.ndarray, "*n"]
    guidance: Float[Array | np.ndarray, "*n"]
    mean_guidance: Float[Array | np.ndarray, "*n"]
    clipped: Float[Array | np.ndarray, "*n"]
    zeros: Float[Array | np.ndarray, "*n"]
    steps: Int[Array | np.ndarray, "*n"]
    first_bad: Int[Array | np.ndarray, "*n"]


@pytree
class Diagnose:
    r"""Observes a chain whose state is the image `x_t`; for `jaxdiff.sample_segments`.

    .. math:: \text{guidance} = \lVert x_s - \mathrm{DDPM}(x_t) \rVert \,/\, \lVert \mathrm{DDPM}(x_t) - x_t \rVert

    DDPM's step is repeated with the same noise, so that an unguided chain has guidance 0. The compiler finds the two
    steps and takes one; what is left is less than 2 % of a step of the small shipped prior, and less of a larger one.

    Args:
        schedule: the prior's.
        operator: the forward model `A`.
        y: the measurement.
        sigma_y: standard deviation of its noise, in [-1, 1] units, or 0.
    """

    schedule: Schedule
    operator: Operator
    y: Float[Array, "..."]
    sigma_y: float

    def start(self) -> Diagnosis:
        """Returns what the measurement alone says."""
        measured = observed(self.operator, self.y)
        share = jnp.sum(measured * (self.y == 0)) / jnp.sum(measured)
        none, never = jnp.zeros(()), jnp.int32(-1)
        zeros = jnp.where(jnp.asarray(self.sigma_y) > 0, share, 0.0)
        return Diagnosis(none, none, none, none, zeros, jnp.int32(0), never)

    def look(
        self,
        seen: Diagnosis,
        key: PRNGKeyArray,
        x_t: Float[Array, "h w c"],
        prediction: Prediction,
        x_s: Float[Array, "h w c"],
        t: Time,
        s: Time,
    ) -> Diagnosis:
        """Takes in one step."""
        unit = jnp.where(jnp.asarray(self.sigma_y) > 0, self.sigma_y, 1.0)
        own = ancestral_step(self.schedule, key, x_t, prediction, t, s)
        guidance = jnp.sqrt(jnp.sum((x_s - own) ** 2) / jnp.sum((own - x_t) ** 2))
        mean = seen.mean_guidance + (guidance - seen.mean_guidance) / (seen.steps + 1)
        first_bad = (seen.first_bad < 0) & ~jnp.isfinite(x_s).all()
        return Diagnosis(
            residual=residual_ratio(self.operator, self.y, prediction.x0_hat, 1.0) / unit,
            guidance=guidance,
            mean_guidance=jnp.where(s >= 0, mean, seen.mean_guidance),
            clipped=jnp.mean(jnp.abs(prediction.x0_hat) >= 1, dtype=jnp.float32),
            zeros=seen.zeros,
            steps=seen.steps + 1,
            first_bad=jnp.where(first_bad, jnp.int32(t), seen.first_bad),
        )


class Verdict(NamedTuple):
    """What samples are worth.

    Attributes:
        word: the verdict.
        sentence: the numbers behind it, and what is likely to help.
    """

    word: Literal["data ignored", "data over-fitted", "diverged", "healthy"]
    sentence: str


def verdict(ratios: Float[np.ndarray, " n"], diagnosis: Diagnosis | None, sigma_y: float) -> Verdict:
    """Judges the samples of one run, by what needs no truth.

    For draws from the posterior `(x, y)` is distributed like `(truth, y)`: on average over the prior `m ratio^2` is
    chi-square with `m` degrees of freedom, so that the ratio is 1 within a few `1 / sqrt(2 m)`. A sampler's own bias
    is larger.

    The bounds come from 78 runs on `faces-32` (two faces, three tasks, 100 or 250 steps, `sigma_y = 0.05`). The 24 that
    are called healthy have ratios of 0.73 to 1.41 and lost 0.8 dB (median) against the best of their task, the 33 that
    ignored the data 7.3 dB, the 16 that diverged 9.0 dB, although 11 of these have such ratios too. Mean guidances were
    at most 0.53 or at least 1.06. Over-fitting (5 runs) cost at most 0.3 dB: good restorations, but no draws from the
    posterior.

    A wrong mask need not show in the residual: in 5 of 20 runs it was about 1, as DPS fits a grey square in a face as
    well as a face. It shows in entries that are exactly 0, as hidden ones are. What was hidden with another value
    cannot be found so, and "healthy" says nothing about what was not measured.

    Args:
        ratios: `jaxdiff.operators.residual_ratio` of every final sample; with `sigma_y = 0` the root mean square of the
            residual, which is the ratio with a `sigma_y` of 1.
        diagnosis: what was observed of every chain; None leaves out what only it can tell.
        sigma_y: standard deviation of the noise, in [-1, 1] units.
    """
    ratio = float(np.mean(ratios))
    return _diverged(ratio, diagnosis) or _wrong_mask(diagnosis) or _residual(ratio, len(ratios), diagnosis, sigma_y)


def _diverged(ratio: float, diagnosis: Diagnosis | None) -> Verdict | None:
    first_bad = -1 if diagnosis is None else int(np.max(diagnosis.first_bad))
    if first_bad >= 0 or not np.isfinite(ratio):
        since = f" from time {first_bad} on" * (first_bad >= 0)
        fix = "look for NaN in the weights and in the data, and take smaller or more steps"
        return Verdict("diverged", f"A chain is not finite{since}: {fix}.")
    guidance = 0.0 if diagnosis is None else float(np.mean(diagnosis.mean_guidance))
    if diagnosis is None or guidance <= LARGEST_GUIDANCE:
        return None
    steps = int(np.max(diagnosis.steps))
    fix = f"lower zeta or raise gamma, take more than {steps} steps, and check σ, which may be too small"
    sentence = f"The data moved the chain {guidance:.1f} times as far as diffusion itself, which overshoots: {fix}."
    return Verdict("diverged", sentence)


def _wrong_mask(diagnosis: Diagnosis | None) -> Verdict | None:
    zeros = 0.0 if diagnosis is None else float(np.max(diagnosis.zeros))
    if zeros <= FEW_ZEROS:
        return None
    what = f"{zeros:.0%} of the entries that count as measured are exactly 0 in spite of noise, as hidden ones are"
    return Verdict("data over-fitted", f"{what}, and the samples follow them: check the mask.")


def _residual(ratio: float, count: int, diagnosis: Diagnosis | None, sigma_y: float) -> Verdict:
    over = f", averaged over {count} seeds" * (count > 1)
    if sigma_y > 0:
        (low, high), number = ABOUT_ONE, f"The residual ‖y − A x‖ / (σ √m) is {ratio:.2f}{over}"
        below, about, above = "too far below 1", "about 1, as that of the truth", "too far above 1"
    else:
        low, high = 0.0, LARGEST_MISS
        number = f"The samples miss the data by {127.5 * ratio:.1f} of 255 steps (root mean square{over})"
        below, about, above = "", "little", "too much"
    if ratio > high:
        fix = "raise zeta or lower gamma, take more steps, and check the mask or kernel and σ, which may be too small"
        if diagnosis is not None and float(np.max(diagnosis.mean_guidance)) < 1e-3:
            fix = "this method looks at the data at its start at most; DPS and ScoreALD do in every step"
        return Verdict("data ignored", f"{number}: {above}, so the data were ignored, at least in part; {fix}.")
    if ratio < low:
        fix = "lower zeta or raise gamma, and check σ, which may be too large"
        return Verdict("data over-fitted", f"{number}: {below}, so the noise of the data was fitted; {fix}.")
    return Verdict("healthy", f"{number}: {about}, so the samples agree with the data.")
