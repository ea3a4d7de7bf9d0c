"""Unpickle what a PyTorch checkpoint describes, without running it.

A pickle is a program. Those here run on an unpickler that knows a few kinds of names and can build nothing but
containers, numbers, strings and descriptions of tensors. Whatever else a trainer has saved beside them (options, paths,
numbers of numpy) becomes an empty `Placeholder`; nothing of it is imported or called.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from jaxdiff.metrics.array_pickle import ForeignPickle, load_or_refuse

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

# A pickle that names something of these wants to run a program: nothing in it is to be trusted.
HOSTILE = {"os", "posix", "nt", "pty", "sys", "subprocess", "importlib", "runpy", "shutil", "socket", "ctypes"}
# Of these only the harmless types.
BUILTINS = ("builtins", "__builtin__")
HARMLESS = {"set", "frozenset", "complex", "slice", "range", "object", "bytearray", "dict", "list", "int", "float"}


class Storage(NamedTuple):
    """A run of numbers in the file, which tensors view."""

    key: str
    dtype: np.dtype
    numel: int


class TensorView(NamedTuple):
    """A tensor as the pickle describes it; its numbers have not been read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Placeholder(dict):
    """What stands for any class, function or object that no tensor needs; items and attributes it is given are kept."""

    def __new__(cls, *arguments: object, **options: object) -> "Placeholder":
        """Makes an empty one, whatever it is made of."""
        return super().__new__(cls)

    def __init__(self, *arguments: object, **options: object):
        super().__init__()

    def __call__(self, *arguments: object, **options: object) -> "Placeholder":
        """Stands for what a call would give."""
        return self

    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __eq__(self, other: object) -> bool:
        return self is other

    def append(self, item: object) -> None:
        """Takes the place of a list's."""

    def add(self, item: object) -> None:
        """Takes the place of a set's."""


class Unpickled(NamedTuple):
    """What a pickle describes.

    Attributes:
        content: containers, scalars, `TensorView`s and `Placeholder`s.
        storages: those that it names.
    """

    content: object
    storages: dict[str, Storage]


def unpickle(stream: IO[bytes], path: Path) -> Unpickled:
    """Builds what the next pickle of a stream describes.

    Raises:
        ValueError: if the pickle is malformed, or asks for something that runs programs.
    """
    unpickler = _TensorUnpickler(stream, encoding="utf-8")
    return Unpickled(load_or_refuse(unpickler, str(path)), unpickler.storages)


def _rebuild_tensor(storage, offset, shape, strides, *ignored) -> "TensorView | Placeholder":
    if isinstance(storage, Placeholder):
        return storage
    ints = (offset, *shape, *strides)
    possible = (
        isinstance(storage, Storage)
        and len(shape) == len(strides) <= 8
        and all(type(i) is int and 0 <= i < 2**48 for i in ints)
        and math.prod(max(n, 1) for n in shape) < 2**48
    )
    if not possible:
        raise ForeignPickle("its pickle describes a tensor that cannot exist")
    return TensorView(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data, *ignored):
    return data


def _rebuild_subclass(function, kind, arguments, state):
    return function(*arguments) if function in (_rebuild_tensor, _rebuild_parameter) else Placeholder()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_subclass,
    **{("torch", f"{kind}Storage"): dtype for kind, dtype in DTYPES.items()},
}


class _TensorUnpickler(pickle._Unpickler):
    """Builds containers, scalars, `TensorView`s and `Placeholder`s.

    The unpickler in Python, not the one in C: there a huge memo index in a 20-byte file makes a
    table of that size, and here opcodes can be taken out.
    """

    dispatch: ClassVar[dict[int, Callable]] = dict(pickle._Unpickler.dispatch)
    # It fills memory of a length that the file states, before it reads.
    del dispatch[pickle.BYTEARRAY8[0]]

    def __init__(self, file: IO[bytes], *, encoding: str):
        super().__init__(file, encoding=encoding)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        runs = name not in HARMLESS if module in BUILTINS else module.partition(".")[0] in HOSTILE
        if runs or ".__" in name:
            raise ForeignPickle(f"its pickle asks for `{module}.{name}`, which no tensor needs")
        return Placeholder

    def persistent_load(self, pid: Any) -> Storage | Placeholder:
        match pid:
            case (
                ("storage", np.dtype() as dtype, str(key), str(), int(numel))
                # The old format's sixth: which part of another storage this is.
                | ("storage", np.dtype() as dtype, str(key), str(), int(numel), None)
            ) if 0 <= numel < 2**48:
                storage = Storage(key, dtype, numel)
                if self.storages.setdefault(key, storage) != storage:
                    raise ForeignPickle(f"its pickle declares storage {key!r} twice, and differently")
                return storage
            case ("storage", kind, str(), str(), int(), *_) if kind is Placeholder:
                return Placeholder()
        raise ForeignPickle("its pickle refers to something that is not a storage")

    def load_build(self) -> None:
        # BUILD sets attributes: on a state dict `_metadata`, which nothing here needs; on one of
        # the functions above it could change them for the next file. Tensors may be in those of an object.
        stack: list[Any] = self.stack  # pyright: ignore[reportAttributeAccessIssue]
        state = stack.pop()
        if isinstance(stack[-1], Placeholder) and isinstance(state, dict):
            stack[-1].update(state)

    dispatch[pickle.BUILD[0]] = load_build
