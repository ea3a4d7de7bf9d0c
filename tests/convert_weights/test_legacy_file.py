"""Reading PyTorch's files from before 1.6: exact on honest files, and safe on hostile ones."""

import os
import struct

import numpy as np
import pytest

from convert_weights.checkpoint import read_checkpoint

# As `torch.save(..., _use_new_zipfile_serialization=False)` writes it, with shorter names of storages.
HEAD = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + b"\x80\x02M\xe9\x03."
MACHINE = b"\x80\x02}q\x00(X\x0d\x00\x00\x00little_endianq\x01\x88u."
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def storage(key: bytes, kind: bytes = b"Float", numel: int = 6, part: bytes = b"N") -> bytes:
    return b"(X\x07\x00\x00\x00storagectorch\n%sStorage\nX\x01\x00\x00\x00%sX\x03\x00\x00\x00cpuK%c%stQ" % (
        kind, key, numel, part,
    )  # fmt: skip


def tensor(
    store: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], build: bytes = REBUILD
) -> bytes:
    numbers = lambda values: b"(" + b"".join(b"K%c" % v for v in values) + b"t"
    hooks = b"ccollections\nOrderedDict\n)R"
    return build + b"(" + store + b"K%c" % offset + numbers(shape) + numbers(strides) + b"\x89" + hooks + b"tR"


def state_dict(**tensors: bytes) -> bytes:
    items = b"".join(b"X%s%s%s" % (struct.pack("<I", len(n)), n.encode(), t) for n, t in tensors.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


SIX = np.arange(6, dtype=np.float32)
TWO = np.array([7, -8], np.int16)
CONTENT = state_dict(
    a=tensor(storage(b"0"), 0, (3, 2), (1, 3)),
    b=tensor(storage(b"0"), 4, (2,), (1,)),
    c=tensor(storage(b"1", b"Short", 2), 0, (2,), (1,)),
)
KEYS = b"\x80\x02](X\x01\x00\x00\x001X\x01\x00\x00\x000e."
DATA = struct.pack("<q", 2) + TWO.tobytes() + struct.pack("<q", 6) + SIX.tobytes()


def write(path, head=HEAD, machine=MACHINE, content=CONTENT, keys=KEYS, data=DATA):
    path.write_bytes(head + machine + content + keys + data)
    return path


def test_views_storages_and_types(tmp_path):
    read, wrapper, *_ = read_checkpoint(write(tmp_path / "x.pth"), ("a",))
    assert wrapper == ""
    np.testing.assert_array_equal(read["a"], SIX.reshape(2, 3).T, strict=True)
    np.testing.assert_array_equal(read["b"], SIX[4:], strict=True)
    np.testing.assert_array_equal(read["c"], TWO, strict=True)
    assert np.shares_memory(read["a"], read["b"])
    assert not read["a"].flags.writeable


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"head": HEAD.replace(b"M\xe9\x03", b"M\xe8\x03")}, "its format has version 1000, not 1001"),
        ({"content": state_dict(a=tensor(storage(b"0"), 0, (1,), (1,), b"cposix\nsystem\n"))}, "posix.system"),
        ({"machine": b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR."}, "os.system"),
        ({"keys": b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR."}, "builtins.eval"),
        ({"content": state_dict(a=tensor(storage(b"0", part=b"K\x01"), 0, (1,), (1,)))}, "not a storage"),
        (
            {"content": CONTENT.replace(storage(b"1", b"Short", 2), storage(b"0", b"Short", 2))},
            "declares storage '0' twice, and differently",
        ),
        (
            {"content": state_dict(a=tensor(storage(b"0"), 1, (6,), (1,)))},
            "list of storages is not that of its tensors",
        ),
        ({"keys": b"\x80\x02](X\x01\x00\x00\x001X\x01\x00\x00\x001e."}, "list of storages"),
        ({"keys": b"\x80\x02N."}, "list of storages"),
        ({"content": b"\x80\x02N.", "keys": b"\x80\x02].", "data": b""}, "holds no tensors; it is of type NoneType"),
        ({"content": CONTENT.replace(b"K\x04(K\x02t", b"K\x05(K\x02t")}, "`b` is refused: it reaches outside"),
        ({"data": DATA[:-1]}, "truncated or damaged"),
        ({"data": DATA + b"\0"}, "1 bytes follow its last storage"),
        ({"data": b"\x03" + DATA[1:]}, "storage '1' has 3 numbers, its pickle declares 2"),
        ({"data": b"\xff" * 8 + DATA[8:]}, "truncated or damaged"),
        ({"content": b"\x80\x02\x96" + struct.pack("<Q", 2**40) + b"."}, "its pickle cannot be read"),
    ],
)
def test_inconsistent_or_hostile_file_is_refused(tmp_path, monkeypatch, changed, message):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.pth", **changed)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path, ("a",))
    assert os.listdir(tmp_path) == ["x.pth"]


def test_every_cut_and_every_changed_byte_is_refused_or_harmless(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.pth")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"x\.pth"):
            read_checkpoint(path, ("a",))
    read = 0
    for place in range(len(whole)):
        for change in (0x01, 0x20, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            try:
                tensors = read_checkpoint(path, ("a",)).tensors
            except ValueError as error:
                assert "x.pth" in str(error)  # noqa: PT017
            else:
                read += 1
                assert all(isinstance(t, np.ndarray) and t.dtype != object for t in tensors.values())
    assert 4 * (SIX.nbytes + TWO.nbytes) <= read < 2 * len(whole)
    assert os.listdir(tmp_path) == ["x.pth"]


def test_files_of_torch_are_read_bit_for_bit(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    base = torch.randn(4, 5, 6)
    saved = {
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1:3, ::2, 1:],
        "scalar": base.sum(),
        "empty": torch.zeros(0, 3),
        "bfloat16": base.bfloat16(),
        "bool": base > 0,
        "parameter": torch.nn.Parameter(base[0]),
        **torch.nn.Linear(3, 2).state_dict(),
    }
    torch.save({"state_dict": saved, "epoch": 7}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    read, wrapper, *_ = read_checkpoint(tmp_path / "x.pth", ("transposed",))
    assert (wrapper, list(read)) == ("state_dict", list(saved))
    for key, value in saved.items():
        value = value.detach().contiguous()
        raw = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
        assert read[key].shape == tuple(value.shape), key
        assert read[key].tobytes() == raw.numpy().tobytes(), key
