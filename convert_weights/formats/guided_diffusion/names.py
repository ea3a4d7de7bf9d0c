"""Names and layouts of guided-diffusion's PyTorch UNet and of `jaxdiff.networks.unet.UNet`, in both directions.

There is one rule per kind of module, read from Flax to PyTorch. Both directions, and the check of names and shapes,
follow from it: the network says which weights it has, the rules say how PyTorch calls and stores them.
"""

import re
from collections.abc import Mapping

import numpy as np

from convert_weights.formats.unet import Shape, check_tensors, flax_shapes
from jaxdiff.networks.unet import UNetConfig

# The first module of `input_blocks.0` is a convolution and has no name of its own within its block.
IN_BLOCK = {
    "": "",
    "in_norm": "in_layers.0",
    "in_conv": "in_layers.2",
    "embed": "emb_layers.1",
    "out_norm": "out_layers.0",
    "out_conv": "out_layers.3",
    "skip": "skip_connection",
    "norm": "norm",
    "qkv": "qkv",
    "proj": "proj_out",
    "conv": "conv",
}
OUTSIDE = {
    "time_embed_1": "time_embed.0",
    "time_embed_2": "time_embed.2",
    "label_embed": "label_emb",
    "out_norm": "out.0",
    "out_conv": "out.2",
}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}

_BLOCK = re.compile(r"(input_blocks\.\d+\.\d+|middle_block\.\d+|output_blocks\.\d+\.\d+)\.?(.*)")
_CONV_1D = re.compile(r"\.(qkv|proj)\.kernel$")


def torch_name(name: str) -> str:
    """Translates the name of a weight.

    >>> torch_name("output_blocks.2.1.proj.kernel")
    'output_blocks.2.1.proj_out.weight'
    """
    module, _, leaf = name.rpartition(".")
    if block := _BLOCK.fullmatch(module):
        place, part = block.groups()
        # PyTorch calls the convolution of a Downsample `op`, that of an Upsample `conv`.
        inner = "op" if part == "conv" and place.startswith("input") else IN_BLOCK[part]
        module = f"{place}.{inner}" if inner else place
    else:
        module = OUTSIDE[module]
    return f"{module}.{LEAVES[leaf]}"


def to_torch_layout(name: str, weight: np.ndarray) -> np.ndarray:
    """Rearranges one weight, given its Flax name, as PyTorch stores it."""
    if weight.ndim == 4:
        return weight.transpose(3, 2, 0, 1)
    if name.endswith(".kernel"):
        # Attention is a convolution of size one in PyTorch: one more axis.
        return weight.T[..., None] if _CONV_1D.search(name) else weight.T
    return weight


def to_flax_layout(name: str, weight: np.ndarray) -> np.ndarray:
    """Rearranges one weight of PyTorch, given its Flax name, as Flax stores it."""
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if name.endswith(".kernel"):
        return (weight[..., 0] if _CONV_1D.search(name) else weight).T
    return weight


def torch_shapes(config: UNetConfig) -> dict[str, Shape]:
    """Returns the names and shapes of the state dict that guided-diffusion would have for a network."""
    # An array of one number, repeated: the layout functions give its shape at no cost.
    return {
        torch_name(name): to_torch_layout(name, np.broadcast_to(0.0, shape)).shape
        for name, shape in flax_shapes(config).items()
    }


def from_torch(tensors: Mapping[str, np.ndarray], config: UNetConfig) -> dict[str, np.ndarray]:
    """Renames and rearranges a guided-diffusion state dict for `jaxdiff.priors.storage.save_prior`.

    Args:
        tensors: the state dict, in float16, bfloat16 or float32; the precision is kept.
        config: the architecture.

    Raises:
        ValueError: naming each tensor that is missing, unexpected, of another shape, or not of these types.
    """
    check_tensors(tensors, torch_shapes(config))
    return {name: to_flax_layout(name, tensors[torch_name(name)]) for name in flax_shapes(config)}


def to_torch(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames and rearranges the weights of a prior as a guided-diffusion state dict."""
    return {torch_name(n): np.ascontiguousarray(to_torch_layout(n, w)) for n, w in weights.items()}
