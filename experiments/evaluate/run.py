"""The evaluation of a few images with all problems and methods."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.evaluate.images import Picture
from experiments.evaluate.records import Entry
from experiments.shared.problems import PROBLEMS, Problem, make_operator
from jaxdiff import Denoiser, Measurement, measure, sample_segments
from jaxdiff.chains.batched import StackedObserver, stack
from jaxdiff.metrics.diagnosis import Diagnose, Diagnosis
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.priors.denoiser import Prior
from jaxdiff.runs.methods import Run, make_run
from jaxdiff.runs.platform import devices_for
from jaxdiff.runs.scores import judge, score_samples

KEYS = (
    "root = fold_in(fold_in(jax.random.key(seed), a), b) with a, b the first two big-endian 32-bit words of the "
    "image's sha256; of_task(i) = fold_in(fold_in(root, i), task index); mask: of_task(0); noise: of_task(1); "
    "sample k, for all methods: fold_in(of_task(2), k); step from t: fold_in(sample key, t); initial noise: "
    "fold_in(sample key, -1); task index: box 0, random 1, blur 2"
)


@dataclass(frozen=True)
class Measured:
    """One image measured for one problem.

    Attributes:
        truth: the image.
        problem: the problem with its measurement.
        mask_key: the key of what is random in the operator.
        keys: one per sample.
    """

    truth: Float[Array, "h w 3"]
    problem: Problem
    mask_key: PRNGKeyArray
    keys: PRNGKeyArray


class ImageSamples(NamedTuple):
    """What the chains of one image gave.

    Attributes:
        samples: one image per seed.
        diagnosis: what was observed of every chain.
        seconds: per sample, without compiling.
    """

    samples: Float[np.ndarray, "n h w c"]
    diagnosis: Diagnosis
    seconds: float


def draw_images(
    runs: Sequence[Run],
    prior: Prior,
    problems: Sequence[Problem],
    keys: Sequence[PRNGKeyArray],
    batch_size: int | None,
) -> Iterator[ImageSamples]:
    """Draws the samples of several images at once, on all devices of this process.

    Args:
        runs: one per image, of one method; they differ in numbers only.
        prior: shared by all.
        problems: one per image, with their measurements.
        keys: `(seeds,)` for every image.
        batch_size: chains at once.

    Yields:
        What came out, image by image.
    """
    seeds, times, devices = len(keys[0]), runs[0].times, devices_for(prior.image_shape)
    samplers = [run.sampler for run in runs for _ in range(seeds)]
    observers = [Diagnose(prior.schedule, problem.measurement) for problem in problems for _ in range(seeds)]
    chains = jnp.concatenate(keys)
    stacked, state = stack(samplers, chains, int(times[0]), shared=prior, observers=observers)
    options = {"batch_size": batch_size, "devices": devices if len(devices) > 1 else None}
    started, compiling, images, seen = time.monotonic(), 0.0, [], []
    for progress in sample_segments(
        stacked, chains, times, state=state, observer=StackedObserver(observers[0]), **options
    ):
        images.append(np.asarray(jax.vmap(stacked.image)(progress.state)))
        seen.append(jax.tree.map(np.asarray, progress.seen))
        compiling = progress.compile_seconds
    seconds = max(time.monotonic() - started - compiling, 0.0) / len(chains)
    samples, diagnosis = jax.tree.map(lambda *parts: np.concatenate(parts), *zip(images, seen, strict=True))
    for i in range(len(runs)):
        part = slice(i * seeds, (i + 1) * seeds)
        yield ImageSamples(samples[part], Diagnosis(*(leaf[part] for leaf in diagnosis)), seconds)


@dataclass(frozen=True)
class Evaluation:
    """What every image is evaluated with.

    Attributes:
        prior: the prior.
        nets: LPIPS networks by column.
        problems: keys of `PROBLEMS`.
        methods: keys of `METHODS`.
        seeds: samples of every image.
        steps: of a whole chain.
        sigma: standard deviation of the measurement noise.
        seed: root of all random numbers.
        batch_size: chains at once.
        images: images at once; a shorter last group is filled up with copies, so that nothing is compiled for it.
    """

    prior: Denoiser
    nets: Mapping[str, LPIPS]
    problems: Sequence[str]
    methods: Sequence[str]
    seeds: int
    steps: int
    sigma: float
    seed: int
    batch_size: int | None
    images: int

    def measure(self, picture: Picture, name: str) -> Measured:
        """Simulates a measurement."""
        truth = jnp.asarray(picture.read(), jnp.float32)
        operator, y, mask_key, keys = _simulate(picture.key(self.seed), truth, name, self.sigma, self.seeds)
        return Measured(truth, Problem(name, Measurement(operator, y, self.sigma), {}), mask_key, keys)

    def evaluate(self, pictures: Sequence[Picture]) -> list[Entry]:
        """Returns all records of at most `images` images."""
        entries = [{"image": p.name, "sha256": p.sha256, "records": []} for p in pictures]
        filled = [*pictures, *[pictures[-1]] * (self.images - len(pictures))]
        for name in self.problems:
            measured = [self.measure(picture, name) for picture in filled]
            for method in self.methods:
                drawn = self.draw(measured, method)
                for entry, one, found in zip(entries, measured, drawn, strict=False):
                    entry["records"] += self.records(one, method, found)
        return entries

    def draw(self, measured: Sequence[Measured], method: str) -> list[ImageSamples]:
        """Draws the samples of one method for images measured for the same problem."""
        problems = [one.problem for one in measured]
        runs = [make_run(method, p.task, self.prior, p.measurement, self.steps) for p in problems]
        return list(draw_images(runs, self.prior, problems, [one.keys for one in measured], self.batch_size))

    def records(self, measured: Measured, method: str, drawn: ImageSamples) -> list[dict[str, Any]]:
        """Returns a record per seed."""
        problem = measured.problem
        rows = score_samples(drawn.samples, problem.measurement, truth=measured.truth, nets=self.nets)
        words = judge(drawn.samples, problem.measurement, drawn.diagnosis, method)[1]
        return [
            {
                "task": problem.name,
                "method": method,
                **{name: _finite(value) for name, value in row.items()},
                "verdict": word,
                "seconds": drawn.seconds,
                "key": _in_words(key),
                "mask_key": _in_words(measured.mask_key),
            }
            for row, word, key in zip(rows, words, measured.keys, strict=True)
        ]


@partial(jax.jit, static_argnames=("name", "sigma", "seeds"))
def _simulate(
    root: PRNGKeyArray, truth: Float[Array, "h w 3"], name: str, sigma: float, seeds: int
) -> tuple[Any, Array, PRNGKeyArray, PRNGKeyArray]:
    """Returns operator, measurement, the mask's key, and the keys of the samples."""
    index, (h, w, c) = list(PROBLEMS).index(name), truth.shape
    mask, noise, samples = (jax.random.fold_in(jax.random.fold_in(root, i), index) for i in range(3))
    operator = make_operator(name, (h, w, c), mask)[0]
    keys = jax.vmap(lambda k: jax.random.fold_in(samples, k))(jnp.arange(seeds))
    return operator, measure(noise, operator, truth, sigma).y, mask, keys


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _in_words(key: PRNGKeyArray) -> str:
    """Returns a key as 16 hexadecimal digits."""
    return np.asarray(jax.random.key_data(key)).astype(">u4").tobytes().hex()
