"""The restricted reader: arrays as NumPy pickles them, and nothing else."""

import os
import pickle

import numpy as np
import pytest

from jaxdiff.metrics.array_pickle import read_array_pickle

TREE = {"net": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": np.ones(4, np.float32)}}


def pickled(content, protocol=3):
    """A pickle in the words of older NumPy versions, in which the files of the package are written."""
    return pickle.dumps(content, protocol).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


class Runs:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_arrays_come_back():
    found = read_array_pickle(pickled(TREE), "file")
    assert found.keys() == TREE.keys()
    for name, array in TREE["net"].items():
        np.testing.assert_array_equal(found["net"][name], array)


def test_a_call_is_refused_and_not_made(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(ValueError, match=r"^file is refused: it asks for `posix.system`, which no array needs\.$"):
        read_array_pickle(pickled({"net": Runs(os.system, f"touch {target}")}), "file")
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"x": Runs(eval, "1")},
        {"x": Runs(np.ndarray, (2**40,))},
        {"x": Runs(np.load, "file")},
        {"x": np.zeros(3)},
        {"x": np.zeros(3, ">f4")},
        {"x": np.array([object()], object)},
        {"x": np.zeros((2, 3), np.float32, order="F")},
        {"x": np.ma.zeros(3)},
        {"x": [1, 2]},
        {"x": {1, 2}},
        {"x": 1.5},
        {"x": 2**80},
        os.path.join,
    ],
    ids=map(str, range(13)),
)
def test_everything_else_is_refused_in_one_sentence(content):
    with pytest.raises(ValueError, match=r"^file is (refused|damaged or foreign): .*\.$"):
        read_array_pickle(pickled(content), "file")


@pytest.mark.parametrize("protocol", [0, 1, 4, 5])
def test_other_protocols_are_refused(protocol):
    with pytest.raises(ValueError, match=r"^file is (refused|damaged or foreign)"):
        read_array_pickle(pickled(TREE, protocol), "file")


def test_a_shape_that_the_bytes_do_not_fill_is_refused():
    raw = pickled({"x": np.zeros(7, np.float32)})
    large = raw.replace(b"K\x07\x85", b"K\xff\x85")
    assert large != raw
    with pytest.raises(ValueError, match=r"^file is damaged or foreign"):
        read_array_pickle(large, "file")


def sentence_on(content):
    """What the refusal says, or None where arrays and plain values are read."""
    try:
        found = read_array_pickle(content, "file")
    except ValueError as error:
        return str(error)
    assert isinstance(found, dict | tuple | np.ndarray | np.dtype | str | bytes | int | None)
    return None


def test_damage_gives_a_sentence_or_plain_values():
    raw, rng = pickled(TREE), np.random.default_rng(0)
    damaged = [raw[:end] for end in range(len(raw))]
    damaged += [raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :] for at in range(len(raw)) for bit in range(8)]
    damaged += [rng.bytes(int(rng.integers(1, 80))) for _ in range(500)]
    sentences = [sentence_on(content) for content in damaged]
    assert all(sentence is None or sentence.startswith("file is ") for sentence in sentences)
    assert sum(sentence is None for sentence in sentences) < len(sentences) / 2
