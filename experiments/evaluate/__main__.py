"""Evaluates methods on a data set: images x tasks x methods x seeds, to one table with intervals over images.

    python -m experiments.evaluate
    python -m experiments.evaluate FOLDER --prior priors/ffhq-256 --steps 1000 --limit 1000 --out results/ffhq
    python -m experiments.evaluate FOLDER ... --shard $SLURM_ARRAY_TASK_ID/64
    python -m experiments.evaluate --table --out results/ffhq

Writes `metrics.csv` (a row per image, task, method and seed), `table.md`, `config.json`, and on the way
`results-I-of-N.jsonl`, a line per image. The same command goes on where a run was stopped or killed, and any number of
processes may share a folder: nothing is done twice, and no number depends on who computes it.
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from experiments.evaluate.images import Picture, find_pictures, shard_of
from experiments.evaluate.records import Journal, agree, journal_path, open_evaluation, read_entries
from experiments.evaluate.run import KEYS, Evaluation
from experiments.evaluate.table import write_tables
from experiments.shared.command import run_script
from experiments.shared.problems import KNOWN_PROBLEMS, PROBLEMS
from jaxdiff import Denoiser, load_prior
from jaxdiff.errors import UserError, check_names, check_positive
from jaxdiff.metrics.lpips import LPIPS
from jaxdiff.networks.precision import Dtype
from jaxdiff.runs.folder import command_line, describe_prior, environment
from jaxdiff.runs.methods import KNOWN_METHODS, METHODS, REPORTED, describe_sigma
from jaxdiff.runs.platform import devices_for
from jaxdiff.runs.scores import load_lpips_nets

PROGRAM = "python -m experiments.evaluate"


@dataclass(frozen=True)
class Evaluate:
    """Settings of an evaluation."""

    folder: Annotated[Path | None, tyro.conf.Positional] = None
    """Pictures, also in folders below; drawn faces that were held out of training by default."""
    faces: int = 10
    """How many of these faces, without a folder."""
    limit: int | None = None
    """Take the first so many images, in the order of their names."""
    prior: str = "faces-32"
    """A shipped prior, or a folder written by `python -m convert_weights`."""
    dtype: Dtype = "float32"
    """Precision of the network's products: tf32 and bfloat16 are faster on GPUs and TPUs, not on CPUs."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_PROBLEMS}.")] = tuple(PROBLEMS)
    methods: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Some of: {KNOWN_METHODS}.")] = tuple(REPORTED)
    seeds: int = 1
    """Samples of every image."""
    steps: int = 100
    """Diffusion steps of a whole chain; published evaluations take 1000."""
    sigma: float = 0.05
    """Standard deviation of the measurement noise, in units of [-1, 1] images (0.025 in units of [0, 1])."""
    seed: int = 0
    """Root of all random numbers."""
    images_at_once: int | None = None
    """Images whose samples are drawn together; by default as many as keep all devices of the process busy, on a CPU all
    cores if images are small."""
    batch_size: int | None = None
    """Samples drawn at once; all of these images by default, fewer to save memory."""
    shard: str = "0/1"
    """I/N: do every N-th image from image I on, counted from 0; the shards need nothing of each other. In a SLURM job:
    $SLURM_PROCID/$SLURM_NTASKS."""
    table: bool = False
    """Only write the tables, from what is there."""
    overwrite: bool = False
    """Replace the results in the folder."""
    out: Path = Path("results/evaluate")
    """Folder of the results."""


def check(config: Evaluate) -> Evaluate:
    """Checks the flags; returns them without repeated names.

    Raises:
        UserError: if one is not usable.
    """
    check_positive(
        faces=config.faces,
        limit=config.limit,
        seeds=config.seeds,
        steps=config.steps,
        batch_size=config.batch_size,
        images_at_once=config.images_at_once,
    )
    if not 0 <= config.sigma < float("inf"):
        raise UserError(f"--sigma must be zero or positive, got {config.sigma}.")
    if config.overwrite and parse_shard(config.shard)[1] > 1:
        raise UserError(f"--overwrite would remove what the other processes write; remove {config.out} by hand first.")
    tasks = check_names(config.tasks, list(PROBLEMS), "task")
    methods = check_names(config.methods, list(METHODS), "method")
    return replace(config, tasks=tuple(tasks), methods=tuple(methods))


