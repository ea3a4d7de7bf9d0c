"""The `UNet2DModel` of diffusers as a prior: its architecture is in `config.json`, the rest in `scheduler_config.json`.

References:
    https://github.com/huggingface/diffusers, `models/unets/unet_2d.py` (keys and their defaults).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert_weights.formats.base import Choices, Converted, Format, Tensors
from convert_weights.formats.diffusers.names import from_diffusers
from convert_weights.formats.diffusers.schedule import read_scheduler
from convert_weights.formats.unet import check_channels, of_one_class
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.priors.config import PriorConfig

MAX_JSON_BYTES = 2**20
MODEL = "UNet2DModel"

# What a missing key means.
DEFAULTS: dict[str, Any] = {
    "_class_name": MODEL,
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
# Values that the network here can have, where it cannot have all.
ONLY = {
    "_class_name": (MODEL, "UNetUnconditionalModel"),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
}
# Whether a block has attention, and how it changes the resolution: by a convolution, a residual block, or as is said.
DOWN = {
    "DownBlock2D": (False, "conv"),
    "AttnDownBlock2D": (True, "downsample_type"),
    "ResnetDownsampleBlock2D": (False, "resnet"),
}
UP = {
    "UpBlock2D": (False, "conv"),
    "AttnUpBlock2D": (True, "upsample_type"),
    "ResnetUpsampleBlock2D": (False, "resnet"),
}
COUNTS = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
OPTIONAL_COUNTS = ("attention_head_dim", "num_class_embeds", "attn_norm_num_groups")
MAX_COUNT = 2**16
MAX_LAYERS = 64
LEVELS = ("block_out_channels", "down_block_types", "up_block_types")


def convert_diffusers(tensors: Tensors, choices: Choices, folder: Path) -> Converted:
    """Makes a prior of a state dict of diffusers; see `convert_weights.formats.base.Format`.

    Raises:
        ValueError: if something does not fit, or this network cannot be had here.
    """
    said = _read_json(folder / "config.json")
    if said is None:
        raise ValueError("there is no config.json beside it, which says what network this is")
    network = unet_config(said, choices.image_size)
    places = (folder, folder.parent / "scheduler")
    scheduler = next((c for place in places if (c := _read_json(place / "scheduler_config.json")) is not None), None)
    check_channels(network, choices.channels)
    weights = from_diffusers(tensors, network)
    network = of_one_class(weights, network, choices.label)
    told = read_scheduler(scheduler, choices)
    if (network.out_channels == 2 * network.in_channels) != (told.variance == "learned_range"):
        raise ValueError(
            f"a variance that is {told.variance} does not fit {network.out_channels} outputs of the network; "
            "--variance takes another"
        )
    config = PriorConfig(network, told.schedule, told.target, told.variance, clip=told.clip)
    config.make_schedule()
    size = f"image size: {network.image_size}, {'given' if choices.image_size else 'as config.json says'}"
    one = [] if choices.label is None else [f"class: {choices.label}, given"]
    return Converted(weights, config, [*told.taken, size, *one])


DIFFUSERS = Format(
    name="diffusers",
    network=f"a {MODEL} of diffusers",
    marks=("time_embedding.linear_1.weight", "conv_in.weight", "conv_norm_out.weight"),
    choices=("image_size", "schedule", "target", "variance", "label", "channels"),
    convert=convert_diffusers,
)


def unet_config(said: Mapping[str, Any], image_size: int | None = None) -> UNetConfig:
    """Returns the architecture that a `config.json` describes.

    Args:
        said: its content.
        image_size: height and width of the images, if they are not what `sample_size` says.

    Raises:
        ValueError: naming the first key whose value cannot be had here.
    """
    config = DEFAULTS | dict(said)
    for key, values in ONLY.items():
        if config[key] not in values:
            possible = " or ".join(map(str, values))
            raise ValueError(f"config.json has {key} {config[key]!r}; {possible} can be converted")
    _check_numbers(config)
    widths, channels = config["block_out_channels"], config["block_out_channels"][0]
    down = [_kind(DOWN, name, config) for name in config["down_block_types"]]
    up = [_kind(UP, name, config) for name in reversed(config["up_block_types"])]
    if [attends for attends, _ in down] != [attends for attends, _ in up]:
        raise ValueError("config.json has attention on other levels on the way up than on the way down")
    resampling = {kind for _, kind in (*down[:-1], *up[1:])}
    if len(resampling) > 1:
        raise ValueError(
            "config.json changes the resolution by convolutions and by residual blocks, not by one of them"
        )
    if config["time_embedding_dim"] not in (None, 4 * channels):
        raise ValueError(f"config.json has time_embedding_dim {config['time_embedding_dim']!r}, not {4 * channels}")
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    groups = config["attn_norm_num_groups"] or (None if scale_shift else config["norm_num_groups"])
    if config["add_attention"] and groups != config["norm_num_groups"]:
        raise ValueError("config.json has attention in the middle without the norm that it has elsewhere")
    size = _image_size(config["sample_size"], image_size)
    return UNetConfig(
        image_size=size,
        channels=channels,
        channel_mult=tuple(width // channels if width % channels == 0 else width / channels for width in widths),
        num_res_blocks=config["layers_per_block"],
        attention_resolutions=tuple(size >> level for level, (attends, _) in enumerate(down) if attends),
        num_head_channels=config["attention_head_dim"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        resblock_updown=resampling == {"resnet"},
        scale_shift_norm=scale_shift,
        new_attention_order=True,
        num_classes=config["num_class_embeds"],
        norm_groups=config["norm_num_groups"],
        middle_attention=config["add_attention"],
        norm_epsilon=config["norm_eps"],
        time_shift=config["freq_shift"],
        time_sin_first=not config["flip_sin_to_cos"],
        pad_after_only=config["downsample_padding"] == 0,
    )


def _check_numbers(config: Mapping[str, Any]) -> None:
    for key in (*COUNTS, *OPTIONAL_COUNTS):
        value, most = config[key], MAX_LAYERS if key == "layers_per_block" else MAX_COUNT
        if (type(value) is not int or not 0 < value <= most) and not (value is None and key in OPTIONAL_COUNTS):
            raise ValueError(f"config.json has {key} {value!r}, which is no count from 1 to {most}")
    for key in ("flip_sin_to_cos", "add_attention"):
        if type(config[key]) is not bool:
            raise ValueError(f"config.json has {key} {config[key]!r}, which is neither true nor false")
    for key, low, high in (("norm_eps", 0, 1), ("freq_shift", -1, 2)):
        if type(config[key]) not in (int, float) or not low < config[key] < high:
            raise ValueError(f"config.json has {key} {config[key]!r}, which cannot be")
    levels = [config[key] for key in LEVELS]
    if not all(isinstance(level, list) and 0 < len(level) <= 16 for level in levels) or len({*map(len, levels)}) > 1:
        raise ValueError(f"config.json does not have {', '.join(LEVELS)} for the same levels")
    if not all(type(width) is int and 0 < width <= MAX_COUNT for width in config["block_out_channels"]):
        raise ValueError(f"config.json has block_out_channels {config['block_out_channels']}, which cannot be")


def _kind(known: Mapping[str, tuple[bool, str]], name: object, config: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a level has attention, and how it changes the resolution."""
    # The first versions of diffusers put these letters before every name.
    found = known.get(name.removeprefix("UNetRes")) if isinstance(name, str) else None
    kind = None if found is None else config.get(found[1], found[1])
    if found is None or kind not in ("conv", "resnet"):
        described = name if found is None else f"{found[1]} {kind!r}"
        raise ValueError(f"config.json has {described}; blocks that can be converted are {', '.join(known)}")
    return found[0], kind


def _image_size(said: object, given: int | None) -> int:
    if given is None and isinstance(said, list) and len(said) == 2 and said[0] == said[1]:
        said = said[0]
    size = said if given is None else given
    if type(size) is not int or not 0 < size < 2**16:
        raise ValueError(f"config.json has sample_size {said!r}; give --image-size, height and width in pixels")
    return size


def _read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; None if there is no such file."""
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path.name} beside it is refused: it has more than {MAX_JSON_BYTES:,} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} beside it is damaged ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} beside it is damaged (it is no JSON object)")
    return found
