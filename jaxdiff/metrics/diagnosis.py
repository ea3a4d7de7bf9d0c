"""Whether samples can be trusted: what is worth remembering of a run, and a verdict in words."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdiff.measurement import Measurement
from jaxdiff.noise import GaussianNoise
from jaxdiff.priors.denoiser import Prediction, Time
from jaxdiff.pytree import pytree
from jaxdiff.schedule import Schedule

ABOUT_ONE = (0.7, 1.5)
"""Residual ratios that are called about 1: about half to twice the energy of the noise."""

LARGEST_MISS = 0.1
"""Without noise: root mean square of the residual, in [-1, 1] units, above which the data were ignored."""

LARGEST_EXCESS = 1.5
"""Mean noise level above which steps overshoot: the images held half as much again as the noise of their times. Where
the samples miss the data all the same, that is why; where they do not, the chain came back."""

BLOWN_UP = 10.0
"""Mean noise level above which a chain diverged, whatever its residual. Steps that overshoot and come back stay
below; those that each make the last one's error larger soon exceed any bound."""

FEW_ZEROS = 0.01
"""Share of measured entries that may be exactly 0 in spite of noise."""


class Diagnosis(NamedTuple):
    """What is remembered of a chain; with many chains every entry is an array.

    Attributes:
        residual: `Measurement.residual_ratio` of the prior's estimate in the latest step.
        noise_level: `||x_t - alpha_t x0_hat|| / (sigma_t sqrt(h w c))` in the latest step: the noise that the image
            holds beside the prior's estimate, over the noise of its time. At most about 1 under any integrator, as
            long as the chain stays where the prior expects it.
        mean_noise_level: its mean over all steps.
        clipped: share of the entries of `x0_hat` at or beyond -1 or 1, in the latest step.
        steps: steps taken.
        first_bad: time of the first step whose result is not finite; -1 for none.
    """

    residual: Float[Array | np.ndarray, "*n"]
    noise_level: Float[Array | np.ndarray, "*n"]
    mean_noise_level: Float[Array | np.ndarray, "*n"]
    clipped: Float[Array | np.ndarray, "*n"]
    steps: Int[Array | np.ndarray, "*n"]
    first_bad: Int[Array | np.ndarray, "*n"]


@pytree
class Diagnose:
    r"""Observes a chain, whatever its integrator and its state; for `jaxdiff.sample_segments`.

    .. math:: \text{noise level} = \lVert x_t - \alpha_t \hat x_0 \rVert \,/\, (\sigma_t \sqrt{h w c})

    with the estimate of the prior alone. It needs no further network call.

    Args:
        schedule: the prior's.
        measurement: what the samples should agree with.
    """

    schedule: Schedule
    measurement: Measurement

    def start(self) -> Diagnosis:
        """Returns what is known before the first step."""
        nothing = jnp.float32(0)
        return Diagnosis(nothing, nothing, nothing, nothing, jnp.int32(0), jnp.int32(-1))

    def look(
        self, seen: Diagnosis, sampler: Any, state: Any, prediction: Prediction, after: Any, t: Time, s: Time
    ) -> Diagnosis:
        """Takes in one step."""
        x_t, x_s, x0_hat = sampler.image(state), sampler.image(after), prediction.before_guidance
        alpha_t, sigma_t = self.schedule(t)
        level = jnp.sqrt(jnp.mean((x_t - alpha_t * x0_hat) ** 2)) / jnp.where(sigma_t > 0, sigma_t, 1.0)
        first_bad = (seen.first_bad < 0) & ~jnp.isfinite(x_s).all()
        found = Diagnosis(
            residual=self.measurement.residual_ratio(x0_hat),
            noise_level=level,
            mean_noise_level=seen.mean_noise_level + (level - seen.mean_noise_level) / (seen.steps + 1),
            clipped=jnp.mean(jnp.abs(x0_hat) >= 1),
            steps=seen.steps + 1,
            first_bad=jnp.where(first_bad, jnp.int32(t), seen.first_bad),
        )
        # The same types in every step, whatever the precision of images and of JAX.
        return jax.tree.map(lambda new, old: new.astype(old.dtype), found, seen)


def exact_zeros(measurement: Measurement) -> Float[Array, ""]:
    """Returns the share of the measured entries that are exactly 0 in spite of Gaussian noise."""
    if not isinstance(measurement.noise, GaussianNoise):
        return jnp.zeros(())
    seen = measurement.observed
    share = jnp.sum(seen * (measurement.y == 0)) / jnp.sum(seen)
    return jnp.where(jnp.asarray(measurement.sigma_y) > 0, share, 0.0)


class Remedies(NamedTuple):
    """What a method offers against a bad verdict, as the end of a sentence that begins with a verb.

    Attributes:
        weaker: what makes it follow the data less; empty if nothing does.
        stronger: what makes it follow the data more; empty if nothing does.
        sees_data: whether it looks at the data in every step.
    """

    weaker: str = ""
    stronger: str = ""
    sees_data: bool = True


NOTHING_TO_CHANGE = Remedies()
"""Of a method without hyper-parameters."""


