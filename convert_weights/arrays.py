"""NumPy arrays of the tensors that a file describes, over the bytes of their storages."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from convert_weights.state_dict import Views
from convert_weights.torch_pickle import Storage, TensorView


def load_arrays(
    views: Views, read: Callable[[Storage, str], bytes], big_endian: bool, path: Path
) -> dict[str, np.ndarray]:
    """Makes the arrays, read-only; those that share a storage share memory.

    Args:
        views: what they are, by name.
        read: gives the bytes of a storage, told the name of a tensor in it.
        big_endian: the order of the bytes of a number.
        path: the file, for messages.

    Raises:
        ValueError: a storage has another size than was declared, or a tensor reaches outside its storage.
    """
    storages: dict[str, bytes] = {}
    tensors = {}
    for name, view in views.items():
        key = view.storage.key
        if key not in storages:
            storages[key] = read(view.storage, name)
        tensors[name] = _array(view, storages[key], big_endian, f"{path}: `{name}`")
    return tensors


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
