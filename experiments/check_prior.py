"""Looks at a prior trained on drawn faces: what it generates, and what it restores of faces it has never seen.

    python -m experiments.check_prior

Writes `samples.png` (held-out faces above unconditional samples) and `table.md`: the PSNR of every task and method,
mean and standard deviation over held-out faces, one sample each.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.shared.command import run_script
from experiments.shared.problems import PROBLEMS, held_out_face, make_problem
from experiments.shared.setup import flags_of, open_results
from jaxdiff import DDPM, Denoiser, load_prior, time_grid
from jaxdiff.disk import write_atomically
from jaxdiff.images.files import write_image
from jaxdiff.images.grid import grid
from jaxdiff.metrics.pixels import psnr
from jaxdiff.runs.folder import describe_prior
from jaxdiff.runs.methods import METHODS, REPORTED, Run, make_run
from jaxdiff.runs.runner import draw
from jaxdiff.runs.tables import markdown

PROGRAM = "python -m experiments.check_prior"


@dataclass(frozen=True)
class Config:
    """Settings of the check."""

    prior: str = "faces-32"
    """A shipped prior, or the folder of one trained on drawn faces."""
    faces: int = 8
    """Held-out faces to restore."""
    samples: int = 24
    """Unconditional samples to draw."""
    steps: int = 250
    """Diffusion steps."""
    sigma: float = 0.05
    """Standard deviation of the measurement noise, in [-1, 1] units."""
    out: Path = Path("results/check_prior")
    """Folder of the results."""
    resume: bool = False
    """Go on with what an interrupted run of the same settings has left in that folder."""
    overwrite: bool = False
    """Replace the results in that folder."""


def restored_psnr(config: Config, prior: Denoiser, face: int, console: Console) -> dict[tuple[str, str], float]:
    """Restores one face by every method from every task's measurement."""
    truth = held_out_face(face, prior.image_shape[0])
    key = jax.random.split(jax.random.fold_in(jax.random.key(face), 2), 1)
    found = {}
    for name in PROBLEMS:
        problem = make_problem(name, truth, config.sigma, seed=face)
        for method in REPORTED:
            run = make_run(method, problem.task, prior, problem.measurement, config.steps)
            store = config.out / "samples" / f"face-{face}_{name}_{method}.npz"
            drawn = draw(f"face {face}, {name}, {method}", run, key, store, console)
            found[name, method] = float(psnr(jnp.clip(drawn.samples[0], -1, 1), truth))
    return found


def faces_table(results: list[dict[tuple[str, str], float]]) -> str:
    """A row per task: PSNR of the methods, and how far DPS is above SDEdit on average and on its worst face."""
    lines = [["task", *(METHODS[method].name for method in REPORTED), "DPS - SDEdit", "least"]]
    for task, kind in PROBLEMS.items():
        values = {method: np.array([r[task, method] for r in results]) for method in REPORTED}
        gain = values["dps"] - values["sdedit"]
        cells = [f"{v.mean():.1f} ± {v.std():.1f}" for v in values.values()]
        lines.append([kind.title, *cells, f"{gain.mean():.1f}", f"{gain.min():.1f}"])
    return markdown(lines)


def main(config: Config) -> None:
    """Draws the samples, restores the faces, and writes both."""
    console = Console()
    prior = load_prior(config.prior)
    open_results(config, PROGRAM, flags_of(config) | {"denoiser": describe_prior(prior)})
    keys = jax.random.split(jax.random.key(1), config.samples)
    times = time_grid(prior.schedule.num_times, config.steps)
    store = config.out / "samples" / "unconditional.npz"
    samples = draw("unconditional", Run(DDPM(prior), times, {}), keys, store, console).samples
    held_out = [np.asarray(held_out_face(i, prior.image_shape[0])) for i in range(config.samples)]
    sheets = [grid([np.kron(x, np.ones((3, 3, 1), np.float32)) for x in images], 12) for images in (held_out, samples)]
    write_image(config.out / "samples.png", np.concatenate(sheets))
    results = [restored_psnr(config, prior, face, console) for face in range(config.faces)]
    write_atomically(config.out / "table.md", faces_table(results))
    console.print(faces_table(results), soft_wrap=True, highlight=False, markup=False)
    console.print(f"written to {config.out}: samples.png, table.md", highlight=False)


if __name__ == "__main__":
    run_script(main, Config, __doc__)
