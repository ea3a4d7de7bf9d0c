"""Checkpoints that people hold and that convert: where they lie, how large they are, what they are good for."""

from typing import NamedTuple

FFHQ, IMAGENET, DDPM_256, DDPM_32 = 93_563_910, 552_814_086, 113_673_219, 35_746_307
P2 = "https://drive.google.com/drive/folders/1bcWh3XuQzdct4-UPTrIX-lvs47OiLaOM"
OPENAI = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"
HUB = "https://huggingface.co/"
UNKNOWN = "not stated"
OF_P2 = {
    "ffhq": "faces",
    "celebahq": "faces",
    "afhqdogs": "dogs",
    "flowers": "flowers",
    "cub": "birds",
    "metface": "faces in paintings",
}
OF_LSUN = {"bedroom": "bedrooms", "cat": "cats", "horse": "horses"}
OF_DDPM = {"celebahq": "faces", "church": "churches", "bedroom": "bedrooms", "cat": "cats"}
RESEARCH = "MIT (model card: research only)"


class Source(NamedTuple):
    """A published checkpoint.

    Attributes:
        url: the file, or the page on which it is.
        parameter_bytes: what its parameters alone take up.
        licence: of the weights, or of the repository that publishes them.
        use: what its images are.
        sha256: of the file, where it is known.
    """

    url: str
    parameter_bytes: int
    licence: str
    use: str
    sha256: str = ""


def _google(name: str, images: str, parameters: int = DDPM_256) -> Source:
    return Source(f"{HUB}google/{name}", 4 * parameters, "Apache-2.0", images)


SOURCES = {
    "ffhq-256": Source(
        f"{HUB}deepinv/diffunet/resolve/main/diffusion_ffhq_10m.pt", 4 * FFHQ, UNKNOWN, "faces, the network of DPS"
    ),
    "imagenet-256": Source(f"{OPENAI}256x256_diffusion_uncond.pt", 4 * IMAGENET, RESEARCH, "objects and scenes"),
    **{f"{name}_p2": Source(P2, 4 * FFHQ, "MIT", images) for name, images in OF_P2.items()},
    "celeba256_250000": Source(
        "https://drive.google.com/file/d/1norNWWGYP3EZ_o05DmoW1ryKuKMmhlCX",
        4 * IMAGENET,
        "CC BY-NC-SA 4.0",
        "faces, the network of RePaint",
    ),
    "places256_300000": Source(
        "https://drive.google.com/file/d/1QEl-btGbzQz6IwkXiFGd49uQNTUtTHsk",
        4 * IMAGENET,
        "CC BY-NC-SA 4.0",
        "photographs of whole scenes, the network of RePaint",
    ),
    **{f"lsun-{name}": Source(OPENAI, 4 * IMAGENET, RESEARCH, images) for name, images in OF_LSUN.items()},
    **{f"ddpm-{name}-256": _google(f"ddpm-{name}-256", images) for name, images in OF_DDPM.items()},
    **{f"ddpm-ema-{name}-256": _google(f"ddpm-ema-{name}-256", images) for name, images in OF_DDPM.items()},
    "ddpm-cifar10-32": _google("ddpm-cifar10-32", "small pictures, 32x32", DDPM_32),
    "ffdnet_color": Source(
        "https://github.com/cszn/FFDNet",
        4 * 852_108,
        "MIT",
        "photographs with white Gaussian noise",
        "286f04f7e3a20254c067ba95efb5d3339f4fc8a09a365a93cd469184d4cdb279",
    ),
}
"""By name; `convert_weights download` fetches the first two, of the others the address says where."""


def origin(sha256: str) -> dict[str, str]:
    """Returns what a published file, known by its digest, was trained on, and its licence; nothing of others."""
    found = [source for source in SOURCES.values() if source.sha256 == sha256]
    return {"trained_on": found[0].use, "licence": found[0].licence} if found else {}


def described() -> list[str]:
    """Returns a line for each source."""
    lines = []
    for name, source in SOURCES.items():
        size = source.parameter_bytes / 1e6
        text = f"{size / 1000:.2f} GB" if size >= 1000 else f"{size:.0f} MB"
        lines.append(f"{name:<22} {text:>8}  {source.use}; licence: {source.licence}; {source.url}")
    return lines
