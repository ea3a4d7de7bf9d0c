"""Reading safetensors without the package: exact on honest files, and safe on all others."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from convert_weights.__main__ import main
from convert_weights.checkpoint import open_checkpoint, read_checkpoint
from jaxdiff.priors.storage import read_prior
from tests.convert_weights.test_convert_weights import BLOCKS
from tests.golden.make_unet_parity import draw_weights

SIX = np.arange(6, dtype=np.float32).reshape(2, 3)
NUMBERS = SIX.tobytes()
KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "bool": "BOOL"}
ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(path, header, data=NUMBERS, length=None):
    """Writes a file of a header, given as an object or as text, and numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def save(path, tensors):
    """Writes a file as the package does, without it."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": KINDS[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    return write(path, header, data)


def read(path):
    """The tensors of a network that is known by its tensor `a`."""
    return read_checkpoint(path, ("a",)).tensors


@pytest.mark.parametrize("dtype", KINDS)
def test_every_type_is_read_bit_for_bit(tmp_path, dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    tensors = {"a": SIX.astype(kind), "b": np.ones((), kind), "empty": np.zeros((0, 3), kind), "c": SIX.T.astype(kind)}
    found = read(save(tmp_path / "x.safetensors", tensors))
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        assert not found[name].flags.writeable or not array.size


def test_files_of_the_package_are_read_bit_for_bit(tmp_path):
    torch, package = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    tensors = {"b": torch.randn(3, 4), "a": torch.randn(2, 3).bfloat16(), "c": torch.randn(5).half()}
    package.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert str(tensor.dtype).removeprefix("torch.") == str(found[name].dtype)
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.float().numpy(), strict=True)


def shards(folder, weight_map):
    save(folder / "x-1-of-2.safetensors", {"a": SIX})
    save(folder / "x-2-of-2.safetensors", {"b": 2 * SIX})
    index = folder / "x.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


TWO = {"a": "x-1-of-2.safetensors", "b": "x-2-of-2.safetensors"}


def test_shards_are_read_as_one(tmp_path):
    index = shards(tmp_path, TWO)
    found = read(index)
    np.testing.assert_array_equal(found["a"], SIX, strict=True)
    np.testing.assert_array_equal(found["b"], 2 * SIX, strict=True)
    assert [path.name for path in open_checkpoint(index).stored.files] == [index.name, *TWO.values()]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../x-1-of-2.safetensors"}, "is not the name of a safetensors file beside it"),
        ({"a": "/etc/passwd"}, "is not the name of a safetensors file beside it"),
        ({"a": 3}, "is not the name of a safetensors file beside it"),
        ({"a": "none.safetensors"}, r"none\.safetensors is missing"),
        (TWO | {"c": "x-1-of-2.safetensors"}, "`c` is not in x-1-of-2"),
        ({"a": TWO["a"], "c": TWO["b"]}, "`b` is in x-2-of-2"),
        ({}, "no index of shards"),
        ([], "no index of shards"),
    ],
)
def test_an_index_that_disagrees_is_refused(tmp_path, weight_map, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(shards(tmp_path, weight_map))


def entry(**changed):
    return {"a": ENTRY | changed}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (entry(shape=[2, 4]), r"F32 of shape \(2, 4\) does not lie from 0 to 24"),
        (entry(shape=[-2, -3]), "no possible shape"),
        (entry(shape=[2**62, 2**62]), "no possible shape"),
        (entry(shape=[2**47, 2**47]), "does not lie from 0 to 24"),
        (entry(shape=[1] * 9), "no possible shape"),
        (entry(shape=[True, 6]), "no possible shape"),
        (entry(shape="23"), "its entry is not"),
        (entry(dtype="F8_E4M3"), "its type is 'F8_E4M3'"),
        (entry(dtype=None), "its entry is not"),
        (entry(data_offsets=[0]), "its entry is not"),
        (entry(data_offsets=[-24, 0]), "does not lie from -24 to 0"),
        (entry(data_offsets=[24, 0]), "does not lie from 24 to 0"),
        (entry(data_offsets=[8, 32]), "overlap or leave a gap, at byte 0"),
        (entry(shape=[3, 3], data_offsets=[0, 36]), "its tensors end at"),
        (entry(shape=[1, 3], data_offsets=[0, 12]), "its tensors end at"),
        (entry(extra=1), "its entry is not"),
        ({"a": [1]}, "its entry is not"),
        ({"a": ENTRY, "b": ENTRY}, "overlap or leave a gap, at byte 0"),
        ({"a": ENTRY, "b": ENTRY | {"shape": [2], "data_offsets": [16, 24]}}, "overlap or leave a gap, at byte 16"),
        (b'{"a": 1, "a": 2}', "a name is there twice"),
        (b"{" + b'"a":{' * 100_000, "the header is damaged"),
        (b"{" + b'"a": ' + b"9" * 5000 + b"}", "the header is damaged"),
        (b'{"\xff": 1}', "the header is damaged"),
        (b"{}x", "the header is damaged"),
    ],
    ids=str,
)
def test_inconsistent_header_is_refused(tmp_path, header, message):
    with pytest.raises(ValueError, match=message) as refusal:
        read(write(tmp_path / "x.safetensors", header))
    assert "x.safetensors" in str(refusal.value)


@pytest.mark.parametrize("length", [0, 1, 10**5, 2**24 + 1, 2**63, 2**64 - 1])
def test_a_header_is_bounded(tmp_path, length):
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        read(write(tmp_path / "x.safetensors", entry(), length=length))


def small(path):
    return save(path, {"a": SIX, "b.weight": SIX[0].astype(np.float16)})


def test_every_cut_is_refused(tmp_path):
    whole = small(tmp_path / "x.safetensors").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "x.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"x\.safetensors"):
            read(tmp_path / "x.safetensors")


def test_every_changed_byte_is_refused_or_harmless(tmp_path):
    path = small(tmp_path / "x.safetensors")
    whole = path.read_bytes()
    numbers = SIX.nbytes + 6
    for place in range(len(whole)):
        for change in (0x01, 0x02, 0x20, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            try:
                tensors = read(path)
            except ValueError as error:
                assert "x.safetensors" in str(error)  # noqa: PT017
                assert place < len(whole) - numbers
            else:
                assert sum(array.nbytes for array in tensors.values()) == numbers


def test_a_safetensors_file_converts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights = draw_weights(BLOCKS)
    (tmp_path / "folder").mkdir()
    save(tmp_path / "folder" / "x.safetensors", {f"model.{name}": array for name, array in weights.items()})
    assert main(["folder", "prior", "--image-size", "16", "--num-head-channels", "16"]) == 0
    assert "  taken for a UNet of guided-diffusion, folder/x.safetensors" in capsys.readouterr().out.splitlines()
    stored, config = read_prior("prior")
    np.testing.assert_array_equal(stored["out_norm.bias"], weights["out.0.bias"])
    assert (config.source["format"], config.source["state_dict"]) == ("guided-diffusion", "model")
