"""The four student reports that this project re-implements: their settings, their numbers, and what they leave open.

Numbers are PSNR in dB / LPIPS, for FFHQ-256 and one face each. Gammas are given at `t = 0` and at `t = 999`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.problems import RANDOM_KEEP, TASKS
from jaxdiff import Denoiser
from jaxdiff.denoiser import Prediction, Prior, Variance
from jaxdiff.pytree import pytree
from jaxdiff.runs.names import METHODS
from jaxdiff.runs.presets import HyperParameters
from jaxdiff.schedule import Schedule
from jaxdiff.unet import FFHQ_256

STEPS = 1000
"""Steps that all reports' settings are meant for."""


@dataclass(frozen=True)
class Variant:
    """A method with one choice of hyper-parameters.

    Attributes:
        name: as in tables.
        method: its key in `METHODS`.
        chosen: hyper-parameters by task; it does not run on other tasks.
        printed: a report's numbers by task.
    """

    name: str
    method: str
    chosen: Mapping[str, HyperParameters]
    printed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """A report.

    Attributes:
        name: its authors.
        citation: where it is from.
        variants: every method with every setting that it tries.
        left_open: what it does not say, and what is done about that.
        variance: variance of its ancestral step; None where it does not say.
    """

    name: str
    citation: str
    variants: tuple[Variant, ...]
    left_open: tuple[str, ...]
    variance: Variance | None = None


OURS = tuple(Variant(name, method, dict.fromkeys(TASKS, HyperParameters())) for method, name in METHODS.items())
"""The methods as this project sets them up."""

_NOISE = "The standard deviation of the measurement noise is not printed; --sigma sets it."
_BOX = "Neither size nor place of the box is printed; here it hides the middle half of height and width."
_RANDOM = f"The share of pixels that random inpainting keeps is not printed; here it is {RANDOM_KEEP:.0%}."
_BLUR = (
    "The kernel of the blur is not printed; here it is a Gaussian of 3 pixels at 256x256, and never below 1.2 pixels."
)
_LPIPS = "The network behind LPIPS is not named; here both usual ones are computed, where their weights are found."
_STEPS = "The number of steps is not printed; 1000 is assumed."

_ZHU_GAMMA = {"box": (20.0, 15.0), "random": (20.0, 15.0), "blur": (15.0, 10.0)}
_START_500 = HyperParameters(start=500)

ZHU = Paper(
    "Zhu",
    'Stephen Zhu, "Analysis of Modern Diffusion Techniques for Image Reconstruction", report, Stanford EE 367',
    (
        Variant(
            "SDEdit",
            "sdedit",
            {"box": _START_500, "blur": _START_500},
            {"box": "19.85 ± 0.50 / 0.288 ± 0.024", "blur": "20.15 ± 0.08 / 0.270 ± 0.016"},
        ),
        Variant(
            "ScoreALD",
            "score-ald",
            {task: HyperParameters(gamma=_ZHU_GAMMA[task], weighting="over_variance") for task in ("box", "blur")},
            {"box": "22.45 ± 0.26 / 0.218 ± 0.012", "blur": "22.81 ± 0.46 / 0.178 ± 0.014"},
        ),
        Variant(
            "DPS",
            "dps",
            {"box": HyperParameters(zeta=1.0), "blur": HyperParameters(zeta=0.3)},
            {"box": "35.43 ± 0.41 / 0.022 ± 0.001", "blur": "29.15 ± 0.30 / 0.077 ± 0.008"},
        ),
    ),
    (
        _NOISE,
        "The mask lies over the left upper cheek, and its size is not printed; here it is a box that hides the middle "
        "half of height and width.",
        _BLUR,
        "Random inpainting has a setting (zeta 0.1) but no numbers; it is not run.",
        "ScoreALD's equation 8 pulls twice as hard as the printed code; the code is followed.",
        "How the code runs through gamma is not printed; the text says that the pull grows smaller on the way, so gamma "
        "rises from the first step to the last.",
        _LPIPS,
    ),
    variance="learned_range",
)

