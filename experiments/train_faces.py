"""Trains a small prior, on drawn faces or on a folder of images.

    python -m experiments.train_faces
    python -m experiments.train_faces --data PHOTOS --size 64 --out runs/photos

Writes into the run's folder: `checkpoints/` (a killed run goes on from the last one when the same command is given
again), `loss.csv` and `loss.png`, `samples_STEP.png` (unconditional samples above training images), and `prior/`, which
`jaxdiff.load_prior` reads. On several devices the batch is split between them.
"""

import csv
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
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

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
from jaxdiff.chains.many import sample_many
from jaxdiff.errors import UserError
from jaxdiff.faces import draw_face
from jaxdiff.images.files import to_uint8, write_image
from jaxdiff.images.fit import read_fitted
from jaxdiff.images.grid import grid
from jaxdiff.networks.precision import Dtype
from jaxdiff.networks.unet import UNet, UNetConfig
from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.denoiser import Target, Variance
from jaxdiff.priors.storage import parameters, save_prior
from jaxdiff.priors.training import TrainState, make_optimizer, make_train_step
from jaxdiff.samplers.ddpm import DDPM
from jaxdiff.schedule import time_grid

PROGRAM = "python -m experiments.train_faces"

Stored = UInt8[Array | np.ndarray, "n h w 3"] | None
"""The images of a folder; None for drawn faces."""


