"""Restores damaged photographs with the prior `photos`, beside what people use; needs `pip install -e ".[photos]"`.

    python -m experiments.photos
    python -m experiments.photos --trials scratches x2 --photographs chelsea --samples 2

The photographs come with scikit-image, scikit-learn and matplotlib. They are cut to a square, averaged to `--size`, and
rounded to 8 bits. Every method is at its defaults; filters with a number to choose get the best one for each picture.

Writes `table.md`, `results.json` (a row per photograph, trial and method; the same command goes on with it after an
interruption), and a picture of every restoration.
"""

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.photos.peers import PEERS, Given
from experiments.photos.trials import TRIALS, Damaging, Picture, measured
from experiments.shared.command import run_script
from experiments.shared.photographs import PHOTOGRAPHS, find_photograph
from experiments.shared.setup import flags_of
from jaxdiff import load_prior, sample_segments
from jaxdiff.disk import write_atomically
from jaxdiff.errors import check_names, check_positive, check_seed
from jaxdiff.images.files import write_image
from jaxdiff.images.fit import read_fitted
from jaxdiff.measurement import Measurement
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.metrics.pixels import psnr, ssim
from jaxdiff.priors.denoiser import Denoiser
from jaxdiff.runs.folder import command_line, describe_prior, finish_folder, open_folder, read_json, write_json
from jaxdiff.runs.methods import best_method, default_steps, make_run
from jaxdiff.runs.runner import sample_keys
from jaxdiff.runs.scores import HIGHER_IS_BETTER, LABELS, load_lpips_nets
from jaxdiff.runs.tables import Row, markdown

PROGRAM = "python -m experiments.photos"
ONE, MEAN = "jaxdiff, one sample", "jaxdiff, posterior mean"


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    trials: tuple[str, ...] = tuple(TRIALS)
    """Some of the damages."""
    photographs: tuple[str, ...] = tuple(PHOTOGRAPHS)
    """Some of the photographs."""
    prior: str = "photos"
    """A prior that takes pictures of any size."""
    size: int = 256
    """Side of the pictures."""
    samples: int = 4
    """Samples of every posterior."""
    steps: int | None = None
    """Steps of a chain; the prior's default without it."""
    seed: int = 0
    """Root of all random numbers."""
    out: Path = Path("results/photos")
    """Folder of the results."""
    overwrite: bool = False
    """Replace the results in that folder."""


@dataclass(frozen=True)
class Damaged:
    """A photograph that was damaged in one way."""

    trial: Damaging
    truth: Picture
    measurement: Measurement
    hidden: Any

    def given(self) -> Given:
        """Returns what peers get."""
        kernel = getattr(self.measurement.operator, "kernel", None)
        return Given(
            y=(np.clip(np.asarray(self.measurement.y, np.float64), -1, 1) + 1) / 2,
            hidden=self.hidden,
            kernel=None if kernel is None else np.asarray(kernel),
            sigma=float(self.trial.sigma_y) / 2,
            size=(self.truth.shape[0], self.truth.shape[1]),
        )


def make_case(name: str, trial: str, config: Config) -> Damaged:
    """Damages a photograph; every pair of photograph and trial has its own random numbers."""
    picture, _ = read_fitted(find_photograph(name), (config.size, config.size))
    truth = np.round((picture + 1) * 127.5) / 127.5 - 1
    row = TRIALS[trial]
    number = list(PHOTOGRAPHS).index(name)
    operator, hidden = row.make(truth.shape[0], truth.shape[1], np.random.default_rng([config.seed, number]))
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    y = measured(operator(jnp.asarray(truth)), operator, key, row.sigma_y)
    if hidden is not None:
        y = operator(jnp.asarray(truth))
    return Damaged(row, truth.astype(np.float32), Measurement(operator, y, row.sigma_y), hidden)


def restored(case: Damaged, prior: Denoiser, config: Config) -> Iterator[tuple[str, Picture, float, str]]:
    """Draws samples; yields one, and their mean, each with seconds and network calls."""
    fitted = prior.at((*case.truth.shape[:2], 3))
    method, steps = best_method(case.trial.task, prior), config.steps or default_steps(prior)
    run = make_run(method, case.trial.task, fitted, case.measurement, steps)
    keys, started = sample_keys(config.seed, config.samples), time.monotonic()
    *_, last = sample_segments(run.sampler, keys, run.times)
    samples = np.clip(np.asarray(last.state), -1, 1)
    seconds = time.monotonic() - started - last.compile_seconds
    if case.hidden is not None:
        samples = np.where(case.hidden[..., None], samples, case.truth)
    calls = len(run.times) - 1
    yield ONE, samples[0], seconds / config.samples, str(calls)
    if run.mean is None:
        yield f"{MEAN} of {config.samples}", samples.mean(0), seconds, f"{config.samples} x {calls}"
    else:
        run.mean()
        started = time.monotonic()
        mean = np.asarray(run.mean())
        yield MEAN, mean, time.monotonic() - started, "1"


