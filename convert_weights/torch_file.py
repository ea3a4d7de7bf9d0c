"""Read the tensors of a PyTorch checkpoint without PyTorch and without running its pickle.

A checkpoint of PyTorch 1.6 or later is a zip archive: `NAME/data.pkl` describes the tensors as
strided views, and `NAME/data/KEY` holds the bytes of one storage. An older one is a stream: pickles
of a magic number, a version, facts about the machine, the description of the tensors, and the list
of storages, then every storage as its length (8 bytes) and its numbers, little-endian. A pickle is
a program, so those here run on an unpickler that knows seven kinds of names and can build nothing
but dicts, lists, numbers, strings and descriptions of tensors.
"""

import io
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

WRAPPERS = ("ema", "state_dict", "model", "params", "net")
PREFIXES = ("module.", "model.")
MAX_PICKLE_BYTES = 2**24
MAX_EXPANSION = 10

# What the legacy format starts with: protocol 2 and the number 0x1950a86a20f9469cfc6c.
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
LEGACY_VERSION = 1001

# What `zipfile` raises for a damaged archive.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, UnicodeError, OverflowError)

DTYPES = {
    "Float": np.dtype(np.float32),
    "Double": np.dtype(np.float64),
    "Half": np.dtype(np.float16),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype(np.int64),
    "Int": np.dtype(np.int32),
    "Short": np.dtype(np.int16),
    "Char": np.dtype(np.int8),
    "Byte": np.dtype(np.uint8),
    "Bool": np.dtype(np.bool_),
}


class Checkpoint(NamedTuple):
    """The tensors of a checkpoint, and the wrapper key (or "") they were found under."""

    tensors: dict[str, np.ndarray]
    wrapper: str


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    numel: int