def parse_shard(text: str) -> tuple[int, int]:
    """Reads `I/N`.

    Raises:
        UserError: unless 0 <= I < N.
    """
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard must be I/N with 0 <= I < N, such as 0/4, got {text!r}.")
    return int(index), int(count)


def evaluation_settings(
    config: Evaluate, prior: Denoiser, pictures: Sequence[Picture], nets: Mapping[str, LPIPS]
) -> dict[str, Any]:
    """Everything that decides the numbers; a folder is continued only if all of it is the same."""
    return {
        **{name: getattr(config, name) for name in ("dtype", "tasks", "methods", "seeds", "steps", "sigma", "seed")},
        "prior": Path(config.prior).name,
        "num_images": len(pictures),
        "images_sha256": sha256("".join(sorted(p.sha256 for p in pictures)).encode()).hexdigest(),
        "denoiser": describe_prior(prior),
        "lpips": sorted(nets),
        "keys": KEYS,
        "versions": environment()["versions"],
    }


def command_of(config: Evaluate) -> str:
    """Returns the command that makes these results again, in one process."""
    here = Evaluate()
    alone = replace(config, folder=None, shard=here.shard)
    # The folder goes first, where it cannot be taken for one more of the tasks.
    program = PROGRAM if config.folder is None else f"{PROGRAM} {shlex.quote(str(config.folder))}"
    return command_line(program, alone)


def evaluate_all(evaluation: Evaluation, pictures: Sequence[Picture], journal: Journal, console: Console) -> None:
    """Evaluates a few images after the other."""
    started, done = time.monotonic(), 0
    while done < len(pictures):
        entries = evaluation.evaluate(pictures[done : done + evaluation.images])
        journal.append(entries)
        for entry in entries:
            done += 1
            psnr = ", ".join(
                f"{task} {np.mean([r['psnr'] or np.nan for r in entry['records'] if r['task'] == task]):.1f}"
                for task in evaluation.problems
            )
            left = (time.monotonic() - started) / done * (len(pictures) - done)
            said = f"{done}/{len(pictures)} {entry['image']}: {psnr} dB; {left / 60:.0f} min left"
            console.print(said, highlight=False, soft_wrap=True, markup=False)


def work(config: Evaluate, console: Console) -> None:
    """Evaluates the images of this process's shard that nobody has evaluated yet."""
    say = lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)
    prior, shard = load_prior(config.prior, dtype=config.dtype, channels=3), parse_shard(config.shard)
    if config.steps > prior.schedule.num_times:
        raise UserError(f"--steps must be between 1 and {prior.schedule.num_times}, got {config.steps}.")
    pictures, remarks = find_pictures(config.folder, config.faces, prior.image_shape[:2], config.limit)
    nets, missing = load_lpips_nets()
    open_evaluation(config.out, PROGRAM, (config.folder, Path(config.prior)), config.overwrite)
    agree(config.out, evaluation_settings(config, prior, pictures, nets), command_of(config))
    with Journal(journal_path(config.out, *shard)) as journal:
        known, mine = read_entries(config.out), shard_of(pictures, *shard)
        todo = [picture for picture in mine if picture.sha256 not in known]
        for remark in [*remarks, *(f"LPIPS reads n/a: {message}" for message in missing)]:
            say(remark)
        counts = f"{len(pictures)} images, {len(mine)} of them in this process, {len(mine) - len(todo)} done before"
        say(f"sigma_y = {describe_sigma(config.sigma)}; {counts}")
        wanted = config.images_at_once or -(-len(devices_for(prior.image_shape)) // config.seeds)
        images = max(min(wanted, len(todo)), 1)
        numbers = config.tasks, config.methods, config.seeds, config.steps, config.sigma, config.seed
        evaluate_all(Evaluation(prior, nets, *numbers, config.batch_size, images), todo, journal, console)


def main(config: Evaluate) -> None:
    """Evaluates this process's images, and writes the tables."""
    config, console = check(config), Console()
    if not config.table:
        work(config, console)
    console.print(write_tables(config.out), highlight=False, soft_wrap=True, markup=False)
    console.print(f"written to {config.out}: table.md, metrics.csv", highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_script(main, Evaluate, __doc__, "the same command goes on where this one stopped")
