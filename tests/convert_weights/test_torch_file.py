"""Reading PyTorch's zip files without PyTorch: exact on honest files, and safe on hostile ones."""

import os
import pickle
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from convert_weights.checkpoint import read_checkpoint
from tests.convert_weights.by_hand import SIX, Op, asm, call, name, storage, tensor, write


def read_state_dict(path):
    """The tensors of a network that is known by its tensor `a`."""
    return read_checkpoint(path, ("a",)).tensors


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (2, 3), (3, 1), SIX.reshape(2, 3)),
        (0, (3, 2), (1, 3), SIX.reshape(2, 3).T),
        (1, (2, 2), (3, 1), SIX.reshape(2, 3)[:, 1:]),
        (5, (), (), SIX[5]),
        (0, (0, 3), (3, 1), np.zeros((0, 3), np.float32)),
        (2, (4, 2), (0, 1), np.tile(SIX[2:4], (4, 1))),
    ],
    ids=["plain", "transposed", "offset", "scalar", "empty", "expanded"],
)
def test_view_matches_numpy(tmp_path, offset, shape, strides, expected):
    content = {"a": tensor(offset=offset, shape=shape, strides=strides)}
    read = read_state_dict(write(tmp_path / "x.pt", content))["a"]
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, expected, strict=True)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FloatStorage", np.float32),
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
@pytest.mark.parametrize("order", ["little", "big"])
def test_dtypes_in_both_byte_orders(tmp_path, kind, dtype, order):
    values = np.array([0, 1, 2, 3, 4, 100]).astype(dtype)
    words = values.view(f"u{values.itemsize}")
    data = words.astype(words.dtype.newbyteorder(order)).tobytes()
    content = {"a": tensor(storage(kind=kind))}
    path = write(tmp_path / "x.pt", content, {"0": data}, {"byteorder": order})
    read = read_state_dict(path)["a"]
    assert read.dtype == dtype
    assert read.tobytes() == values.reshape(2, 3).tobytes()


def test_tensors_of_one_storage_share_its_memory(tmp_path):
    content = {"a": tensor(), "b": tensor(offset=2, shape=(2,), strides=(1,))}
    read = read_state_dict(write(tmp_path / "x.pt", content))
    assert np.shares_memory(read["a"], read["b"])
    assert not read["a"].flags.writeable
    np.testing.assert_array_equal(read["b"], [2, 3])


def test_deflated_file_reads_the_same(tmp_path):
    path = write(tmp_path / "x.pt", {"a": tensor()}, compression=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(read_state_dict(path)["a"], SIX.reshape(2, 3))


def test_parameters_sizes_and_metadata(tmp_path):
    """A parameter is its tensor; `torch.Size` and the attribute `_metadata` are understood."""
    hooks = call(name("collections", "OrderedDict"))
    parameter = call(name("torch._utils", "_rebuild_parameter"), tensor(), True, hooks)
    items = {"a": parameter, "size": call(name("torch", "Size"), (2, 3))}
    ordered = call(name("collections", "OrderedDict"))
    filled = asm(ordered) + b"(" + b"".join(asm(k) + asm(v) for k, v in items.items()) + b"u"
    content = Op(filled + asm({"_metadata": {"": {"version": 1}}}) + b"b")
    read = read_state_dict(write(tmp_path / "x.pt", content))
    assert list(read) == ["a"]
    np.testing.assert_array_equal(read["a"], SIX.reshape(2, 3))


getattr_chain = call(name("builtins", "getattr"), name("os", "path"), "os")


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (call(name("os", "system"), "touch hacked"), "os.system"),
        (call(name("posix", "system"), "touch hacked"), "posix.system"),
        (call(name("builtins", "eval"), "open('hacked', 'w')"), "builtins.eval"),
        (call(name("__builtin__", "exec"), "open('hacked', 'w')"), "__builtin__.exec"),
        (getattr_chain, "builtins.getattr"),
        (name("collections", "OrderedDict.fromkeys.__globals__"), "collections.OrderedDict.from"),
        (Op(b"(S'touch hacked'\nios\nsystem\n"), "os.system"),
        (Op(asm("os") + asm("system") + b"\x93"), "os.system"),
        (Op(b"P1\n"), "not a storage"),
        (Op(asm(("storage", name("collections", "OrderedDict"), "0", "cpu", 6)) + b"Q"), "storage"),
        (Op(asm(("storage", name("torch", "FloatStorage"), "0", "cpu", -6)) + b"Q"), "storage"),
        (Op(asm(("module", name("torch", "FloatStorage"), "0", "cpu", 6)) + b"Q"), "storage"),
    ],
)
def test_hostile_pickle_is_refused_by_name(tmp_path, monkeypatch, attack, named):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.pt", {"a": tensor(), "b": attack})
    with pytest.raises(ValueError, match="refused") as refusal:
        read_state_dict(tmp_path / "x.pt")
    assert named in str(refusal.value)
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize(
    "other",
    [
        call(name("argparse", "Namespace")),
        Op(call(name("argparse", "Namespace")) + asm({"lr": 1}) + b"b"),
        call(name("numpy.core.multiarray", "scalar"), call(name("numpy", "dtype"), "f8", False, True), "12345678"),
        call(name("torch", "load"), "x"),
        call(name("this", "c"), "x"),
        call(call(name("this", "c"), "x"), "y"),
        call(name("torch.nn.modules.linear", "Linear")),
        call(name("builtins", "set"), [1, 2]),
        call(name("torch._utils", "_rebuild_tensor_v2"), storage(kind="StrangeStorage"), 0, (6,), (1,), False, None),
    ],
)
def test_what_else_a_trainer_saves_is_left_out_and_not_called(tmp_path, capsys, other):
    """The module `this` prints when it is imported."""
    read = read_state_dict(write(tmp_path / "x.pt", {"a": tensor(), "b": other}))
    assert list(read) == ["a"]
    np.testing.assert_array_equal(read["a"], SIX.reshape(2, 3))
    assert "this" not in sys.modules
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("0", 0, (2,), (1,), False, None),
        (storage(), 0, (2, 3), (3,), False, None),
        (storage(), -1, (2, 3), (3, 1), False, None),
        (storage(), 0, (2, -3), (3, 1), False, None),
        (storage(), 0, (2, 3), (3, -1), False, None),
        (storage(), 0, ("2",), (1,), False, None),
        (storage(), 0, 6, 1, False, None),
        (storage(), 0, (True,), (1,), False, None),
        (storage(), 0, (2**47, 2**47), (0, 0), False, None),
        (storage(), 0, (1,) * 70, (1,) * 70, False, None),
        (storage(), 0, (0, 2**47, 2**47), (0, 0, 0), False, None),
    ],
)
def test_rebuilding_a_tensor_from_odd_arguments_is_refused(tmp_path, arguments):
    attack = call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)
    with pytest.raises(ValueError, match=r"x\.pt is (refused|damaged or foreign): its pickle"):
        read_state_dict(write(tmp_path / "x.pt", {"a": attack}))


