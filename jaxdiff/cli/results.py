"""What `jaxdiff restore` leaves behind: pictures, scores, and the report."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console

from jaxdiff.cli.damage import Damage, say
from jaxdiff.cli.request import Restore
from jaxdiff.images.files import write_gif, write_image
from jaxdiff.images.fit import reduced
from jaxdiff.images.grid import heat, labelled_grid
from jaxdiff.metrics.diagnosis import Verdict
from jaxdiff.metrics.pixels import psnr
from jaxdiff.runs import page, report
from jaxdiff.runs.folder import command_line, finish_folder, write_npz
from jaxdiff.runs.methods import METHODS, TASKS, Run, describe_sigma
from jaxdiff.runs.runner import Drawn
from jaxdiff.runs.scores import load_lpips_nets, mean_and_std, score_samples
from jaxdiff.runs.tables import Row, write_csv

PROGRAM = "jaxdiff restore"
NOT_EVIDENCE = (
    "What the data do not say is invented by the prior. A restored face is a sample from a model, not evidence of who "
    "is in a picture."
)
SHOWN_PIXELS = 2**21
"""Pictures with more pixels are averaged down in reports and figures."""


@dataclass(frozen=True)
class Restored:
    """A picture that was restored.

    Attributes:
        request: what was asked for.
        damage: the damaged picture.
        run: the sampler.
        drawn: the samples, clipped, with the known pixels as they are known.
        mean: the posterior mean.
        verdicts: on all samples, and a word for each.
    """

    request: Restore
    damage: Damage
    run: Run
    drawn: Drawn
    mean: Float[np.ndarray, "h w 3"]
    verdicts: tuple[Verdict, list[str]]

    @property
    def verdict(self) -> Verdict:
        """On all samples."""
        return self.verdicts[0]

    @property
    def std(self) -> Float[np.ndarray, "h w"]:
        """Standard deviation of the samples, the mean over colours."""
        return self.drawn.samples.std(0).mean(-1)


def write_restored(restored: Restored, console: Console) -> None:
    """Writes pictures, scores with the verdict on each sample, and the report; prints the scores."""
    out, damage = restored.request.folder, restored.damage
    nets, missing = load_lpips_nets() if damage.truth is not None else ({}, [])
    rows = score_samples(restored.drawn.samples, damage.measurement, truth=damage.truth, nets=nets)
    rows = [{**row, "verdict": word} for row, word in zip(rows, restored.verdicts[1], strict=True)]
    write_csv(out / "metrics.csv", rows)
    write_measurement(out / "measurement.npz", damage)
    write_pictures(out, restored)
    found = {
        "method": restored.run.method,
        "hyper_parameters": restored.run.settings,
        "seconds": asdict(restored.drawn.timing),
    }
    finish_folder(out, {**found, "verdict": restored.verdict._asdict()})
    write_restore_report(restored, rows, found)
    for message in missing:
        console.print(f"LPIPS reads n/a: {message}", soft_wrap=True, highlight=False, style="dim")
    say(console, summary_text(restored, rows))


def write_measurement(path: Path, damage: Damage) -> None:
    """Writes what was measured, and the numbers of the operator."""
    measurement = damage.measurement
    write_npz(
        path,
        y=measurement.y,
        observed=measurement.observed,
        sigma_y=measurement.sigma_y,
        **{f"operator_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(measurement.operator))},
        **({} if damage.truth is None else {"truth": damage.truth}),
    )


def write_pictures(out: Path, restored: Restored) -> None:
    """Writes measurement, mean, spread, samples, the grid of them all, and the reverse process."""
    damage, drawn, mean, std = restored.damage, restored.drawn, restored.mean, restored.std
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
    first = [reduced(np.asarray(x), SHOWN_PIXELS // len(first)) for x in first]
    write_image(out / "grid.png", labelled_grid([first], titles, scale=max(1, round(128 / y.shape[0]))))


def write_at_own_size(path: Path, damage: Damage, x: Float[np.ndarray, "h w 3"]) -> None:
    """Writes a sample as the user's picture: an inpainting pasted into it, anything else without its padding."""
    photo, fit = damage.photo, damage.fit
    if damage.pasted is not None:
        photo.write(path, fit.paste(photo.x, x, damage.pasted), damage.pasted)
    else:
        photo.part(*fit.kept).write(path, damage.shown(x))


def own_size_section(restored: Restored) -> list[str]:
    """Returns the restored picture over the damaged one at its own size, and where the samples differ."""
    damage, fit = restored.damage, restored.damage.fit
    std = np.repeat(restored.std[..., None], 3, -1)
    if damage.pasted is None:
        before, after, spread = damage.photo.part(*fit.kept).x, damage.shown(restored.mean), damage.shown(std)
    else:
        before, after = damage.photo.x, fit.paste(damage.photo.x, restored.mean, damage.pasted)
        spread = fit.paste(np.zeros_like(before), std, damage.pasted)
    before, after, spread = (reduced(np.asarray(x), SHOWN_PIXELS) for x in (before, after, spread))
    vmax = max(float(np.quantile(spread[spread > 0], 0.99)) if (spread > 0).any() else 0.0, 1e-6)
    words = f"where the samples differ: black not at all, white by {vmax / 2:.2g} of the pixel range (std) or more"
    title = "the clean picture" if damage.truth is not None else "as it was given"
    return [
        page.heading("The restored picture"),
        page.row([page.slider(before, after, title, "restored.png, the posterior mean")]),
        page.row([page.picture(heat(spread[..., 0], vmax), words)], "gallery"),
    ]


def write_restore_report(restored: Restored, rows: list[Row], found: dict[str, Any]) -> None:
    """Writes `report.html`."""
    request, damage, drawn = restored.request, restored.damage, restored.drawn
    shown = lambda x: np.stack([reduced(one, SHOWN_PIXELS // 4) for one in np.asarray(x)])
    blocks = [
        page.command(command_line(PROGRAM, request)),
        page.paragraph(f"{damage.fit.describe()}. Noise: {describe_sigma(float(damage.measurement.sigma_y))}."),
        *own_size_section(restored),
        report.samples_section(
            f"{TASKS[request.task]}, {METHODS[restored.run.method].name}",
            samples=shown(drawn.samples),
            measurement=shown(damage.measurement.y[None])[0],
            truth=None if damage.truth is None else shown(damage.truth[None])[0],
            rows=rows,
            frames=drawn.frames,
            verdict=restored.verdict,
            curve=drawn.curve,
        ),
        page.paragraph(NOT_EVIDENCE),
        page.heading("Settings"),
        page.settings({k: v for k, v in asdict(request).items() if v is not None} | found),
    ]
    page.write_page(request.folder / "report.html", f"{request.damaged.name}: {TASKS[request.task]}", blocks)


def summary_text(restored: Restored, rows: list[Row]) -> str:
    """Returns the scores, and how long it took, in words."""
    parts, timing = [], restored.drawn.timing
    for column, words in (("psnr", "PSNR {:.1f} ± {:.1f} dB"), ("residual_ratio", "residual {:.2f} ± {:.2f} x noise")):
        if column in rows[0] and (values := mean_and_std([row[column] for row in rows])):
            parts.append(words.format(*values))
    if restored.damage.truth is not None:
        parts.append(f"the mean {float(psnr(jnp.asarray(restored.mean), restored.damage.truth)):.1f} dB")
    seconds = f"{timing.run_seconds:.0f} s, after {timing.compile_seconds:.0f} s of compiling"
    return "; ".join([*parts, seconds + (" (continued from an earlier run)" if restored.drawn.resumed else "")])
