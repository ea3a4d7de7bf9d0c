"""Restores what the prior has never seen: a red panda beside a face, by the same methods from the same damage.

    python -m experiments.out_of_distribution
    python -m experiments.out_of_distribution --prior priors/ffhq-256 --image ANIMAL.png --reference FACE.png

Both images get the same mask, the same noise, and the same seeds. Beside the PSNR, three numbers that need no truth say
whether one could have known: the residual, the standard deviation over seeds, and the denoising error, which is how
badly the prior tells noise from image on the restored image itself.

Writes `report.html`, `figure.png`, `one_step.png` (one-step denoising), `table.md`, `metrics.csv` (a row per image,
task, method and seed), `config.json`, and every image as a PNG in `samples/`. `--resume` goes on with an interrupted
run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.out_of_distribution.panda import draw_panda
from experiments.out_of_distribution.signs import Result, Subject, signs_in_words, signs_table, std_of
from experiments.shared.cells import brightest, cells_record, run_cell, sections, write_cells
from experiments.shared.command import run_script
from experiments.shared.problems import KNOWN_PROBLEMS, PROBLEMS, held_out_face, make_problem, read_fitted_photo
from experiments.shared.published import is_ffhq_256
from experiments.shared.realism import denoising_error
from experiments.shared.setup import (
    Config,
    Experiment,
    experiment_settings,
    load,
    open_results,
    print_noise,
    print_results,
)
from jaxdiff import Denoiser, Measurement
from jaxdiff.disk import write_atomically
from jaxdiff.errors import UserError, check_names
from jaxdiff.images.files import write_image
from jaxdiff.images.grid import heat, labelled_grid
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.operators import Identity
from jaxdiff.runs import page
from jaxdiff.runs.folder import command_line, digest, finish_folder
from jaxdiff.runs.methods import KNOWN_METHODS, METHODS, REPORTED, make_run
from jaxdiff.runs.runner import sample_keys
from jaxdiff.runs.scores import load_lpips_nets, mean_text, score_samples
from jaxdiff.runs.tables import markdown, write_csv
from jaxdiff.samplers.base import perturb

PROGRAM = "python -m experiments.out_of_distribution"


@dataclass(frozen=True)
class OutOfDistribution(Config):
    """Settings of the comparison of a face with a stranger to the prior."""

    image: Path | None = None
    """A photo of what the prior has never seen; a drawn red panda by default."""
    reference: Path | None = None
    """A photo of what it has; a drawn face that was held out of training by default."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_PROBLEMS}.")] = tuple(PROBLEMS)
    methods: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_METHODS}.")] = tuple(REPORTED)
    denoise_at: int = 100
    """Noise level of one-step denoising, as a time of the diffusion."""
    seeds: int = 4
    """Samples of everything."""
    steps: int = 100
    """Diffusion steps of a whole chain; the reports take 1000."""
    out: Path = Path("results/out_of_distribution")
    """Folder of the results."""


def begin(config: OutOfDistribution) -> list[Subject]:
    """Checks the flags, loads prior and images, and opens the result folder; returns the face and the stranger."""
    experiment = load(config)
    prior, console = experiment.prior, experiment.console
    num_times, (height, width, _) = prior.schedule.num_times, prior.image_shape
    if not 0 <= config.denoise_at < num_times:
        raise UserError(f"--denoise-at must be a time from 0 to {num_times - 1}, got {config.denoise_at}.")
    if is_ffhq_256(prior) and config.reference is None:
        raise UserError("--reference must name a photo of a face: to this prior a drawn face is a stranger, too.")
    reference = config.reference
    face = held_out_face(config.face, height) if reference is None else read_fitted_photo(reference, (height, width))
    stranger = draw_panda(height) if config.image is None else experiment.truth
    settings = experiment_settings(config, replace(experiment, truth=stranger)) | {"reference_sha256": digest(face)}
    open_results(config, PROGRAM, settings)
    print_noise(config, experiment)
    subjects = []
    for folder, name, image in (("face", "face", face), ("stranger", stranger_name(config), stranger)):
        own = replace(config, out=config.out / "samples" / folder)
        (own.out / "samples").mkdir(parents=True, exist_ok=True)
        subjects.append(Subject(name, own, Experiment(prior, image, console)))
    return subjects


def stranger_name(config: OutOfDistribution) -> str:
    """Returns what to call the image that the prior has never seen."""
    return "red panda" if config.image is None else "stranger"


def run_subject(
    subject: Subject, denoise_at: int, tasks: Sequence[str], methods: Sequence[str], nets: Mapping[str, LPIPS]
) -> Result:
    """Denoises an image in one step, and restores it by every method from every task's measurement."""
    config, experiment = subject.config, subject.experiment
    truth, prior = experiment.truth, experiment.prior
    experiment.console.print(f"{subject.name}:", highlight=False, style="bold")
    noisy, denoised = map(np.asarray, one_step(prior, sample_keys(config.seed, config.seeds), truth, denoise_at))
    scores = score_samples(denoised, Measurement(Identity(), truth, 0.0), truth=truth, nets=nets)
    groups = [(denoised, [{"task": "denoise", "method": "one step", **row} for row in scores])]
    cells = []
    for task in tasks:
        problem = make_problem(task, truth, config.sigma, config.seed)
        inputs = problem.task, prior, problem.measurement, config.steps
        for method in methods:
            cell = run_cell(config, experiment, problem, METHODS[method].name, make_run(method, *inputs), nets)
            cells.append(cell)
            groups.append((cell.drawn.samples, cell.rows))
    errors = denoising_error(prior, jnp.concatenate([samples for samples, _ in groups]))
    stds = [std_of(samples) for samples, rows in groups for _ in rows]
    rows = [row for _, rows in groups for row in rows]
    extra = [{"std": std, "denoising_error": float(e)} for std, e in zip(stds, errors, strict=True)]
    named = [{"image": subject.name, **row, **more} for row, more in zip(rows, extra, strict=True)]
    return Result(subject, cells, noisy, denoised, named)


