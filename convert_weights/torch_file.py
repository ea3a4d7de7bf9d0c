"""Read the tensors of a PyTorch checkpoint without PyTorch and without running its pickle; write one with PyTorch.

A checkpoint of PyTorch 1.6 or later is a zip archive: `NAME/data.pkl` describes the tensors as
strided views, and `NAME/data/KEY` holds the bytes of one storage. An older one is a stream: pickles
of a magic number, a version, facts about the machine, the description of the tensors, and the list
of storages, then every storage as its length (8 bytes) and its numbers, little-endian.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from convert_weights.state_dict import Found, find_weights
from convert_weights.torch_pickle import Storage, TensorView, Unpickled, unpickle
from jaxdiff.disk import write_atomically

MAX_PICKLE_BYTES = 2**24
MAX_EXPANSION = 10
MAX_SAFETENSORS_HEADER = 10**8

# What the legacy format starts with: protocol 2 and the number 0x1950a86a20f9469cfc6c.
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
LEGACY_VERSION = 1001

# What `zipfile` raises for a damaged archive.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, UnicodeError, OverflowError)


Finder = Callable[[Unpickled], Found]


class Checkpoint(NamedTuple):
    """The tensors of a network in a checkpoint.

    Attributes:
        tensors: read-only arrays in the file's own precision (bfloat16 as `ml_dtypes.bfloat16`), by their names in
            the network. Tensors that share a storage share memory.
        wrapper: where in the file they are, such as `ema.module`; "" at the top.
        averaged: whether they are averages over the training.
        others: where other weights of such a network are, which were not taken.
    """

    tensors: dict[str, np.ndarray]
    wrapper: str
    averaged: bool = False
    others: tuple[str, ...] = ()

    def says(self) -> str:
        """One line on which weights these are."""
        place = f"taken from `{self.wrapper}`" if self.wrapper else "taken from the top of the file"
        average = ", averages over the training" if self.averaged else ""
        others = ", ".join(f"`{other or '.'}`" for other in self.others)
        return f"weights: {place}{average}{f'; not taken: {others}' if others else ''}"


def read_checkpoint(path: str | Path, marks: tuple[str, ...], wrapper: str | None = None) -> Checkpoint:
    """Read the weights of one network from a PyTorch checkpoint into numpy, without PyTorch.

    Args:
        path: a file written by `torch.save`, of any version since 0.4.
        marks: names of tensors by which the network is known, under any prefix, in any dictionary or list.
        wrapper: which weights to take, where there are several; by default the averaged ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a readable checkpoint, its pickle asks for what runs programs, or it does not say which
            weights to take.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder, not a file written by torch.save")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    find = partial(_find, path=path, marks=marks, wrapper=wrapper)
    try:
        if _is_legacy(path):
            return _read_legacy(path, find)
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path, find)
    except DAMAGE as error:
        raise ValueError(
            f"{path} is truncated or damaged ({error}); delete it, and download or copy it again"
        ) from error