class _View(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a PyTorch checkpoint by name, as `read_checkpoint` finds them."""
    return read_checkpoint(path).tensors


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a PyTorch checkpoint into numpy, without PyTorch.

    A state dict may lie at the top or one level down under one of `WRAPPERS`; where several are
    there, the averaged weights (`ema`) win. A prefix that all names share (`module.`, `model.`)
    is removed.

    Args:
        path: a file written by `torch.save`, of any version since 0.4.

    Returns:
        Read-only arrays in the file's own precision (bfloat16 as `ml_dtypes.bfloat16`), and the
        wrapper key taken. Tensors that share a storage share memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a readable checkpoint, or its pickle asks for more than tensors need.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        if _is_legacy(path):
            return _read_legacy(path)
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path)
    except DAMAGE as error:
        raise ValueError(
            f"{path} is truncated or damaged ({error}); delete it, and download or copy it again"
        ) from error


def _is_legacy(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(LEGACY_MAGIC):
        return True
    if not head.startswith(b"PK"):
        web_page = head.lstrip().lower().startswith((b"<!doctype", b"<html"))
        found = "a web page, so its download failed" if web_page else "no zip archive"
        raise ValueError(f"{path} is not a PyTorch checkpoint: it is {found}")
    return False


def _read_legacy(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        _, version, _ = (_unpickle(head, path)[0] for _ in range(3))
        if version != LEGACY_VERSION:
            raise ValueError(f"{path} is refused: its format has version {version!r}, not {LEGACY_VERSION}")
        content, declared = _unpickle(head, path)
        keys, _ = _unpickle(head, path)
        file.seek(head.tell())
        storages = _read_storages(file, keys, declared, path)
    views, wrapper = _find_views(content, path)
    tensors = {
        name: _array(view, storages[view.storage.key], False, f"{path}: `{name}`") for name, view in views.items()
    }
    return Checkpoint(_without_prefix(tensors), wrapper)


def _read_storages(file: IO[bytes], keys: object, declared: dict[str, _Storage], path: Path) -> dict[str, bytes]:
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


def _read_archive(archive: zipfile.ZipFile, path: Path) -> Checkpoint:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{path} is not a PyTorch checkpoint: it is a zip without one data.pkl")
    unpacked = sum(entry.file_size for entry in entries.values())
    if unpacked > MAX_EXPANSION * path.stat().st_size + MAX_PICKLE_BYTES:
        raise ValueError(f"{path} is refused: so small a file cannot hold {unpacked:,} bytes")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"{path} is refused: its pickle exceeds {MAX_PICKLE_BYTES:,} bytes")
    views, wrapper = _find_views(_unpickle(io.BytesIO(archive.read(pickles[0])), path)[0], path)
    folder = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
        raise ValueError(f"{path} is refused: its byte order is {order[:20]!r}")

    storages: dict[str, bytes] = {}
    tensors = {}
    for name, view in views.items():
        key = view.storage.key
        if key not in storages:
            entry = entries.get(f"{folder}data/{key}")
            if entry is None:
                raise ValueError(f"{path} is damaged: the bytes of `{name}` are not in it")
            storages[key] = archive.read(entry)
        tensors[name] = _array(view, storages[key], order == b"big", f"{path}: `{name}`")
    return Checkpoint(_without_prefix(tensors), wrapper)


def _array(view: _View, data: bytes, big_endian: bool, name: str) -> np.ndarray:
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


def _find_views(content: object, path: Path) -> tuple[dict[str, _View], str]:
    if not isinstance(content, dict):
        kind = "tensor" if isinstance(content, _View) else type(content).__name__
        raise ValueError(f"{path} holds a {kind}, not a dict of named tensors")
    for wrapper in (*WRAPPERS, ""):
        candidate = content.get(wrapper) if wrapper else content
        if isinstance(candidate, dict):
            views = {name: v for name, v in candidate.items() if isinstance(v, _View)}
            if views and all(isinstance(name, str) for name in views):
                return views, wrapper
    keys = ", ".join(repr(key) for key in list(content)[:8]) or "nothing"
    raise ValueError(
        f"{path} holds no state dict, neither at the top nor under {', '.join(WRAPPERS)}; its top level has {keys}"
    )


def _without_prefix(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    return tensors


def _unpickle(stream: IO[bytes], path: Path) -> tuple[object, dict[str, _Storage]]:
    """Builds what the next pickle of a stream describes; also returns the storages that it names."""
    unpickler = _TensorUnpickler(stream, encoding="utf-8")
    try:
        return unpickler.load(), unpickler.storages
    except _RefusedError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    except Exception as error:
        # A malformed pickle can raise almost anything; nothing of it has been used yet.
        raise ValueError(f"{path} is damaged: its pickle cannot be read ({error!r})") from error


class _RefusedError(Exception):
    pass


def _rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None) -> _View:
    del requires_grad, hooks, metadata
    ints = (offset, *shape, *strides)
    possible = (
        isinstance(storage, _Storage)
        and len(shape) == len(strides) <= 8
        and all(type(i) is int and 0 <= i < 2**48 for i in ints)
        and math.prod(max(n, 1) for n in shape) < 2**48
    )
    if not possible:
        raise _RefusedError("its pickle describes a tensor that cannot exist")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data, requires_grad, hooks) -> _View:
    del requires_grad, hooks
    return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", f"{kind}Storage"): dtype for kind, dtype in DTYPES.items()},
}


class _TensorUnpickler(pickle._Unpickler):
    """Builds containers, scalars and `_View`s; refuses every other name.

    The unpickler in Python, not the one in C: there a huge memo index in a 20-byte file makes a
    table of that size, and here opcodes can be taken out.
    """

    dispatch: ClassVar[dict[int, Callable]] = dict(pickle._Unpickler.dispatch)
    # It fills memory of a length that the file states, before it reads.
    del dispatch[pickle.BYTEARRAY8[0]]

    def __init__(self, file: IO[bytes], *, encoding: str):
        super().__init__(file, encoding=encoding)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"its pickle asks for `{module}.{name}`, which no tensor needs")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case (
                ("storage", np.dtype() as dtype, str(key), str(), int(numel))
                # The old format's sixth: which part of another storage this is.
                | ("storage", np.dtype() as dtype, str(key), str(), int(numel), None)
            ) if 0 <= numel < 2**48:
                storage = _Storage(key, dtype, numel)
                if self.storages.setdefault(key, storage) != storage:
                    raise _RefusedError(f"its pickle declares storage {key!r} twice, and differently")
                return storage
        raise _RefusedError("its pickle refers to something that is not a storage")

    def load_build(self) -> None:
        # BUILD sets attributes: on a state dict `_metadata`, which nothing here needs; on one of
        # the functions above it could change them for the next file.
        self.stack.pop()  # pyright: ignore[reportAttributeAccessIssue]

    dispatch[pickle.BUILD[0]] = load_build
