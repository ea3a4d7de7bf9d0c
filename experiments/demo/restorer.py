"""Restoring a photo of which a part was painted over, step by step: what the demo shows, without its page."""

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxdiff import Denoiser, Measurement, measure, sample_segments
from jaxdiff.chains.memory import MARGIN, available_memory, describe_bytes
from jaxdiff.errors import UserError, check_positive
from jaxdiff.images.fit import Fit, Window, pixels, reduced
from jaxdiff.images.grid import heat
from jaxdiff.images.masks import check_hidden
from jaxdiff.images.photo import Photo
from jaxdiff.metrics.diagnosis import Diagnose, Diagnosis
from jaxdiff.operators import Mask
from jaxdiff.priors.denoiser import Prior
from jaxdiff.runs.fitting import MANY_PIXELS, fit_of_holes, fitted_prior
from jaxdiff.runs.methods import METHODS, best_method, default_steps, make_run
from jaxdiff.runs.runner import SNAPSHOTS, sample_keys
from jaxdiff.runs.scores import judge, residual_text

HINT = "paint over what is to be hidden, and leave something to go by"

SHOWN_PIXELS = 2**18
"""Pictures with more are averaged down on the page, not in the files."""

BYTES_PER_PIXEL = {"sdedit": 90, "ddnm": 90, "diffpir": 90}
"""Memory for a pixel of a sample by methods that follow no gradient, as `jaxdiff.chains.memory.plan` finds it for the
prior `photos`."""

GRADIENT_BYTES_PER_PIXEL = 960
"""The same for the other methods, at 512x512 pixels; larger pictures take less."""

SECONDS_PER_PIXEL = 5.5e-6
"""Time for a pixel of a sample in a step of the methods of `BYTES_PER_PIXEL`, on two free cores of a CPU, as
`experiments.photos` measured it."""


@dataclass(frozen=True)
class Question:
    """What is to be restored, and how.

    Attributes:
        photo: the photo, of which only what is not hidden is used.
        hidden: True where a pixel is hidden.
        method: a key of `METHODS`.
        seeds: number of samples.
        sigma_y: standard deviation of the noise to add to the known pixels, in [-1, 1] units.
        seed: root of all random numbers.
    """

    photo: Photo
    hidden: Bool[np.ndarray, "H W"]
    method: str
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
        samples: one per seed: the estimate `x0_hat` so far of the part that is sampled, in the end the whole picture.
        others: what is known of the picture; in the end also mean and standard deviation of the samples.
        status: how far it is; in the end what the samples are worth.
        files: in the end, the mean and the samples at the photo's own size.
    """

    samples: list[CaptionedImage]
    others: list[CaptionedImage]
    status: str
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Posed:
    """A question brought to a prior.

    Attributes:
        question: the question.
        fit: the part of the photo that is sampled, and at which size.
        measurement: what is known of it.
    """

    question: Question
    fit: Fit
    measurement: Measurement

    @property
    def wanted(self) -> Bool[np.ndarray, "h w"] | None:
        """The pixels of which the data say nothing, if they say all of the others; None for all."""
        return np.asarray(self.measurement.observed)[..., 0] == 0 if self.measurement.noiseless else None

    @property
    def replaced(self) -> Bool[np.ndarray, "H W"]:
        """The pixels of the photo that a sample replaces: with noise all that are sampled."""
        found = np.zeros_like(self.question.hidden)
        kept = self.fit.kept
        found[kept] = self.question.hidden[kept] if self.measurement.noiseless else True
        return found

    def whole(self, x: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "H W 3"]:
        """Returns the photo with a sample in its place; without noise every known pixel is the photo's, bit for bit."""
        return self.fit.paste(self.question.photo.x, x, self.replaced)

    def known(self) -> CaptionedImage:
        """The photo as it was measured, black half-way where nothing is known."""
        shown = np.where(self.question.hidden[..., None], np.float32(0), self.whole(np.asarray(self.measurement.y)))
        return CaptionedImage(reduced(shown, SHOWN_PIXELS), "what is known")


