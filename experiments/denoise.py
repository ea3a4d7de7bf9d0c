"""Denoises in one step: an image at several noise levels, the estimate of each, and how sure it is.

    python -m experiments.denoise
    python -m experiments.denoise --prior priors/ffhq-256 --image PHOTO.png --times 300

At every time `t` the forward process draws `x_t = alpha_t x0 + sigma_t eps`, and one run of the network gives
`x0_hat`. How `x0_hat` responds to `x_t` says how large its error ought to be (`jaxdiff.tweedie_variance`).

Writes `report.html`, `figure.png`, `denoise.gif`, `table.md`, `metrics.csv` (a row per time and noise draw),
`config.json`, and every image as a PNG. `--resume` goes on with an interrupted run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.scipy.stats import rankdata
from jaxtyping import Array, Float, PRNGKeyArray
from rich.console import Console

from experiments.published import is_ffhq_256
from experiments.problems import load_truth, sample_keys
from experiments.setup import INTERRUPTED, Config, Experiment, settings_of
from jaxdiff import Denoiser, tweedie_variance
from jaxdiff.images import heat, labelled_grid, to_uint8, write_gif, write_image
from jaxdiff.metrics import psnr
from jaxdiff.operators import Identity
from jaxdiff.runs import report
from jaxdiff.runs.errors import UserError, check_positive, exit_on_user_error
from jaxdiff.runs.folder import (
    Row,
    command_line,
    finish_folder,
    open_folder,
    read_npz,
    write_atomically,
    write_csv,
    write_npz,
)
from jaxdiff.runs.scores import LABELS, NOT_AVAILABLE, load_lpips_nets, mean_and_std, score
from jaxdiff.sampling import perturb

PROGRAM = "python -m experiments.denoise"
KEYS = "draw k at time t: noise, probes = split(fold_in(sample key k, t))"

PUBLISHED = {50: "Qi: - / 0.055", 200: "Qi: 29.6 / 0.153", 300: "Zhu: 27.36 ± 0.18 / 0.199 ± 0.009"}
"""PSNR in dB / LPIPS of one FFHQ-256 face in the reports; Zhu over 5 noise draws."""

FRAMES = 32
"""Pictures of the GIF."""


@dataclass(frozen=True)
class Denoise(Config):
    """Settings of one-step denoising."""

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


@dataclass(frozen=True)
class Level:
    """What one noise level gave.

    Attributes:
        t: its time.
        noise: `sigma_t / alpha_t`.
        x_t: the noisy images, one per noise draw.
        x0_hat: their estimates.
        variance: their predicted variances, which may be negative.
        rows: the scores, one row per noise draw.
    """

    t: int
    noise: float
    x_t: Float[np.ndarray, "n h w 3"]
    x0_hat: Float[np.ndarray, "n h w 3"]
    variance: Float[np.ndarray, "n h w 3"]
    rows: list[Row]

    def told(self, column: str, digits: int) -> str:
        """Mean and standard deviation of a score over the noise draws."""
        found = mean_and_std([row[column] for row in self.rows])
        return NOT_AVAILABLE if found is None else f"{found[0]:.{digits}f} ± {found[1]:.{digits}f}"

    def rms(self, column: str) -> float:
        """Root mean square of a score over the noise draws."""
        return float(np.sqrt(np.mean([float(row[column]) ** 2 for row in self.rows])))

    @property
    def ratio(self) -> float:
        """True error over predicted standard deviation, both as root mean squares; 1 is right."""
        predicted = self.rms("predicted_std")
        return self.rms("rms_error") / predicted if predicted > 0 else float("nan")


def begin(config: Denoise) -> tuple[Experiment, list[int]]:
    """Checks the flags, loads prior and image, and opens the result folder; returns the times, too."""
    check_positive(seeds=config.seeds, probes=config.probes, batch_size=config.batch_size)
    if config.face < 0:
        raise UserError(f"--face must be zero or positive, got {config.face}.")
    denoiser, truth = load_truth(config.prior, config.image, config.face, config.size)
    last = denoiser.schedule.num_times - 1
    if not config.times or not all(0 <= t <= last for t in config.times):
        raise UserError(f"--times must be one or more numbers from 0 to {last}, got {config.times}.")
    settings = settings_of(config, denoiser, truth, ("steps", "sigma"))
    open_folder(config.out, settings, program=PROGRAM, resume=config.resume, overwrite=config.overwrite)
    return Experiment(denoiser, truth, Console()), sorted(set(config.times))


@partial(jax.jit, static_argnames=("num_probes", "batch_size"))
def noise_and_denoise(
    denoiser: Denoiser, keys: PRNGKeyArray, truth: Float[Array, "h w c"], t: int, num_probes: int, batch_size: int
) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w c"], Float[Array, "n h w c"]]:
    """Returns `x_t`, `x0_hat` and the predicted variance, one per key."""

    def one(key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        key_noise, key_probes = jax.random.split(jax.random.fold_in(key, t))
        x_t = perturb(denoiser.schedule, key_noise, truth, t)
        return x_t, denoiser.predict(x_t, t).x0_hat, tweedie_variance(denoiser, key_probes, x_t, t, num_probes)

    return jax.lax.map(one, keys, batch_size=batch_size)


def run_level(config: Denoise, experiment: Experiment, t: int, nets: Any) -> Level:
    """Draws and denoises at one time, or reads what an earlier run has finished; scores it, and says so."""
    store = config.out / "samples" / f"t{t}.npz"
    started = time.monotonic()
    if not store.exists():
        keys, batch_size = sample_keys(config.seed, config.seeds), config.batch_size or config.seeds
        found = noise_and_denoise(experiment.denoiser, keys, experiment.truth, t, config.probes, batch_size)
        write_npz(store, **dict(zip(("x_t", "x0_hat", "variance"), found, strict=True)))
    arrays = read_npz(store)
    alpha_t, sigma_t = experiment.denoiser.schedule(t)
    rows = score_level(experiment.truth, nets, t, **arrays)
    level = Level(t, float(sigma_t / alpha_t), rows=rows, **arrays)
    told, seconds = level.told("psnr", 2), time.monotonic() - started
    experiment.console.print(f"t = {t}: {told} dB, error / predicted {level.ratio:.2f}, in {seconds:.0f} s")
    return level


def score_level(
    truth: Float[Array, "h w 3"],
    nets: Any,
    t: int,
    x_t: Float[np.ndarray, "n h w 3"],
    x0_hat: Float[np.ndarray, "n h w 3"],
    variance: Float[np.ndarray, "n h w 3"],
) -> list[Row]:
    """Scores every estimate and its predicted variance, one row per noise draw."""
    noisy = jax.vmap(psnr, (0, None))(jnp.clip(x_t, -1, 1), truth).tolist()
    rows: list[Row] = []
    for k, scores in enumerate(score(x0_hat, Identity(), truth, 0.0, truth=truth, nets=nets)):
        del scores["residual_ratio"]
        error, std = np.abs(x0_hat[k] - np.asarray(truth)), np.sqrt(np.maximum(variance[k], 0))
        uncertainty: Row = {
            "rms_error": float(np.sqrt(np.mean(error**2))),
            "predicted_std": float(np.sqrt(max(np.mean(variance[k]), 0))),
            "rank_correlation": rank_correlation(std, error),
            "rank_correlation_at_best": rank_correlation(std, std * np.random.default_rng(k).normal(size=std.shape)),
        }
        rows.append({"t": t, **scores, "psnr_noisy": noisy[k], **uncertainty})
    return rows


def rank_correlation(a: Float[np.ndarray, "h w 3"], b: Float[np.ndarray, "h w 3"]) -> float | str:
    """Spearman's correlation of two maps of absolute values, over all pixels and colours."""
    ranks = [np.asarray(rankdata(np.abs(x).ravel())) for x in (a, b)]
    if min(rank.std() for rank in ranks) == 0:
        return NOT_AVAILABLE
    return float(np.corrcoef(*ranks)[0, 1])


