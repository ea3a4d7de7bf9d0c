"""Denoises in one step: an image at several noise levels, the estimate of each, and how sure it is.

    python -m experiments.denoise
    python -m experiments.denoise --prior priors/ffhq-256 --image PHOTO.png --times 300

At every time `t` the forward process draws `x_t = alpha_t x0 + sigma_t eps`, and one run of the network gives
`x0_hat`. How `x0_hat` responds to `x_t` says how large its error ought to be (`jaxdiff.tweedie_variance`).

Writes `report.html`, `figure.png`, `denoise.gif`, `table.md`, `metrics.csv` (a row per time and noise draw),
`config.json`, and every image as a PNG. `--resume` goes on with an interrupted run.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int, PRNGKeyArray

from experiments.denoise.levels import Level, quality, uncertainty, uncertainty_in_words
from experiments.shared.command import run_script
from experiments.shared.published import is_ffhq_256
from experiments.shared.setup import Config, Experiment, experiment_settings, load, open_results, print_results
from jaxdiff import Denoiser, tweedie_variance
from jaxdiff.disk import write_atomically
from jaxdiff.errors import UserError, check_positive
from jaxdiff.images.files import to_uint8, write_gif, write_image
from jaxdiff.images.grid import heat, labelled_grid
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.runs import page
from jaxdiff.runs.folder import command_line, finish_folder, read_npz, write_npz
from jaxdiff.runs.runner import sample_keys
from jaxdiff.runs.scores import load_lpips_nets
from jaxdiff.runs.tables import markdown, write_csv
from jaxdiff.samplers.base import perturb

PROGRAM = "python -m experiments.denoise"
KEYS = "draw k at time t: noise, probes = split(fold_in(sample key k, t))"

FRAMES = 24
"""Pictures of the GIF."""


@dataclass(frozen=True)
class Denoise(Config):
    """Settings of one-step denoising."""

    batch_size: int | None = None
    """Samples drawn at once; all by default, fewer to save memory."""
    times: tuple[int, ...] = (50, 100, 200, 300)
    """Noise levels, as times of the diffusion."""
    probes: int = 64
    """Random probes of the Jacobian, whose diagonal is the uncertainty."""
    seeds: int = 5
    """Noise draws at every time."""
    out: Path = Path("results/denoise")
    """Folder of the results."""
    steps: tyro.conf.Suppress[int] = 1
    sigma: tyro.conf.Suppress[float] = 0.0


def begin(config: Denoise) -> tuple[Experiment, list[int]]:
    """Checks the flags, loads prior and image, and opens the result folder; returns the times, too."""
    check_positive(probes=config.probes)
    experiment = load(config)
    last = experiment.prior.schedule.num_times - 1
    if not config.times or not all(0 <= t <= last for t in config.times):
        raise UserError(f"--times must be one or more numbers from 0 to {last}, got {config.times}.")
    open_results(config, PROGRAM, experiment_settings(config, experiment, ("steps", "sigma")))
    return experiment, sorted(set(config.times))


@partial(jax.jit, static_argnames=("num_probes", "batch_size"))
def noise_and_denoise(
    prior: Denoiser, keys: PRNGKeyArray, truth: Float[Array, "h w c"], t: int, num_probes: int, batch_size: int
) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w c"], Float[Array, "n h w c"]]:
    """Returns `x_t`, `x0_hat` and the predicted variance, one per key."""

    def one(key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        key_noise, key_probes = jax.random.split(jax.random.fold_in(key, t))
        x_t = perturb(prior.schedule, key_noise, truth, t)
        return x_t, prior.predict(x_t, t).x0_hat, tweedie_variance(prior, key_probes, x_t, t, num_probes)

    return jax.lax.map(one, keys, batch_size=batch_size)


def run_level(config: Denoise, experiment: Experiment, t: int, nets: Mapping[str, LPIPS]) -> Level:
    """Draws and denoises at one time, or reads what an earlier run has finished; scores it, and says so."""
    store = config.out / "samples" / f"t{t}.npz"
    started = time.monotonic()
    if not store.exists():
        keys, batch_size = sample_keys(config.seed, config.seeds), config.batch_size or config.seeds
        found = noise_and_denoise(experiment.prior, keys, experiment.truth, t, config.probes, batch_size)
        write_npz(store, **dict(zip(("x_t", "x0_hat", "variance"), found, strict=True)))
    alpha_t, sigma_t = experiment.prior.schedule(t)
    kept = read_npz(store)
    x_t, x0_hat, variance = (kept[name] for name in ("x_t", "x0_hat", "variance"))
    level = Level(t, float(sigma_t / alpha_t), np.asarray(experiment.truth), x_t, x0_hat, variance)
    level = replace(level, rows=level.scores(nets))
    text = f"t = {t}: {level.mean('psnr', 2)} dB, true / predicted error {level.ratio:.2f}"
    experiment.console.print(f"{text}, {time.monotonic() - started:.0f} s", highlight=False)
    return level


def figure(levels: Sequence[Level]) -> Float[np.ndarray, "H W 3"]:
    """Draws a row per time: clean, noisy, denoised, the true error and the predicted one."""
    rows, captions = [], []
    for level in levels:
        maps = level.maps(0)
        vmax = max(float(np.quantile(maps, 0.99)), 1e-6)
        rows.append([level.truth, level.x_t[0], level.x0_hat[0], *(heat(x, vmax) for x in maps)])
        errors = [f"RMS {level.rows[0][name]:.3f}" for name in ("error", "predicted_error")]
        captions.append(["", f"{level.mean('psnr_noisy', 1)} dB", f"{level.mean('psnr', 1)} dB", *errors])
    titles = ["clean x0", "noisy x_t", "denoised in\none step", "its true\nerror", "its predicted\nerror (std)"]
    names = [f"t = {level.t}" for level in levels]
    scale = max(1, round(128 / len(levels[0].truth)))
    return labelled_grid(rows, titles, names, captions=captions, scale=scale)


@jax.jit
def denoise_along(
    prior: Denoiser, key: PRNGKeyArray, truth: Float[Array, "h w c"], times: Int[Array, " n"]
) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w c"]]:
    """Returns `x_t` with the same noise at all times, and `x0_hat`."""

    def one(t: Array) -> tuple[Array, Array]:
        x_t = perturb(prior.schedule, key, truth, t)
        return x_t, prior.predict(x_t, t).x0_hat

    return jax.lax.map(one, times)


def moving_picture(config: Denoise, experiment: Experiment) -> list[Float[np.ndarray, "H W 3"]]:
    """Draws noise that grows up to the last time, and the estimate beside it."""
    times = np.unique(np.linspace(0, max(config.times), FRAMES).astype(int))
    key = sample_keys(config.seed, 1)[0]
    scale = max(1, round(256 / experiment.truth.shape[0]))
    return [
        labelled_grid([[x_t, x0_hat]], [f"noisy x_t, t = {t}", "denoised in one step"], scale=scale)
        for t, x_t, x0_hat in zip(
            times, *denoise_along(experiment.prior, key, experiment.truth, jnp.asarray(times)), strict=True
        )
    ]


def write_images(config: Denoise, levels: Sequence[Level], moving: Sequence[Float[np.ndarray, "H W 3"]]) -> None:
    """Writes the figure, the GIF, and every image (clipped to [-1, 1])."""
    write_image(config.out / "figure.png", figure(levels))
    write_gif(config.out / "denoise.gif", moving, ms=[120] * (len(moving) - 1) + [1500])
    write_image(config.out / "truth.png", levels[0].truth)
    for level in levels:
        for name, images in (("noisy", level.x_t), ("denoised", level.x0_hat)):
            for k, x in enumerate(images):
                write_image(config.out / "samples" / f"t{level.t}_{name}_{k}.png", x)


def write_report(
    config: Denoise, levels: Sequence[Level], published: bool, moving: Sequence[Float[np.ndarray, "H W 3"]]
) -> None:
    """Writes `report.html`."""
    caption = "One noise draw per row; PSNR over all draws. Both maps of a row share a scale, black is no error."
    blocks = [
        page.command(command_line(PROGRAM, config)),
        page.figure_file(config.out / "figure.png", caption),
        page.heading("How good is one step?"),
        page.table(quality(levels, published=published), f"mean ± standard deviation over {config.seeds} noise draws"),
        page.heading("Does the denoiser know its own error?"),
        page.table(uncertainty(levels), f"root mean squares; predicted from {config.probes} probes of the Jacobian"),
        page.paragraph(uncertainty_in_words(levels)),
        page.heading("The same noise, growing"),
        page.animation(to_uint8(np.stack(moving)), ms=120),
    ]
    for level in levels:
        lefts = ((level.x_t[0], "noisy"), (level.truth, "clean"))
        sliders = "".join(page.slider(x, level.x0_hat[0], label, "denoised") for x, label in lefts)
        blocks += [page.heading(f"t = {level.t}"), f'<div class="row">{sliders}</div>']
    page.write_page(config.out / "report.html", "Denoising in one step", blocks)


def main(config: Denoise) -> None:
    """Runs all levels and writes the folder."""
    experiment, times = begin(config)
    console, published = experiment.console, is_ffhq_256(experiment.prior)
    nets, missing = load_lpips_nets()
    levels = [run_level(config, experiment, t, nets) for t in times]
    moving = moving_picture(config, experiment)
    tables = "\n".join(map(markdown, (quality(levels, published=published), uncertainty(levels))))
    write_csv(config.out / "metrics.csv", [row for level in levels for row in level.rows])
    write_atomically(config.out / "table.md", tables)
    write_images(config, levels, moving)
    finish_folder(config.out, {"noise_keys": KEYS})
    write_report(config, levels, published, moving)
    print_results(console, config.out, "report.html, figure.png, denoise.gif, table.md, metrics.csv", missing, tables)


if __name__ == "__main__":
    run_script(main, Denoise, __doc__)
