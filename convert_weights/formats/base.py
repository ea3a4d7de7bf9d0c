"""What a format is: how a file of it is recognised, what may be told about it, and how it becomes a prior."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.denoiser import Target, Variance

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Choices:
    """What a file does not say; by default what the format has, or says in a file beside it."""

    config: str | None = None
    """A prior that has the same image size, heads, norm groups and order of attention: its folder or name."""
    image_size: int | None = None
    """Height and width that the network was trained at, in pixels."""
    num_heads: int | None = None
    """Attention heads, the same number in every block."""
    num_head_channels: int | None = None
    """Channels per attention head; instead of --num-heads."""
    norm_groups: int | None = None
    """Groups of every group norm; 32 by default."""
    attention_order: Literal["legacy", "new"] | None = None
    """`new` for a network trained with use_new_attention_order; legacy by default."""
    schedule: Literal["linear", "cosine"] | None = None
    """The noise schedule, of 1000 times."""
    target: Target | None = None
    """What the network predicts."""
    variance: Variance | None = None
    """Variance of an ancestral step. By default, of guided-diffusion: learned_range if the network has outputs for it,
    else fixed_large."""
    label: int | None = None
    """Class of a class-conditional network: the prior is that of this class."""
    channels: int | None = None
    """Confirms that a network is for pictures of so many channels, where that is not 3; only the library takes them."""
    weights: str | None = None
    """Where in the file the weights are, if there are several, such as ema; by default the averaged ones."""


class Converted(NamedTuple):
    """A prior: its weights, its configuration, and in a line each what was taken for what, and why."""

    weights: dict[str, np.ndarray]
    config: PriorConfig
    taken: list[str]


class Format(NamedTuple):
    """A format.

    Attributes:
        name: one word for it, which the prior keeps.
        network: what its files hold.
        marks: names of tensors by which a file is recognised, under any prefix.
        choices: those of `Choices` that it takes, besides `weights`.
        convert: makes a prior of the tensors, the choices, and the folder that the file lies in. Raises ValueError
            if something does not fit or is not known, in words that continue the name of the file.
    """

    name: str
    network: str
    marks: tuple[str, ...]
    choices: tuple[str, ...]
    convert: Callable[[Tensors, Choices, Path], Converted]

    def check(self, choices: Choices) -> None:
        """Refuses a choice that means nothing here.

        Raises:
            ValueError: naming it.
        """
        given = [field.name for field in fields(choices) if getattr(choices, field.name) is not None]
        if foreign := [name for name in given if name not in (*self.choices, "weights")]:
            raise ValueError(f"--{foreign[0].replace('_', '-')} means nothing for {self.network}, as which it is read")