def quality(levels: Sequence[Level], *, published: bool) -> list[Row]:
    """Returns a table of how good the estimates are, beside the reports' numbers where these are about the prior."""
    return [
        {
            "t": level.t,
            "sigma_t / alpha_t": f"{level.noise:.2f}",
            "PSNR of x_t (dB)": level.told("psnr_noisy", 2),
            **{label: level.told(name, 2 if name == "psnr" else 3) for name, label in LABELS.items()},
            **({"reports: PSNR / LPIPS": PUBLISHED.get(level.t, "")} if published else {}),
        }
        for level in levels
    ]


def uncertainty(levels: Sequence[Level]) -> list[Row]:
    """Returns a table of how well the error is predicted."""
    return [
        {
            "t": level.t,
            "true error (RMS)": f"{level.rms('rms_error'):.3f}",
            "predicted (RMS)": f"{level.rms('predicted_std'):.3f}",
            "true / predicted": f"{level.ratio:.2f}",
            "rank correlation": level.told("rank_correlation", 2),
            "at best": level.told("rank_correlation_at_best", 2),
        }
        for level in levels
    ]


def markdown(rows: Sequence[Row]) -> str:
    """Returns rows with the same keys as a table in Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def maps(experiment: Experiment, level: Level) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Returns true error and predicted standard deviation of the first draw, as root mean squares over the colours."""
    error = np.sqrt(((level.x0_hat[0] - np.asarray(experiment.truth)) ** 2).mean(-1))
    return error, np.sqrt(np.maximum(level.variance[0].mean(-1), 0))


def figure(experiment: Experiment, levels: Sequence[Level]) -> Float[np.ndarray, "H W 3"]:
    """Draws a row per time: clean, noisy, denoised, the true error and the predicted one."""
    rows, captions = [], []
    for level in levels:
        pair = maps(experiment, level)
        vmax = max(float(np.quantile(pair, 0.99)), 1e-6)
        rows.append([experiment.truth, level.x_t[0], level.x0_hat[0], *(heat(x, vmax) for x in pair)])
        noisy, denoised = level.told("psnr_noisy", 1), level.told("psnr", 1)
        sizes = [f"RMS {np.sqrt((x**2).mean()):.3f}" for x in pair]
        captions.append(["", f"{noisy} dB", f"{denoised} dB", *sizes])
    titles = ["clean x0", "noisy x_t", "denoised in\none step", "its true\nerror", "its predicted\nerror (std)"]
    names = [f"t = {level.t}" for level in levels]
    scale = max(1, round(128 / experiment.truth.shape[0]))
    return labelled_grid(rows, titles, names, captions=captions, scale=scale)


