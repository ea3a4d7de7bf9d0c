"""Checkpoints of guided-diffusion as priors: what the file does not say is given, known or the default, and told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from convert_weights.architecture import UNSEEN, infer_config
from convert_weights.unet import from_torch
from jaxdiff.networks.unet import PUBLISHED, UNetConfig
from jaxdiff.priors.denoiser import Target, Variance
from jaxdiff.priors.storage import NetworkConfig, PriorConfig

Tensors = Mapping[str, np.ndarray]

COLOURS = 3
DEFAULT = "guided-diffusion's default"


@dataclass(frozen=True)
class Choices:
    """What a checkpoint's tensors do not show."""

    image_size: int | None = None
    """Height and width that the network was trained at, in pixels."""
    num_heads: int | None = None
    """Attention heads, the same number in every block."""
    num_head_channels: int | None = None
    """Channels per attention head; instead of --num-heads."""
    norm_groups: int | None = None
    """Groups of every group norm; 32 by default."""
    new_attention_order: bool | None = None
    """True for a network trained with use_new_attention_order."""
    schedule: Literal["linear", "cosine"] = "linear"
    """The noise schedule, of 1000 times."""
    target: Target = "epsilon"
    """What the network predicts."""
    variance: Variance | None = None
    """Variance of an ancestral step; by default learned_range if the network has outputs for it, else fixed_large."""
    label: int | None = None
    """Class of a class-conditional network: the prior is that of this class."""
    channels: int | None = None
    """Confirms that a network is for pictures of so many channels, where that is not 3; only the library takes them."""
    weights: str | None = None
    """Where in the file the weights are, if there are several, such as ema; by default the averaged ones."""

    def unseen(self) -> dict[str, int]:
        """The facts about the architecture that are given."""
        if self.num_heads is not None and self.num_head_channels is not None:
            raise ValueError("--num-heads and --num-head-channels exclude each other")
        return {name: value for name in UNSEEN if (value := getattr(self, name)) is not None}


def guided_diffusion_prior(
    tensors: Tensors, like: NetworkConfig | None, choices: Choices
) -> tuple[dict[str, np.ndarray], PriorConfig]:
    """Makes a prior's weights and configuration of a state dict.

    Args:
        tensors: the state dict.
        like: the network of a prior that shares what shapes do not show.
        choices: what was given.

    Raises:
        ValueError: if something does not fit, is not known, or makes no prior of pictures.
    """
    assert like is None or isinstance(like, UNetConfig)
    network = infer_config({name: tensor.shape for name, tensor in tensors.items()}, like, choices.unseen())
    _check_channels(network, choices.channels)
    weights = from_torch(tensors, network)
    network = _of_one_class(weights, network, choices.label)
    learned = network.out_channels == 2 * network.in_channels
    variance = choices.variance or ("learned_range" if learned else "fixed_large")
    if learned != (variance == "learned_range"):
        raise ValueError(f"--variance {variance} does not fit {network.out_channels} outputs of the network")
    return weights, PriorConfig(network, {"kind": choices.schedule}, choices.target, variance)


def _check_channels(network: UNetConfig, confirmed: int | None) -> None:
    taken, given = network.in_channels, network.out_channels
    if confirmed not in (None, taken):
        raise ValueError(f"--channels {confirmed} does not fit a network of {taken} channels")
    if given not in (taken, 2 * taken):
        raise ValueError(
            f"the network takes {taken} channels and gives {given}; a prior gives as many or twice as many "
            "(an upsampler takes a second picture, and is no prior)"
        )
    if taken != COLOURS and confirmed is None:
        raise ValueError(
            f"the number of channels of its pictures is {taken}, `jaxdiff restore` needs {COLOURS}; "
            f"--channels {taken} converts it all the same, for the library (but an upsampler is no prior)"
        )


def _of_one_class(weights: dict[str, np.ndarray], network: UNetConfig, label: int | None) -> UNetConfig:
    """Adds the embedding of a class to the bias that it is always added to, in place."""
    classes = network.num_classes
    if classes is None and label is not None:
        raise ValueError("--label is given, but the network is not class-conditional")
    if classes is None:
        return network
    if label is None or not 0 <= label < classes:
        raise ValueError(f"the network is class-conditional: give --label, the class from 0 to {classes - 1} to take")
    embedding, bias = weights.pop("label_embed.embedding"), "time_embed_2.bias"
    weights[bias] = weights[bias].astype(np.float32) + embedding[label].astype(np.float32)
    return replace(network, num_classes=None)


def what_was_taken(config: PriorConfig, like: PriorConfig | None, choices: Choices) -> list[str]:
    """Says in a line each what was taken for what, and why."""
    network, kind = config.network, config.schedule["kind"]
    assert isinstance(network, UNetConfig)
    heads = "num_head_channels" if network.num_head_channels else "num_heads"
    size = f"{network.num_head_channels} channels each" if network.num_head_channels else f"{network.num_heads} a block"
    order = "new" if network.new_attention_order else "legacy"
    why = {name: _why(name, network, like, choices) for name in UNSEEN}
    lines = [
        f"target: {config.target}, {DEFAULT if choices.target == Choices.target else 'given'}",
        f"variance: {config.variance}, {'given' if choices.variance else 'by the number of outputs'}",
        f"schedule: {kind}, {config.make_schedule().num_times} times, "
        f"{DEFAULT if choices.schedule == Choices.schedule else 'given'}",
        f"image size: {network.image_size}, {why['image_size']}",
        f"attention heads: {size}, {why[heads]}; {order} order, {why['new_attention_order']}",
        f"norm groups: {network.norm_groups}, {why['norm_groups']}",
    ]
    if choices.label is not None:
        lines.append(f"class: {choices.label}, given")
    return lines if like is None else lines + _not_as(config, like)


def _why(name: str, network: UNetConfig, like: PriorConfig | None, choices: Choices) -> str:
    """Says where a fact that shapes do not show comes from."""
    if getattr(choices, name) is not None:
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
