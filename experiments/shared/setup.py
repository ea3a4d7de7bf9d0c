"""What all experiments on one image share: their flags, their result folder, and how they begin."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Array, Float
from rich.console import Console

from experiments.shared.problems import KEYS, load_truth
from jaxdiff import Denoiser
from jaxdiff.errors import UserError, check_positive
from jaxdiff.networks.precision import Dtype
from jaxdiff.runs.folder import command_line, describe_prior, digest, open_folder
from jaxdiff.runs.methods import describe_sigma

INPUTS = ("image", "prior", "reference")
"""Flags that name files to read."""


@dataclass(frozen=True)
class Config:
    """Flags that all experiments have."""

    prior: str = "faces-32"
    """A shipped prior, or a folder written by `python -m convert_weights`."""
    dtype: Dtype = "float32"
    """Precision of the network's products: tf32 and bfloat16 are faster on GPUs and TPUs, not on CPUs."""
    image: Path | None = None
    """A photo to work on; a drawn face that was held out of training by default."""
    face: int = 0
    """Which held-out face, without --image."""
    size: int | None = None
    """Height and width of the image; the prior's own by default."""
    seeds: int = 5
    """Samples of everything."""
    steps: int = 250
    """Diffusion steps of a whole chain; the reports take 1000."""
    sigma: float = 0.05
    """Standard deviation of the measurement noise, in units of [-1, 1] images (0.025 in units of [0, 1])."""
    batch_size: int | Literal["auto"] | None = None
    """Samples drawn at once; all by default, fewer to save memory, or auto for as many as fit."""
    seed: int = 0
    """Root of all random numbers."""
    out: Path = Path("results")
    """Folder of the results."""
    resume: bool = False
    """Go on with what an interrupted run of the same settings has left in that folder."""
    overwrite: bool = False
    """Replace the results in that folder."""


@dataclass(frozen=True)
class Experiment:
    """What an experiment begins with.

    Attributes:
        prior: the prior, at the size of the image.
        truth: the clean image.
        console: where to say things.
    """

    prior: Denoiser
    truth: Float[Array, "h w 3"]
    console: Console


def load(config: Config) -> Experiment:
    """Checks the flags, and loads prior and image.

    Raises:
        UserError: if a flag or a file is not usable.
    """
    if not 0 <= config.sigma < float("inf"):
        raise UserError(f"--sigma must be zero or positive, got {config.sigma}.")
    check_positive(seeds=config.seeds, steps=config.steps, batch_size=config.batch_size)
    if config.face < 0:
        raise UserError(f"--face must be zero or positive, got {config.face}.")
    prior, truth = load_truth(config.prior, config.image, config.face, config.size, config.dtype)
    if config.steps > prior.schedule.num_times:
        raise UserError(f"--steps must be between 1 and {prior.schedule.num_times}, got {config.steps}.")
    return Experiment(prior, truth, Console())


def flags_of(config: Any, without: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the flags that decide numbers, by name: all but those of the folder, `--batch-size`, and `without`."""
    left_out = {"out", "resume", "overwrite", "batch_size", *without}
    return {name: value for name, value in asdict(config).items() if name not in left_out}


def open_results(config: Any, program: str, settings: Mapping[str, Any]) -> None:
    """Opens the result folder.

    Args:
        config: the flags, `out` and `overwrite` among them; no files that they name may lie in the folder.
        program: how the script is called.
        settings: everything that decides the numbers, as from `experiment_settings` or `flags_of`.

    Raises:
        UserError: if the folder cannot be used.
    """
    flags = vars(config)
    open_folder(
        config.out,
        program,
        settings,
        command=command_line(program, config),
        resume=flags.get("resume"),
        overwrite=config.overwrite,
        inputs=[Path(flags[name]) for name in INPUTS if flags.get(name)],
    )


def begin_experiment(config: Config, program: str, *, without: Iterable[str] = ()) -> Experiment:
    """Does both, and says what the noise is; flags in `without` decide no number."""
    experiment = load(config)
    open_results(config, program, experiment_settings(config, experiment, without))
    print_noise(config, experiment)
    return experiment


def print_noise(config: Config, experiment: Experiment) -> None:
    """Prints noise level, number of samples and steps."""
    line = f"sigma_y = {describe_sigma(config.sigma)}; {config.seeds} seeds, {config.steps} steps"
    experiment.console.print(line, highlight=False, soft_wrap=True)


def print_results(console: Console, out: Path, names: str, missing: Iterable[str] = (), *texts: str) -> None:
    """Ends a script: prints its tables, why columns are missing, and what was written.

    Args:
        console: where to.
        out: the result folder.
        names: the files in it that matter most.
        missing: a sentence for every LPIPS network that was not found.
        *texts: tables and sentences to print first.
    """
    for text in texts:
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    for message in missing:
        console.print(f"LPIPS reads n/a: {message}", soft_wrap=True, highlight=False, style="dim")
    console.print(f"written to {out}: {names}", soft_wrap=True, highlight=False)


def experiment_settings(config: Config, experiment: Experiment, without: Iterable[str] = ()) -> dict[str, Any]:
    """Everything that decides the numbers; a folder is continued only if all of it is the same."""
    return {
        **flags_of(config, without),
        "prior": Path(config.prior),
        "image_sha256": digest(experiment.truth),
        "sigma_y": {"in [-1, 1] units": config.sigma, "in [0, 1] units": config.sigma / 2},
        "denoiser": describe_prior(experiment.prior),
        "keys": KEYS,
    }