class Verdict(NamedTuple):
    """What samples are worth.

    Attributes:
        word: the verdict.
        sentence: the numbers behind it, and what is likely to help.
    """

    word: Literal["data ignored", "data over-fitted", "diverged", "healthy"]
    sentence: str


def verdict(
    ratios: Float[np.ndarray, " n"],
    measurement: Measurement,
    diagnosis: Diagnosis | None,
    *,
    remedies: Remedies = NOTHING_TO_CHANGE,
) -> Verdict:
    """Judges the samples of one run, by what needs no truth and holds for every sampler and integrator.

    For draws from the posterior `(x, y)` is distributed like `(truth, y)`: on average over the prior `m ratio^2` is
    chi-square with `m` degrees of freedom, so that the ratio is 1 within a few `1 / sqrt(2 m)`. A sampler's own bias
    is larger. `experiments.verdicts` shows how often the words are right, on held-out faces and on Gaussian posteriors.

    A wrong mask need not show in the residual, as a grey square in a face can be fitted as well as a face. It shows in
    entries that are exactly 0, as hidden ones are. What was hidden with another value cannot be found so, and "healthy"
    says nothing about what was not measured.

    Steps that are too long overshoot, which shows in the noise level of the images on the way. It tells too strong from
    too weak where the residual is large. Where the residual is about 1 the chain came back, unless it had left by
    orders of magnitude; what was hidden may still show it, and the sentence says so.

    Args:
        ratios: `Measurement.residual_ratio` of every sample.
        measurement: what they should agree with; without noise the ratios are root mean squares.
        diagnosis: what was observed of every chain; None leaves out what only it can tell.
        remedies: what the method offers.
    """
    ratio, noiseless = float(np.mean(ratios)), measurement.noiseless
    return (
        _diverged(ratio, noiseless, diagnosis, remedies)
        or _wrong_mask(measurement)
        or _residual(ratio, len(ratios), noiseless, diagnosis, remedies)
    )


def _diverged(ratio: float, noiseless: bool, diagnosis: Diagnosis | None, remedies: Remedies) -> Verdict | None:
    first_bad = -1 if diagnosis is None else int(np.max(diagnosis.first_bad))
    if first_bad >= 0 or not np.isfinite(ratio):
        since = f" from time {first_bad} on" * (first_bad >= 0)
        fix = _advice("look for NaN in the weights and in the data", remedies.weaker, "take more steps")
        return Verdict("diverged", f"A chain is not finite{since}: {fix}.")
    level, missed = _level(diagnosis), ratio > _bounds(noiseless)[1]
    if diagnosis is None or level <= (LARGEST_EXCESS if missed else BLOWN_UP):
        return None
    steps = int(np.max(diagnosis.steps))
    fix = _advice(remedies.weaker, f"take more than {steps} steps", "check σ, which may be too small")
    return Verdict("diverged", f"The images held {level:.1f} times the noise of their times: {fix}.")


def _level(diagnosis: Diagnosis | None) -> float:
    return 0.0 if diagnosis is None else float(np.mean(diagnosis.mean_noise_level))


def _bounds(noiseless: bool) -> tuple[float, float]:
    return (0.0, LARGEST_MISS) if noiseless else ABOUT_ONE


def _wrong_mask(measurement: Measurement) -> Verdict | None:
    zeros = float(exact_zeros(measurement))
    if zeros <= FEW_ZEROS:
        return None
    what = f"{zeros:.0%} of the entries that count as measured are exactly 0 in spite of noise, as hidden ones are"
    return Verdict("data over-fitted", f"{what}, and the samples follow them: check the mask.")


def _residual(ratio: float, count: int, noiseless: bool, diagnosis: Diagnosis | None, remedies: Remedies) -> Verdict:
    over, (low, high) = f", averaged over {count} seeds" * (count > 1), _bounds(noiseless)
    if not noiseless:
        number = f"The residual ‖y − A x‖ / (σ √m) is {ratio:.2f}{over}"
        below, about, above = "too far below 1", "about 1, as that of the truth", "too far above 1"
    else:
        number = f"The samples miss the data by {127.5 * ratio:.1f} of 255 steps (root mean square{over})"
        below, about, above = "", "little", "too much"
    if ratio > high:
        fix = _advice(remedies.stronger, "take more steps", "check the mask or kernel and σ, which may be too small")
        if not remedies.sees_data:
            others = "take a method that looks at the data in every step, not at its start only"
            fix = _advice(remedies.stronger, others)
        return Verdict("data ignored", f"{number}: {above}, so the data were ignored, at least in part; {fix}.")
    if ratio < low:
        fix = _advice(remedies.weaker, "check σ, which may be too large")
        return Verdict("data over-fitted", f"{number}: {below}, so the noise of the data was fitted; {fix}.")
    return Verdict("healthy", f"{number}: {about}, so the samples agree with the data{_caveat(diagnosis, remedies)}.")


def _caveat(diagnosis: Diagnosis | None, remedies: Remedies) -> str:
    if (level := _level(diagnosis)) <= LARGEST_EXCESS:
        return ""
    fix = _advice(remedies.weaker, "take more steps")
    return f". On the way the images held {level:.1f} times the noise of their times, so doubt what was hidden: {fix}"


def _advice(*parts: str) -> str:
    return ", and ".join(part for part in parts if part)
