"""Read a safetensors file, whole or in shards, strictly: nothing but the numbers that it describes.

A file is the length of its header (8 bytes, little-endian), the header, a JSON object
`{name: {"dtype", "shape", "data_offsets": [begin, end]}}` with perhaps a `__metadata__`, and the numbers,
little-endian, from which the offsets count. The tensors follow each other without gaps. Shards are such files beside
an index, a JSON object whose `weight_map` says in which of them each tensor is.

References:
    https://huggingface.co/docs/safetensors (the format).
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from convert_weights.arrays import load_arrays
from convert_weights.state_dict import Stored, Views
from convert_weights.torch_pickle import Storage, TensorView

MAX_HEADER_BYTES = 2**24
MAX_DIMENSIONS = 8
MAX_SIZE = 2**48

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


class _Entry(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class _Place(NamedTuple):
    """Where in which file the bytes of a tensor are."""

    path: Path
    begin: int


def is_safetensors(path: Path) -> bool:
    """Tells whether a file starts as one of this kind does: a length, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and not head.startswith(b"PK")


def open_safetensors(path: Path) -> Stored:
    """Reads what a safetensors file says about its tensors.

    Raises:
        ValueError: it is not as the format says, in any point.
    """
    tensors = dict(_described(path))
    return _stored({name: view for name, (view, _) in tensors.items()}, {n: p for n, (_, p) in tensors.items()}, path)


def open_sharded(path: Path) -> Stored:
    """Reads what the shards beside an index, `NAME.safetensors.index.json`, say about their tensors.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: index or shards are not as the format says, or do not agree.
    """
    if path.stat().st_size > MAX_HEADER_BYTES:
        raise ValueError(f"{path} is refused: an index has {MAX_HEADER_BYTES:,} bytes at most")
    index = _parsed(path.read_bytes(), f"{path}: the index")
    shard_of = index.get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{path} is no index of shards: it has no `weight_map`")
    views, places = {}, {}
    for shard in dict.fromkeys(shard_of.values()):
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{path} is refused: {shard!r} is not the name of a safetensors file beside it")
        file = path.with_name(shard)
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, which {path.name} names")
        for name, (view, place) in _described(file):
            if shard_of.get(name) != shard:
                raise ValueError(f"{path} does not agree with its shards: `{name}` is in {shard}")
            views[name], places[name] = view, place
    if missing := sorted(shard_of.keys() - views.keys()):
        raise ValueError(f"{path} does not agree with its shards: `{missing[0]}` is not in {shard_of[missing[0]]}")
    return _stored(views, places, path)


def _stored(views: Views, places: dict[str, _Place], path: Path) -> Stored:
    def read(storage: Storage, name: str) -> bytes:
        place = places[storage.key]
        with place.path.open("rb") as file:
            file.seek(place.begin)
            return file.read(storage.numel * storage.dtype.itemsize)

    files = tuple(dict.fromkeys([path, *(place.path for place in places.values())]))
    return Stored(views, lambda asked: load_arrays(asked, read, False, path), files)


def _described(path: Path) -> Iterator[tuple[str, tuple[TensorView, _Place]]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{path} is truncated or damaged: its header would have {length:,} bytes, the file has {size:,}"
            )
        header = _parsed(file.read(length), f"{path}: the header")
    header.pop("__metadata__", None)
    entries = {name: _checked_entry(entry, f"{path}: `{name}`") for name, entry in header.items()}
    reached = 0
    for begin, end in sorted((entry.begin, entry.end) for entry in entries.values()):
        if begin != reached:
            raise ValueError(f"{path} is damaged: tensors overlap or leave a gap, at byte {min(begin, reached):,}")
        reached = end
    if 8 + length + reached != size:
        raise ValueError(
            f"{path} is truncated or damaged: it has {size:,} bytes, its tensors end at {8 + length + reached:,}"
        )
    for name, entry in entries.items():
        storage = Storage(name, entry.dtype, math.prod(entry.shape))
        yield name, (TensorView(storage, 0, entry.shape, _strides(entry.shape)), _Place(path, 8 + length + entry.begin))


def _parsed(text: bytes, place: str) -> dict[str, Any]:
    def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name is there twice")
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=without_repetition)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is damaged ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{place} is damaged (it is no JSON object)")
    return found


def _checked_entry(entry: object, place: str) -> _Entry:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)], **rest} if not rest:
            pass
        case _:
            raise ValueError(f"{place} is refused: its entry is not `dtype`, `shape` and `data_offsets`")
    if kind not in DTYPES:
        raise ValueError(f"{place} is refused: its type is {kind[:20]!r}, and {', '.join(DTYPES)} are read")
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < MAX_SIZE for n in shape):
        raise ValueError(f"{place} is refused: it has no possible shape")
    if begin < 0 or math.prod(shape) * DTYPES[kind].itemsize != end - begin:
        raise ValueError(f"{place} is refused: {kind} of shape {tuple(shape)} does not lie from {begin} to {end}")
    return _Entry(DTYPES[kind], tuple(shape), begin, end)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
