"""Projects how long an evaluation takes on many chips, from the time of one step on one of them.

    python -m experiments.projection
    python -m experiments.projection --benchmark experiments/benchmarks/gpu-nvidia-h200.json
    python -m experiments.projection --seconds-per-image-step 0.002 --samples-at-once 16 --chips 1 4 32

Simulates `python -m experiments.evaluate ... --shard I/N` with a process per chip, and prints a table and what it
assumes. Without a measured step time it takes what an H200's peaks allow, and says so.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.benchmark_timing import CHAIN, OURS
from experiments.command import run_script
from jaxdiff.runs.errors import UserError, check_positive

COMPUTED = "computed from an H200's peaks, not measured"
SIMULATIONS = 2000
TABLE_SECONDS = 1.0


@dataclass(frozen=True)
class Projection:
    """What is projected, and what is assumed."""

    benchmark: Path | None = None
    """JSON file of `python -m experiments.benchmark`, for the time of a step, the chains at once, and compiling."""
    dtype: str | None = None
    """Precision to take from that file; the quickest by default."""
    seconds_per_image_step: float | None = None
    """Time of a step of one chain, instead of a file: that of a batch divided by its chains."""
    samples_at_once: int = 16
    """Chains at once in that time; --benchmark brings its own number."""
    chips: tuple[int, ...] = (1, 8, 64)
    """Numbers of chips."""
    images: int = 1000
    """Images of the data set."""
    tasks: int = 3
    """Tasks; every one is a program of its own."""
    seeds: int = 1
    """Samples of every image."""
    steps: int = 1000
    """Steps of a chain."""
    start_seconds: float = 20.0
    """Python, JAX, the chip, and the weights, in every process."""
    compile_seconds: float | None = None
    """Compiling one program; the benchmark's own, or 60 without one."""
    load_seconds: float = 5.0
    """The same, read from the cache folder of compiled programs."""
    read_seconds: float = 0.012
    """Reading a PNG of 256x256 (of 1024x1024: 0.07); a process reads all at its start, its own again for every task."""
    score_seconds: float = 0.02
    """Scoring a sample and writing it down, while the chip waits."""
    spread: float = 0.03
    """Standard deviation of the chips' speeds."""
    hours_between_failures: float = 50_000.0
    """Of one chip; a report on 16,384 H100s over 54 days (Llama 3, 2024) amounts to about this."""
    requeue_seconds: float = 300.0
    """From a failure until the same command starts again."""


@dataclass(frozen=True)
class Step:
    """The time of a step.

    Attributes:
        source: where it comes from.
        seconds: of one chain.
        samples: chains at once.
        compile_seconds: of one program, if that was timed too.
    """

    source: str
    seconds: float
    samples: int
    compile_seconds: float | None = None


FLOORS = (
    Step(f"bfloat16 at 790 TFLOP/s; {COMPUTED}", 0.98e-3, 16),
    Step(f"bfloat16, memory traffic not hidden; {COMPUTED}", 2.2e-3, 16),
)
"""FFHQ-256, 776 GFLOP per step of DPS: no program can be quicker than the first."""


def check(config: Projection) -> None:
    """Ends the script when a flag is not usable."""
    whole = ("samples_at_once", "images", "tasks", "seeds", "steps")
    check_positive(chips=min(config.chips, default=0), **{name: getattr(config, name) for name in whole})
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, float) and not 0 <= value < float("inf"):
            raise UserError(f"--{field.name.replace('_', '-')} must be zero or positive, got {value}.")
    for name in ("seconds_per_image_step", "hours_between_failures"):
        if getattr(config, name) == 0:
            raise UserError(f"--{name.replace('_', '-')} must be positive, got 0.")
    if config.benchmark and config.seconds_per_image_step is not None:
        raise UserError("--benchmark brings the time of a step; leave --seconds-per-image-step out, or --benchmark.")
    if config.dtype and not config.benchmark:
        raise UserError("--dtype chooses among the times of a --benchmark.")


def step_times(config: Projection) -> Sequence[Step]:
    """Returns the times to project from.

    Raises:
        UserError: if the benchmark's file has none.
    """
    if config.seconds_per_image_step is not None:
        return [Step("given by hand", config.seconds_per_image_step, config.samples_at_once)]
    return FLOORS if config.benchmark is None else [measured(config.benchmark, config.dtype)]


