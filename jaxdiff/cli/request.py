"""What `jaxdiff restore` is asked; free of JAX, so that the command line starts at once."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxdiff.errors import UserError, check_name, check_names, check_positive, check_seed
from jaxdiff.runs.methods import KNOWN_METHODS, METHODS, TASKS, HyperParameters, check_flags

if TYPE_CHECKING:
    from jaxdiff.images.masks import MaskRule

_MASKING = ("mask", "invert_mask", "mask_alpha", "mask_colour", "mask_threshold")
TASK_FLAGS: dict[str, tuple[str, ...]] = {
    "inpaint": _MASKING,
    "denoise": (),
    "deblur": ("kernel", "blur_std", "motion"),
    "upscale": ("factor",),
    "colourise": (),
    "jpeg": ("quality",),
}
"""The flags that belong to a task alone."""

ESTIMATED = ("denoise", "deblur")
"""The tasks whose noise level is estimated from the picture if it is not given; the others' is 0."""


@dataclass(frozen=True)
class Restore:
    """Restore a damaged picture: draw samples of what it may have been.

    jaxdiff restore DAMAGED.png --mask MASK.png

    jaxdiff restore DAMAGED.png --task deblur --blur-std 3 --sigma 0.02

    jaxdiff restore DAMAGED.png --task denoise --sigma-steps 20

    jaxdiff restore SMALL.png --task upscale --factor 2
    """

    damaged: Path
    """The damaged picture, any size and format; with --simulate a clean one. Or a folder of pictures."""
    recursive: bool = False
    """For a folder of pictures: look into the folders in it too."""
    task: str = "inpaint"
    """What to do: inpaint (fill what a mask hides), denoise, deblur, upscale, colourise (a grey photo), or jpeg (undo
    its blocks)."""
    mask: Path | None = None
    """inpaint: a picture of the same size, white where pixels are hidden and to be filled. Not needed if these are
    transparent in the picture itself. For a folder of pictures also a folder of masks of the same names."""
    invert_mask: bool = False
    """inpaint: the mask is black where pixels are hidden, or opaque with --mask-alpha."""
    mask_alpha: bool = False
    """inpaint: what is transparent is hidden, in the mask or, without one, in the picture itself."""
    mask_colour: str | None = None
    """inpaint: what has this colour is hidden, such as FF0000 for red, in the mask or, without one, in the picture."""
    mask_threshold: float | None = None
    """inpaint: how bright a pixel of the mask must be to be hidden, 0 to 1; for masks that are not black and white."""
    kernel: Path | None = None
    """deblur: the blur kernel, as a grey picture or a .npy matrix."""
    blur_std: float | None = None
    """deblur: standard deviation of a Gaussian blur, in pixels of the picture given."""
    motion: tuple[float, float] | None = None
    """deblur: length in pixels of the picture given, and angle in degrees, of a straight motion; 0 is from left to
    right, 90 upwards."""
    factor: int = 2
    """upscale: how many times as large, 2, 3 or 4."""
    quality: int | None = None
    """jpeg: quality of the compression to simulate, 1 to 100; of a JPEG file it is read from the file."""
    sigma: float | None = None
    """Standard deviation of the noise, as a fraction of the pixel range 0 to 1. By default it is estimated from the
    picture for denoise and deblur, and 0 for the others."""
    sigma_steps: float | None = None
    """The same in steps of an 8-bit picture, 0 to 255."""
    simulate: bool = False
    """Degrade the picture, which is taken for clean, and score the restorations against it."""
    fit: str = "crop"
    """For priors of one size: how a picture of another aspect ratio is brought to it, crop or pad."""
    samples: int = 4
    """How many restorations to draw."""
    method: Annotated[
        str | None, tyro.conf.arg(help=f"How to sample: {KNOWN_METHODS}; the best for the task by default.")
    ] = None
    zeta: float | None = None
    """dps, dps-norm: step size, in the units of the literature (256x256 pixels, 1000 steps). dps-likelihood: its
    weight, 1 for the likelihood itself in 1000 steps."""
    gamma: tuple[float, float] | None = None
    """score-ald: gamma at the clean and at the noisy end, in the units of the literature."""
    weighting: str | None = None
    """score-ald: over_gamma (the default), over_variance or twice_over_variance."""
    start: int | None = None
    """sdedit: start time, 0 to 999."""
    iterations: int | None = None
    """pigdm, mmps: iterations of conjugate gradients in every step."""
    integrator: str | None = None
    """ddnm, diffpir, mmps, pigdm, tmpd: what takes the steps: ddpm, ddim, dpm-solver, or heun with two network calls
    each; ddim by default for the first two and ddpm for the others."""
    prior: str = "photos"
    """A shipped prior (photos: any photograph, at its own size; faces-32: drawn faces of 32x32), or a folder written by
    `jaxdiff convert`."""
    dtype: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of the network's products: tf32 and bfloat16 are faster on GPUs and TPUs, not on CPUs."""
    steps: int | None = None
    """Diffusion steps of a chain, each a network call or more: 10 by default for priors that start at an estimate, as
    photos does, 250 for others; the literature takes 1000."""
    batch_size: int | Literal["auto"] | None = None
    """Samples drawn at once; all by default, fewer to save memory, or auto for as many as fit."""
    seed: int = 0
    """Root of all random numbers."""
    out: Path | None = None
    """Folder of the results; results/PICTURE-TASK by default."""
    resume: bool = False
    """Go on with what an interrupted run of the same settings has left in that folder."""
    overwrite: bool = False
    """Replace the results in that folder."""

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.out or Path("results") / f"{self.damaged.resolve().stem}-{self.task}"

    @property
    def mask_rule(self) -> "MaskRule":
        """How the mask says what is hidden."""
        from jaxdiff.images.masks import MaskRule

        return MaskRule(self.invert_mask, self.mask_alpha, self.mask_colour, self.mask_threshold)

    @property
    def sigma_y(self) -> float | None:
        """Standard deviation of the noise, in [-1, 1] units; None if it is to be estimated."""
        if self.sigma_steps is not None:
            return self.sigma_steps / 127.5
        if self.sigma is not None:
            return 2 * self.sigma
        return None if self.task in ESTIMATED else 0.0

    @property
    def hyper_parameters(self) -> HyperParameters:
        """What was chosen by hand."""
        return HyperParameters(**{field.name: getattr(self, field.name) for field in fields(HyperParameters)})

    def check(self) -> None:
        """Refuses flags that make no sense or do not go together, before anything slow.

        Raises:
            UserError: naming the flag.
        """
        check_name(self.task, list(TASKS), "task")
        if self.recursive and not self.damaged.is_dir():
            raise UserError(f"--recursive is for a folder of pictures, and {self.damaged} is none.")
        if self.method is not None:
            check_name(self.method, list(METHODS), "method")
            check_flags(self.method, self.hyper_parameters)
        check_name(self.fit, ("crop", "pad"), "fit")
        check_positive(samples=self.samples, steps=self.steps, batch_size=self.batch_size, iterations=self.iterations)
        check_seed(self.seed)
        self._check_sigma()
        self._check_operator()

    def _check_sigma(self) -> None:
        if self.sigma is not None and self.sigma_steps is not None:
            raise UserError("--sigma and --sigma-steps say the same thing; give one of them.")
        if self.sigma is not None and not 0 <= self.sigma <= 1:
            raise UserError(
                f"--sigma must be between 0 and 1 (a fraction of the pixel range), got {self.sigma:g}; "
                "--sigma-steps takes 8-bit steps."
            )
        if self.sigma_steps is not None and not 0 <= self.sigma_steps <= 255:
            raise UserError(f"--sigma-steps must be between 0 and 255, got {self.sigma_steps:g}.")
        if self.sigma_y is None and self.simulate:
            raise UserError(f"--simulate --task {self.task} needs the noise to add, for instance --sigma 0.02.")

    def _check_operator(self) -> None:
        own = {flag for flags in TASK_FLAGS.values() for flag in flags}
        given = {name for name in own if getattr(self, name) != _DEFAULTS[name]}
        for name in sorted(given - set(TASK_FLAGS[self.task])):
            raise UserError(f"--{name.replace('_', '-')} does not belong to --task {self.task}.")
        _ = self.mask_rule
        if self.task == "deblur" and len(given) != 1:
            raise UserError("--task deblur needs one of --kernel KERNEL.png, --blur-std PIXELS, --motion LENGTH ANGLE.")
        if self.blur_std is not None and not 0 < self.blur_std < float("inf"):
            raise UserError(f"--blur-std must be a positive number of pixels, got {self.blur_std:g}.")
        if self.motion is not None and not (0 < self.motion[0] < float("inf") and abs(self.motion[1]) <= 360):
            raise UserError(
                f"--motion must be a length above 0 and an angle of at most 360 degrees, got {self.motion[0]:g} and "
                f"{self.motion[1]:g}."
            )
        if self.factor not in (2, 3, 4):
            raise UserError(f"--factor must be 2, 3 or 4, got {self.factor}.")
        if self.task == "jpeg" and self.simulate and self.quality is None:
            raise UserError("--simulate --task jpeg needs --quality, from 1 to 100.")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UserError(f"--quality must be from 1 to 100, got {self.quality}.")


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Restore)}


@dataclass(frozen=True)
class Export(Restore):
    """Write what restore would run as a folder that runs without jaxdiff: a program, its numbers, and run.py.

    jaxdiff export DAMAGED.png --mask MASK.png --out exported --platforms cpu cuda

    Measurement, mask and noise level are numbers in that folder, and can be replaced by others of the same shape; the
    task, the method, the steps and the number of samples drawn at once (--samples) cannot.
    """

    platforms: tuple[str, ...] = ("cpu",)
    """Where the program shall run: some of cpu, cuda, rocm, tpu."""

    @property
    def folder(self) -> Path:
        """Folder of the program."""
        return self.out or Path("exported") / f"{self.damaged.resolve().stem}-{self.task}"

    def check(self) -> None:
        """Refuses flags that make no sense or do not go together, before anything slow.

        Raises:
            UserError: naming the flag.
        """
        super().check()
        if self.damaged.is_dir():
            raise UserError(f"{self.damaged} is a folder; export takes one picture.")
        check_names(self.platforms, ("cpu", "cuda", "rocm", "tpu"), "platform")
        for flag in ("resume", "batch_size"):
            if getattr(self, flag):
                raise UserError(f"--{flag.replace('_', '-')} does not belong to export.")
