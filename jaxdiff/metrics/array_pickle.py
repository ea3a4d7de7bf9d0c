"""Reads float32 arrays from a pickle without running it.

A pickle is a program. Here it runs on an unpickler that knows the opcodes and the three names with which NumPy
describes an array, checks what they are given, and makes the arrays itself; it can build nothing else.
"""

import io
import pickle
from typing import Any, ClassVar

import numpy as np

_OPCODES = (
    *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINUNICODE, pickle.SHORT_BINBYTES, pickle.BINBYTES),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.BINPUT, pickle.BINGET, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD),
)
_NDARRAY = "numpy.ndarray"  # stands for the class, which could be called with any size
_FLOAT32 = np.dtype("<f4")
_FLOAT32_STATE = (3, "<", None, None, None, -1, -1, 0)


def read_array_pickle(content: bytes, name: str) -> Any:
    """Returns nested dictionaries of float32 arrays.

    Args:
        content: a pickle of protocol 3.
        name: what a message calls it.

    Raises:
        ValueError: if it is damaged or asks for anything but float32 arrays, dictionaries and plain values.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content)).load()
    except _ForeignError as error:
        raise ValueError(f"{name} is refused: {error}.") from None
    except Exception as error:
        # A malformed pickle can raise almost anything; nothing of it has been used yet.
        raise ValueError(f"{name} is damaged or foreign: it cannot be read ({error!r}).") from error


class _ForeignError(Exception):
    pass


def _reconstruct(*args: Any) -> np.ndarray:
    if args != (_NDARRAY, (0,), b"b"):
        raise _ForeignError("it describes an array that NumPy would not write")
    return np.empty(0, _FLOAT32)


def _dtype(*args: Any) -> np.dtype:
    if args != ("f4", False, True):
        raise _ForeignError("it holds other numbers than float32")
    return _FLOAT32


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
}


class _ArrayUnpickler(pickle._Unpickler):
    """The unpickler in Python, not the one in C: here opcodes can be taken out."""

    dispatch: ClassVar[dict] = {op[0]: pickle._Unpickler.dispatch[op[0]] for op in _OPCODES}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _ForeignError(f"it asks for `{module}.{name}`, which no array needs")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        stack: list[Any] = self.stack  # pyright: ignore[reportAttributeAccessIssue]
        state, built = stack.pop(), stack[-1]
        if built is _FLOAT32 and state == _FLOAT32_STATE:
            return
        match state:
            case (1, tuple(shape), np.dtype(), False, bytes(numbers)) if isinstance(built, np.ndarray):
                if all(type(n) is int and 0 <= n < 2**31 for n in shape):
                    built.__setstate__((1, shape, _FLOAT32, False, numbers))  # pyright: ignore[reportArgumentType]
                    return
        raise _ForeignError("it describes an array that NumPy would not write")

    dispatch[pickle.BUILD[0]] = load_build