@pytest.mark.parametrize("target", [name("torch._utils", "_rebuild_tensor_v2"), name("torch", "FloatStorage")])
def test_pickle_cannot_change_the_reader(tmp_path, target):
    """BUILD with a slot state would set attributes of the functions that rebuild tensors."""
    state = (None, {"__defaults__": (1, 2, 3), "__kwdefaults__": {}, "__doc__": "hacked"})
    content = {"a": tensor(), "b": Op(asm(target) + asm(state) + b"b")}
    read_state_dict(write(tmp_path / "x.pt", content))
    attack = call(name("torch._utils", "_rebuild_tensor_v2"))
    write(tmp_path / "y.pt", {"a": attack})
    with pytest.raises(ValueError, match="its pickle cannot be read"):
        read_state_dict(tmp_path / "y.pt")


@pytest.mark.parametrize(
    "garbage", [b"", b"\x80", b"}u", b"R.", b"r\xff\xff\xff\x7f.", b"\x8e" + b"\xff" * 7 + b"\x7f."]
)
def test_malformed_pickle_is_one_sentence(tmp_path, garbage):
    """The last two ask C's unpickler for gigabytes: a memo slot 2^31, a string of 2^63 bytes."""
    path = write(tmp_path / "x.pt", Op(garbage))
    with pytest.raises(ValueError, match=r"x\.pt"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "storages", "extra", "message"),
    [
        ({"a": tensor(offset=1)}, None, {}, "`a` is refused: it reaches outside its storage"),
        ({"a": tensor(strides=(4, 1))}, None, {}, "`a` is refused: it reaches outside"),
        ({"a": tensor(shape=(7,), strides=(1,))}, None, {}, "`a` is refused: it reaches outside"),
        ({"a": tensor()}, {"0": b"\0" * 23}, {}, "`a` is damaged: its storage has 23 bytes"),
        ({"a": tensor()}, {"0": b"\0" * 25}, {}, "`a` is damaged: its storage has 25 bytes"),
        ({"a": tensor()}, {"1": SIX.tobytes()}, {}, "the bytes of `a` are not in it"),
        ({"a": tensor(storage("../0"))}, None, {}, "the bytes of `a` are not in it"),
        ({"a": tensor()}, None, {"byteorder": "middle"}, "its byte order is b'middle'"),
        ({"epoch": 3}, None, {}, "x.pt holds no tensors; it is of type dict with 'epoch'"),
        (call(name("argparse", "Namespace")), None, {}, "x.pt holds no tensors; it is another object$"),
        (7, None, {}, "x.pt holds no tensors; it is of type int"),
        (tensor(), None, {}, "x.pt holds a tensor, not a dict of named tensors"),
    ],
)
def test_inconsistent_file_is_refused(tmp_path, content, storages, extra, message):
    path = write(tmp_path / "x.pt", content, storages, extra)
    with pytest.raises(ValueError, match=message):
        read_state_dict(path)