def write_checkpoint(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Writes a state dict with PyTorch, bit for bit.

    Raises:
        ImportError: PyTorch is not installed.
        OSError: the file cannot be written.
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("writing PyTorch files needs PyTorch: `pip install torch`") from error

    def tensor(array: np.ndarray) -> "torch.Tensor":
        if str(array.dtype) == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    try:
        write_atomically(path, lambda file: torch.save({name: tensor(array) for name, array in tensors.items()}, file))
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _find(unpickled: Unpickled, path: Path, marks: tuple[str, ...], wrapper: str | None) -> Found:
    try:
        return find_weights(unpickled.content, marks, wrapper)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _is_legacy(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(LEGACY_MAGIC):
        return True
    if not head.startswith(b"PK"):
        raise ValueError(f"{path} is not a PyTorch checkpoint: it is {_what_it_is(head)}")
    return False


def _what_it_is(head: bytes) -> str:
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, so its download failed"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS to the file; `git lfs pull` fetches the file itself"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < MAX_SAFETENSORS_HEADER:
        return "a safetensors file; torch.save(safetensors.torch.load_file(FILE), OUT) makes one"
    return "no zip archive" if head else "empty, so its download failed"


def _read_legacy(path: Path, find: Finder) -> Checkpoint:
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        _, version, _ = (unpickle(head, path).content for _ in range(3))
        if version != LEGACY_VERSION:
            raise ValueError(f"{path} is refused: its format has version {version!r}, not {LEGACY_VERSION}")
        unpickled = unpickle(head, path)
        keys = unpickle(head, path).content
        file.seek(head.tell())
        storages = _read_storages(file, keys, unpickled.storages, path)
    found = find(unpickled)
    tensors = {
        name: _array(view, storages[view.storage.key], False, f"{path}: `{name}`") for name, view in found.views.items()
    }
    return Checkpoint(tensors, found.wrapper, found.averaged, found.others)


def _read_storages(file: IO[bytes], keys: object, declared: dict[str, Storage], path: Path) -> dict[str, bytes]:
    if not isinstance(keys, list) or sorted(map(repr, keys)) != sorted(map(repr, declared)):
        raise ValueError(f"{path} is damaged: its list of storages is not that of its tensors")
    left = path.stat().st_size - file.tell()
    storages = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        size = declared[key].numel * declared[key].dtype.itemsize
        left -= 8 + size
        if length != declared[key].numel or left < 0:
            raise ValueError(
                f"{path} is truncated or damaged (storage {key!r} has {length:,} numbers, its pickle declares "
                f"{declared[key].numel:,}); delete it, and download or copy it again"
            )
        storages[key] = file.read(size)
    if left:
        raise ValueError(f"{path} is damaged: {left:,} bytes follow its last storage")
    return storages


def _read_archive(archive: zipfile.ZipFile, path: Path, find: Finder) -> Checkpoint:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{path} is not a PyTorch checkpoint: it is a zip without one data.pkl")
    unpacked = sum(entry.file_size for entry in entries.values())
    if unpacked > MAX_EXPANSION * path.stat().st_size + MAX_PICKLE_BYTES:
        raise ValueError(f"{path} is refused: so small a file cannot hold {unpacked:,} bytes")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"{path} is refused: its pickle exceeds {MAX_PICKLE_BYTES:,} bytes")
    found = find(unpickle(io.BytesIO(archive.read(pickles[0])), path))
    folder = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise ValueError(f"{path} is refused: its byte order is {order[:20]!r}")

    storages: dict[str, bytes] = {}
    tensors = {}
    for name, view in found.views.items():
        key = view.storage.key
        if key not in storages:
            entry = entries.get(f"{folder}data/{key}")
            if entry is None:
                raise ValueError(f"{path} is damaged: the bytes of `{name}` are not in it")
            storages[key] = archive.read(entry)
        tensors[name] = _array(view, storages[key], order == b"big", f"{path}: `{name}`")
    return Checkpoint(tensors, found.wrapper, found.averaged, found.others)


def _array(view: TensorView, data: bytes, big_endian: bool, name: str) -> np.ndarray:
    dtype, numel = view.storage.dtype, view.storage.numel
    if len(data) != numel * dtype.itemsize:
        raise ValueError(
            f"{name} is damaged: its storage has {len(data):,} bytes in the file, "
            f"its pickle declares {numel:,} of {dtype}"
        )
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    if 0 not in view.shape and last >= numel:
        raise ValueError(f"{name} is refused: it reaches outside its storage of {numel:,} numbers")
    if math.prod(view.shape) == 0:
        return np.zeros(view.shape, dtype)
    words = np.frombuffer(data, f"u{dtype.itemsize}")
    if big_endian:
        words = words.byteswap()
    strides = tuple(s * dtype.itemsize for s in view.strides)
    offset = view.offset * dtype.itemsize
    return np.ndarray(view.shape, dtype, words.data, offset, strides)