def peers(case: Damaged) -> Iterator[tuple[str, Picture, float, str]]:
    """Yields what people use, the best of each by PSNR; what is not installed is left out."""
    for name, peer in PEERS[case.trial.task].items():
        started = time.monotonic()
        try:
            found = peer(case.given())
        except ImportError:
            continue
        made = [2 * np.clip(picture, 0, 1) - 1 for picture in found]
        seconds = (time.monotonic() - started) / len(made)
        yield name, max(made, key=lambda picture: score_psnr(case, picture)).astype(np.float32), seconds, ""


def score_psnr(case: Damaged, picture: Picture) -> float:
    """Returns the PSNR over the hidden pixels, or over all but the margin."""
    inner = slice(case.trial.margin, case.truth.shape[0] - case.trial.margin)
    where = np.s_[inner, inner] if case.hidden is None else case.hidden
    x, reference = picture[where].reshape(-1, 1, 3), case.truth[where].reshape(-1, 1, 3)
    return float(psnr(x, reference))


def scored(case: Damaged, nets: dict[str, LPIPS], made: tuple[str, Picture, float, str]) -> Row:
    """Scores a restoration."""
    name, picture, seconds, calls = made
    inner = slice(case.trial.margin, case.truth.shape[0] - case.trial.margin)
    x, reference = (jnp.asarray(a[inner, inner]) for a in (picture, case.truth))
    distances = {column: float(_distance(net, x, reference)) for column, net in nets.items()}
    scores: Row = {"psnr": score_psnr(case, picture), "ssim": float(_ssim(x, reference)), **distances}
    return {"method": name, **scores, "seconds": seconds, "calls": calls}


_distance, _ssim = jax.jit(LPIPS.__call__), jax.jit(ssim)


def means_table(cells: dict[str, list[Row]]) -> str:
    """Returns the means over photographs in Markdown, the best of every trial in bold."""
    lines: list[Row] = []
    for trial, row in TRIALS.items():
        found = [rows for cell, rows in cells.items() if cell.split("/")[1] == trial]
        for number, first in enumerate(found[0] if found else []):
            scores = {LABELS[name]: _mean_text(found, name, number) for name in HIGHER_IS_BETTER if name in first}
            seconds = float(np.median([float(rows[number]["seconds"]) for rows in found]))
            last = {"seconds": f"{seconds:.1f}", "network calls": first["calls"]}
            lines.append({"damage": row.title, "method": first["method"]} | scores | last)
    return markdown(lines)


def _mean_text(found: list[list[Row]], name: str, number: int) -> str:
    """The mean of one method's scores, in bold if no other method's is better."""
    means = np.mean([[float(one[name]) for one in rows] for rows in found], axis=0)
    text = f"{means[number]:.{2 if name == 'psnr' else 3 if name == 'ssim' else 4}f}"
    best = means.max() if HIGHER_IS_BETTER[name] else means.min()
    return f"**{text}**" if means[number] == best else text


def main(config: Config) -> None:
    """Runs the comparison and writes its folder."""
    console = Console()
    trials = check_names(config.trials, list(TRIALS), "trial")
    names = check_names(config.photographs, list(PHOTOGRAPHS), "photograph")
    absent = [module for module in ("cv2", "skimage", "bm3d") if importlib.util.find_spec(module) is None]
    if absent:
        console.print(f'without {", ".join(absent)}, which pip install "jaxdiff[photos]" brings', highlight=False)
    check_positive(size=config.size, samples=config.samples, steps=config.steps)
    check_seed(config.seed)
    prior = load_prior(config.prior, channels=3)
    for name in names:
        find_photograph(name)
    open_folder(
        config.out,
        PROGRAM,
        {**flags_of(config, ("trials", "photographs")), "denoiser": describe_prior(prior)},
        command=command_line(PROGRAM, config),
        resume=not config.overwrite,
        overwrite=config.overwrite,
    )
    nets, missing = load_lpips_nets()
    store = config.out / "results.json"
    cells: dict[str, list[Row]] = read_json(store, dict) if store.exists() else {}
    for trial in trials:
        for name in names:
            if f"{name}/{trial}" in cells:
                continue
            case = make_case(name, trial, config)
            made = [*restored(case, prior, config), *peers(case)]
            for method, picture, *_ in made:
                write_image(config.out / name / trial / f"{method.replace(' ', '_')}.png", picture)
            cells[f"{name}/{trial}"] = [scored(case, nets, one) for one in made]
            write_json(store, cells)
            line = ", ".join(f"{row['method']} {row['psnr']:.2f}" for row in cells[f"{name}/{trial}"])
            console.print(f"{name}, {trial}: {line}", soft_wrap=True, highlight=False)
    text = means_table(cells)
    write_atomically(config.out / "table.md", text)
    finish_folder(config.out, {})
    console.print(text, soft_wrap=True, highlight=False, markup=False)
    for message in missing:
        console.print(message, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
