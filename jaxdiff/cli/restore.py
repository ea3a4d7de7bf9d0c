"""The command `jaxdiff restore`: from a damaged picture to samples of what it may have been."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxdiff.cli.damage import Damage, read_damage, say
from jaxdiff.cli.request import Restore
from jaxdiff.errors import UserError
from jaxdiff.images.files import write_gif, write_image
from jaxdiff.images.grid import heat, labelled_grid
from jaxdiff.measurement import Measurement
from jaxdiff.metrics.diagnosis import Diagnose, Verdict
from jaxdiff.priors.denoiser import Denoiser, Prior
from jaxdiff.priors.storage import load_prior
from jaxdiff.runs import page, report
from jaxdiff.runs.folder import command_line, describe_prior, digest, finish_folder, open_folder, write_npz
from jaxdiff.runs.methods import METHODS, TASKS, Run, describe_sigma, make_run
from jaxdiff.runs.runner import Drawn, draw, sample_keys
from jaxdiff.runs.scores import judge, load_lpips_nets, mean_and_std, residual_text, score_samples
from jaxdiff.runs.setups import matched_time
from jaxdiff.runs.tables import Row, write_csv

PROGRAM = "jaxdiff restore"
NOT_EVIDENCE = (
    "What the data do not say is invented by the prior. A restored face is a sample from a model, not evidence of who "
    "is in a picture."
)


def restore(request: Restore) -> None:
    """Restores a picture and writes the result folder.

    Raises:
        UserError: if a flag, a file or the folder is not usable.
        PriorError: if the prior is not.
    """
    request.check()
    console = Console()
    prior = load_prior(request.prior, dtype=request.dtype)
    check_steps(request, prior)
    damage = read_damage(request, prior, console)
    prior = prior.at((*damage.fit.prior, 3)) if prior.any_size else prior
    measurement = damage.measurement
    if request.task == "denoise" and matched_time(prior.schedule, float(measurement.sigma_y)) == 0:
        say(console, "that is less noise than the prior's finest level: there is hardly anything to denoise")
    run = set_up(request, prior, measurement)
    settings = restore_settings(request, prior, measurement)
    command = command_line(PROGRAM, request)
    open_folder(
        request.folder,
        PROGRAM,
        settings,
        command=command,
        resume=request.resume,
        overwrite=request.overwrite,
        inputs=(request.damaged, request.mask, request.kernel, Path(request.prior)),
    )
    used = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.settings.items())
    say(console, f"{METHODS[request.chosen_method].name}: {used}; {request.samples} samples")
    keys = sample_keys(request.seed, request.samples)
    drawn = draw(
        TASKS[request.task],
        run,
        keys,
        request.folder / "samples" / "samples.npz",
        console,
        batch_size=request.batch_size,
        residual=residual_text(measurement),
        observer=Diagnose(prior.schedule, measurement),
    )
    verdicts = judge(drawn.samples, measurement, drawn.diagnosis, request.chosen_method)
    kept = known_kept(request, measurement, drawn.samples)
    rows = write_restored(request, damage, run, replace(drawn, samples=kept), verdicts, console)
    say(console, summary_text(rows, drawn))
    put_back = " Then these were put back." if request.task == "inpaint" and measurement.noiseless else ""
    say(console, f"{verdicts[0].word}: {verdicts[0].sentence}{put_back}")
    say(console, NOT_EVIDENCE)
    say(
        console, f"written to {request.folder}: report.html, restored.png (their mean), restored_0.png ..., metrics.csv"
    )


def check_steps(request: Restore, prior: Prior) -> None:
    """Refuses more steps than the prior has times."""
    if request.steps > prior.schedule.num_times:
        raise UserError(f"--steps must be between 1 and {prior.schedule.num_times}, got {request.steps}.")


def set_up(request: Restore, prior: Prior, measurement: Measurement) -> Run:
    """Sets the method up with the hyper-parameters asked for."""
    method, task = request.chosen_method, request.task
    return make_run(method, task, prior, measurement, request.steps, request.hyper_parameters)


def restore_settings(request: Restore, prior: Denoiser, measurement: Measurement) -> dict[str, Any]:
    """Everything that decides the numbers; a folder is continued only if all of it is the same."""
    without = {"out", "resume", "overwrite", "batch_size"}
    return {
        **{k: v for k, v in asdict(request).items() if k not in without},
        "measurement_sha256": digest(measurement.y, *jax.tree.leaves(measurement.operator)),
        "sigma_y": describe_sigma(float(measurement.sigma_y)),
        "denoiser": describe_prior(prior),
        "keys": "root = jax.random.key(seed); noise of --simulate: fold_in(root, 1); "
        "sample k: fold_in(fold_in(root, 2), k); step from t: fold_in(sample key, t)",
    }


def known_kept(
    request: Restore, measurement: Measurement, samples: Float[np.ndarray, "n h w 3"]
) -> Float[np.ndarray, "n h w 3"]:
    """Clips the samples to [-1, 1]; without noise, an inpainting's known pixels are those of the measurement."""
    clipped = np.clip(samples, -1, 1)
    if request.task != "inpaint" or not measurement.noiseless:
        return clipped
    return np.where(np.asarray(measurement.observed) > 0, np.asarray(measurement.y), clipped)


