"""The evaluation of a few images with all tasks and methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.evaluate.chains import Drawn, draw_images
from experiments.evaluate.images import Picture
from experiments.evaluate.records import Entry
from experiments.shared.problems import KINDS, TASKS, Problem, make_operator
from jaxdiff import Denoiser
from jaxdiff.measurement import measure
from jaxdiff.metrics.diagnosis import Diagnose
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.runs.methods import make_run
from jaxdiff.runs.scores import judge, score

KEYS = (
    "root = fold_in(fold_in(jax.random.key(seed), a), b) with a, b the first two big-endian 32-bit words of the "
    "image's sha256; of_task(i) = fold_in(fold_in(root, i), task index); mask: of_task(0); noise: of_task(1); "
    "sample k, for all methods: fold_in(of_task(2), k); step from t: fold_in(sample key, t); initial noise: "
    "fold_in(sample key, -1); task index: box 0, random 1, blur 2"
)


@dataclass(frozen=True)
class Measured:
    """One image measured for one task.

    Attributes:
        truth: the image.
        problem: the task with its measurement.
        mask_key: the key of what is random in the operator.
        keys: one per sample.
    """

    truth: Float[Array, "h w 3"]
    problem: Problem
    mask_key: PRNGKeyArray
    keys: PRNGKeyArray


@dataclass(frozen=True)
class Evaluation:
    """What every image is evaluated with.

    Attributes:
        denoiser: the prior.
        nets: LPIPS networks by column.
        tasks: short names.
        methods: likewise.
        seeds: samples of every image.
        steps: of a whole chain.
        sigma: standard deviation of the measurement noise.
        seed: root of all random numbers.
        batch_size: chains at once.
        images: images at once; a shorter last group is filled up with copies, so that nothing is compiled for it.
    """

    denoiser: Denoiser
    nets: Mapping[str, LPIPS]
    tasks: Sequence[str]
    methods: Sequence[str]
    seeds: int
    steps: int
    sigma: float
    seed: int
    batch_size: int | None
    images: int

    def measure(self, picture: Picture, task: str) -> Measured:
        """Simulates a measurement."""
        truth = jnp.asarray(picture.read(), jnp.float32)
        operator, y, mask_key, keys = _simulate(picture.key(self.seed), truth, task, self.sigma, self.seeds)
        return Measured(truth, Problem(task, operator, {}, y, self.sigma), mask_key, keys)

    def evaluate(self, pictures: Sequence[Picture]) -> list[Entry]:
        """Returns all records of at most `images` images."""
        entries = [{"image": p.name, "sha256": p.sha256, "records": []} for p in pictures]
        filled = [*pictures, *[pictures[-1]] * (self.images - len(pictures))]
        for task in self.tasks:
            measured = [self.measure(picture, task) for picture in filled]
            for method in self.methods:
                drawn = self.draw(measured, method)
                for entry, one, found in zip(entries, measured, drawn, strict=False):
                    entry["records"] += self.records(one, method, found)
        return entries

    def draw(self, measured: Sequence[Measured], method: str) -> list[Drawn]:
        """Draws the samples of one method for images measured for the same task."""
        problems = [one.problem for one in measured]
        kind, prior = KINDS[problems[0].task], self.denoiser
        runs = [make_run(method, kind, prior, p.operator, p.y, p.sigma_y, self.steps) for p in problems]
        observers = [Diagnose(prior.schedule, p.operator, p.y, p.sigma_y) for p in problems]
        return list(draw_images(runs, observers, [one.keys for one in measured], self.batch_size))

    def records(self, measured: Measured, method: str, drawn: Drawn) -> list[dict[str, Any]]:
        """Returns a record per seed."""
        problem = measured.problem
        given = drawn.samples, problem.operator, problem.y, problem.sigma_y
        rows = score(*given, truth=measured.truth, nets=self.nets)
        words = judge(*given, drawn.diagnosis)[1]
        return [
            {
                "task": problem.task,
                "method": method,
                **{name: _finite(value) for name, value in row.items()},
                "verdict": word,
                "seconds": drawn.seconds,
                "key": _in_words(key),
                "mask_key": _in_words(measured.mask_key),
            }
            for row, word, key in zip(rows, words, measured.keys, strict=True)
        ]


@partial(jax.jit, static_argnames=("task", "sigma", "seeds"))
def _simulate(
    root: PRNGKeyArray, truth: Float[Array, "h w 3"], task: str, sigma: float, seeds: int
) -> tuple[Any, Array, PRNGKeyArray, PRNGKeyArray]:
    """Returns operator, measurement, the mask's key, and the keys of the samples."""
    index, (h, w, c) = list(TASKS).index(task), truth.shape
    mask, noise, samples = (jax.random.fold_in(jax.random.fold_in(root, i), index) for i in range(3))
    operator = make_operator(task, (h, w, c), mask)[0]
    keys = jax.vmap(lambda k: jax.random.fold_in(samples, k))(jnp.arange(seeds))
    return operator, measure(noise, operator, truth, sigma), mask, keys


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _in_words(key: PRNGKeyArray) -> str:
    """Tells a key in 16 hexadecimal digits."""
    return np.asarray(jax.random.key_data(key)).astype(">u4").tobytes().hex()
