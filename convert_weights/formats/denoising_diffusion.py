"""Files of the trainer of `denoising-diffusion-pytorch` (version 2) as priors, and back.

A file holds the network and the tables of its noise schedule; the loss weights, one of the tables, tell the target.

References:
    https://github.com/lucidrains/denoising-diffusion-pytorch, `denoising_diffusion_pytorch.py` (the names).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convert_weights.formats.base import Choices, Converted, Format, Tensors
from convert_weights.formats.unet import Shape, check_channels, check_tensors, flax_shapes
from jaxdiff.networks.rms_unet import RMSUNetConfig
from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.denoiser import Target

TABLES = {
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    "loss_weight",
}
_MODULES = {
    "time_embed_1": "time_mlp.1",
    "time_embed_2": "time_mlp.3",
    "mid_block_1": "mid_block1",
    "mid_attention": "mid_attn",
    "mid_block_2": "mid_block2",
    "final_block": "final_res_block",
    "embed": "mlp.1",
    "conv_1": "block1.proj",
    "norm_1": "block1.norm",
    "conv_2": "block2.proj",
    "norm_2": "block2.norm",
    "skip": "res_conv",
    "qkv": "to_qkv",
    "out_norm": "to_out.1",
    "conv": "1",
}
_MATRIX_1X1 = re.compile(r"\.(qkv|proj)\.kernel$")
MOST_TIMES = 10_000


def torch_names(config: RMSUNetConfig) -> dict[str, str]:
    """Returns the names of the package's tensors by those of the weights here."""
    shapes = flax_shapes(config)
    return {name: _torch_name(name, shapes) for name in shapes}


def _torch_name(name: str, shapes: Mapping[str, Shape]) -> str:
    module, _, leaf = name.rpartition(".")
    if leaf == "memory":
        return f"{_translated(module)}.mem_kv"
    inside = module.split(".")
    if inside[-1] == "proj":
        # Linear attention has a norm after it, in a sequence of two.
        linear = f"{module.removesuffix('proj')}out_norm.scale" in shapes
        return f"{_translated('.'.join(inside[:-1]))}.to_out{'.0' if linear else ''}.{_leaf(leaf)}"
    return f"{_translated(module)}.{_leaf(leaf)}"


def _translated(module: str) -> str:
    return ".".join(_MODULES.get(part, part) for part in module.split("."))


def _leaf(leaf: str) -> str:
    return {"kernel": "weight", "scale": "g"}.get(leaf, leaf)


def layout_there(name: str, weight: np.ndarray) -> np.ndarray:
    """Rearranges one weight, given its name here, as PyTorch stores it."""
    if name.endswith(".scale"):
        return weight[None, :, None, None]
    if name.endswith(".kernel"):
        if weight.ndim == 4:
            return weight.transpose(3, 2, 0, 1)
        return weight.T[..., None, None] if _MATRIX_1X1.search(name) else weight.T
    return weight


def layout_here(name: str, weight: np.ndarray) -> np.ndarray:
    """Rearranges one weight of PyTorch, given its name here, as it is stored here."""
    if name.endswith(".scale"):
        return weight[0, :, 0, 0]
    if name.endswith(".kernel"):
        if _MATRIX_1X1.search(name):
            return weight[..., 0, 0].T
        return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
    return weight


def to_denoising_diffusion(weights: Mapping[str, np.ndarray], config: RMSUNetConfig) -> dict[str, np.ndarray]:
    """Renames and rearranges the weights of a prior as the state dict of the package's `Unet`."""
    return {
        there: np.ascontiguousarray(layout_there(here, weights[here])) for here, there in torch_names(config).items()
    }


def from_denoising_diffusion(tensors: Tensors, config: RMSUNetConfig) -> dict[str, np.ndarray]:
    """Renames and rearranges the state dict of the package's `Unet`.

    Raises:
        ValueError: naming each tensor that is missing, unexpected, of another shape or type.
    """
    names, shapes = torch_names(config), flax_shapes(config)
    wanted = {there: layout_there(here, np.broadcast_to(0.0, shapes[here])).shape for here, there in names.items()}
    check_tensors(tensors, wanted)
    return {here: layout_here(here, tensors[there]) for here, there in names.items()}