def test_decompression_bombs_are_refused(tmp_path):
    n = 2**24
    content = {"a": tensor(storage(numel=n), shape=(n,), strides=(1,))}
    zeros = {"0": b"\0" * (4 * n)}
    path = write(tmp_path / "x.pt", content, zeros, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="so small a file cannot hold"):
        read_state_dict(path)


def test_truncated_file(tmp_path):
    content = {"a": tensor(storage(numel=6000), shape=(6000,), strides=(1,))}
    whole = write(tmp_path / "x.pt", content, {"0": np.tile(SIX, 1000).tobytes()}).read_bytes()
    for size in (3, 100, 10_000, len(whole) - 5):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.pt is truncated or damaged"):
            read_state_dict(tmp_path / "cut.pt")


def test_damaged_byte_is_noticed(tmp_path):
    path = write(tmp_path / "x.pt", {"a": tensor()})
    whole = bytearray(path.read_bytes())
    whole[whole.index(SIX.tobytes()) + 4] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_state_dict(path)


def test_other_files_are_named_for_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_state_dict(tmp_path)
    for other, what in (
        (b"\n<!DOCTYPE html><title>Quota exceeded</title>", "a web page, so its download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a pointer of Git LFS.*`git lfs pull`"),
        (b"\x05{}", "3 bytes long"),
        (b"", "empty"),
        (b"\x89PNG" + bytes(20), "of another kind"),
        (pickle.dumps({"a": 1}), "of another kind"),
    ):
        (tmp_path / "other.pt").write_bytes(other)
        with pytest.raises(ValueError, match=f"neither a PyTorch checkpoint nor a safetensors file: it is {what}"):
            read_state_dict(tmp_path / "other.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="a zip without one"):
        read_state_dict(tmp_path / "other.pt")


def test_torchscript_is_not_run(tmp_path):
    path = write(tmp_path / "x.pt", {"a": tensor()}, extra={"code/__torch__.py": "import os", "constants.pkl": b"N."})
    with pytest.raises(ValueError, match=r"is TorchScript, a program, which is not run; save the module's state_dict"):
        read_state_dict(path)


def test_reading_needs_no_torch(tmp_path):
    path = write(tmp_path / "x.pt", {"a": tensor()})
    code = (
        "import sys; from convert_weights.checkpoint import read_checkpoint;"
        f"assert list(read_checkpoint({str(path)!r}, ('a',)).tensors) == ['a']; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_files_of_torch_are_read_bit_for_bit(tmp_path, torch):
    torch.manual_seed(0)
    base = torch.randn(4, 5, 6)
    layer = torch.nn.Linear(3, 2)
    saved = {
        "plain": base,
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1:3, ::2, 1:],
        "scalar": base.sum(),
        "empty": torch.zeros(0, 3),
        "expanded": base[0, 0].expand(3, 6),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "long": torch.arange(5),
        "bool": base > 0,
        "parameter": torch.nn.Parameter(base[0]),
        **layer.state_dict(),
    }
    torch.save({"state_dict": saved, "epoch": 7, "lr": 0.5, "size": base.shape}, tmp_path / "x.pt")
    read, wrapper, *_ = read_checkpoint(tmp_path / "x.pt", ("plain",))
    assert wrapper == "state_dict"
    assert list(read) == list(saved)
    for key, value in saved.items():
        value = value.detach().contiguous()
        raw = value.view(torch.int16) if value.dtype == torch.bfloat16 else value
        assert read[key].shape == tuple(value.shape), key
        assert str(value.dtype).removeprefix("torch.") == str(read[key].dtype), key
        assert read[key].tobytes() == raw.numpy().tobytes(), key


def test_the_old_format_is_read_alike(tmp_path, torch):
    old = tmp_path / "old.pth"
    torch.save({"a": torch.arange(6.0).reshape(2, 3).T}, old, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_state_dict(old)["a"], SIX.reshape(2, 3).T)


def test_hostile_file_of_torch_is_refused(tmp_path, torch, monkeypatch):
    class Hostile:
        def __reduce__(self):
            return os.system, ("touch hacked",)

    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(2), "b": Hostile()}, "x.pt")
    with pytest.raises(ValueError, match=r"refused: its pickle asks for `\w+\.system`"):
        read_state_dict("x.pt")
    assert not (tmp_path / "hacked").exists()
