"""The table of methods: one row each, with its defaults, their sources, its flags, and what helps when it goes wrong.

Command line, scripts, the bench of exact posteriors and the tests read this table. A new method is one row, and a
function in `jaxdiff.runs.setups` unless it is a guided prior.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jaxdiff.errors import UnsuitableMethod, UserError, check_name
from jaxdiff.runs.further_setups import daps, dsg, lgd, mcg, mpgd, pnp_dm, red_diff, repaint
from jaxdiff.runs.setup import DEFAULTS, PHOTO_METHODS, TASKS, HyperParameters, Run, Setup
from jaxdiff.runs.setups import (
    PRIOR_VARIANCE,
    ddrm,
    dps,
    dps_likelihood,
    dps_norm,
    guided,
    guided_estimate,
    matheron,
    score_ald,
    sdedit,
)

if TYPE_CHECKING:
    from jaxdiff.measurement import Measurement
    from jaxdiff.priors.denoiser import Prior


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: as in tables.
        make: sets it up.
        flags: which `HyperParameters` it takes.
        weaker: what makes it follow the data less, as the beginning of an advice.
        stronger: what makes it follow the data more.
        sees_data: whether it looks at the data in every step.
        reported: whether the reports try it; experiments compare these by default.
        bench: how the bench of exact posteriors tries it: hyper-parameters by the name of the row.
    """

    name: str
    make: Callable[[Setup], Run]
    flags: tuple[str, ...] = ()
    weaker: str = ""
    stronger: str = ""
    sees_data: bool = True
    reported: bool = False
    bench: Mapping[str, HyperParameters] = field(default_factory=dict)


def make_run(
    method: str,
    task: str,
    prior: "Prior",
    measurement: "Measurement",
    steps: int,
    chosen: HyperParameters = DEFAULTS,
) -> Run:
    """Sets a method up for a task.

    Args:
        method: a key of `METHODS`.
        task: a key of `TASKS`, which decides the defaults.
        prior: the prior.
        measurement: what was measured.
        steps: of a chain from the prior's last time to the image.
        chosen: hyper-parameters that are not to be the defaults.

    Raises:
        UserError: if a name is unknown, or a hyper-parameter out of its range.
        UnsuitableMethod: if the method refuses the measurement.
    """
    row = METHODS[check_name(method, list(METHODS), "method")]
    setup = Setup(check_name(task, list(TASKS), "task"), prior, measurement, steps, chosen)
    try:
        run = row.make(setup)
    except UserError:
        raise
    except ValueError as error:
        raise UnsuitableMethod(f"{row.name} cannot be taken: {error}") from error
    return replace(from_estimate(run, measurement), method=method)


def from_estimate(run: "Run", measurement: "Measurement") -> "Run":
    """Lets chains of a prior that knows low noise only start at the smoothest image that fits the data."""
    from jaxdiff.priors.denoiser import last_time
    from jaxdiff.samplers import SDEdit, StartAt

    prior = run.sampler.prior
    if last_time(prior) == prior.schedule.num_times - 1 or isinstance(run.sampler, SDEdit):
        return run
    return replace(run, sampler=StartAt(run.sampler, measurement))


def best_method(task: str, prior: "Prior") -> str:
    """Returns the key of the method that restores best by default.

    Raises:
        UserError: if the prior is of no use for the task.
    """
    from jaxdiff.priors.denoiser import last_time

    if last_time(prior) == prior.schedule.num_times - 1:
        return {"denoise": "sdedit", "jpeg": "ddnm"}.get(task, "dps")
    if task not in PHOTO_METHODS:
        raise UserError(f"this prior knows low noise only, which is not enough to {task}; take another with --prior.")
    return PHOTO_METHODS[task]


def default_steps(prior: "Prior") -> int:
    """Returns how many steps a chain has by default: 10 from an estimate of the image, 250 from noise.

    Twenty instead of ten are 0.3 dB better where half of the pixels are missing and 0.6 dB worse in scratches, on crops
    of the four photographs that `experiments.train` holds out.
    """
    from jaxdiff.priors.denoiser import last_time

    return 10 if last_time(prior) < prior.schedule.num_times - 1 else 250


_ZETA_ADVICE: dict[str, Any] = {"weaker": "lower --zeta", "stronger": "raise --zeta"}

