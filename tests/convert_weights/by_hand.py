"""PyTorch files written by hand, opcode by opcode, so that files PyTorch would never write can be tried."""

import struct
import zipfile

import numpy as np


class Op(bytes):
    """Raw pickle opcodes that leave one object on the stack."""


def asm(value) -> bytes:
    """Assembles a pickle by hand, so that files PyTorch would never write can be tried."""
    match value:
        case Op():
            return bytes(value)
        case bool() | None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        case int():
            return b"\x8a" + struct.pack("<B", 12) + value.to_bytes(12, "little", signed=True)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(asm, value)) + b"t"
        case list():
            return b"(" + b"".join(map(asm, value)) + b"l"
        case dict():
            return b"}(" + b"".join(asm(k) + asm(v) for k, v in value.items()) + b"u"
    raise TypeError(value)


def name(module: str, attribute: str) -> Op:
    return Op(f"c{module}\n{attribute}\n".encode())


def call(function, *args) -> Op:
    return Op(asm(function) + asm(args) + b"R")


def storage(key="0", numel=6, kind="FloatStorage") -> Op:
    return Op(asm(("storage", name("torch", kind), key, "cpu", numel)) + b"Q")


def tensor(store=None, offset=0, shape=(2, 3), strides=(3, 1)) -> Op:
    store = storage() if store is None else store
    hooks = call(name("collections", "OrderedDict"))
    args = (store, offset, shape, strides, False, hooks)
    return call(name("torch._utils", "_rebuild_tensor_v2"), *args)


SIX = np.arange(6, dtype=np.float32)


def write(path, content, storages=None, extra=None, compression=zipfile.ZIP_STORED):
    """Writes a checkpoint: a pickle, given as opcodes or plain objects, and its storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + asm(content) + b".")
        for key, data in ({"0": SIX.tobytes()} if storages is None else storages).items():
            archive.writestr(f"x/data/{key}", data)
        for entry, data in (extra or {}).items():
            archive.writestr(f"x/{entry}", data)
    return path


def save_checkpoint(path, weights, extra=None, kind="Float"):
    """Writes a state dict as `torch.save` would, without PyTorch."""
    storages = {str(i): array.tobytes() for i, array in enumerate(weights.values())}
    content = {}
    for i, (name, array) in enumerate(weights.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        content[name] = tensor(storage(str(i), array.size, f"{kind}Storage"), 0, array.shape, strides)
    write(path, content | (extra or {}), storages)
