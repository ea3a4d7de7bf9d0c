"""Read the tensors of a PyTorch checkpoint without PyTorch and without running its pickle; write one with PyTorch.

A checkpoint of PyTorch 1.6 or later is a zip archive: `NAME/data.pkl` describes the tensors as
strided views, and `NAME/data/KEY` holds the bytes of one storage. An older one is a stream: pickles
of a magic number, a version, facts about the machine, the description of the tensors, and the list
of storages, then every storage as its length (8 bytes) and its numbers, little-endian.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from convert_weights.arrays import load_arrays
from convert_weights.state_dict import Stored, Views
from convert_weights.torch_pickle import Storage, unpickle
from jaxdiff.disk import write_atomically

MAX_PICKLE_BYTES = 2**24
MAX_EXPANSION = 10

# What the legacy format starts with: protocol 2 and the number 0x1950a86a20f9469cfc6c.
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
LEGACY_VERSION = 1001

# What `zipfile` raises for a damaged archive.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, UnicodeError, OverflowError)


def open_torch_file(path: Path) -> Stored:
    """Reads what a file of `torch.save` describes, without PyTorch; of any version since 0.4.

    Raises:
        ValueError: not a readable checkpoint, or its pickle asks for what runs programs.
    """
    with damage_told(path):
        if _is_legacy(path):
            return _open_legacy(path)
        with zipfile.ZipFile(path) as archive:
            return _open_archive(archive, path)


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Says of which file the damage is that reading comes upon."""
    try:
        yield
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


def _is_legacy(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(LEGACY_MAGIC):
        return True
    if not head.startswith(b"PK"):
        raise ValueError(f"{path} is neither a PyTorch checkpoint nor a safetensors file: it is {_what_it_is(head)}")
    return False


def _what_it_is(head: bytes) -> str:
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, so its download failed"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS to the file; `git lfs pull` fetches the file itself"
    if len(head) < 16:
        return f"{len(head)} bytes long" if head else "empty, so its download failed"
    return "of another kind"


def _open_legacy(path: Path) -> Stored:
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        _, version, _ = (unpickle(head, path).content for _ in range(3))
        if version != LEGACY_VERSION:
            raise ValueError(f"{path} is refused: its format has version {version!r}, not {LEGACY_VERSION}")
        unpickled = unpickle(head, path)
        keys = unpickle(head, path).content
        file.seek(head.tell())
        places = _find_storages(file, keys, unpickled.storages, path)

    def load(views: Views) -> dict[str, np.ndarray]:
        with path.open("rb") as file:
            return load_arrays(views, lambda storage, name: _read_at(file, places[storage.key], storage), False, path)

    return Stored(unpickled.content, load, (path,))


def _read_at(file: IO[bytes], place: int, storage: Storage) -> bytes:
    file.seek(place)
    return file.read(storage.numel * storage.dtype.itemsize)


def _find_storages(file: IO[bytes], keys: object, declared: dict[str, Storage], path: Path) -> dict[str, int]:
    """Where the numbers of every storage begin."""
    if not isinstance(keys, list) or sorted(map(repr, keys)) != sorted(map(repr, declared)):
        raise ValueError(f"{path} is damaged: its list of storages is not that of its tensors")
    left = path.stat().st_size - file.tell()
    places = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        size = declared[key].numel * declared[key].dtype.itemsize
        left -= 8 + size
        if length != declared[key].numel or left < 0:
            raise ValueError(
                f"{path} is truncated or damaged (storage {key!r} has {length:,} numbers, its pickle declares "
                f"{declared[key].numel:,}); delete it, and download or copy it again"
            )
        places[key] = file.tell()
        file.seek(size, io.SEEK_CUR)
    if left:
        raise ValueError(f"{path} is damaged: {left:,} bytes follow its last storage")
    return places


def _open_archive(archive: zipfile.ZipFile, path: Path) -> Stored:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{path} is not a PyTorch checkpoint: it is a zip without one data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") for name in entries):
        raise ValueError(f"{path} is TorchScript, a program, which is not run; save the module's state_dict() instead")
    unpacked = sum(entry.file_size for entry in entries.values())
    if unpacked > MAX_EXPANSION * path.stat().st_size + MAX_PICKLE_BYTES:
        raise ValueError(f"{path} is refused: so small a file cannot hold {unpacked:,} bytes")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"{path} is refused: its pickle exceeds {MAX_PICKLE_BYTES:,} bytes")
    unpickled = unpickle(io.BytesIO(archive.read(pickles[0])), path)
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise ValueError(f"{path} is refused: its byte order is {order[:20]!r}")

    def load(views: Views) -> dict[str, np.ndarray]:
        with damage_told(path), zipfile.ZipFile(path) as archive:
            read = partial(_read_entry, archive, path, f"{folder}data/")
            return load_arrays(views, read, order == b"big", path)

    return Stored(unpickled.content, load, (path,))


def _read_entry(archive: zipfile.ZipFile, path: Path, folder: str, storage: Storage, name: str) -> bytes:
    entry = archive.NameToInfo.get(f"{folder}{storage.key}")
    if entry is None:
        raise ValueError(f"{path} is damaged: the bytes of `{name}` are not in it")
    return archive.read(entry)
