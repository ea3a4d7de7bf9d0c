"""The scheduler of a diffusers pipeline as noise schedule, target, variance and clipping."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert_weights.formats.base import Choices
from jaxdiff.priors.denoiser import Target, Variance

# Those whose table is one of `beta_start`, `beta_end` and `beta_schedule`; how they step is a sampler's matter.
CLASSES = (
    *("DDPMScheduler", "DDIMScheduler", "GaussianDDPMScheduler", "PNDMScheduler", "DDPMParallelScheduler"),
    *(
        "DDIMParallelScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
    ),
    "DEISMultistepScheduler",
)
TARGETS: dict[str, Target] = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
VARIANCES: dict[str, Variance] = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}
KINDS = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
DEFAULT = "diffusers' default"
MAX_TIMES = 10_000


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler's configuration says, as `jaxdiff.priors.config.PriorConfig` has it."""

    schedule: dict[str, Any]
    target: Target
    variance: Variance
    clip: bool
    taken: list[str]


def read_scheduler(config: Mapping[str, Any] | None, choices: Choices) -> Scheduler:
    """Reads the configuration of a scheduler.

    Args:
        config: the content of `scheduler_config.json`; None if there is none, which means the class's defaults.
        choices: what was given; it wins.

    Raises:
        ValueError: if it says what no prior here can be.
    """
    said = config or {}
    kind = said.get("_class_name", "DDPMScheduler")
    if kind not in CLASSES:
        raise ValueError(f"its scheduler is {kind!r}; the noise schedules of {', '.join(CLASSES)} are read")
    if said.get("rescale_betas_zero_snr"):
        raise ValueError("its schedule is rescaled to end in noise alone, where no estimate of the image exists")
    if said.get("clip_sample", True) and said.get("clip_sample_range", 1.0) != 1.0:
        raise ValueError(f"its images reach to {said['clip_sample_range']}; those of a prior are in [-1, 1]")
    target = choices.target or _named(TARGETS, said, "prediction_type", "epsilon", "--target")
    variance = choices.variance or _named(VARIANCES, said, "variance_type", "fixed_small", "--variance")
    schedule = {"kind": choices.schedule, "num_times": _num_times(said)} if choices.schedule else _schedule(said)
    clip = bool(said.get("clip_sample", True))
    why = {
        key: "given" if given else "as scheduler_config.json says" if key in said else DEFAULT
        for key, given in (
            ("prediction_type", choices.target),
            ("variance_type", choices.variance),
            ("beta_schedule", choices.schedule),
            ("clip_sample", None),
        )
    }
    taken = [
        f"target: {target}, {why['prediction_type']}",
        f"variance: {variance}, {why['variance_type']}",
        f"schedule: {schedule['kind']}, {schedule.get('num_times', 'its own')} times, {why['beta_schedule']}",
        f"estimates {'are' if clip else 'are not'} clipped to [-1, 1], {why['clip_sample']}",
    ]
    if said.get("thresholding"):
        taken.append("not taken: dynamic thresholding, which no sampler here has")
    return Scheduler(schedule, target, variance, clip, taken)


def _named(known: Mapping[str, Any], said: Mapping[str, Any], key: str, default: str, flag: str) -> Any:
    value = said.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"its {key} is {value!r}, which no prior here has; {flag} takes another")
    return known[value]


def _schedule(said: Mapping[str, Any]) -> dict[str, Any]:
    if (betas := said.get("trained_betas")) is not None:
        if not isinstance(betas, list) or not 0 < len(betas) <= MAX_TIMES or not all(map(_is_number, betas)):
            raise ValueError("its trained_betas are no list of numbers")
        return {"kind": "betas", "betas": betas}
    kind, times = said.get("beta_schedule", "linear"), _num_times(said)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"its beta_schedule is {kind!r}, and {', '.join(KINDS)} are read")
    if kind == "squaredcos_cap_v2":
        return {"kind": "cosine", "num_times": times}
    start, end = said.get("beta_start", 1e-4), said.get("beta_end", 0.02)
    if not (_is_number(start) and _is_number(end) and 0 < start < 1 and 0 < end < 1):
        raise ValueError(f"its betas go from {start!r} to {end!r}; they lie between 0 and 1")
    return {"kind": KINDS[kind], "num_times": times, "beta_start": start, "beta_end": end}


def _num_times(said: Mapping[str, Any]) -> int:
    times = said.get("num_train_timesteps", said.get("timesteps", 1000))
    if type(times) is not int or not 0 < times <= MAX_TIMES:
        raise ValueError(f"it has {times!r} times; from 1 to {MAX_TIMES:,} are possible")
    return times


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