def frames(config: Denoise, experiment: Experiment) -> list[Float[np.ndarray, "H W 3"]]:
    """Draws noise that grows to the last time, and the estimate beside it."""
    denoiser, truth = experiment.denoiser, experiment.truth
    times = np.unique(np.linspace(0, max(config.times), FRAMES).astype(int))
    key = sample_keys(config.seed, 1)[0]

    @jax.jit
    def pairs(denoiser: Denoiser, times: Array) -> tuple[Array, Array]:
        def one(t: Array) -> tuple[Array, Array]:
            x_t = perturb(denoiser.schedule, key, truth, t)
            return x_t, denoiser.predict(x_t, t).x0_hat

        return jax.lax.map(one, times)

    scale = max(1, round(256 / truth.shape[0]))
    noisy, denoised = pairs(denoiser, jnp.asarray(times))
    return [
        labelled_grid([[x_t, x0_hat]], [f"noisy x_t, t = {t}", "denoised in one step"], scale=scale)
        for t, x_t, x0_hat in zip(times, noisy, denoised, strict=True)
    ]


def verdict(levels: Sequence[Level]) -> str:
    """Says whether the predicted error is as large as the true one."""
    ratios = [level.ratio for level in levels]
    span = " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (min(ratios), max(ratios))))
    return (
        f"On this image the true error is {span} times the predicted one. The prediction is right if that is 1 on "
        "average over images; a single image may be harder (above 1) or easier (below 1) than most. The rank "
        "correlation tells whether the error is large where it is predicted to be; 'at best' is what errors drawn "
        "from the predicted standard deviations reach."
    )


def write_report(
    config: Denoise, experiment: Experiment, levels: Sequence[Level], moving: Sequence[np.ndarray]
) -> None:
    """Writes `report.html`."""
    row: Callable[[Sequence[str]], str] = lambda figures: f'<div class="row">{"".join(figures)}</div>'
    caption = "One noise draw per row; PSNR over all draws. Both maps of a row share a scale: black is no error."
    tables = quality(levels, published=is_ffhq_256(experiment.denoiser)), uncertainty(levels)
    blocks = [
        report.command(command_line(PROGRAM)),
        report.figure_file(config.out / "figure.png", caption),
        report.heading("How good is one step?"),
        report.table(tables[0], f"mean ± standard deviation over {config.seeds} noise draws"),
        report.heading("Does the denoiser know its own error?"),
        report.table(tables[1], f"from {config.probes} probes of the Jacobian per image"),
        report.paragraph(verdict(levels)),
        report.heading("The same noise, growing"),
        report.animation(to_uint8(np.stack(moving)), ms=120),
    ]
    for level in levels:
        lefts = [(level.x_t[0], "noisy"), (experiment.truth, "clean")]
        sliders = [report.slider(x, level.x0_hat[0], label, "denoised") for x, label in lefts]
        blocks += [report.heading(f"t = {level.t}"), row(sliders)]
    report.write_page(config.out / "report.html", "Denoising in one step", blocks)


def main(config: Denoise) -> None:
    """Runs all levels and writes the folder."""
    experiment, times = begin(config)
    nets, missing = load_lpips_nets()
    levels = [run_level(config, experiment, t, nets) for t in times]
    tables = quality(levels, published=is_ffhq_256(experiment.denoiser)), uncertainty(levels)
    text = "\n".join(map(markdown, tables))
    write_csv(config.out / "metrics.csv", [row for level in levels for row in level.rows])
    write_atomically(config.out / "table.md", text)
    write_image(config.out / "truth.png", experiment.truth)
    for level in levels:
        for k, pair in enumerate(zip(level.x_t, level.x0_hat, strict=True)):
            for name, x in zip(("noisy", "denoised"), pair, strict=True):
                write_image(config.out / "samples" / f"t{level.t}_{name}_{k}.png", x)
    write_image(config.out / "figure.png", figure(experiment, levels))
    moving = frames(config, experiment)
    write_gif(config.out / "denoise.gif", moving, ms=[120] * (len(moving) - 1) + [1500])
    finish_folder(config.out, {"noise_keys": KEYS, "error_over_predicted": {level.t: level.ratio for level in levels}})
    write_report(config, experiment, levels, moving)
    experiment.console.print(text, soft_wrap=True, highlight=False, markup=False)
    for message in missing:
        experiment.console.print(f"LPIPS reads n/a: {message}", soft_wrap=True, highlight=False, style="dim")
    written = "report.html, figure.png, denoise.gif, table.md, metrics.csv"
    experiment.console.print(f"written to {config.out}: {written}", highlight=False)


if __name__ == "__main__":
    with exit_on_user_error(INTERRUPTED):
        main(tyro.cli(Denoise, description=__doc__))
