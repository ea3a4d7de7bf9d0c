"""Restoring a picture of which a part was painted over, step by step: what the demo shows, without its page."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxdiff import Denoiser, Measurement, measure, sample_segments
from jaxdiff.errors import UserError, check_positive
from jaxdiff.images.fit import Fit, read_fitted
from jaxdiff.images.grid import heat
from jaxdiff.images.masks import check_hidden
from jaxdiff.metrics.diagnosis import Diagnose, Diagnosis
from jaxdiff.operators import Mask
from jaxdiff.runs.methods import METHODS, make_run
from jaxdiff.runs.runner import SNAPSHOTS, sample_keys
from jaxdiff.runs.scores import judge, residual_text

HINT = "paint over what is to be hidden, and leave something to go by"


@dataclass(frozen=True)
class Question:
    """What is to be restored, and how.

    Attributes:
        image: the picture, of which only what is not hidden is used.
        hidden: True where a pixel is hidden.
        method: `sdedit`, `score-ald` or `dps`.
        seeds: number of samples.
        sigma_y: standard deviation of the noise to add to the known pixels, in [-1, 1] units.
        seed: root of all random numbers.
    """

    image: Float[np.ndarray, "h w 3"]
    hidden: Bool[np.ndarray, "h w"]
    method: str = "dps"
    seeds: int = 4
    sigma_y: float = 0.0
    seed: int = 0


class CaptionedImage(NamedTuple):
    """An image and what it is."""

    image: Float[np.ndarray, "h w 3"]
    caption: str


class View(NamedTuple):
    """What there is to see at one moment.

    Attributes:
        samples: one per seed: the estimate `x0_hat` so far, in the end the sample.
        others: what is known of the picture; in the end also mean and standard deviation of the samples.
        status: how far it is; in the end what the samples are worth.
    """

    samples: list[CaptionedImage]
    others: list[CaptionedImage]
    status: str


@dataclass
class Restorer:
    """What answers questions.

    Attributes:
        prior: the prior.
        steps: diffusion steps of a whole chain.
        compiled: methods and numbers of seeds whose programs are compiled.
    """

    prior: Denoiser
    steps: int
    compiled: set[tuple[str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        num_times = self.prior.schedule.num_times
        if not 1 <= self.steps <= num_times:
            raise UserError(f"--steps must be between 1 and {num_times}, got {self.steps}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the prior's images."""
        return self.prior.image_shape[0], self.prior.image_shape[1]

    def restorations(self, question: Question) -> Iterator[View]:
        """Draws the samples asked for, and shows them after every segment.

        Another picture or mask costs no compilation; another method or number of seeds does, once.

        Raises:
            UserError: if nothing or everything is hidden, or a chain diverges.
        """
        measurement = hide(question)
        known, name = [CaptionedImage(np.asarray(measurement.y), "what is known")], METHODS[question.method].name
        program = (question.method, question.seeds)
        state = "starting ..." if program in self.compiled else "compiling, the first time only ..."
        yield View([], known, f"{name}, {_count(question.seeds, 'sample')}: {state}")
        run = make_run(question.method, "inpaint", self.prior, measurement, self.steps)
        keys, num_steps = sample_keys(question.seed, question.seeds), len(run.times) - 1
        residual, started = residual_text(measurement), time.monotonic()
        segment = max(num_steps // SNAPSHOTS, 1)
        observer = Diagnose(self.prior.schedule, measurement)
        for progress in sample_segments(run.sampler, keys, run.times, segment=segment, observer=observer):
            self.compiled.add(program)
            x = np.asarray(jax.vmap(run.sampler.image)(progress.state))
            _check_finite(x, name, progress.step)
            status = f"{name}: step {progress.step} of {num_steps}, {residual(progress.x0_hat)}"
            if progress.step < num_steps:
                yield View(_captioned(np.asarray(progress.x0_hat), "estimate"), known, status)
                continue
            took = f"{time.monotonic() - started:.1f} s, {progress.compile_seconds:.1f} s of it for compiling"
            done = f"{_count(len(x), 'sample')} by {name} in {_count(num_steps, 'step')}: {took}."
            words = verdict_text(question, measurement, x, Diagnosis(*map(np.asarray, progress.seen)))
            yield conclude(question, x, known, f"{done} {words}")


def hide(question: Question) -> Measurement:
    """Measures what is not hidden.

    Raises:
        UserError: if nothing or everything is hidden.
    """
    check_positive(seeds=question.seeds)
    check_hidden(question.hidden, "Your painting", HINT)
    operator = Mask(1.0 - question.hidden[..., None].astype(np.float32))
    key = jax.random.fold_in(jax.random.key(question.seed), 1)
    return measure(key, operator, jnp.asarray(question.image), question.sigma_y)


def verdict_text(
    question: Question, measurement: Measurement, x: Float[np.ndarray, "n h w 3"], diagnosis: Diagnosis
) -> str:
    """Returns how well the samples, as they were drawn, agree with what is known."""
    verdict, _ = judge(x, measurement, diagnosis, question.method)
    put_back = " Then the known pixels were put back." if question.sigma_y == 0 else ""
    return f"{verdict.word.capitalize()}: {verdict.sentence}{put_back}"


def conclude(question: Question, x: Float[np.ndarray, "n h w 3"], known: list[CaptionedImage], status: str) -> View:
    """Returns the samples with their mean and spread.

    Without noise the known pixels are those of the picture, exactly.
    """
    samples = np.clip(x, -1, 1)
    if question.sigma_y == 0:
        samples = np.where(question.hidden[..., None], samples, known[0].image)
    others = list(known)
    if len(samples) > 1:
        std = samples.std(0).mean(-1)
        white = max(float(np.quantile(std, 0.99)), 1e-6)
        others.append(CaptionedImage(samples.mean(0), f"mean of the {len(samples)} samples"))
        others.append(CaptionedImage(heat(std, white), f"their standard deviation, white is {white:.2g}"))
    return View(_captioned(samples, "sample"), others, status)


def painted(layers: Sequence[UInt8[np.ndarray, "H W 4"]], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Returns which pixels of the prior are touched by paint, given the layers of paint on an enlarged picture."""
    if not layers:
        return np.zeros(size, bool)
    paint = np.any([layer[..., 3] > 0 for layer in layers], axis=0)
    return Fit("the painting", paint.shape, size).apply_hidden(paint)


def read_upload(path: Path, size: tuple[int, int]) -> tuple[Float[np.ndarray, "h w 3"], str]:
    """Reads a picture, brings it to the prior's size, and says what became of it.

    Raises:
        UserError: if it is no picture, or too small; the message names the file, not where the server keeps it.
    """
    try:
        image, fit = read_fitted(path, size)
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error
    return image, f"{fit.describe().replace(str(path), path.name)}."


def _captioned(images: Float[np.ndarray, "n h w 3"], what: str) -> list[CaptionedImage]:
    return [CaptionedImage(x, f"{what} {k}") for k, x in enumerate(images)]


def _check_finite(x: Float[np.ndarray, "n h w 3"], name: str, step: int) -> None:
    if not np.isfinite(x).all():
        raise UserError(f"{name} diverged (not a finite number) by step {step}; more --steps make every step gentler.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