def infer_rms_unet(tensors: Tensors, image_size: int) -> RMSUNetConfig:
    """Reads an architecture off the shapes of the package's `Unet`.

    Raises:
        ValueError: if it is one of those that are not supported, or a shape makes no sense.
    """
    if "mid_attn.mem_kv" not in tensors:
        raise ValueError("the network is of a version before 2, without memory in its attention, which is not read")
    if "time_mlp.0.weights" in tensors:
        raise ValueError("the network has learned or random frequencies for time, which are not supported")
    shape = lambda name, axes: _shape(tensors, name, axes)
    (first, taken, *_), (given, *_) = shape("init_conv.weight", 4), shape("final_conv.weight", 4)
    if taken == 2 * given:
        raise ValueError("the network is conditioned on its own estimate (self_condition), which is not supported")
    channels, (_, heads, memory, width) = shape("time_mlp.1.weight", 2)[1], shape("mid_attn.mem_kv", 4)
    levels = len({name.split(".")[1] for name in tensors if name.startswith("downs.")})
    ends = [f"downs.{i}.3.{'1.' if i < levels - 1 else ''}weight" for i in range(levels)]
    wide = [shape(name, 4)[0] for name in ends]
    if not channels or any(out % channels for out in wide):
        raise ValueError(f"the widths {wide} are no multiples of {channels}")
    full = tuple(f"downs.{i}.2.to_out.weight" in tensors for i in range(levels))
    mult = tuple(out // channels for out in wide)
    return RMSUNetConfig(image_size, channels, mult, full, first, heads, width, memory, taken, given)


def _shape(tensors: Tensors, name: str, axes: int) -> Shape:
    if name not in tensors or tensors[name].ndim != axes:
        raise ValueError(f"`{name}` is missing, or has not {axes} axes")
    return tensors[name].shape


def find_target(tables: Tensors) -> Target | None:
    """Tells what a network predicts by the weights of its loss; None if they are none that the package has.

    With `snr = alpha_bar / (1 - alpha_bar)` they are 1 for the noise, `snr` for `x0` and `snr / (snr + 1)` for `v`;
    less where `snr` is large, if the trainer bounded it.
    """
    if "loss_weight" not in tables or "alphas_cumprod" not in tables:
        return None
    weight, kept = (tables[name].astype(np.float64) for name in ("loss_weight", "alphas_cumprod"))
    if weight.shape != kept.shape:
        return None
    noisy = (kept > 1e-4) & (kept < 1 / 3)
    snr = kept[noisy] / (1 - kept[noisy])
    expected: dict[Target, np.ndarray] = {"epsilon": np.ones_like(snr), "x0": snr, "v": snr / (snr + 1)}
    for target, values in expected.items():
        if noisy.any() and np.allclose(weight[noisy], values, rtol=1e-3):
            return target
    return None


def convert_denoising_diffusion(tensors: Tensors, choices: Choices, folder: Path) -> Converted:
    """Makes a prior of the tensors of a `GaussianDiffusion`; see `convert_weights.formats.base.Format`.

    Raises:
        ValueError: if something does not fit, is not known, or makes no prior of pictures.
    """
    inside = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    tables = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
    if unexpected := sorted(tables.keys() - TABLES):
        raise ValueError(f"`{unexpected[0]}` is no table of denoising-diffusion-pytorch")
    if choices.image_size is None:
        raise ValueError("the file does not say the size of its images; give --image-size, in pixels")
    network = infer_rms_unet(inside, choices.image_size)
    check_channels(network, choices.channels)
    if network.out_channels != network.in_channels:
        raise ValueError("the network predicts a variance too (learned_variance), which is not supported")
    weights = from_denoising_diffusion(inside, network)
    target = choices.target or find_target(tables)
    if target is None:
        raise ValueError("the weights of its loss do not tell what the network predicts; give --target")
    betas = tables["betas"]
    if betas.ndim != 1 or not 2 <= len(betas) <= MOST_TIMES or not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"`betas` are no noise schedule of 2 to {MOST_TIMES} times")
    schedule = {"kind": "betas", "betas": [float(beta) for beta in betas]}
    taken = [
        f"target: {target}, {'given' if choices.target else 'by the weights of the loss'}",
        f"schedule: that of the file, {len(betas)} times",
        f"image size: {network.image_size}, given",
        "images: [-1, 1], unless trained with auto_normalize=False, which no file says",
    ]
    return Converted(weights, PriorConfig(network, schedule, target, "fixed_small"), taken)


DENOISING_DIFFUSION = Format(
    name="denoising-diffusion-pytorch",
    network="a UNet of denoising-diffusion-pytorch",
    marks=("model.init_conv.weight", "betas"),
    choices=("image_size", "target", "channels"),
    convert=convert_denoising_diffusion,
)
