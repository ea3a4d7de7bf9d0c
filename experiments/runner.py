"""Running a sampler for a script: a progress bar, and compile time apart from run time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.problems import Run
from jaxdiff.sampling import sample_many

_COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


@dataclass
class Compilation:
    """What compiling cost.

    Attributes:
        seconds: tracing, lowering and compiling, together.
    """

    seconds: float = 0.0


@contextmanager
def compile_meter() -> Iterator[Compilation]:
    """Adds up what JAX spends on compiling inside the block."""
    meter = Compilation()

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in _COMPILE_EVENTS:
            meter.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield meter
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@dataclass(frozen=True)
class Timing:
    """How long a run took.

    Attributes:
        compile_seconds: tracing, lowering and compiling.
        run_seconds: everything else.
    """

    compile_seconds: float
    run_seconds: float


def run_with_progress(
    title: str, run: Run, keys: PRNGKeyArray, batch_size: int | None, console: Console
) -> tuple[np.ndarray, Timing]:
    """Draws one sample per key behind a progress bar; returns the samples and how long it took."""
    num_steps = len(run.times) - 1
    batches = -(-len(keys) // (batch_size or len(keys)))
    started = time.monotonic()
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, left"),
        TimeRemainingColumn(),
    )
    with (
        compile_meter() as compilation,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task(title, total=num_steps * batches)
        samples = sample_many(
            run.sampler,
            keys,
            run.times,
            batch_size=batch_size,
            segment=max(num_steps // 20, 1),
            report=lambda p: progress.update(bar, completed=p.batch * num_steps + p.step),
        )
        samples = np.asarray(samples)
    elapsed = time.monotonic() - started
    return samples, Timing(compilation.seconds, max(elapsed - compilation.seconds, 0.0))
