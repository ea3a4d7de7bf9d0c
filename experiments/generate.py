"""Generates images from noise with DDPM and DDIM, and shows how they form.

    python -m experiments.generate
    python -m experiments.generate --prior priors/ffhq-256 --steps 1000 --seeds 4

Both methods start from the same noise. DDPM adds fresh noise in every step; DDIM adds none (`--eta 0`), and so needs
fewer steps. A chain stops at the `--snapshots` to show its `x_t`, beside the steps that it takes anyway.

Writes `report.html`, `figure.png` (`x_t` at the snapshots, and the samples), `estimates.png` (`x0_hat` there), a GIF
per method, `config.json`, and every image as a PNG. `--resume` goes on with an interrupted run.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int
from rich.console import Console

from experiments.shared.command import run_script
from experiments.shared.problems import KEYS
from experiments.shared.setup import Config, flags_of, open_results
from jaxdiff import DDIM, DDPM, Denoiser, load_prior, time_grid
from jaxdiff.errors import UserError, check_names, check_positive
from jaxdiff.images.files import to_uint8, write_gif, write_image
from jaxdiff.images.grid import labelled_grid
from jaxdiff.runs import page
from jaxdiff.runs.folder import command_line, describe_prior, finish_folder
from jaxdiff.runs.methods import Run
from jaxdiff.runs.runner import Timing, draw, sample_keys

PROGRAM = "python -m experiments.generate"
INTEGRATORS = {"ddpm": "DDPM", "ddim": "DDIM"}


@dataclass(frozen=True)
class Generate(Config):
    """Settings of unconditional generation."""

    methods: tuple[str, ...] = tuple(INTEGRATORS)
    """Some of: ddpm, ddim."""
    ddim_steps: int = 50
    """Steps of DDIM; --steps are DDPM's."""
    eta: float = 0.0
    """Fraction of DDPM's noise that DDIM adds, from 0 to 1."""
    snapshots: tuple[int, ...] = (300, 50)
    """Times at which to show `x_t`."""
    seeds: int = 8
    """Samples of each method."""
    out: Path = Path("results/generate")
    """Folder of the results."""
    image: tyro.conf.Suppress[Path | None] = None
    face: tyro.conf.Suppress[int] = 0
    size: tyro.conf.Suppress[int | None] = None
    sigma: tyro.conf.Suppress[float] = 0.0


@dataclass(frozen=True)
class Chains:
    """What one method gave.

    Attributes:
        method: its name.
        steps: steps of a chain.
        stops: `x_t` at every snapshot and, at -1, the samples, one image per seed.
        estimates: `x0_hat` of every `x_t` at a snapshot.
        frames: `x_t` beside `x0_hat` of the first chain, by time.
        timing: how long it took.
    """

    method: str
    steps: int
    stops: dict[int, Float[np.ndarray, "n h w 3"]]
    estimates: dict[int, Float[np.ndarray, "n h w 3"]]
    frames: dict[int, Float[np.ndarray, "h 2*w 3"]]
    timing: Timing


def begin(config: Generate) -> Denoiser:
    """Checks the flags, loads the prior, and opens the result folder."""
    check_positive(**{name: getattr(config, name) for name in ("seeds", "steps", "ddim_steps", "batch_size")})
    check_names(config.methods, list(INTEGRATORS), "method")
    if not 0 <= config.eta <= 1:
        raise UserError(f"--eta must be between 0 and 1, got {config.eta}.")
    prior = load_prior(config.prior, dtype=config.dtype)
    num_times = prior.schedule.num_times
    for name in ("steps", "ddim_steps"):
        if getattr(config, name) > num_times:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be between 1 and {num_times}, got {getattr(config, name)}.")
    if not all(0 <= t < num_times - 1 for t in config.snapshots):
        raise UserError(f"--snapshots must be times from 0 to {num_times - 2}, got {config.snapshots}.")
    settings = flags_of(config, ("image", "face", "size", "sigma")) | {"denoiser": describe_prior(prior), "keys": KEYS}
    open_results(config, PROGRAM, settings)
    return prior


def parts(times: Int[np.ndarray, " n"], snapshots: Sequence[int]) -> list[Int[np.ndarray, " _"]]:
    """Cuts a chain at the snapshots, which become steps of it.

    >>> parts(np.array([999, 500, 100, -1]), (300,))
    [array([999, 500, 300]), array([300, 100,  -1])]
    """
    times = np.unique([*times, *snapshots])[::-1]
    cuts = [int(np.flatnonzero(times == t)[0]) for t in sorted({*snapshots, -1}, reverse=True)]
    return [times[a : b + 1] for a, b in pairwise([0, *cuts])]