JACQUES = Paper(
    "Jacques",
    'Timothy Jacques, "Diffusion-Based Priors for Inverse Imaging Tasks", report and poster, Stanford EE 367',
    (
        Variant(
            "SDEdit, start 300",
            "sdedit",
            dict.fromkeys(TASKS, HyperParameters(start=300)),
            {"box": "23.03 / 0.134", "random": "14.64 / 0.570", "blur": "23.38 / 0.171"},
        ),
        Variant(
            "SDEdit, start 400",
            "sdedit",
            dict.fromkeys(TASKS, HyperParameters(start=400)),
            {"box": "21.89 / 0.151", "random": "15.24 / 0.327", "blur": "21.34 / 0.165"},
        ),
        Variant(
            "SDEdit, start 500",
            "sdedit",
            dict.fromkeys(TASKS, _START_500),
            {"box": "19.82 / 0.227", "random": "15.18 / 0.274", "blur": "20.44 / 0.222"},
        ),
        Variant(
            "ScoreALD, gamma 10 to 15",
            "score-ald",
            dict.fromkeys(TASKS, HyperParameters(gamma=(10.0, 15.0), weighting="over_gamma")),
            {"box": "22.90 / 0.085", "random": "32.62 / 0.045", "blur": "28.23 / 0.063"},
        ),
        Variant(
            "ScoreALD, gamma not printed",
            "score-ald",
            {},
            {"box": "23.90 / 0.073", "random": "32.91 / 0.038", "blur": "27.88 / 0.071"},
        ),
        Variant(
            "ScoreALD, gamma 28 to 33",
            "score-ald",
            dict.fromkeys(TASKS, HyperParameters(gamma=(28.0, 33.0), weighting="over_gamma")),
            {"box": "33.61 / 0.015", "random": "32.62 / 0.028", "blur": "26.48 / 0.083"},
        ),
        Variant(
            "DPS, zeta 0.1",
            "dps",
            dict.fromkeys(TASKS, HyperParameters(zeta=0.1)),
            {"box": "25.26 / 0.112", "random": "22.39 / 0.198", "blur": "24.68 / 0.114"},
        ),
        Variant(
            "DPS, zeta 0.3",
            "dps",
            dict.fromkeys(TASKS, HyperParameters(zeta=0.3)),
            {"box": "29.75 / 0.022", "random": "30.97 / 0.037", "blur": "27.92 / 0.072"},
        ),
        Variant(
            "DPS, zeta 1.0",
            "dps",
            dict.fromkeys(TASKS, HyperParameters(zeta=1.0)),
            {"box": "33.69 / 0.026", "random": "32.63 / 0.048", "blur": "27.50 / 0.213"},
        ),
    ),
    (
        _NOISE,
        _BOX,
        _RANDOM,
        _BLUR,
        _STEPS,
        "The noise of an ancestral step is printed as sigma z without a value; the prior's own variance is used.",
        "Of gamma only the range is printed, and that the pull is weaker at high noise; here it falls linearly.",
        "The gamma of the second of three ScoreALD rows is not printed, so that it is not run; its numbers are "
        "23.90 / 0.073 for the box, 32.91 / 0.038 for random inpainting and 27.88 / 0.071 for the blur.",
        "The poster's columns are not labelled legibly; the report's text tells which task they belong to.",
        _LPIPS,
    ),
)

CHIN_ZHANG = Paper(
    "Chin & Zhang",
    'Sylvia Chin and Benjia Zhang, "Modern Diffusion Techniques for Imaging", poster, Stanford',
    (
        Variant(
            "SDEdit",
            "sdedit",
            dict.fromkeys(TASKS, _START_500),
            {"box": "20.36 / 0.20", "random": "15.08 / 0.30", "blur": "20.02 / 0.21"},
        ),
        Variant(
            "ScoreALD",
            "score-ald",
            {task: HyperParameters(gamma=_ZHU_GAMMA[task], weighting="over_variance") for task in ("box", "blur")},
            {"box": "23.06 / 0.11", "blur": "22.69 / 0.15"},
        ),
        Variant(
            "DPS",
            "dps",
            dict.fromkeys(TASKS, HyperParameters()),
            {"box": "34.42 / 0.02", "random": "15.99 / 0.20", "blur": "28.23 / 0.06"},
        ),
    ),
    (
        "No hyper-parameter is printed. SDEdit starts at 500, as Zhu's and Qi's; ScoreALD takes Zhu's gamma, whose code "
        "has the same weight; DPS takes the zeta of this program.",
        "The network and its training data are not named; the FFHQ-256 network of the other reports is assumed.",
        _STEPS,
        "The noise of an ancestral step is not legible; the prior's own variance is used.",
        _NOISE,
        _BOX,
        _RANDOM,
        _BLUR,
        "The numbers of SDEdit and DPS carry no task. They are taken in the order box, random, blur, which fits DPS; "
        "SDEdit's for box and blur may be exchanged.",
        "ScoreALD's inpainting is taken for the box; there is no other, so that it is not run on random inpainting.",
        _LPIPS,
    ),
)