@dataclass(frozen=True)
class Config:
    """Settings of a training run."""

    out: Path = Path("runs/faces-32")
    """Folder of the run; an unfinished run in it is continued."""
    data: Path | None = None
    """Folder of images to train on, instead of drawn faces; each is cropped to a square and resized."""
    size: int = 32
    """Height and width of the images, in pixels."""
    steps: int = 10_000
    """Optimiser steps of the whole run."""
    batch_size: int = 32
    """Images per step, over all devices."""
    channels: int = 32
    """Width of the network's first level."""
    channel_mult: tuple[int, ...] = (1, 2, 2)
    """Width of each level, as a multiple of `channels`."""
    num_res_blocks: int = 1
    """Residual blocks per level."""
    attention_resolutions: tuple[int, ...] = (8,)
    """Resolutions, in pixels, with self-attention."""
    norm_groups: int = 8
    """Groups of every group norm."""
    target: Target = "v"
    """What the network predicts."""
    variance: Variance = "fixed_small"
    """`learned_range` learns the variance too (hybrid loss)."""
    learning_rate: float = 5e-4
    """Rate of AdamW before its decay."""
    dtype: Dtype = "tf32"
    """Precision of convolutions and matrix products: float32, tf32 (the same on CPUs) or bfloat16, which pays on GPUs
    and TPUs, never on CPUs."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    sample_every: int = 1000
    """Steps between sample grids."""
    sample_steps: int = 250
    """Diffusion steps of the sample grids."""
    seed: int = 0
    """Seed of weights, data and noise."""

    @property
    def network(self) -> UNetConfig:
        """The architecture."""
        return UNetConfig(
            image_size=self.size,
            channels=self.channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            attention_resolutions=self.attention_resolutions,
            num_head_channels=self.channels,
            out_channels=6 if self.variance == "learned_range" else 3,
            norm_groups=self.norm_groups,
        )

    @property
    def prior(self) -> PriorConfig:
        """The prior that this run makes."""
        settings = {k: v for k, v in asdict(self).items() if k not in ("out", "data")}
        source = {"trained_on": "drawn faces" if self.data is None else "images of a folder", **settings}
        return PriorConfig(self.network, target=self.target, variance=self.variance, source=source)


def read_folder(config: Config) -> Stored:
    """Reads the images of `--data`, in 8 bits, because a folder fits in memory four times as easily.

    What an earlier start of the run has left below that folder is no image of it.

    Raises:
        UserError: if there is none.
    """
    if config.data is None:
        return None
    own = config.out.resolve()
    paths = sorted(p for p in config.data.glob("**/*") if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    paths = [path for path in paths if not path.resolve().is_relative_to(own)]
    if not paths:
        raise UserError(f"no png, jpg or webp image in {config.data}.")
    return np.stack([to_uint8(read_fitted(path, (config.size, config.size))[0]) for path in paths])


def training_image(stored: Stored, key: jax.Array, size: int) -> jax.Array:
    """Returns an image of the folder, or else a drawn face, flipped half of the time."""
    key_image, key_flip = jax.random.split(key)
    if stored is None:
        image = draw_face(key_image, size)
    else:
        image = jnp.asarray(stored)[jax.random.randint(key_image, (), 0, len(stored))] / 127.5 - 1
    return jnp.where(jax.random.bernoulli(key_flip), image[:, ::-1], image)


@partial(jax.jit, static_argnames="size")
def training_images(stored: Stored, keys: jax.Array, size: int) -> jax.Array:
    """Returns an image per key. The folder is an argument: as a constant it would be compiled into the program."""
    return jax.vmap(partial(training_image, size=size), (None, 0))(stored, keys)


def make_advance(config: Config, step_fn: Callable, sharded: NamedSharding, replicated: NamedSharding) -> Callable:
    """Returns the compiled step `(state, stored, key) -> (state, report)`."""

    @partial(jax.jit, donate_argnums=0, in_shardings=replicated)
    def advance(state: TrainState, stored: Stored, key: jax.Array):
        key_data, key_loss = jax.random.split(jax.random.fold_in(key, state.step))
        keys = jax.lax.with_sharding_constraint(jax.random.split(key_data, config.batch_size), sharded)
        return step_fn(state, key_loss, training_images(stored, keys, config.size))

    return advance


def train(config: Config) -> None:
    """Runs the training to its end, from the last checkpoint if there is one."""
    schedule = config.prior.make_schedule()
    network = UNet(config.network, dtype=config.dtype, rngs=nnx.Rngs(config.seed))
    graph, weights = nnx.split(network)
    optimizer = make_optimizer(config.steps, learning_rate=config.learning_rate)
    state = first_state(weights, optimizer)
    step_fn = make_train_step(graph, optimizer, schedule, target=config.target, variance=config.variance)
    sharded, replicated = batch_shardings(config.batch_size)

    advance = make_advance(config, step_fn, sharded, replicated)
    stored, key = jax.device_put(read_folder(config), replicated), jax.random.key(config.seed + 1)
    with open_checkpoints(config.out) as manager:
        state = restore_last(manager, jax.device_put(state, replicated))
        reports, started, first = [], time.monotonic(), int(state.step)
        forget_after(config.out / "loss.csv", first)
        for step in range(first + 1, config.steps + 1):
            state, report = advance(state, stored, key)
            reports.append(report)
            if step % 50 == 0 or step == config.steps:
                seconds = time.monotonic() - started
                _log(config, step, jax.device_get(reports), seconds / (step - first))
                reports = []
            if step % config.checkpoint_every == 0 or step == config.steps:
                manager.save(step, args=ocp.args.StandardSave(state))
                average = nnx.merge(graph, state.average)
                save_prior(config.out / "prior", parameters(average), config.prior, overwrite=True)
            if step % config.sample_every == 0 or step == config.steps:
                _draw_samples(config, nnx.merge(graph, state.average), stored, step)


def _log(config: Config, step: int, reports: list[dict[str, Any]], seconds_per_step: float) -> None:
    t = np.concatenate([r["t"] for r in reports])
    error = np.concatenate([r["eps_error"] for r in reports])
    row = {
        "loss": np.mean([r["loss"] for r in reports]),
        "eps_error": error.mean(),
        "eps_error_below_100": error[t < 100].mean(),
        "eps_error_100_to_300": error[(t >= 100) & (t < 300)].mean(),
        "gradient_norm": np.mean([r["gradient_norm"] for r in reports]),
        "seconds_per_step": seconds_per_step,
    }
    path = config.out / "loss.csv"
    append_row(path, step, row)
    with path.open() as file:
        write_image(config.out / "loss.png", draw_loss(list(csv.DictReader(file))))
    print_progress(step, config.steps, row["loss"], seconds_per_step)


def draw_loss(rows: list[dict[str, str]], width: int = 640, height: int = 360) -> Float[np.ndarray, "h w 3"]:
    """Draws the loss and the squared error of `eps_hat` against the step, on a logarithmic scale."""
    sheet = Image.new("RGB", (width, height), "white")
    pen, font, margin = ImageDraw.Draw(sheet), ImageFont.load_default(size=14), 48
    steps = np.array([int(row["step"]) for row in rows])
    curves = {name: np.log10([float(row[name]) for row in rows]) for name in ("loss", "eps_error")}
    low, high = (np.floor(10 * min(map(np.min, curves.values()))) / 10, max(map(np.max, curves.values())) + 0.05)
    x = margin + (width - 2 * margin) * steps / steps[-1]
    y_of = lambda value: height - margin + (2 * margin - height) * (value - low) / (high - low)
    for tick in (low, (low + high) / 2, high):
        pen.line([(margin, y_of(tick)), (width - margin, y_of(tick))], "lightgrey")
        pen.text((4, y_of(tick) - 8), f"{10**tick:.3f}", "black", font)
    for (name, values), colour in zip(curves.items(), ("navy", "darkorange"), strict=True):
        pen.line(list(zip(x.tolist(), y_of(values).tolist(), strict=True)), colour, 2)
        pen.text((x[-1], y_of(values[-1]) - 18), name, colour, font, anchor="ra")
    pen.text((width / 2, height - margin + 12), f"step 0 to {steps[-1]}", "black", font, anchor="ma")
    return np.asarray(sheet, np.float32) / 127.5 - 1


def _draw_samples(config: Config, network: UNet, stored: Stored, step: int) -> None:
    denoiser = config.prior.make_denoiser(network)
    keys = jax.random.split(jax.random.key(config.seed + 2), 16)
    times = time_grid(denoiser.schedule.num_times, config.sample_steps)
    samples = sample_many(DDPM(denoiser), keys, times, batch_size=16)
    examples = training_images(stored, keys, config.size)
    write_image(config.out / f"samples_{step:06d}.png", grid([*np.asarray(samples), *np.asarray(examples)], 8))


def main(config: Config) -> None:
    """Checks the settings, writes them down, and trains."""
    open_run(config, PROGRAM, config.data)
    train(config)


if __name__ == "__main__":
    run_script(main, Config, __doc__, "the same command goes on from the last checkpoint", core_by_core=False)
