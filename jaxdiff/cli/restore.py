"""The command `jaxdiff restore`: from a damaged picture to samples of what it may have been."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxdiff.cli.damage import read_damage, say
from jaxdiff.cli.request import Restore
from jaxdiff.cli.results import NOT_EVIDENCE, PROGRAM, Restored, write_restored
from jaxdiff.errors import UserError
from jaxdiff.measurement import Measurement
from jaxdiff.metrics.diagnosis import Diagnose
from jaxdiff.priors.denoiser import Denoiser, Prior
from jaxdiff.priors.storage import load_prior
from jaxdiff.runs.fitting import MANY_PIXELS, fitted_prior
from jaxdiff.runs.folder import command_line, describe_prior, digest, open_folder
from jaxdiff.runs.methods import (
    METHODS,
    TASKS,
    Run,
    best_method,
    check_flags,
    default_steps,
    describe_sigma,
    make_run,
)
from jaxdiff.runs.runner import draw, sample_keys
from jaxdiff.runs.scores import judge, residual_text
from jaxdiff.runs.setups import matched_time


def restore(request: Restore) -> str:
    """Restores a picture and writes the result folder; returns the word of its verdict.

    Raises:
        UserError: if a flag, a file or the folder is not usable.
        PriorError: if the prior is not.
    """
    request.check()
    console = Console()
    prior = load_prior(request.prior, dtype=request.dtype, channels=3)
    asked, request = request, complete(request, prior)
    damage = read_damage(request, prior, console)
    measurement = damage.measurement
    settings = restore_settings(request, prior, measurement)
    prior = fitted_prior(prior, damage.image_shape, damage.wanted)
    if request.task == "denoise" and matched_time(prior.schedule, float(measurement.sigma_y)) == 0:
        say(console, "that is less noise than the prior's finest level: there is hardly anything to denoise")
    run = set_up(request, prior, measurement)
    open_folder(
        request.folder,
        PROGRAM,
        settings,
        command=command_line(PROGRAM, asked),
        resume=request.resume,
        overwrite=request.overwrite,
        inputs=(request.damaged, request.mask, request.kernel, Path(request.prior)),
    )
    used = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in run.settings.items())
    say(console, f"{METHODS[run.method].name}: {used}; {request.samples} samples of {len(run.times) - 1} steps")
    keys = sample_keys(request.seed, request.samples)
    drawn = draw(
        TASKS[request.task],
        run,
        keys,
        request.folder / "samples" / "samples.npz",
        console,
        batch_size=request.batch_size or ("auto" if np.prod(damage.image_shape[:2]) > MANY_PIXELS else None),
        residual=residual_text(measurement),
        observer=Diagnose(prior.schedule, measurement),
    )
    kept = known_kept(request, measurement, drawn.samples)
    restored = Restored(
        request=asked,
        damage=damage,
        run=run,
        drawn=replace(drawn, samples=kept),
        mean=kept.mean(0) if run.mean is None else np.clip(np.asarray(run.mean()), -1, 1),
        verdicts=judge(drawn.samples, measurement, drawn.diagnosis, run.method),
    )
    write_restored(restored, console)
    put_back = " Then these were put back." if request.task == "inpaint" and measurement.noiseless else ""
    say(console, f"{restored.verdict.word}: {restored.verdict.sentence}{put_back}")
    say(console, NOT_EVIDENCE)
    say(
        console, f"written to {request.folder}: report.html, restored.png (their mean), restored_0.png ..., metrics.csv"
    )
    return restored.verdict.word


def complete(request: Restore, prior: Prior) -> Restore:
    """Fills in what the prior decides if it was not asked for: the method, and the number of steps.

    Raises:
        UserError: if there are more steps than the prior has times, or the method has not all flags that were given.
    """
    method = request.method or best_method(request.task, prior)
    steps = default_steps(prior) if request.steps is None else request.steps
    if steps > prior.schedule.num_times:
        raise UserError(f"--steps must be between 1 and {prior.schedule.num_times}, got {steps}.")
    check_flags(method, request.hyper_parameters)
    return replace(request, method=method, steps=steps)


def set_up(request: Restore, prior: Prior, measurement: Measurement) -> Run:
    """Sets the method up with the hyper-parameters asked for; the request is complete."""
    assert request.method is not None
    assert request.steps is not None
    return make_run(request.method, request.task, prior, measurement, request.steps, request.hyper_parameters)


def restore_settings(request: Restore, prior: Denoiser, measurement: Measurement) -> dict[str, Any]:
    """Everything that decides the numbers; a folder is continued only if all of it is the same."""
    without = {"out", "resume", "overwrite", "batch_size"}
    return {
        **{k: v for k, v in asdict(request).items() if k not in without},
        "prior": Path(request.prior),
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
