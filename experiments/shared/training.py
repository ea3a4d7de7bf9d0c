"""What training scripts share: the first state, checkpoints, the split of a batch, and the files of the log."""

import csv
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdiff.disk import MANIFEST, WRITTEN, FolderKind, claim_folder, record_written, write_atomically
from jaxdiff.priors.training import TrainState
from jaxdiff.runs.folder import write_json

_PARTS = ("config.json", "checkpoints", "prior", "loss.csv", "loss.png", "held_out.csv")
_SAMPLES = re.compile(r"samples_\d+\.png")


def open_run(config: Any, program: str, data: Path | None) -> None:
    """Claims a run's folder, or finds the one to go on with, and writes the settings down.

    Args:
        config: the flags, `out` among them.
        program: how the script is called; only its own folders are written into.
        data: what is trained on, which must not lie in the folder.

    Raises:
        UserError: if the folder is not the script's, or another process trains in it.
    """
    _adopt(config, program)
    claim_folder(config.out, program, inputs=[data])
    write_json(config.out / "config.json", asdict(config))


def _adopt(config: Any, program: str) -> None:
    """Gives the folder of a run that was begun before such folders were claimed the list of its files."""
    kind, folder = FolderKind(_PARTS, "config.json", tuple(asdict(config))), config.out
    names = [path.name for path in folder.iterdir()] if kind.is_one(folder) else []
    if names and all(name in _PARTS or _SAMPLES.fullmatch(name) for name in names):
        files = [name for name in names if (folder / name).is_file()]
        write_atomically(folder / WRITTEN, "".join(f"{name}\n" for name in files))
        write_json(folder / MANIFEST, {"program": program})


def first_state(weights: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step."""
    # The average is a copy, because a donated state must not name one array twice.
    return TrainState(weights, jax.tree.map(jnp.copy, weights), optimizer.init(weights), jnp.zeros((), int))


def batch_shardings(images: int) -> tuple[NamedSharding, NamedSharding]:
    """Returns two shardings: a batch split between as many devices as divide it, and a copy on each of them."""
    devices = max(n for n in range(1, jax.device_count() + 1) if images % n == 0)
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    return NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())


@contextmanager
def open_checkpoints(folder: Path) -> Iterator[ocp.CheckpointManager]:
    """Opens a run's checkpoints, of which the last two are kept."""
    # Saved in the foreground: a thread that writes would outlive a run that stops.
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    with ocp.CheckpointManager((folder / "checkpoints").resolve(), options=options) as manager:
        yield manager


def restore_last(manager: ocp.CheckpointManager, state: TrainState) -> TrainState:
    """Returns the state of the last checkpoint, on the devices of the given one, which is returned if there is none."""
    last = manager.latest_step()
    if last is None:
        return state
    print(f"going on from step {last}", flush=True)
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    restored: Any = manager.restore(last, args=ocp.args.StandardRestore(target))
    return restored


def append_row(path: Path, step: int, row: Mapping[str, float]) -> None:
    """Adds one step's numbers to a CSV file."""
    record_written(path)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", *row])
        writer.writerow([step, *(f"{value:.6g}" for value in row.values())])


def forget_after(path: Path, step: int) -> None:
    """Removes the rows of steps that will be taken again, because the run was cut after its last checkpoint."""
    if path.exists():
        head, *rows = path.read_text().splitlines(keepends=True)
        kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
        write_atomically(path, head + "".join(kept))


def print_progress(step: int, steps: int, loss: float, seconds_per_step: float) -> None:
    """Prints where the training stands."""
    left = seconds_per_step * (steps - step) / 60
    print(f"step {step}/{steps}  loss {loss:.4f}  {seconds_per_step:.2f} s/step  {left:.0f} min left", flush=True)
