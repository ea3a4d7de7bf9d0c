"""How far a sample has come from a damaged face to a whole one, in the eyes of the prior's own network.

Whole faces, and the same faces damaged by a task's operator, are shown to the prior's network, and the direction that
tells the two groups apart in its innermost layer (Fisher's linear discriminant) becomes a ruler: 0 is the mean damaged
face, 1 the mean whole one. The realism of a sample is where it stands on that ruler.

It sees what is left of the damage (and a sample that is too smooth), and nothing else: an animal may well score 1. The
prior's denoising error, the first thing to think of, cannot do this: what is blurred or grey is easy to denoise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.shared.problems import held_out_face
from experiments.shared.setup import Config, Experiment
from jaxdiff import DDPM, Denoiser, time_grid
from jaxdiff.networks.blocks import space_to_depth
from jaxdiff.networks.layers import ResBlock
from jaxdiff.operators import Operator
from jaxdiff.runs.methods import Run
from jaxdiff.runs.runner import draw
from jaxdiff.samplers.base import perturb

RIDGE = 0.1
"""Added to every variance of the features, in units of their mean variance; results hardly change from 0.1 to 10."""

NOISE_DRAWS = 2
"""Over which features are averaged."""

BATCH_SIZE = 16
"""Images that go through the network at once."""


def innermost(network: Any, x_t: Float[Array, "n h w 3"], t: int) -> Float[Array, "n h2 w2 d"]:
    """Returns what the prior's UNet makes of noisy images where its resolution is lowest."""
    embedding = network.embed(jnp.full(len(x_t), t))
    hidden = space_to_depth(x_t, network.config.patch)
    for block in (*network.input_blocks, network.middle_block):
        for layer in block:
            hidden = layer(hidden, embedding) if isinstance(layer, ResBlock) else layer(hidden)
    return hidden


@jax.jit
def features(prior: Denoiser, images: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
    """Returns the innermost features of images with a little noise, which is the same for all and averaged over."""
    t = prior.schedule.num_times // 50
    keys = jax.random.split(jax.random.key(0), NOISE_DRAWS)

    def one(image: Float[Array, "h w 3"]) -> Float[Array, " d"]:
        noisy = jax.vmap(lambda key: perturb(prior.schedule, key, jnp.clip(image, -1, 1), t))(keys)
        return innermost(prior.network, noisy, t).mean(0).ravel()

    return jax.lax.map(one, images, batch_size=BATCH_SIZE)


@dataclass(frozen=True)
class Ruler:
    """A linear map from features to realism.

    Attributes:
        direction: realism gained per unit of every feature.
        zero: what the mean damaged face gives before 0 is set there.
    """

    direction: Float[np.ndarray, " d"]
    zero: float

    def __call__(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Returns the realism of every image."""
        return features @ self.direction - self.zero


def fit_ruler(whole: Float[np.ndarray, "n d"], damaged: Float[np.ndarray, "n d"]) -> Ruler:
    """Returns Fisher's discriminant between two groups of features, 0 at the mean of one and 1 at that of the other."""
    spread = np.concatenate([whole - whole.mean(0), damaged - damaged.mean(0)])
    unit = spread.std(0) + 1e-6
    _, lengths, axes = np.linalg.svd(spread / unit, full_matrices=False)
    variance = lengths**2 / len(spread)
    floor = RIDGE * variance.mean()
    gap = (whole.mean(0) - damaged.mean(0)) / unit
    # (covariance + floor)^-1 gap, with a covariance that is zero outside of the axes.
    solved = gap / floor + (axes @ gap * (1 / (variance + floor) - 1 / floor)) @ axes
    direction = solved / unit
    direction /= (whole.mean(0) - damaged.mean(0)) @ direction
    return Ruler(direction, float(damaged.mean(0) @ direction))


def reference_faces(config: Config, experiment: Experiment, count: int) -> Float[Array, "n h w 3"]:
    """Returns whole faces: held-out drawn ones, or, beside a photo, samples of the prior.

    Args:
        config: the flags of the experiment.
        experiment: what it began with.
        count: how many; none of them is the face that the experiment restores.
    """
    prior = experiment.prior
    if config.image is None:
        others = jnp.arange(count) + jnp.where(jnp.arange(count) >= config.face, 1, 0)
        size = prior.image_shape[0]
        return jax.jit(lambda indices: jax.lax.map(lambda i: held_out_face(i, size), indices))(others)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 3), count)
    run = Run(DDPM(prior), time_grid(prior.schedule.num_times, config.steps), {})
    store = config.out / "samples" / "references.npz"
    drawn = draw("samples of the prior", run, keys, store, experiment.console, batch_size=config.batch_size)
    return jnp.clip(jnp.asarray(drawn.samples), -1, 1)


@dataclass(frozen=True)
class Realism:
    """Realism on one task's ruler.

    Attributes:
        images: of the images in question.
        whole: of faces that were not used to make the ruler; about 1 if it can be trusted.
        damaged: of the same faces, damaged; about 0.
    """

    images: Float[np.ndarray, " n"]
    whole: Float[np.ndarray, " m"]
    damaged: Float[np.ndarray, " m"]


def judge_realism(
    prior: Denoiser, faces: Float[Array, "k h w 3"], tasks: Sequence[tuple[Operator, Float[ArrayLike, "_ h w 3"]]]
) -> list[Realism]:
    """Judges images, all in one call of the network's program.

    Args:
        prior: the prior.
        faces: whole ones; four fifths make the rulers, the rest checks them.
        tasks: operator and images of every task.
    """
    groups = [faces]
    for operator, images in tasks:
        groups += [jax.vmap(operator)(faces), jnp.asarray(images)]
    every = np.asarray(features(prior, jnp.concatenate(groups)))
    whole, *others = np.split(every, np.cumsum([len(group) for group in groups])[:-1])
    used = len(faces) * 4 // 5
    found = []
    for damaged, images in zip(others[::2], others[1::2], strict=True):
        ruler = fit_ruler(whole[:used], damaged[:used])
        found.append(Realism(ruler(images), ruler(whole[used:]), ruler(damaged[used:])))
    return found


@jax.jit
def denoising_error(prior: Denoiser, images: Float[Array, "n h w 3"]) -> Float[Array, " n"]:
    """Returns how badly the prior knows noise from image: the mean of `(eps - eps_hat)^2` at three low noise levels.

    Large for what the prior has not learned; small for what it has, but also for anything smooth.
    """
    times = jnp.array([prior.schedule.num_times // part for part in (50, 20, 10)])
    keys = jax.random.split(jax.random.key(0), NOISE_DRAWS)

    def error(image: Array, t: Array, key: PRNGKeyArray) -> Array:
        alpha_t, sigma_t = prior.schedule(t)
        x_t = perturb(prior.schedule, key, image, t)
        return jnp.mean((prior.predict(x_t, t).x0_hat - image) ** 2) * (alpha_t / sigma_t) ** 2

    every = jax.vmap(jax.vmap(error, (None, None, 0)), (None, 0, None))
    return jax.lax.map(lambda image: every(jnp.clip(image, -1, 1), times, keys).mean(), images, batch_size=BATCH_SIZE)
