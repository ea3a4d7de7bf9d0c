"""Trains the high-noise expert of a photo prior, on crops of photographs and on drawn dead leaves.

    python -m experiments.train --photos FOLDER
    python -m experiments.train --photos FOLDER --steps 3750 --minutes 60

Any folder of photographs will do. Free ones come with the Debian packages mate-backgrounds, lomiri-wallpapers-16.04,
lomiri-wallpapers-20.04 and plasma-workspace-wallpapers (`apt-get download PACKAGE`, then `dpkg -x PACKAGE.deb FOLDER`).
No prior that was trained on them is shipped.

Half of every batch is random crops of the photographs, half is dead leaves. The network sees noise levels from
`--first-time` up only; below, a denoiser of small noise takes over (`jaxdiff.priors.split`). Writes into the run's
folder: `checkpoints/` (a killed run goes on from the last one when the same command is given again), `held_out.csv`
(squared error of `eps_hat` on the held-out photographs, by noise level), `loss.csv`, and `prior/`, which
`jaxdiff.load_prior` reads. The batch is split between the devices, on a CPU between its cores.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import NamedSharding

from experiments.shared.command import run_script
from experiments.shared.training import (
    append_row,
    batch_shardings,
    first_state,
    forget_after,
    open_checkpoints,
    open_run,
    print_progress,
    restore_last,
)
from experiments.train.crops import random_crops, read_photographs, to_images
from experiments.train.leaves import draw_leaves
from jaxdiff.errors import UserError, check_positive
from jaxdiff.networks.precision import Dtype
from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.storage import parameters, save_prior
from jaxdiff.priors.training import TrainState, make_optimizer, make_train_step
from jaxdiff.schedule import Schedule

PROGRAM = "python -m experiments.train"
HELD_OUT_TIMES = (110, 200, 300, 500, 700, 900)
_HELD_OUT_CROPS = 16


@dataclass(frozen=True)
class Config:
    """Settings of a training run."""

    photos: Path
    """Folder of photographs to train on."""
    out: Path = Path("runs/photos-high")
    """Folder of the run; an unfinished run in it is continued."""
    held_out: tuple[str, ...] = ("bridge.jpg", "friends.jpg", "garden.jpg", "kleiber.jpg")
    """File names of photographs that are only used to measure the error."""
    sizes: tuple[int, ...] = (64,)
    """Sides of the crops, in pixels; every step takes one of them."""
    steps: int = 3750
    """Optimiser steps of the whole run; the learning rate decays over the last 40 %."""
    minutes: float | None = None
    """Stop after so many minutes, with a checkpoint."""
    batch_size: int = 16
    """Crops per step, over all devices; even."""
    channels: int = 64
    """Width of the network's first level."""
    channel_mult: tuple[int, ...] = (1, 2, 2)
    """Width of each level, as a multiple of `channels`."""
    num_res_blocks: int = 1
    """Residual blocks per level."""
    norm_groups: int = 8
    """Groups of every group norm."""
    first_time: int = 100
    """The smallest time that is trained."""
    learning_rate: float = 5e-4
    """Rate of AdamW before its decay."""
    dtype: Dtype = "tf32"
    """Precision of convolutions and matrix products: float32, tf32 (the same on CPUs) or bfloat16."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    log_every: int = 25
    """Steps between lines of the log."""
    seed: int = 0
    """Seed of weights, data and noise."""

    def __post_init__(self) -> None:
        check_positive(
            steps=self.steps,
            batch_size=self.batch_size,
            checkpoint_every=self.checkpoint_every,
            log_every=self.log_every,
        )
        if self.batch_size % 2:
            raise UserError(f"--batch-size must be even, got {self.batch_size}.")
        factor = self.network.size_factor
        if not self.sizes or any(size < factor or size % factor for size in self.sizes):
            raise UserError(f"--sizes must be multiples of {factor}, got {self.sizes}.")

    @property
    def network(self) -> UNetConfig:
        """The architecture: fully convolutional, on blocks of 2x2 pixels."""
        return UNetConfig(
            image_size=64,
            channels=self.channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            attention_resolutions=(),
            out_channels=3,
            norm_groups=self.norm_groups,
            patch=2,
            middle_attention=False,
        )

    @property
    def prior(self) -> PriorConfig:
        """The prior that this run makes."""
        left_out = ("photos", "out", "minutes", "checkpoint_every", "log_every")
        settings = {k: v for k, v in asdict(self).items() if k not in left_out}
        source = {"trained_on": "photographs and dead leaves", **settings}
        return PriorConfig(self.network, target="v", variance="fixed_small", source=source)


def train(config: Config) -> None:
    """Runs the training to its end, or to the end of its time, from the last checkpoint if there is one."""
    deadline = time.monotonic() + 60 * config.minutes if config.minutes else float("inf")
    photographs, held_out = read_photographs(config.photos, config.held_out)
    network = UNet(config.network, dtype=config.dtype, rngs=nnx.Rngs(config.seed))
    graph, weights = nnx.split(network)
    optimizer = make_optimizer(config.steps, learning_rate=config.learning_rate)
    state = first_state(weights, optimizer)
    schedule = config.prior.make_schedule()
    sharded, replicated = batch_shardings(config.batch_size // 2)
    step_fn = make_train_step(
        graph, optimizer, schedule, target="v", variance="fixed_small", first_time=config.first_time
    )
    advance = make_advance(config, step_fn, sharded, replicated)
    measure = make_held_out_error(graph, schedule, held_out, max(config.sizes)) if held_out else None
    with open_checkpoints(config.out) as manager:
        state = restore_last(manager, jax.device_put(state, replicated))
        first = int(state.step)
        for name in ("loss.csv", "held_out.csv"):
            forget_after(config.out / name, first)
        reports, started = [], time.monotonic()
        for step in range(first + 1, config.steps + 1):
            photos = _photos_of(config, photographs, step)
            state, report = advance(state, jax.device_put(photos, sharded))
            reports.append(jax.device_get(report))
            last = step == config.steps or time.monotonic() > deadline
            if step % config.log_every == 0 or last:
                _log(config, step, reports, (time.monotonic() - started) / (step - first))
                reports = []
            if step % config.checkpoint_every == 0 or last:
                manager.save(step, args=ocp.args.StandardSave(state))
                save_prior(
                    config.out / "prior", parameters(nnx.merge(graph, state.average)), config.prior, overwrite=True
                )
                if measure is not None:
                    _log_held_out(config, step, measure(state.average))
            if last:
                break


def make_advance(config: Config, step_fn: Callable, sharded: NamedSharding, replicated: NamedSharding) -> Callable:
    """Returns the compiled step `(state, photos) -> (state, report)`, which draws as many leaves as it gets photos."""
    key = jax.random.key(config.seed + 1)

    @partial(jax.jit, donate_argnums=0, in_shardings=(replicated, sharded))
    def advance(state: TrainState, photos: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        n, size = photos.shape[:2]
        key_data, key_loss = jax.random.split(jax.random.fold_in(key, state.step))
        keys = jax.lax.with_sharding_constraint(jax.random.split(key_data, n), sharded)
        leaves = jax.vmap(partial(draw_leaves, size=size))(keys)
        # Side by side, so that every device trains on both and at all noise levels.
        x0 = jnp.stack([photos, leaves], 1).reshape(2 * n, size, size, 3)
        return step_fn(state, key_loss, x0)

    return advance


def make_held_out_error(
    graph: nnx.GraphDef, schedule: Schedule, held_out: list, size: int
) -> Callable[[Any], list[float]]:
    """Returns a function from weights to the squared error of `eps_hat` at each of `HELD_OUT_TIMES`.

    Crops and noise are the same at every call.
    """
    crops = jnp.asarray(to_images(random_crops(np.random.default_rng(0), held_out, _HELD_OUT_CROPS, size)))
    eps = jax.random.normal(jax.random.key(0), crops.shape)

    @jax.jit
    def error(weights: Any, t: jax.Array) -> jax.Array:
        alpha_t, sigma_t = schedule(t)
        x_t = alpha_t * crops + sigma_t * eps
        v = nnx.merge(graph, weights).batch(x_t, jnp.full(len(crops), t))
        return jnp.square(alpha_t * v + sigma_t * x_t - eps).mean()

    return lambda weights: [float(error(weights, jnp.int32(t))) for t in HELD_OUT_TIMES]


def _photos_of(config: Config, photographs: list, step: int) -> np.ndarray:
    # A generator of its own for every step: a run that was cut goes on with the crops that it would have had.
    rng = np.random.default_rng([config.seed, step])
    size = config.sizes[rng.integers(len(config.sizes))]
    return to_images(random_crops(rng, photographs, config.batch_size // 2, size))


def _log(config: Config, step: int, reports: list[dict[str, Any]], seconds_per_step: float) -> None:
    loss, norm = (float(np.mean([r[name] for r in reports])) for name in ("loss", "gradient_norm"))
    error = float(np.mean([r["eps_error"] for r in reports]))
    row = {"loss": loss, "eps_error": error, "gradient_norm": norm, "seconds_per_step": seconds_per_step}
    append_row(config.out / "loss.csv", step, row)
    print_progress(step, config.steps, loss, seconds_per_step)


def _log_held_out(config: Config, step: int, errors: list[float]) -> None:
    append_row(config.out / "held_out.csv", step, {f"t={t}": e for t, e in zip(HELD_OUT_TIMES, errors, strict=True)})
    found = "  ".join(f"t={t} {error:.3g}" for t, error in zip(HELD_OUT_TIMES, errors, strict=True))
    print(f"step {step}/{config.steps}  held-out error of eps_hat: {found}", flush=True)


def main(config: Config) -> None:
    """Writes the settings down and trains.

    Raises:
        UserError: if the folder or the photographs cannot be used.
    """
    open_run(config, PROGRAM, config.photos)
    train(config)


if __name__ == "__main__":
    run_script(main, Config, __doc__, "the same command goes on from the last checkpoint")