def measured(path: Path, dtype: str | None) -> Step:
    """Returns the quickest chain of DPS with FFHQ-256 in a benchmark's file.

    Raises:
        UserError: if there is none.
    """
    try:
        found = json.loads(path.read_text())
        records: list[Any] = [
            record
            for record in found["records"]
            if (record["network"], record["task"], record["side"], record["program"])
            == ("ffhq-256", "dps", OURS, CHAIN)
            and record["seconds"]
            and dtype in (None, record["dtype"])
        ]
        device = found["device"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result of `python -m experiments.benchmark`.") from error
    if not records:
        wanted = f" in {dtype}" if dtype else ""
        raise UserError(f"{path} has no chain of DPS with ffhq-256{wanted}; run the benchmark with it.")
    best = min(records, key=lambda record: record["median"])
    source = f"{best['dtype']}, measured on {device}, {best['seeds']} at once"
    return Step(source, best["median"], best["seeds"], best["compile_seconds"])


def wall_seconds(config: Projection, step: Step, chips: int, compile_seconds: float) -> Float[np.ndarray, " runs"]:
    """Simulates runs; returns the seconds until the last chip is done, for each."""
    random = np.random.default_rng(0)
    at_once = max(step.samples // config.seeds, 1)
    of_chip = np.array([len(range(i, config.images, chips)) for i in range(chips)])
    # A group of images is filled up with copies, which take their time too.
    groups, filled = -(-of_chip // at_once), config.tasks * at_once
    speed = np.clip(1 + config.spread * random.normal(size=(SIMULATIONS, chips)), 0.5, 1.5)
    group = filled * (config.seeds * config.steps * step.seconds * speed + config.read_seconds)
    scoring = of_chip * config.tasks * config.seeds * config.score_seconds
    start = config.start_seconds + config.images * config.read_seconds
    busy = groups * group + scoring + (start + config.tasks * compile_seconds) * (groups > 0)
    failures = random.poisson(busy / (3600 * config.hours_between_failures))
    # What was in the works is lost: half a group on average.
    again = config.requeue_seconds + start + config.tasks * config.load_seconds
    lost = again + random.random(busy.shape) * group
    return (busy + failures * lost).max(1) + TABLE_SECONDS


def table(config: Projection, step: Step) -> str:
    """Returns a row per number of chips."""
    compile_seconds = config.compile_seconds if config.compile_seconds is not None else step.compile_seconds
    compile_seconds = 60.0 if compile_seconds is None else compile_seconds
    ideal = config.images * config.tasks * config.seeds * config.steps * step.seconds
    head = ["chips", "first run", "programs in the cache", "19 of 20 runs within", "share of the chips' time in steps"]
    rows = [head, ["---"] * len(head)]
    for chips in config.chips:
        cold, warm = (wall_seconds(config, step, chips, one) for one in (compile_seconds, config.load_seconds))
        share = ideal / (chips * float(np.median(warm)))
        times = [float(np.median(cold)), float(np.median(warm)), float(np.quantile(warm, 0.95))]
        rows.append([str(chips), *map(told, times), f"{share:.0%}"])
    title = f"### {step.source}: {1000 * step.seconds:.3g} ms per step and image, {step.samples} at once"
    return "\n".join([title, "", *("| " + " | ".join(cells) + " |" for cells in rows)])


def told(seconds: float) -> str:
    """Tells a time.

    >>> told(95), told(5000)
    ('1.6 min', '1.4 h')
    """
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def assumptions(config: Projection) -> Iterator[str]:
    """Yields what the projection rests on."""
    work = config.images * config.tasks * config.seeds
    yield (
        f"{config.images} images, {config.tasks} tasks, --seeds {config.seeds}, DPS, --steps {config.steps}: {work} "
        "samples. A process per chip, `--shard I/N`, and `--images-at-once` such that the samples fill a batch."
    )
    yield (
        f"Every process: {config.start_seconds:g} s to start, {config.read_seconds:g} s to read each of all images, "
        f"then {config.tasks} programs to compile, or {config.load_seconds:g} s for each of them from the cache."
    )
    yield (
        f"Every sample: {config.score_seconds:g} s of scoring while the chip waits. The last group of a process is "
        "filled up with copies, and takes as long as a full one."
    )
    yield (
        f"The chips' speeds differ by {config.spread:.0%} (standard deviation), and the slowest decides. One fails "
        f"every {config.hours_between_failures:,.0f} h: its group is lost, and {config.requeue_seconds:g} s later it "
        "starts again."
    )
    yield "All chips are there at once, without a queue. Storage serves all processes as fast as one."
    yield (
        f"Medians of {SIMULATIONS} simulated runs. Only the time of a step, and of compiling, come from a benchmark; "
        "all else is assumed."
    )


def main(config: Projection) -> None:
    """Prints the tables and the assumptions."""
    check(config)
    print("\n\n".join(table(config, step) for step in step_times(config)))
    print("\nAssumed:\n" + "\n".join(f"- {sentence}" for sentence in assumptions(config)))


if __name__ == "__main__":
    run_script(main, Projection, __doc__)