@jax.jit
def one_step(
    prior: Denoiser, keys: PRNGKeyArray, truth: Float[Array, "h w 3"], t: int
) -> tuple[Float[Array, "n h w 3"], Float[Array, "n h w 3"]]:
    """Returns an image with noise, and what one run of the network makes of it, one per key."""
    noisy = jax.vmap(lambda key: perturb(prior.schedule, jax.random.fold_in(key, t), truth, t))(keys)
    return noisy, jax.vmap(lambda x_t: prior.predict(x_t, t).x0_hat)(noisy)


def figure(results: Sequence[Result]) -> Float[np.ndarray, "H W 3"]:
    """Draws two rows per task, face above stranger: truth, measurement, one sample per method, and their std."""
    vmax = brightest([cell for result in results for cell in result.cells])
    rows, captions, names = [], [], []
    for task in dict.fromkeys(cell.problem.name for cell in results[0].cells):
        for result in results:
            cells = [cell for cell in result.cells if cell.problem.name == task]
            maps = [heat(cell.std, vmax) for cell in cells] if len(cells[0].drawn.samples) > 1 else []
            samples = [cell.drawn.samples[0] for cell in cells]
            rows.append([result.subject.experiment.truth, cells[0].problem.measurement.y, *samples, *maps])
            below = [f"std {cell.std.mean():.3f}" for cell in cells[: len(maps)]]
            captions.append(["", "", *(f"{cell.psnr} dB" for cell in cells), *below])
            names.append(f"{PROBLEMS[task].title}:".replace(" ", "\n") + f"\n{result.subject.name}")
    methods = list(dict.fromkeys(cell.method for cell in results[0].cells))
    heads = [f"std of\n{method}" for method in methods][: len(rows[0]) - 2 - len(methods)]
    scale = max(1, round(128 / rows[0][0].shape[0]))
    return labelled_grid(rows, ["truth", "measurement", *methods, *heads], names, captions=captions, scale=scale)


def one_step_figure(results: Sequence[Result], t: int) -> Float[np.ndarray, "H W 3"]:
    """Draws face above stranger: clean, noisy, denoised in one step, and the error."""
    errors = [np.sqrt(((np.clip(r.denoised[0], -1, 1) - r.subject.experiment.truth) ** 2).mean(-1)) for r in results]
    vmax = max(float(np.quantile(errors, 0.99)), 1e-6)
    rows, captions = [], []
    for result, error in zip(results, errors, strict=True):
        rows.append([result.subject.experiment.truth, result.noisy[0], result.denoised[0], heat(error, vmax)])
        psnr = mean_text(result.values("denoise", "one step", "psnr"), 1)
        captions.append(["", "", f"{psnr} dB", f"RMS {np.sqrt((error**2).mean()):.3f}"])
    titles = ["clean", f"noisy, t = {t}", "denoised in\none step", "error"]
    names = [result.subject.name.replace(" ", "\n") for result in results]
    return labelled_grid(rows, titles, names, captions=captions, scale=max(1, round(128 / rows[0][0].shape[0])))


def write_report(config: OutOfDistribution, results: Sequence[Result]) -> None:
    """Writes `report.html`."""
    name = stranger_name(config)
    blocks = [
        page.command(command_line(PROGRAM, config)),
        page.paragraph(
            f"A prior knows what it was trained on. Here a {name}, which it has never seen, is restored beside a face, "
            "by the same methods, from the same damage and noise. All counts are about these two images."
        ),
        page.figure_file(config.out / "figure.png", "One sample per method; PSNR over all seeds; maps share a scale."),
        page.heading("Could one have known without the truth?"),
        *(page.paragraph(sentence) for sentence in signs_in_words(results)),
        page.table(signs_table(results), f"face → {name}, means over seeds; only the PSNR needs the truth"),
        page.heading("Denoising in one step"),
        page.figure_file(config.out / "one_step.png", "Both error maps share a scale; black is no error."),
    ]
    for result in results:
        named = [replace(cell, method=f"{cell.method}, {result.subject.name}") for cell in result.cells]
        blocks += sections(result.subject.experiment, named)
    blocks += [page.heading("Settings"), page.settings(cells_record(results[0].cells))]
    page.write_page(config.out / "report.html", f"A face and a {name}", blocks)


def main(config: OutOfDistribution) -> None:
    """Restores both images and writes the folder."""
    tasks = check_names(config.tasks, list(PROBLEMS), "task")
    methods = check_names(config.methods, list(METHODS), "method")
    subjects = begin(config)
    console = subjects[0].experiment.console
    nets, missing = load_lpips_nets()
    results = [run_subject(subject, config.denoise_at, tasks, methods, nets) for subject in subjects]
    shown = markdown(signs_table(results))
    write_csv(config.out / "metrics.csv", [row for result in results for row in result.rows])
    write_atomically(config.out / "table.md", shown)
    for result in results:
        write_cells(result.subject.config, result.subject.experiment, result.cells)
    write_image(config.out / "figure.png", figure(results))
    write_image(config.out / "one_step.png", one_step_figure(results, config.denoise_at))
    found = {result.subject.name: cells_record(result.cells) for result in results}
    finish_folder(config.out, {**found, "found": signs_in_words(results)})
    write_report(config, results)
    written = "report.html, figure.png, one_step.png, table.md, metrics.csv"
    print_results(console, config.out, written, missing, shown, *signs_in_words(results))


if __name__ == "__main__":
    run_script(main, OutOfDistribution, __doc__)
