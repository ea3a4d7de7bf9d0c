"""Read a UNet's architecture off the names and shapes of its PyTorch tensors."""

import re
from collections.abc import Mapping
from typing import Any

from jaxdiff.networks.unet import PUBLISHED, UNetConfig

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

# What they do not show.
COUNTS = ("image_size", "num_heads", "num_head_channels", "norm_groups")
UNSEEN = (*COUNTS, "new_attention_order")

# The image sizes for which guided-diffusion makes levels of these widths, if it is not told others.
SIZES = {(1, 1, 2, 2, 4, 4): 256, (1, 1, 2, 3, 4): 128, (1, 2, 3, 4): 64}

Shapes = Mapping[str, tuple[int, ...]]


def infer_config(shapes: Shapes, like: UNetConfig | None = None, given: Mapping[str, Any] | None = None) -> UNetConfig:
    """Infer the architecture of a guided-diffusion UNet.

    Args:
        shapes: names and shapes of its state dict.
        like: has the facts that shapes do not show, `UNSEEN`. By default they come from the one of `PUBLISHED` that
            agrees in everything else. Its image size is taken only for a network of the same levels.
        given: those of these facts that are known better; they win.

    Raises:
        ValueError: a name is missing that tells something, or one of `UNSEEN` is not known.
    """
    facts, given = _facts(shapes), dict(given or {})
    levels = facts.pop("attention_levels")
    like = like or next((known for known in PUBLISHED.values() if _facts_of(known) == facts | {"levels": levels}), None)
    unseen: dict[str, Any] = {name: getattr(like, name) for name in UNSEEN} if like else {"norm_groups": 32}
    if like is None or like.channel_mult != facts["channel_mult"]:
        unseen["image_size"] = SIZES.get(facts["channel_mult"])
    if {"num_heads", "num_head_channels"} & given.keys():
        unseen |= {"num_heads": 1, "num_head_channels": None}
    unseen |= given
    _check_unseen(unseen, facts)
    size = unseen["image_size"]
    config = UNetConfig(attention_resolutions=tuple(size >> level for level in levels), **facts, **unseen)
    _check_heads(config, levels)
    return config


def _check_unseen(unseen: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    missing = [] if unseen.get("image_size") is not None else ["--image-size"]
    missing += [] if {"num_heads", "num_head_channels"} & unseen.keys() else ["--num-heads or --num-head-channels"]
    if missing:
        listed = ", ".join(f"{name} {value}" for name, value in facts.items())
        raise ValueError(
            f"its shapes do not show everything, and it is none of {', '.join(PUBLISHED)} (it has {listed}): "
            f"give {' and '.join(missing)}, or name with --config a prior that shares them"
        )
    if wrong := [f"{name} {value}" for name, value in unseen.items() if value is not None and value < (name in COUNTS)]:
        raise ValueError(f"{' and '.join(wrong)}: at least 1 is needed")


def _check_heads(config: UNetConfig, levels: tuple[int, ...]) -> None:
    for width in {config.widths[level] for level in (*levels, -1)}:
        per_head, count = config.num_head_channels, config.num_heads
        if width % (per_head or count):
            heads = f"heads of {per_head} channels" if per_head else f"{count} heads"
            raise ValueError(f"{heads} do not divide an attention block of {width} channels")


def _facts_of(config: UNetConfig) -> dict[str, Any]:
    levels = tuple(level for level in range(len(config.channel_mult)) if config.attends(level))
    return {"levels": levels} | {name: getattr(config, name) for name in FACTS}


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
