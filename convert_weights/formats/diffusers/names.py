"""Names and layouts of the `UNet2DModel` of diffusers and of `jaxdiff.networks.unet.UNet`.

The blocks are counted through here, and by level there, so that their names follow from the architecture. Queries, keys
and values are one weight here and three there. Models of diffusers before 0.12 have other names in attention.

References:
    https://github.com/huggingface/diffusers, `models/unets/unet_2d.py` (the names).
"""

import re
from collections.abc import Mapping

import numpy as np

from convert_weights.formats.unet import Shape, check_tensors, flax_shapes
from jaxdiff.networks.unet import UNetConfig

IN_BLOCK = {
    "in_norm": ("norm1",),
    "in_conv": ("conv1",),
    "embed": ("time_emb_proj",),
    "out_norm": ("norm2",),
    "out_conv": ("conv2",),
    "skip": ("conv_shortcut",),
    "norm": ("group_norm",),
    "qkv": ("to_q", "to_k", "to_v"),
    "proj": ("to_out.0",),
    "conv": ("conv",),
}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_OLD = re.compile(rf"(.*attentions\.\d+)\.({'|'.join(OLD_ATTENTION)})\.(weight|bias)")


def block_names(config: UNetConfig) -> dict[str, str]:
    """Returns the names of modules here and in diffusers; of blocks that may have no attention, too."""
    last = 2 if config.middle_attention else 1
    names = {
        "time_embed_1": "time_embedding.linear_1",
        "time_embed_2": "time_embedding.linear_2",
        "label_embed": "class_embedding",
        "input_blocks.0.0": "conv_in",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        f"middle_block.{last}": "mid_block.resnets.1",
        "out_norm": "conv_norm_out",
        "out_conv": "conv_out",
    }
    levels, layers = len(config.channel_mult), config.num_res_blocks
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for i in range(layers):
            names[f"input_blocks.{first + i}.0"] = f"down_blocks.{level}.resnets.{i}"
            names[f"input_blocks.{first + i}.1"] = f"down_blocks.{level}.attentions.{i}"
        names[f"input_blocks.{first + layers}.0"] = f"down_blocks.{level}.downsamplers.0"
        up = levels - 1 - level
        for i in range(layers + 1):
            block = f"output_blocks.{up * (layers + 1) + i}"
            parts = [f"resnets.{i}", *[f"attentions.{i}"] * config.attends(level)]
            parts += ["upsamplers.0"] * (i == layers)
            names |= {f"{block}.{place}": f"up_blocks.{up}.{part}" for place, part in enumerate(parts)}
    return names


def diffusers_names(name: str, blocks: Mapping[str, str]) -> list[str]:
    """Returns the names in diffusers of what one weight holds, in its order.

    >>> diffusers_names("middle_block.1.qkv.bias", {"middle_block.1": "mid_block.attentions.0"})[:2]
    ['mid_block.attentions.0.to_q.bias', 'mid_block.attentions.0.to_k.bias']
    """
    module, _, leaf = name.rpartition(".")
    if module in blocks:
        return [f"{blocks[module]}.{LEAVES[leaf]}"]
    block, _, part = module.rpartition(".")
    return [f"{blocks[block]}.{inner}.{LEAVES[leaf]}" for inner in IN_BLOCK[part]]


def diffusers_shapes(config: UNetConfig) -> dict[str, Shape]:
    """Returns the names and shapes of the state dict that diffusers would have for a network."""
    blocks, shapes = block_names(config), {}
    for name, shape in flax_shapes(config).items():
        parts = diffusers_names(name, blocks)
        (*inputs, outputs) = shape
        outputs //= len(parts)
        if name.endswith(".kernel"):
            *window, inputs = inputs
            shapes |= dict.fromkeys(parts, (outputs, inputs, *window))
        else:
            shapes |= dict.fromkeys(parts, (*inputs, outputs))
    return shapes


def from_diffusers(tensors: Mapping[str, np.ndarray], config: UNetConfig) -> dict[str, np.ndarray]:
    """Renames and rearranges a state dict of diffusers; the precision is kept.

    Raises:
        ValueError: naming each tensor that is missing, unexpected, of another shape, or no weight.
    """
    tensors = with_new_names(tensors)
    check_tensors(tensors, diffusers_shapes(config))
    blocks = block_names(config)

    def weight(name: str) -> np.ndarray:
        parts = [tensors[part] for part in diffusers_names(name, blocks)]
        if name.endswith(".kernel"):
            parts = [part.transpose(2, 3, 1, 0) if part.ndim == 4 else part.T for part in parts]
        return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    return {name: weight(name) for name in flax_shapes(config)}


def to_diffusers(weights: Mapping[str, np.ndarray], config: UNetConfig) -> dict[str, np.ndarray]:
    """Renames and rearranges the weights of a prior as a state dict of diffusers."""
    blocks, tensors = block_names(config), {}
    for name, weight in weights.items():
        names = diffusers_names(name, blocks)
        for part, piece in zip(names, np.split(weight, len(names), axis=-1), strict=True):
            if name.endswith(".kernel"):
                piece = piece.transpose(3, 2, 0, 1) if piece.ndim == 4 else piece.T
            tensors[part] = np.ascontiguousarray(piece)
    return tensors


def with_new_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors by the names that diffusers has today.

    Raises:
        ValueError: if there is one under its old and its new name.
    """
    renamed = {}
    for name, tensor in tensors.items():
        found = _OLD.fullmatch(name)
        new = f"{found[1]}.{OLD_ATTENTION[found[2]]}.{found[3]}" if found else name
        if new in renamed or (found and new in tensors):
            raise ValueError(f"`{new}` is there twice, under an old name and a new one")
        renamed[new] = tensor
    return renamed
