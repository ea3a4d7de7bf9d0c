"""Checkpoints of guided-diffusion as priors: what the file does not say is given, known or the default, and told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from convert_weights.formats.base import Choices, Converted, Format, Tensors
from convert_weights.formats.guided_diffusion.names import from_torch
from convert_weights.formats.guided_diffusion.shapes import COUNTS, UNSEEN, infer_config
from convert_weights.formats.unet import check_channels, of_one_class
from jaxdiff.networks.unet import PUBLISHED, UNetConfig
from jaxdiff.priors.config import PriorConfig, read_config
from jaxdiff.priors.storage import prior_folder

DEFAULT = "guided-diffusion's default"


def convert_guided_diffusion(tensors: Tensors, choices: Choices, folder: Path) -> Converted:
    """Makes a prior of a state dict of guided-diffusion; see `convert_weights.formats.base.Format`.

    Raises:
        ValueError: if something does not fit, is not known, or makes no prior of pictures.
    """
    like = None if choices.config is None else known_config(choices.config)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    network = infer_config(shapes, None if like is None else _unet(like, str(choices.config)), _given(choices))
    check_channels(network, choices.channels)
    weights = from_torch(tensors, network)
    network = of_one_class(weights, network, choices.label)
    learned = network.out_channels == 2 * network.in_channels
    variance = choices.variance or ("learned_range" if learned else "fixed_large")
    if learned != (variance == "learned_range"):
        raise ValueError(f"--variance {variance} does not fit {network.out_channels} outputs of the network")
    config = PriorConfig(network, {"kind": choices.schedule or "linear"}, choices.target or "epsilon", variance)
    return Converted(weights, config, _what_was_taken(config, like, choices))


GUIDED_DIFFUSION = Format(
    name="guided-diffusion",
    network="a UNet of guided-diffusion",
    marks=("time_embed.0.weight",),
    choices=(
        *("config", "image_size", "num_heads", "num_head_channels", "norm_groups", "attention_order"),
        *("schedule", "target", "variance", "label", "channels"),
    ),
    convert=convert_guided_diffusion,
)


def known_config(name: str) -> PriorConfig:
    """Returns the configuration of a published network, a shipped prior, or the folder of one.

    Raises:
        ValueError: if there is none, or it is no UNet that guided-diffusion could have.
    """
    if name in PUBLISHED:
        return PriorConfig(PUBLISHED[name])
    folder = prior_folder(name)
    if not folder.is_dir():
        raise ValueError(f"--config {name} is neither the folder of a prior nor one of {', '.join(PUBLISHED)}")
    config = read_config(folder)
    check_expressible(config, name)
    return config


def check_expressible(config: PriorConfig, name: str) -> None:
    """Refuses a network that guided-diffusion does not have.

    Raises:
        ValueError: saying what it has.
    """
    network = _unet(config, name)
    if network.patch > 1 or not network.middle_attention:
        raise ValueError(f"{name} holds a UNet with blocks of pixels or without attention; guided-diffusion has none")
    if network.norm_epsilon != 1e-5 or network.time_shift or network.time_sin_first or network.pad_after_only:
        raise ValueError(f"{name} holds a UNet of DDPM, which is not that of guided-diffusion")


def _unet(config: PriorConfig, name: str) -> UNetConfig:
    if not isinstance(config.network, UNetConfig):
        raise ValueError(f"{name} holds a network of kind {config.kind}, not a UNet of guided-diffusion")
    return config.network


def _given(choices: Choices) -> dict[str, Any]:
    """The facts about the architecture that are given."""
    if choices.num_heads is not None and choices.num_head_channels is not None:
        raise ValueError("--num-heads and --num-head-channels exclude each other")
    given = {name: value for name in COUNTS if (value := getattr(choices, name)) is not None}
    order = choices.attention_order
    return given if order is None else given | {"new_attention_order": order == "new"}


def _what_was_taken(config: PriorConfig, like: PriorConfig | None, choices: Choices) -> list[str]:
    """Says in a line each what was taken for what, and why."""
    network, kind = config.network, config.schedule["kind"]
    assert isinstance(network, UNetConfig)
    heads = "num_head_channels" if network.num_head_channels else "num_heads"
    size = f"{network.num_head_channels} channels each" if network.num_head_channels else f"{network.num_heads} a block"
    order = "new" if network.new_attention_order else "legacy"
    why = {name: _why(name, network, like, choices) for name in UNSEEN}
    lines = [
        f"target: {config.target}, {'given' if choices.target else DEFAULT}",
        f"variance: {config.variance}, {'given' if choices.variance else 'by the number of outputs'}",
        f"schedule: {kind}, {config.make_schedule().num_times} times, {'given' if choices.schedule else DEFAULT}",
        f"image size: {network.image_size}, {why['image_size']}",
        f"attention heads: {size}, {why[heads]}; {order} order, {why['new_attention_order']}",
        f"norm groups: {network.norm_groups}, {why['norm_groups']}",
    ]
    if choices.label is not None:
        lines.append(f"class: {choices.label}, given")
    return lines if like is None else lines + _not_as(config, like)


def _why(name: str, network: UNetConfig, like: PriorConfig | None, choices: Choices) -> str:
    """Says where a fact that shapes do not show comes from."""
    if name in _given(choices):
        return "given"
    if like is not None and getattr(like.network, name) == getattr(network, name):
        return "as --config has"
    known = next((name for name, other in PUBLISHED.items() if other == replace(network, num_classes=None)), None)
    return f"as {known} has" if known else DEFAULT


def _not_as(config: PriorConfig, like: PriorConfig) -> list[str]:
    """Says what --config has otherwise, and how to take that."""
    learned = "learned_range" in (config.variance, like.variance)
    pairs = {
        "target": (config.target, like.target),
        "variance": (config.variance, config.variance if learned else like.variance),
        "schedule": (config.schedule["kind"], like.schedule["kind"]),
    }
    other = [f"--{name} {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
    return [f"--config has otherwise {' '.join(other)}, which is not taken; give it if it is meant"] if other else []
