"""Chains of several images in one program: every chain has the measurement of its own image."""

import copy
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdiff import sample_segments
from jaxdiff.metrics.diagnosis import Diagnose, Diagnosis
from jaxdiff.priors.denoiser import Prediction, Time
from jaxdiff.pytree import pytree
from jaxdiff.runs.methods import Run
from jaxdiff.runs.platform import devices_for

Own = list[Array]
"""The arrays of one image: whatever has an image's three axes, such as `y` and a mask."""


class State(NamedTuple):
    """State of a chain.

    Attributes:
        own: the arrays of its image, for sampler and observer.
        inner: the sampler's state.
    """

    own: Own
    inner: Any


@pytree
class PerImage:
    """A sampler that finds the arrays of the chain's image in the chain's state; also the observer of such chains.

    Args:
        sampler: the algorithm, with the arrays of any image.
        observer: what looks at it, likewise.
    """

    sampler: Any
    observer: Diagnose

    def init(self, key: PRNGKeyArray, t: Time) -> State:
        """Starts a chain of the image that it was made with."""
        return State(self.own(), self.sampler.init(key, t))

    def step(self, key: PRNGKeyArray, state: State, t: Time, s: Time) -> tuple[State, Prediction]:
        """Takes a step of the algorithm with the image's arrays."""
        inner, prediction = self.of(state.own).sampler.step(key, state.inner, t, s)
        return State(state.own, inner), prediction

    def start(self) -> Diagnosis:
        """Returns what is known before the first step; `zeros` follows in it."""
        return self.observer.start()

    def look(
        self, seen: Diagnosis, key: PRNGKeyArray, state: State, prediction: Prediction, after: State, t: Time, s: Time
    ) -> Diagnosis:
        """Takes in one step."""
        observer = self.of(state.own).observer
        seen = seen._replace(zeros=observer.start().zeros)
        return observer.look(seen, key, state.inner, prediction, after.inner, t, s)

    def own(self) -> Own:
        """Returns the image's arrays."""
        return [leaf for leaf in jax.tree.leaves(self._bare()) if jnp.ndim(leaf) == 3]

    def of(self, own: Own) -> "PerImage":
        """Returns the sampler of another image."""
        leaves, structure = jax.tree.flatten(self._bare())
        others = iter(own)
        bare = jax.tree.unflatten(structure, [next(others) if jnp.ndim(leaf) == 3 else leaf for leaf in leaves])
        return PerImage(_with_prior(bare.sampler, self.sampler.denoiser), bare.observer)

    def _bare(self) -> "PerImage":
        return PerImage(_with_prior(self.sampler, None), self.observer)


def _with_prior(sampler: Any, denoiser: Any) -> Any:
    """Exchanges the prior without the constructor, which would check the measurement against it."""
    other = copy.copy(sampler)
    object.__setattr__(other, "denoiser", denoiser)
    return other


@jax.jit
def _start(sampler: PerImage, own: Own, keys: PRNGKeyArray, t: Array) -> State:
    # The key of `sample`'s own start, so that a chain is what it would be alone.
    return jax.vmap(lambda own, key: sampler.of(own).init(jax.random.fold_in(key, jnp.int32(-1)), t))(own, keys)


class Drawn(NamedTuple):
    """What the chains of one image gave.

    Attributes:
        samples: one image per seed.
        diagnosis: what was seen of each.
        seconds: for each, without compiling.
    """

    samples: Float[np.ndarray, "n h w c"]
    diagnosis: Diagnosis
    seconds: float


def draw_images(
    runs: Sequence[Run], observers: Sequence[Diagnose], keys: Sequence[PRNGKeyArray], batch_size: int | None
) -> Iterator[Drawn]:
    """Draws the samples of several images at once, on all devices of this process.

    Args:
        runs: one per image, of one method; they differ in the arrays of the image alone.
        observers: one per image.
        keys: `(seeds,)` for every image.
        batch_size: chains at once.

    Yields:
        What came out, image by image.
    """
    seeds, times, devices = len(keys[0]), runs[0].times, devices_for(runs[0].sampler.denoiser.image_shape)
    samplers = [PerImage(run.sampler, observer) for run, observer in zip(runs, observers, strict=True)]
    own = [jnp.repeat(jnp.stack(leaves), seeds, 0) for leaves in zip(*(s.own() for s in samplers), strict=True)]
    chains = jnp.concatenate(keys)
    options = {"batch_size": batch_size, "devices": devices if len(devices) > 1 else None}
    started, images, seen = time.monotonic(), [], []
    with compile_meter() as compilation:
        state = _start(samplers[0], own, chains, jnp.asarray(times[0]))
        for progress in sample_segments(samplers[0], chains, times, state=state, observer=samplers[0], **options):
            images.append(np.asarray(progress.state.inner))
            seen.append(jax.tree.map(np.asarray, progress.seen))
    seconds = max(time.monotonic() - started - compilation.seconds, 0.0) / len(chains)
    samples, diagnosis = jax.tree.map(lambda *parts: np.concatenate(parts), *zip(images, seen, strict=True))
    for i in range(len(runs)):
        part = slice(i * seeds, (i + 1) * seeds)
        yield Drawn(samples[part], Diagnosis(*(leaf[part] for leaf in diagnosis)), seconds)