@dataclass
class Restorer:
    """What answers questions.

    Attributes:
        prior: the prior.
        steps: diffusion steps of a whole chain; by default those that suit the prior.
        compiled: the programs that are compiled.
    """

    prior: Denoiser
    steps: int | None = None
    compiled: set[Hashable] = field(default_factory=set)

    def __post_init__(self) -> None:
        num_times = self.prior.schedule.num_times
        self.steps = default_steps(self.prior) if self.steps is None else self.steps
        if not 1 <= self.steps <= num_times:
            raise UserError(f"--steps must be between 1 and {num_times}, got {self.steps}.")

    @property
    def method(self) -> str:
        """The method that restores best with this prior."""
        return best_method("inpaint", self.prior)

    def restorations(self, question: Question, folder: Path) -> Iterator[View]:
        """Draws the samples asked for, and shows them after every segment.

        What was compiled for a method, a number of samples and a size serves every picture and mask after.

        Args:
            question: what is to be restored.
            folder: where the files go.

        Raises:
            UserError: if nothing or everything is hidden, there is more to sample than `MANY_PIXELS` or than fits into
                memory, or a chain diverges.
        """
        problem = pose(question, self.prior)
        measurement, known, name = problem.measurement, [problem.known()], METHODS[question.method].name
        assert self.steps is not None
        fitted = fitted_prior(self.prior, (*problem.fit.prior, 3), problem.wanted)
        run = make_run(question.method, "inpaint", fitted, measurement, self.steps)
        program = (question.seeds, len(run.times), _signature(run.sampler))
        state = "starting ..." if program in self.compiled else "compiling, the first time only ..."
        keys, num_steps = sample_keys(question.seed, question.seeds), len(run.times) - 1
        size = size_text(problem, num_steps)
        yield View([], known, f"{name}, {_count(question.seeds, 'sample')} {size}: {state}")
        residual, started = residual_text(measurement), time.monotonic()
        segment = max(num_steps // SNAPSHOTS, 1)
        observer = Diagnose(fitted.schedule, measurement)
        for progress in sample_segments(run.sampler, keys, run.times, segment=segment, observer=observer):
            self.compiled.add(program)
            x = np.asarray(jax.vmap(run.sampler.image)(progress.state))
            _check_finite(x, name, progress.step)
            seconds = time.monotonic() - started
            if progress.step < num_steps:
                left = (seconds - progress.compile_seconds) * (num_steps / progress.step - 1)
                status = (
                    f"{name}: step {progress.step} of {num_steps}, {residual(progress.x0_hat)}{_seconds_left(left)}"
                )
                yield View(_captioned(np.asarray(progress.x0_hat), "estimate"), known, status)
                continue
            took = f"{seconds:.1f} s, {progress.compile_seconds:.1f} s of it for compiling"
            done = f"{_count(len(x), 'sample')} by {name} in {_count(num_steps, 'step')}: {took}."
            words = verdict_text(problem, x, Diagnosis(*map(np.asarray, progress.seen)))
            yield conclude(problem, np.clip(x, -1, 1), known, f"{done} {words}", folder)


def pose(question: Question, prior: Prior) -> Posed:
    """Measures what is not hidden, at the size of the prior.

    Raises:
        UserError: if nothing or everything is hidden, or there is too much to sample at once.
    """
    check_positive(seeds=question.seeds)
    check_hidden(question.hidden, "Your painting", HINT)
    name, size = question.photo.path.name, question.hidden.shape
    fit = fit_of_holes(prior, question.hidden, name)
    if question.sigma_y and isinstance(fit, Window):
        fit = Window(name, size, size)
    h, w = fit.prior
    if h * w > MANY_PIXELS:
        raise UserError(
            f"{pixels(h, w)} pixels are to be sampled, those around your painting or all where noise is added; this "
            f"page samples up to {MANY_PIXELS / 1e6:.1f} million. Paint less, or use the command jaxdiff restore."
        )
    if (needed := needed_memory(question, fit)) > MARGIN * available_memory(jax.devices()[0]):
        raise UserError(
            f"{_count(question.seeds, 'sample')} of {pixels(h, w)} pixels need about {describe_bytes(needed)} of "
            "memory, more than is free. Ask for fewer, or paint less."
        )
    hidden = fit.apply_hidden(question.hidden)
    check_hidden(hidden, "Your painting, as the prior sees it,", HINT)
    operator = Mask(1.0 - hidden[..., None].astype(np.float32))
    key = jax.random.fold_in(jax.random.key(question.seed), 1)
    return Posed(question, fit, measure(key, operator, jnp.asarray(fit.apply(question.photo.x)), question.sigma_y))


def needed_memory(question: Question, fit: Fit) -> int:
    """Returns about how many bytes the samples need; 0 for priors of one size, whose network decides it."""
    if not isinstance(fit, Window):
        return 0
    h, w = fit.prior
    return question.seeds * h * w * BYTES_PER_PIXEL.get(question.method, GRADIENT_BYTES_PER_PIXEL)


def size_text(problem: Posed, num_steps: int) -> str:
    """Returns of how many pixels the samples are, and what memory and time they need if that is much."""
    question, (h, w) = problem.question, problem.fit.prior
    needed = needed_memory(question, problem.fit)
    memory = f", in about {describe_bytes(needed)} of memory" if needed > 2**28 else ""
    known = isinstance(problem.fit, Window) and question.method in BYTES_PER_PIXEL
    minutes = question.seeds * h * w * num_steps * SECONDS_PER_PIXEL / 60
    time_needed = f", about {_count(round(minutes), 'minute')} on two cores of a CPU" if known and minutes > 1 else ""
    return f"of {pixels(h, w)} pixels{memory}{time_needed}"


def verdict_text(problem: Posed, x: Float[np.ndarray, "n h w 3"], diagnosis: Diagnosis) -> str:
    """Returns how well the samples, as they were drawn, agree with what is known."""
    verdict, _ = judge(x, problem.measurement, diagnosis, problem.question.method)
    put_back = " Then the known pixels were put back." if problem.measurement.noiseless else ""
    return f"{verdict.word.capitalize()}: {verdict.sentence}{put_back}"


def conclude(
    problem: Posed, samples: Float[np.ndarray, "n h w 3"], known: list[CaptionedImage], status: str, folder: Path
) -> View:
    """Writes mean and samples as files of the photo's kind, and returns them with their spread."""
    drawn = [("sample", f"restored_{k}.png", x) for k, x in enumerate(samples)]
    if len(samples) > 1:
        drawn.insert(0, (f"mean of the {len(samples)} samples", "restored.png", samples.mean(0)))
    shown, files = [], []
    photo, replaced = problem.question.photo.opaque(problem.question.hidden), problem.replaced
    for caption, name, x in drawn:
        restored = problem.whole(x)
        photo.write(folder / name, restored, replaced)
        shown.append(CaptionedImage(reduced(restored, SHOWN_PIXELS), caption))
        files.append(folder / name)
    mean, numbered = shown[: len(shown) - len(samples)], shown[len(shown) - len(samples) :]
    others = [*known, *mean, *([_spread(problem, samples)] if mean else [])]
    return View([one._replace(caption=f"sample {k}") for k, one in enumerate(numbered)], others, status, files)


def _spread(problem: Posed, samples: Float[np.ndarray, "n h w 3"]) -> CaptionedImage:
    std = np.repeat(samples.std(0).mean(-1, keepdims=True), 3, -1)
    nowhere = np.zeros_like(problem.question.photo.x)
    whole = reduced(problem.fit.paste(nowhere, std, problem.replaced), SHOWN_PIXELS)[..., 0]
    white = max(float(np.quantile(whole[whole > 0], 0.99)) if whole.any() else 0.0, 1e-6)
    return CaptionedImage(heat(whole, white), f"their standard deviation, white is {white:.2g}")


def _signature(sampler: Any) -> Hashable:
    """What jit tells programs apart by."""
    leaves, structure = jax.tree.flatten(sampler)
    return structure, tuple(np.shape(leaf) for leaf in leaves)


def _captioned(images: Float[np.ndarray, "n h w 3"], what: str) -> list[CaptionedImage]:
    return [CaptionedImage(reduced(x, SHOWN_PIXELS), f"{what} {k}") for k, x in enumerate(images)]


def _seconds_left(seconds: float) -> str:
    return f", about {seconds:.0f} s left" if seconds >= 2 else ""


def _check_finite(x: Float[np.ndarray, "n h w 3"], name: str, step: int) -> None:
    if not np.isfinite(x).all():
        raise UserError(f"{name} diverged (not a finite number) by step {step}; more --steps make every step gentler.")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