METHODS: dict[str, Method] = {
    "sdedit": Method(
        "SDEdit",
        sdedit,
        flags=("start",),
        weaker="start earlier with a larger --start",
        stronger="start later with a smaller --start",
        sees_data=False,
        reported=True,
        bench={"SDEdit 499": HyperParameters(start=499)},
    ),
    "score-ald": Method(
        "ScoreALD",
        score_ald,
        flags=("gamma", "weighting"),
        weaker="raise --gamma",
        stronger="lower --gamma",
        reported=True,
        bench={
            "ScoreALD 1/g": HyperParameters(gamma=(28.0, 33.0)),
            "ScoreALD 1/g2": HyperParameters(gamma=(15.0, 20.0), weighting="over_variance"),
            "ScoreALD 2/g2": HyperParameters(gamma=(15.0, 20.0), weighting="twice_over_variance"),
        },
    ),
    "dps": Method(
        "DPS",
        dps,
        flags=("zeta",),
        **_ZETA_ADVICE,
        reported=True,
        bench={"DPS 0.3": HyperParameters(zeta=0.3), "DPS 1.0": HyperParameters(zeta=1.0)},
    ),
    "dps-norm": Method(
        "DPSNorm",
        dps_norm,
        flags=("zeta",),
        **_ZETA_ADVICE,
        bench={"DPSNorm 0.5": HyperParameters(zeta=0.5), "DPSNorm 1.0": HyperParameters(zeta=1.0)},
    ),
    "dps-likelihood": Method(
        "DPSLikelihood",
        dps_likelihood,
        flags=("zeta",),
        **_ZETA_ADVICE,
        bench={"DPSLikelihood": HyperParameters(zeta=1.0)},
    ),
    "tmpd": Method("TMPD", guided("TMPD"), flags=("integrator",), bench={"TMPD": HyperParameters()}),
    "pigdm": Method(
        "PiGDM",
        guided("PiGDM", prior_variance=PRIOR_VARIANCE),
        flags=("iterations", "integrator"),
        bench={"PiGDM": HyperParameters()},
    ),
    "mmps": Method(
        "MMPS",
        guided("MMPS"),
        flags=("iterations", "integrator"),
        stronger="raise --iterations",
        bench={"MMPS": HyperParameters(iterations=5)},
    ),
    "matheron": Method(
        "Matheron",
        matheron,
        flags=("iterations",),
        stronger="raise --iterations",
        bench={"Matheron": HyperParameters()},
    ),
    "ddnm": Method("DDNM", guided_estimate("DDNM"), flags=("integrator",), bench={"DDNM": HyperParameters()}),
    "diffpir": Method(
        "DiffPIR", guided_estimate("DiffPIR"), flags=("integrator",), bench={"DiffPIR": HyperParameters()}
    ),
    "ddrm": Method("DDRM", ddrm, bench={"DDRM": HyperParameters()}),
    "mpgd": Method("MPGD", mpgd, flags=("zeta",), **_ZETA_ADVICE, bench={"MPGD": HyperParameters(zeta=0.75)}),
    "dsg": Method("DSG", dsg, bench={"DSG": HyperParameters()}),
    "lgd": Method("LGD", lgd, flags=("zeta",), **_ZETA_ADVICE, bench={"LGD": HyperParameters(zeta=0.5)}),
    "mcg": Method("MCG", mcg, flags=("zeta",), bench={"MCG": HyperParameters()}),
    "repaint": Method("RePaint", repaint, bench={"RePaint": HyperParameters()}),
    "daps": Method("DAPS", daps, bench={"DAPS": HyperParameters()}),
    "red-diff": Method("REDDiff", red_diff, bench={"REDDiff": HyperParameters()}),
    "pnp-dm": Method("PnPDM", pnp_dm, bench={"PnPDM": HyperParameters()}),
    "fast-dips": Method(
        "FASTDIPS", guided_estimate("FASTDIPS"), flags=("integrator",), bench={"FASTDIPS": HyperParameters()}
    ),
}
"""All methods, by the name that a user types."""

REPORTED = [name for name, row in METHODS.items() if row.reported]
"""The methods of the reports."""

KNOWN_METHODS = ", ".join(METHODS)
"""Their names, for help texts."""


def check_flags(method: str, given: HyperParameters) -> None:
    """Refuses a hyper-parameter that the method does not have.

    Raises:
        UserError: naming the methods that do.
    """
    for flag, value in vars(given).items():
        if value is not None and flag not in METHODS[method].flags:
            owners = " or ".join(name for name, row in METHODS.items() if flag in row.flags)
            raise UserError(f"--{flag} belongs to --method {owners}, not to {method}.")


def describe_sigma(sigma_y: float) -> str:
    """Describes a noise level in all units in use.

    >>> describe_sigma(0.05)
    '0.05 in [-1, 1] units = 0.025 in [0, 1] units = 6.38 of 255 steps'
    """
    return f"{sigma_y:.4g} in [-1, 1] units = {sigma_y / 2:.4g} in [0, 1] units = {sigma_y * 127.5:.3g} of 255 steps"