def run_chains(config: Generate, prior: Denoiser, method: str, console: Console) -> Chains:
    """Runs a method part by part, or reads what an earlier run has finished."""
    sampler = DDPM(prior) if method == "ddpm" else DDIM(prior, config.eta)
    grid = time_grid(prior.schedule.num_times, config.steps if method == "ddpm" else config.ddim_steps)
    keys = sample_keys(config.seed, config.seeds)
    cut, stops, frames, spent, state = parts(grid, config.snapshots), {}, {}, [], None
    for times in cut:
        start, stop = int(times[0]), int(times[-1])
        store = config.out / "samples" / f"{method}_{stage(stop)}.npz"
        title = f"{INTEGRATORS[method]}, {start} to {max(stop, 0)}"
        drawn = draw(title, Run(sampler, times, {}, state), keys, store, console, batch_size=config.batch_size)
        stops[stop], state = drawn.samples, jnp.asarray(drawn.samples)
        ends = times[1:].reshape(len(drawn.frames), -1)[:, -1].tolist()
        frames |= zip(ends, drawn.frames.astype(np.float32) / 127.5 - 1, strict=True)
        spent.append(drawn.timing)
    estimates = {t: np.asarray(estimate(prior, x_t, t)) for t, x_t in stops.items() if t >= 0}
    timing = Timing(sum(part.compile_seconds for part in spent), sum(part.run_seconds for part in spent))
    steps = sum(len(times) - 1 for times in cut)
    spent_text = f"{steps} steps in {timing.run_seconds:.0f} s, after {timing.compile_seconds:.0f} s of compiling"
    console.print(f"{INTEGRATORS[method]}: {len(keys)} samples, {spent_text}", highlight=False)
    return Chains(INTEGRATORS[method], steps, stops, estimates, frames, timing)


def stage(t: int) -> str:
    """Returns where in a chain a time is, as part of a file's name."""
    return "sample" if t < 0 else f"t{t}"


@jax.jit
def estimate(prior: Denoiser, x_t: Float[Array, "n h w 3"], t: int) -> Float[Array, "n h w 3"]:
    """Returns `x0_hat` of many `x_t`."""
    return jax.lax.map(lambda x: prior.predict(x, t).x0_hat, x_t)


def figure(all_chains: Sequence[Chains], *, estimates: bool = False) -> Float[np.ndarray, "H W 3"]:
    """Draws a column per sample and a row per snapshot and method: `x_t`, or `x0_hat`, and the samples below."""
    rows, names = [], []
    for chains in all_chains:
        for t, x_t in chains.stops.items():
            rows.append(list(chains.estimates[t] if estimates and t >= 0 else x_t))
            what = "sample" if t < 0 else f"x0_hat at {t}" if estimates else f"x_t, t = {t}"
            names.append(f"{chains.method}\n{what}")
    titles = [f"sample {k}" for k in range(len(rows[0]))]
    return labelled_grid(rows, titles, names, scale=max(1, round(96 / rows[0][0].shape[0])))


def moving_picture(chains: Chains) -> list[Float[np.ndarray, "H W 3"]]:
    """Draws how the first sample forms: `x_t` beside `x0_hat`."""
    pictures = []
    # Every other one, so that the file stays small.
    for t in sorted(chains.frames)[::2][::-1]:
        x_t, x0_hat = np.split(chains.frames[t], 2, axis=1)
        titles = ["sample" if t < 0 else f"x_t, t = {t}", "estimate x0_hat"]
        pictures.append(labelled_grid([[x_t, x0_hat]], titles, scale=max(1, round(192 / len(x_t)))))
    return pictures


def write_report(config: Generate, all_chains: Sequence[Chains], moving: dict[str, list[np.ndarray]]) -> None:
    """Writes `report.html`."""
    steps = " and ".join(f"{chains.method} in {chains.steps} steps" for chains in all_chains)
    same = " A column starts from the same noise in both." * (len(all_chains) > 1)
    animations = "".join(
        page.animation(to_uint8(np.stack(pictures)), f"{method}, sample 0", ms=150)
        for method, pictures in moving.items()
    )
    blocks = [
        page.command(command_line(PROGRAM, config)),
        page.figure_file(config.out / "figure.png", f"Noise becomes a face: {steps}.{same}"),
        page.heading("How the first sample forms"),
        f'<div class="row">{animations}</div>',
        page.heading("What the network expects at the end"),
        page.figure_file(config.out / "estimates.png", "Estimates x0_hat of the same x_t, and the samples again."),
        page.heading("Steps and seconds"),
        page.settings(record(all_chains)),
    ]
    page.write_page(config.out / "report.html", "Images from noise", blocks)


def record(all_chains: Sequence[Chains]) -> dict[str, Any]:
    """Returns what followed from the settings."""
    return {
        "steps": {chains.method: chains.steps for chains in all_chains},
        "seconds": {chains.method: asdict(chains.timing) for chains in all_chains},
    }


def main(config: Generate) -> None:
    """Draws the samples and writes the folder."""
    prior, console = begin(config), Console()
    all_chains = [run_chains(config, prior, method, console) for method in dict.fromkeys(config.methods)]
    write_image(config.out / "figure.png", figure(all_chains))
    write_image(config.out / "estimates.png", figure(all_chains, estimates=True))
    moving = {chains.method: moving_picture(chains) for chains in all_chains}
    for chains in all_chains:
        name, pictures = chains.method.lower(), moving[chains.method]
        write_gif(config.out / f"{name}.gif", pictures, ms=[150] * (len(pictures) - 1) + [1500])
        for t, images in chains.stops.items():
            for k, x in enumerate(images):
                write_image(config.out / "samples" / f"{name}_{stage(t)}_{k}.png", x)
    finish_folder(config.out, record(all_chains))
    write_report(config, all_chains, moving)
    gifs = ", ".join(f"{chains.method.lower()}.gif" for chains in all_chains)
    written = f"report.html, figure.png, estimates.png, {gifs}"
    console.print(f"written to {config.out}: {written}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_script(main, Generate, __doc__)
