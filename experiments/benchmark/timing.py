"""What the benchmark times, and how: everything has its turn in every round."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax
import numpy as np

OURS = "jaxdiff"
STEP, CHAIN, SHARED = "step", "chain", "shared chains"
"""One jitted step, whole chains in one program, and such a program on all devices; the peers have steps only."""

PUBLISHED = "PyTorch as published"
CHANNELS_LAST = "PyTorch channels_last"
BATCHED = "PyTorch batched"
BATCHED_CHANNELS_LAST = "PyTorch batched, channels_last"
COMPILED = "PyTorch compiled, bfloat16, batched"
AZULA = "azula's DPS"
PEERS = (PUBLISHED, CHANNELS_LAST, BATCHED, BATCHED_CHANNELS_LAST, COMPILED, AZULA)
"""The other sides; the first two and the last run one image at a time."""

LEAST = 0.2
"""Seconds that a turn takes at least: a short program is started several times."""


@dataclass(frozen=True)
class Case:
    """What is timed side by side.

    Attributes:
        network: its name.
        task: `dps`, `ddpm`, `batch` or `gradient`.
        seeds: images at once.
        steps: steps of a chain.
    """

    network: str
    task: str
    seeds: int
    steps: int


@dataclass(frozen=True)
class Program:
    """Something that can be started again and again.

    Attributes:
        side: whose it is.
        name: what it does.
        dtype: in which precision.
        image_steps: steps of a chain, times images, that one start makes.
        start: starts it, and need not wait for the end.
        wait: waits for what `start` returned.
        compile_seconds: what compiling took before the first start; None where the first start compiles.
        memory_bytes: at its peak; called after the first start.
        memory_source: who says so.
    """

    side: str
    name: str
    dtype: str
    image_steps: int
    start: Callable[[], Any]
    wait: Callable[[Any], Any]
    compile_seconds: float | None
    memory_bytes: Callable[[], int | None]
    memory_source: str


Record = dict[str, Any]


def warm_up(program: Program) -> Record:
    """Starts a program once or twice; returns what is known then.

    Raises:
        FloatingPointError: if its numbers are not finite; such may be quicker or slower to compute with.
    """
    began = time.perf_counter()
    result = program.start()
    program.wait(result)
    first = one = time.perf_counter() - began
    # The peers compile, and all touch their memory, in the first start; a long one of ours needs no second.
    if first < 1 or program.side != OURS:
        one = seconds_of(program.start, program.wait, 1)
    if not np.isfinite(np.asarray(result.cpu() if hasattr(result, "cpu") else result)).all():
        raise FloatingPointError("the numbers are not finite")
    return {
        "side": program.side,
        "program": program.name,
        "dtype": program.dtype,
        "image_steps": program.image_steps,
        "starts": starts_in(LEAST, one),
        "compile_seconds": program.compile_seconds,
        "first_seconds": first,
        "memory_bytes": program.memory_bytes(),
        "memory_source": program.memory_source,
        "seconds": [],
    }


def take_turns(
    ready: Sequence[tuple[Program, Record]],
    rounds: int,
    *,
    flop: int,
    is_late: Callable[[], bool],
    keep: Callable[[], None],
) -> None:
    """Times every program once per round, and adds the seconds of one step of one image to its record.

    Args:
        ready: programs that are warm, with the records to complete.
        rounds: how many.
        flop: floating-point operations of one step of one image.
        is_late: whether to begin no further round; there is always one.
        keep: called after every round.
    """
    for turn in range(rounds):
        if turn and is_late():
            break
        for program, record in ready:
            seconds = seconds_of(program.start, program.wait, record["starts"]) / program.image_steps
            record["seconds"].append(seconds)
            record["median"] = median(record["seconds"])
            record["flop_per_second"] = flop / record["median"]
        keep()


def fastest(start: Callable[[], Any], wait: Callable[[Any], Any], rounds: int = 5) -> float:
    """Returns the least seconds of one start, over rounds of several starts."""
    wait(start())
    began = time.perf_counter()
    wait(start())
    count = starts_in(LEAST, time.perf_counter() - began)
    return min(seconds_of(start, wait, count) for _ in range(rounds))


def starts_in(seconds: float, one: float) -> int:
    """Returns how many starts fill the time, from 1 to 1000."""
    return min(max(round(seconds / max(one, 1e-9)), 1), 1000)


def seconds_of(start: Callable[[], Any], wait: Callable[[Any], Any], count: int) -> float:
    """Returns the seconds of one start among several that follow each other, until the last has ended."""
    # A CPU may run two starts at once, a GPU queues them as it queues the steps of a loop in Python.
    wait_for_each = jax.default_backend() == "cpu"
    began = time.perf_counter()
    for _ in range(count - 1):
        started = start()
        if wait_for_each:
            wait(started)
    wait(start())
    return (time.perf_counter() - began) / count
