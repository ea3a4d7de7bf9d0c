"""The four student reports that this project re-implements: their settings, their numbers, and what they leave open.

Numbers are PSNR in dB / LPIPS, for FFHQ-256 and one face each. Gammas are given at `t = 0` and at `t = 999`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.shared.problems import ALL_PROBLEMS, PROBLEMS, RANDOM_KEEP
from jaxdiff.priors.denoiser import Variance
from jaxdiff.runs.methods import METHODS, HyperParameters


@dataclass(frozen=True)
class Variant:
    """A method with one choice of hyper-parameters.

    Attributes:
        name: as in tables.
        method: its key in `METHODS`.
        chosen: hyper-parameters by task; it does not run on other tasks.
        numbers: what a report states for it, by task.
    """

    name: str
    method: str
    chosen: Mapping[str, HyperParameters]
    numbers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """A report.

    Attributes:
        name: its authors.
        citation: where it is from.
        variants: every method with every setting that it tries.
        left_open: what it does not state, and what is done about that.
        variance: variance of its ancestral step; None where it is not stated.
    """

    name: str
    citation: str
    variants: tuple[Variant, ...]
    left_open: tuple[str, ...]
    variance: Variance | None = None


def everywhere(name: str, method: str, chosen: HyperParameters, *numbers: str) -> Variant:
    """Makes a variant for all tasks of the reports, with numbers in their order: box, random, blur."""
    return Variant(name, method, dict.fromkeys(PROBLEMS, chosen), dict(zip(PROBLEMS, numbers, strict=False)))


OURS = tuple(
    Variant(row.name, method, dict.fromkeys(ALL_PROBLEMS, HyperParameters())) for method, row in METHODS.items()
)
"""The methods as this project sets them up."""

STEPS = 1000
"""Steps of every report."""

_NOISE = "The standard deviation of the measurement noise is not stated; --sigma sets it."
_BOX = "Size and place of the box are not stated; here it hides the middle half of height and width."
_RANDOM = f"The share of pixels that random inpainting keeps is not stated; here it is {RANDOM_KEEP:.0%}."
_BLUR = (
    "The kernel of the blur is not stated; here it is a Gaussian of 3 pixels at 256x256, and never below 1.2 pixels."
)
_STEPS = "The number of steps is not stated; 1000 is assumed."
_VARIANCE = "The noise of an ancestral step is not stated (sigma z); here it has the prior's own variance."
_CLIP = "Whether the estimate x0_hat is clipped is not stated; here it is clipped to [-1, 1]."
_LPIPS = "The network of LPIPS is not stated; here both usual ones are computed, where their weights are found."

_SDEDIT_500 = HyperParameters(start=500)
_ZHU_DPS = {"box": HyperParameters(zeta=1.0), "blur": HyperParameters(zeta=0.3)}
# Jacques' best for random inpainting; Zhu has no number for it.
_EVERY_DPS = {**_ZHU_DPS, "random": HyperParameters(zeta=1.0)}
# Zhu's text has the pull grow smaller on the way, so gamma is smaller at t = 999.
_ZHU_INPAINT = HyperParameters(gamma=(20.0, 15.0), weighting="over_variance")
_ZHU_BLUR = HyperParameters(gamma=(15.0, 10.0), weighting="over_variance")
_JACQUES_LOW = HyperParameters(gamma=(10.0, 15.0), weighting="over_gamma")
_JACQUES_HIGH = HyperParameters(gamma=(28.0, 33.0), weighting="over_gamma")
_QI_INPAINT = HyperParameters(gamma=(20.0, 15.0), weighting="twice_over_variance")
_QI_BLUR = HyperParameters(gamma=(15.0, 10.0), weighting="twice_over_variance")

ZHU = Paper(
    "Zhu",
    'Stephen Zhu, "Analysis of Modern Diffusion Techniques for Image Reconstruction", report, Stanford EE 367',
    (
        Variant(
            "SDEdit",
            "sdedit",
            {"box": _SDEDIT_500, "blur": _SDEDIT_500},
            {"box": "19.85 ± 0.50 / 0.288 ± 0.024", "blur": "20.15 ± 0.08 / 0.270 ± 0.016"},
        ),
        Variant(
            "ScoreALD",
            "score-ald",
            {"box": _ZHU_INPAINT, "blur": _ZHU_BLUR},
            {"box": "22.45 ± 0.26 / 0.218 ± 0.012", "blur": "22.81 ± 0.46 / 0.178 ± 0.014"},
        ),
        Variant(
            "DPS",
            "dps",
            _ZHU_DPS,
            {"box": "35.43 ± 0.41 / 0.022 ± 0.001", "blur": "29.15 ± 0.30 / 0.077 ± 0.008"},
        ),
    ),
    (
        _NOISE,
        "The mask covers the left upper cheek; its size is not stated. Here a box hides the middle half of height and "
        "width.",
        _BLUR,
        "ScoreALD's equation 8 pulls twice as hard as the code beneath it; the code is followed.",
        "How the code runs through gamma is not shown. The text says that the pull grows smaller on the way; so here "
        "gamma rises from the first step to the last.",
        _CLIP,
        "Random inpainting has a setting (zeta 0.1) but no numbers; it is not run.",
        _LPIPS,
    ),
    variance="learned_range",
)


JACQUES = Paper(
    "Jacques",
    'Timothy Jacques, "Diffusion-Based Priors for Inverse Imaging Tasks", report and poster, Stanford EE 367',
    (
        everywhere(
            "SDEdit, start 300", "sdedit", HyperParameters(start=300), "23.03 / 0.134", "14.64 / 0.570", "23.38 / 0.171"
        ),
        everywhere(
            "SDEdit, start 400", "sdedit", HyperParameters(start=400), "21.89 / 0.151", "15.24 / 0.327", "21.34 / 0.165"
        ),
        everywhere("SDEdit, start 500", "sdedit", _SDEDIT_500, "19.82 / 0.227", "15.18 / 0.274", "20.44 / 0.222"),
        everywhere(
            "ScoreALD, gamma 10 to 15", "score-ald", _JACQUES_LOW, "22.90 / 0.085", "32.62 / 0.045", "28.23 / 0.063"
        ),
        Variant(
            "ScoreALD, gamma not stated",
            "score-ald",
            {},
            {"box": "23.90 / 0.073", "random": "32.91 / 0.038", "blur": "27.88 / 0.071"},
        ),
        everywhere(
            "ScoreALD, gamma 28 to 33", "score-ald", _JACQUES_HIGH, "33.61 / 0.015", "32.62 / 0.028", "26.48 / 0.083"
        ),
        everywhere(
            "DPS, zeta 0.1", "dps", HyperParameters(zeta=0.1), "25.26 / 0.112", "22.39 / 0.198", "24.68 / 0.114"
        ),
        everywhere(
            "DPS, zeta 0.3", "dps", HyperParameters(zeta=0.3), "29.75 / 0.022", "30.97 / 0.037", "27.92 / 0.072"
        ),
        everywhere(
            "DPS, zeta 1.0", "dps", HyperParameters(zeta=1.0), "33.69 / 0.026", "32.63 / 0.048", "27.50 / 0.213"
        ),
    ),
    (
        _NOISE,
        _BOX,
        _RANDOM,
        _BLUR,
        _STEPS,
        _VARIANCE,
        _CLIP,
        "ScoreALD's gamma is stated as a range, with a weaker pull at high noise; here it falls linearly as t does.",
        "The middle one of three ScoreALD rows does not state its gamma and is not run. Its numbers are 23.90 / 0.073 "
        "for the box, 32.91 / 0.038 for random inpainting and 27.88 / 0.071 for the blur.",
        "The columns of numbers are not labelled legibly; the report's text tells which task they belong to.",
        _LPIPS,
    ),
)

CHIN_ZHANG = Paper(
    "Chin & Zhang",
    'Sylvia Chin and Benjia Zhang, "Modern Diffusion Techniques for Imaging", poster, Stanford',
    (
        everywhere("SDEdit", "sdedit", _SDEDIT_500, "20.36 / 0.20", "15.08 / 0.30", "20.02 / 0.21"),
        Variant(
            "ScoreALD",
            "score-ald",
            {"box": _ZHU_INPAINT, "blur": _ZHU_BLUR},
            {"box": "23.06 / 0.11", "blur": "22.69 / 0.15"},
        ),
        Variant("DPS", "dps", _EVERY_DPS, {"box": "34.42 / 0.02", "random": "15.99 / 0.20", "blur": "28.23 / 0.06"}),
    ),
    (
        "No hyper-parameter is stated. SDEdit starts at 500 as in Zhu and Qi, ScoreALD takes the gamma of Zhu, whose "
        "code has the same weight, and DPS the zeta of Zhu and, for random inpainting, of Jacques.",
        "Neither the network nor its training data are named; the FFHQ-256 network of the other reports is assumed.",
        _STEPS,
        "The noise of an ancestral step is not legible; here it has the prior's own variance.",
        _CLIP,
        _NOISE,
        _BOX,
        _RANDOM,
        _BLUR,
        "The numbers of SDEdit and DPS carry no task. The order box, random, blur fits DPS and is taken for both; "
        "SDEdit's first and last are close and may be exchanged.",
        "ScoreALD's inpainting is taken for the box. It has no second number, and is not run on random inpainting.",
        _LPIPS,
    ),
)

QI = Paper(
    "Qi",
    'Yue Qi, "Diffusion Models for Image Generation and Inverse Problems", report, Stanford EE 367, winter 2025',
    (
        Variant("SDEdit, start 250", "sdedit", dict.fromkeys(("box", "blur"), HyperParameters(start=250))),
        everywhere("SDEdit, start 500", "sdedit", _SDEDIT_500),
        Variant("SDEdit, start 750", "sdedit", dict.fromkeys(("box", "blur"), HyperParameters(start=750))),
        Variant("ScoreALD", "score-ald", {"box": _QI_INPAINT, "random": _QI_INPAINT, "blur": _QI_BLUR}),
        Variant("DPS", "dps", _EVERY_DPS),
    ),
    (
        "PSNR and LPIPS stand inside the figures, which could not be read. The text says that SDEdit is best from 500, "
        "that DPS is ahead of ScoreALD and both are far ahead of SDEdit, and that neither is good on random "
        "inpainting.",
        "Gamma and zeta are not stated; ScoreALD takes the gamma of Zhu, and DPS the zeta of Zhu and of Jacques.",
        "ScoreALD's algorithm pulls twice as hard as the likelihood in the text; the algorithm is followed.",
        "Whether DPS divides by the norm of the gradient is not stated; here it does, as in Zhu's equation 10.",
        _CLIP,
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
