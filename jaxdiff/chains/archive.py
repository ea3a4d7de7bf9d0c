"""A sampler as a folder that runs without this package: a program of `jax.export`, and its numbers."""

import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Int

from jaxdiff.disk import FolderKind, new_folder
from jaxdiff.samplers.base import Sampler, sample

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")

EXPORTED = FolderKind(
    ("program.bin", "arrays.npz", "about.json", "run.py"), "about.json", ("made with", "calling convention", "numbers")
)
"""What an exported folder consists of."""

RUN = '''"""Draws samples with the program in this folder; needs jax, flatbuffers, numpy and pillow, and nothing else.

    python run.py --samples 4 --out samples
    python run.py --set measurement.y=MY_Y.npy measurement.operator.mask=MY_MASK.npy

Images are (h, w, 3) in [-1, 1]. about.json names all numbers that --set can replace by others of the same shape.
"""

import argparse
from pathlib import Path

import jax
import jax.export
import numpy as np
from PIL import Image

here = Path(__file__).parent
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--samples", type=int, default=4)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--set", nargs="*", default=[], metavar="NAME=FILE.npy")
parser.add_argument("--out", type=Path, default=Path("samples"))
flags = parser.parse_args()
if flags.samples < 1:
    parser.error(f"--samples must be at least 1, got {flags.samples}")

program = jax.export.deserialize(bytearray((here / "program.bin").read_bytes()))
arrays = dict(np.load(here / "arrays.npz"))
for name, _, file in (text.partition("=") for text in flags.set):
    if name not in arrays:
        parser.error(f"--set takes NAME=FILE.npy with a name of about.json, got {name!r}")
    try:
        new = np.load(file)
    except (OSError, ValueError) as error:
        parser.error(f"--set {name}: {file!r} is no array that numpy reads ({error})")
    if new.shape != arrays[name].shape or not np.isfinite(new).all():
        parser.error(f"--set {name} must be finite numbers of the shape {arrays[name].shape}, got {new.shape}")
    arrays[name] = new.astype(arrays[name].dtype)
root = jax.random.fold_in(jax.random.key(flags.seed), 2)
keys = jax.vmap(lambda k: jax.random.fold_in(root, k))(np.arange(flags.samples))
data = np.asarray(jax.random.key_data(keys))
size = program.in_avals[-1].shape[0]
padded = np.concatenate([data, np.repeat(data[-1:], -len(data) % size, axis=0)])
batches = [np.asarray(program.call(arrays, part)) for part in np.split(padded, len(padded) // size)]
samples = np.concatenate(batches)[: flags.samples]
flags.out.mkdir(parents=True, exist_ok=True)
np.save(flags.out / "samples.npy", samples)
for k, x in enumerate(samples):
    Image.fromarray(np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)).save(flags.out / f"sample_{k}.png")
print(f"written to {flags.out}: samples.npy, sample_0.png ...")
'''


def named_arrays(sampler: Sampler) -> dict[str, np.ndarray]:
    """Returns all numbers of a sampler by the names of their fields: measurement, operator, step sizes, weights."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(sampler)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(jnp.asarray(leaf)) for path, leaf in leaves
    }


def is_weight(name: str) -> bool:
    """Tells the numbers of the prior's network and schedule from those of the measurement and the method."""
    return bool({"network", "schedule"} & set(name.split(".")))


def export(
    sampler: Sampler, times: Int[Array, " n"] | np.ndarray, batch_size: int, *, platforms: Sequence[str] = ("cpu",)
) -> jax_export.Exported:
    """Exports `(arrays, key_data) -> samples`.

    Args:
        sampler: the algorithm; its numbers become arguments, named as by `named_arrays`.
        times: usually falling and ending with -1; they may rise and repeat, and become part of the program.
        batch_size: number of keys; `jax.export` knows no convolutions over a number that is left open.
        platforms: where it shall run, some of cpu, cuda, rocm, tpu.

    Returns:
        The program. `program.call(named_arrays(sampler), jax.random.key_data(keys))` gives the samples that
        `sample_many` gives for these keys.

    Raises:
        ValueError: if a platform is unknown or there is none, or the batch size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if not platforms or set(platforms) - set(PLATFORMS):
        raise ValueError(f"`platforms` must be some of {', '.join(PLATFORMS)}, got {', '.join(platforms) or 'none'}.")
    structure, arrays = jax.tree.structure(sampler), named_arrays(sampler)
    names = list(arrays)  # in the order of the leaves; JAX sorts the keys of a dictionary

    def run(arrays: dict[str, Array], key_data: Array) -> Any:
        whole = jax.tree.unflatten(structure, [arrays[name] for name in names])
        return jax.vmap(lambda key: whole.image(sample(whole, key, times)[0]))(jax.random.wrap_key_data(key_data))

    keys = jax.eval_shape(lambda: jax.random.key_data(jax.random.split(jax.random.key(0), batch_size)))
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in arrays.items()}
    return jax_export.export(jax.jit(run), platforms=list(platforms))(shapes, keys)


def save(
    directory: str | os.PathLike,
    sampler: Sampler,
    times: Int[Array, " n"] | np.ndarray,
    batch_size: int,
    *,
    platforms: Sequence[str] = ("cpu",),
    overwrite: bool = False,
) -> None:
    """Writes an exported sampler as a folder with `run.py`; it appears complete or not at all.

    JAX promises to run the program with versions up to six months newer than its own. Its file format needs the
    package flatbuffers.

    Args:
        directory: the folder.
        sampler: as for `export`.
        times: as for `export`.
        batch_size: as for `export`; `run.py` draws other numbers of samples in batches of this size.
        platforms: as for `export`.
        overwrite: replace an exported folder that is there; one that holds anything else is never replaced.

    Raises:
        FileExistsError: if `directory` may not be replaced.
        ValueError: as `export`.
        ImportError: if flatbuffers is missing.
    """
    program, arrays = export(sampler, times, batch_size, platforms=platforms), named_arrays(sampler)
    about = {
        "made with": {name: version(name) for name in ("jax", "jaxlib", "numpy")},
        "calling convention": program.calling_convention_version,
        "platforms": list(platforms),
        "steps": len(times) - 1,
        "batch size": batch_size,
        "numbers": {name: list(leaf.shape) for name, leaf in arrays.items() if not is_weight(name)},
        "weights": {name: list(leaf.shape) for name, leaf in arrays.items() if is_weight(name)},
    }
    with new_folder(directory, EXPORTED, overwrite=overwrite) as partial:
        (partial / "program.bin").write_bytes(program.serialize())
        np.savez(partial / "arrays.npz", allow_pickle=False, **arrays)
        (partial / "about.json").write_text(json.dumps(about, indent=2) + "\n")
        (partial / "run.py").write_text(RUN)