def write_restored(
    request: Restore, damage: Damage, run: Run, drawn: Drawn, verdicts: tuple[Verdict, list[str]], console: Console
) -> list[Row]:
    """Writes pictures, scores with the verdict on each sample, and the report; returns the scores."""
    out, samples, measurement = request.folder, drawn.samples, damage.measurement
    nets, missing = load_lpips_nets() if damage.truth is not None else ({}, [])
    rows = score_samples(samples, measurement, truth=damage.truth, nets=nets)
    verdict, words = verdicts
    rows = [{**row, "verdict": word} for row, word in zip(rows, words, strict=True)]
    write_csv(out / "metrics.csv", rows)
    arrays = {} if damage.truth is None else {"truth": damage.truth}
    write_npz(
        out / "measurement.npz",
        y=measurement.y,
        observed=measurement.observed,
        sigma_y=measurement.sigma_y,
        **{f"operator_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(measurement.operator))},
        **arrays,
    )
    write_pictures(out, damage, drawn)
    found = {"method": request.chosen_method, "hyper_parameters": run.settings, "seconds": asdict(drawn.timing)}
    finish_folder(out, {**found, "verdict": verdict._asdict()})
    write_restore_report(request, damage, drawn, rows, verdict, found)
    for message in missing:
        console.print(f"LPIPS reads n/a: {message}", soft_wrap=True, highlight=False, style="dim")
    return rows


def write_pictures(out: Path, damage: Damage, drawn: Drawn) -> None:
    """Writes measurement, mean, spread, samples, the grid of them all, and the reverse process."""
    mean, std = drawn.samples.mean(0), drawn.samples.std(0).mean(-1)
    spread = heat(std, max(float(np.quantile(std, 0.99)), 1e-6))
    y = damage.measurement.y
    write_image(out / "measurement.png", y)
    write_image(out / "mean.png", mean)
    write_at_own_size(out / "restored.png", damage, mean)
    write_image(out / "std.png", spread)
    for k, x in enumerate(drawn.samples):
        write_image(out / "samples" / f"sample_{k}.png", x)
        write_at_own_size(out / f"restored_{k}.png", damage, x)
    write_gif(out / "process.gif", list(drawn.frames.astype(np.float32) / 127.5 - 1), ms=150)
    first = [y, mean, spread, *drawn.samples]
    titles = [
        "measurement",
        "mean",
        f"std\n(mean {std.mean():.3f})",
        *(f"sample {k}" for k in range(len(drawn.samples))),
    ]
    if damage.truth is not None:
        first, titles = [damage.truth, *first], ["truth", *titles]
    write_image(out / "grid.png", labelled_grid([first], titles, scale=max(1, round(128 / y.shape[0]))))


def write_at_own_size(path: Path, damage: Damage, x: Float[np.ndarray, "h w 3"]) -> None:
    """Writes a sample as the user's picture: an inpainting pasted into it, anything else without its padding."""
    photo, fit = damage.photo, damage.fit
    if damage.hidden is not None and damage.truth is None:
        changed = np.zeros_like(damage.hidden)
        changed[fit.kept] = damage.hidden[fit.kept]
        photo.write(path, fit.paste(photo.x, x, damage.hidden), changed)
    else:
        photo.part(*fit.kept).write(path, fit.undo(x))


def write_restore_report(
    request: Restore, damage: Damage, drawn: Drawn, rows: list[Row], verdict: Verdict, found: dict[str, Any]
) -> None:
    """Writes `report.html`."""
    blocks = [
        page.command(command_line(PROGRAM, request)),
        page.paragraph(f"{damage.fit.describe()}. Noise: {describe_sigma(float(damage.measurement.sigma_y))}."),
        report.samples_section(
            f"{TASKS[request.task]}, {METHODS[request.chosen_method].name}",
            samples=drawn.samples,
            measurement=np.asarray(damage.measurement.y),
            truth=None if damage.truth is None else np.asarray(damage.truth),
            rows=rows,
            frames=drawn.frames,
            verdict=verdict,
            curve=drawn.curve,
        ),
        page.paragraph(NOT_EVIDENCE),
        page.heading("Settings"),
        page.settings({k: v for k, v in asdict(request).items() if v is not None} | found),
    ]
    page.write_page(request.folder / "report.html", f"{request.damaged.name}: {TASKS[request.task]}", blocks)


def summary_text(rows: list[Row], drawn: Drawn) -> str:
    """Returns the scores, and how long it took, in words."""
    parts = []
    for column, words in (("psnr", "PSNR {:.1f} ± {:.1f} dB"), ("residual_ratio", "residual {:.2f} ± {:.2f} x noise")):
        if column in rows[0] and (values := mean_and_std([row[column] for row in rows])):
            parts.append(words.format(*values))
    seconds = f"{drawn.timing.run_seconds:.0f} s, after {drawn.timing.compile_seconds:.0f} s of compiling"
    return "; ".join([*parts, seconds + (" (continued from an earlier run)" if drawn.resumed else "")])
