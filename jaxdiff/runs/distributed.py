"""Finding one's place among many processes, which then work on their own."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
from jax._src.distributed import global_state

from jaxdiff.runs.errors import UserError


class Place(NamedTuple):
    """Which of many processes this is.

    Attributes:
        index: counted from 0.
        count: of all processes.
    """

    index: int
    count: int


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 60.0,
    before_parting: Callable[[Place], object] = lambda place: None,
) -> Place:
    """Meets the other processes by `jax.distributed`, and parts from them at once.

    After that the processes share nothing: the death of one does not end the others. To be called before anything
    is computed.

    Args:
        coordinator: `HOST:PORT` of process 0; without it JAX asks SLURM, Open MPI, Kubernetes or the TPU pod.
        num_processes: how many there are, with a coordinator.
        process_id: which one this is, with a coordinator.
        timeout: seconds until all must be there. If they are not, the process ends with a sentence and code 2, as JAX
            itself could only abort it.
        before_parting: called when all have met; when `join` returns, every process has done this.

    Raises:
        UserError: if the arguments do not fit together, or JAX finds nobody who tells the processes of each other.
    """
    _check(coordinator, num_processes, process_id, timeout)
    where = f"the coordinator at {coordinator}" if coordinator else "the coordinator that JAX found"
    fix = "check that process 0 runs, that its port is open, and that all processes are started; --timeout waits longer"
    late = f"error: not all processes met through {where} within {timeout:g} s; {fix}."
    # It would swallow the signal by which a cluster ends a job.
    jax.config.update("jax_enable_preemption_service", False)
    with _end_after(timeout, late):
        try:
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                # Longer than ours: at its end JAX aborts the process without a word that a user would understand.
                initialization_timeout=int(timeout) + 60,
            )
            # `jax.process_index()` would start the devices, which then need the others for good.
            place = Place(global_state.process_id, global_state.num_processes)
            before_parting(place)
            jax.distributed.shutdown()
            _forget()
        except (ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
            fix = "--coordinator HOST:PORT --num-processes N --process-id I says by hand who is who"
            raise UserError(f"the processes could not be joined ({reason}); {fix}.") from error
    return place


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float) -> None:
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise UserError("--num-processes and --process-id go with --coordinator HOST:PORT.")
    elif num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise UserError(
            "--coordinator needs --num-processes N and --process-id I with 0 <= I < N, "
            f"got {num_processes} and {process_id}."
        )
    elif not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator must be HOST:PORT, such as node-0:1234, got {coordinator!r}.")
    if not timeout > 0:
        raise UserError(f"--timeout must be positive, got {timeout:g}.")


def _forget() -> None:
    """Makes JAX a process on its own again: what starts devices or reads checkpoints asks these."""
    global_state.process_id, global_state.num_processes, global_state.coordinator_address = 0, 1, None


@contextmanager
def _end_after(timeout: float, sentence: str) -> Iterator[None]:
    """Ends the process if the block takes too long; C++ code that waits cannot be interrupted otherwise."""

    def end() -> None:
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