QI = Paper(
    "Qi",
    'Yue Qi, "Diffusion Models for Image Generation and Inverse Problems", report, Stanford EE 367, winter 2025',
    (
        Variant("SDEdit, start 250", "sdedit", dict.fromkeys(("box", "blur"), HyperParameters(start=250))),
        Variant("SDEdit, start 500", "sdedit", dict.fromkeys(TASKS, _START_500)),
        Variant("SDEdit, start 750", "sdedit", dict.fromkeys(("box", "blur"), HyperParameters(start=750))),
        Variant(
            "ScoreALD",
            "score-ald",
            {task: HyperParameters(gamma=_ZHU_GAMMA[task], weighting="twice_over_variance") for task in TASKS},
        ),
        Variant("DPS", "dps", dict.fromkeys(TASKS, HyperParameters())),
    ),
    (
        "PSNR and LPIPS stand inside the figures only, which could not be read. The text says that SDEdit is best from "
        "500, that DPS is ahead of ScoreALD and both are far ahead of SDEdit, and that neither is good on random "
        "inpainting.",
        "Gamma and zeta are not printed; ScoreALD takes Zhu's gamma, and DPS the zeta of this program.",
        "The printed ScoreALD algorithm pulls twice as hard as the likelihood in the text; the algorithm is followed.",
        "Whether DPS divides by the norm of the gradient is not said; here it does, as in Zhu's equation 10.",
        _NOISE,
        _BOX,
        _RANDOM,
        _BLUR,
        _LPIPS,
    ),
    variance="fixed_large",
)

PAPERS = {"zhu": ZHU, "jacques": JACQUES, "chin-zhang": CHIN_ZHANG, "qi": QI}
"""The reports by the names that `--paper` takes."""


@pytree
class FixedLarge:
    """A denoiser whose ancestral steps have the largest variance, beta, whatever its network has learned.

    Args:
        denoiser: any.
    """

    denoiser: Prior

    @property
    def schedule(self) -> Schedule:
        """The denoiser's."""
        return self.denoiser.schedule

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The denoiser's."""
        return self.denoiser.image_shape

    def predict(self, x_t: Float[Array, "h w c"], t: Int[Array, ""] | int) -> Prediction:
        """Runs the network once."""
        return self.denoiser.predict(x_t, t)._replace(variance_fraction=jnp.ones(()))


def prior_of(paper: Paper | None, denoiser: Denoiser) -> Prior:
    """Returns the prior with the report's variance; a learned one it has or has not."""
    return FixedLarge(denoiser) if paper is not None and paper.variance == "fixed_large" else denoiser


def remarks(paper: Paper | None, steps: int, denoiser: Denoiser) -> dict[str, Sequence[str]]:
    """Returns what is to be said aloud of a report's settings, under headings."""
    if paper is None:
        return {}
    found = {"left open by the report": paper.left_open, "unlike the report": departures(paper, steps, denoiser)}
    return {head: sentences for head, sentences in found.items() if sentences}


def departures(paper: Paper, steps: int, denoiser: Denoiser) -> list[str]:
    """Says where a run differs from the report although the report is clear."""
    found = []
    if steps != STEPS:
        found.append(
            f"The report's settings are for {STEPS} steps, and this run takes {steps}: step sizes are scaled so that all "
            f"steps together go as far (ScoreALD's pull no further than onto the data). --steps {STEPS} takes all."
        )
    if not is_ffhq_256(denoiser):
        h, w, _ = denoiser.image_shape
        found.append(
            f"The report has the FFHQ network at 256x256, and this run another network or size ({w}x{h}): step sizes are "
            "scaled, and the report's numbers are for orientation only."
        )
    if paper.variance == "learned_range" != denoiser.variance:
        found.append(
            "The report draws with the variance that its network has learned; this one has learned none, and its own "
            f"({denoiser.variance}) is used."
        )
    return found


def published(paper: Paper | None, denoiser: Denoiser) -> dict[str, dict[tuple[str, str], str]]:
    """Returns columns of published numbers by task and method.

    With a report, its own; otherwise the best PSNR of every report, for the network that they are about.
    """
    if paper is not None:
        numbers = {(task, v.name): text for v in paper.variants for task, text in v.printed.items()}
        return {f"{paper.name} (FFHQ-256, their face)": numbers} if numbers else {}
    if not is_ffhq_256(denoiser):
        return {}
    columns = {f"{paper.name} (their face)": best_numbers(paper) for paper in PAPERS.values()}
    return {title: numbers for title, numbers in columns.items() if numbers}


def best_numbers(paper: Paper) -> dict[tuple[str, str], str]:
    """Returns a report's numbers with the best PSNR among its settings, by task and method."""
    best: dict[tuple[str, str], str] = {}
    for variant in paper.variants:
        for task, text in variant.printed.items():
            key = task, METHODS[variant.method]
            best[key] = max(best.get(key, text), text, key=lambda text: float(text.split()[0]))
    return best


def is_ffhq_256(denoiser: Denoiser) -> bool:
    """Tells whether the published numbers are about this network, at its own size."""
    return denoiser.network.config == FFHQ_256 and denoiser.image_shape == (256, 256, 3)
