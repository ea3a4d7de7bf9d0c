"""Read a UNet's architecture off the names and shapes of its PyTorch tensors."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxdiff.networks.unet import FFHQ_256, IMAGENET_256, UNetConfig

KNOWN = {"ffhq-256": FFHQ_256, "imagenet-256": IMAGENET_256}

# What shapes show, besides the levels that have attention.
FACTS = (
    "channels",
    "channel_mult",
    "num_res_blocks",
    "in_channels",
    "out_channels",
    "resblock_updown",
    "scale_shift_norm",
    "num_classes",
)

Shapes = Mapping[str, tuple[int, ...]]


def infer_config(shapes: Shapes, like: UNetConfig | None = None) -> UNetConfig:
    """Infer the architecture of a guided-diffusion UNet.

    Args:
        shapes: names and shapes of its state dict.
        like: has the facts that shapes do not show: image size, heads, order of attention, norm groups. By default
            they come from the one of `KNOWN` that agrees in everything else.

    Raises:
        ValueError: a name is missing that tells something, or no known network agrees and `like` is not given.
    """
    facts = _facts(shapes)
    if like is not None:
        return _with_facts(like, facts)
    for known in KNOWN.values():
        if facts == _facts_of(known):
            return known
    listed = ", ".join(f"{name} {value}" for name, value in facts.items())
    raise ValueError(
        f"the network is none of {', '.join(KNOWN)} (it has {listed}); its shapes do not show its image size, "
        "attention heads and norm groups: name a prior that shares them with --config"
    )


def _facts_of(config: UNetConfig) -> dict[str, Any]:
    levels = range(len(config.channel_mult))
    attends = tuple(level for level in levels if config.image_size >> level in config.attention_resolutions)
    return {"attention_levels": attends} | {name: getattr(config, name) for name in FACTS}


def _with_facts(like: UNetConfig, facts: Mapping[str, Any]) -> UNetConfig:
    resolutions = tuple(like.image_size >> level for level in facts["attention_levels"])
    return replace(like, attention_resolutions=resolutions, **{name: facts[name] for name in FACTS})


def _facts(shapes: Shapes) -> dict[str, Any]:
    channels = _size(shapes, "time_embed.0.weight", 1)
    outputs = 1 + max(_blocks(shapes, "0"), default=-1)
    ups = _blocks(shapes, r"[12]\.(in_layers|conv)")
    levels = len(ups) + 1
    if outputs < levels or outputs % levels:
        raise ValueError(f"{outputs} output blocks in {levels} levels are not those of a guided-diffusion UNet")
    per_level = outputs // levels
    heads = [f"output_blocks.{i * per_level}.0.out_layers.3.weight" for i in reversed(range(levels))]
    widths = [_size(shapes, name, 0) for name in heads]
    if any(width % channels for width in widths):
        raise ValueError(f"the widths {widths} of the levels are not multiples of {channels}, the base width")
    return {
        "channels": channels,
        "channel_mult": tuple(width // channels for width in widths),
        "num_res_blocks": per_level - 1,
        "attention_levels": tuple(
            sorted({levels - 1 - i // per_level for i in _blocks(shapes, r"1\.(norm|qkv|proj_out)")})
        ),
        "in_channels": _size(shapes, "input_blocks.0.0.weight", 1),
        "out_channels": _size(shapes, "out.2.weight", 0),
        "resblock_updown": not _blocks(shapes, r"[12]\.conv"),
        "scale_shift_norm": _size(shapes, "middle_block.0.emb_layers.1.weight", 0) == 2 * widths[-1],
        "num_classes": _size(shapes, "label_emb.weight", 0) if "label_emb.weight" in shapes else None,
    }


def _blocks(shapes: Shapes, module: str) -> set[int]:
    """The output blocks that have a module whose name matches."""
    pattern = re.compile(rf"output_blocks\.(\d+)\.{module}\.")
    return {int(found[1]) for name in shapes if (found := pattern.match(name))}


def _size(shapes: Shapes, name: str, axis: int) -> int:
    if name not in shapes:
        raise ValueError(f"`{name}` is missing; these are not the tensors of a guided-diffusion UNet")
    if len(shapes[name]) <= axis or shapes[name][axis] == 0:
        raise ValueError(f"`{name}` cannot have shape {shapes[name]} in a guided-diffusion UNet")
    return shapes[name][axis]
