"""The UNet of DDPM and guided-diffusion in Flax NNX.

One network covers every public checkpoint of the family: the FFHQ-256 network that DPS uses, the OpenAI
ImageNet networks, those of DDPM as diffusers has them, and the small prior that is shipped with this package.

References:
    Ho et al., 2020, https://arxiv.org/abs/2006.11239 (the UNet of DDPM).
    Dhariwal & Nichol, 2021, https://arxiv.org/abs/2105.05233 (the ADM architecture).
    Nichol & Dhariwal, 2021, https://arxiv.org/abs/2102.09672 (scale-shift norm, learned variance).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdiff.networks.blocks import depth_to_space, space_to_depth
from jaxdiff.networks.convolution import Conv
from jaxdiff.networks.layers import AttentionBlock, Downsample, GroupNorm, ResBlock, Upsample, timestep_embedding
from jaxdiff.networks.precision import Dtype, arithmetic


@dataclass(frozen=True)
class UNetConfig:
    """The architecture of a UNet of DDPM or guided-diffusion.

    Args:
        image_size: height and width the network was trained at, in pixels.
        channels: width of the first level.
        channel_mult: width of each level, as a multiple of `channels`, perhaps a fraction; each level halves the
            resolution.
        num_res_blocks: residual blocks per level on the way down (one more on the way up).
        attention_resolutions: resolutions, in blocks of `patch` pixels, that have self-attention.
        num_heads: attention heads, used where `num_head_channels` is None.
        num_head_channels: channels per attention head.
        in_channels: colours of the image.
        out_channels: `in_channels`, or twice as many when the network also predicts a variance.
        resblock_updown: change resolution inside a residual block, not by a strided convolution.
        scale_shift_norm: the time embedding scales and shifts the second norm (else it is added).
        new_attention_order: split q, k, v before the heads (else the heads before q, k, v).
        num_classes: number of class labels, None for an unconditional network.
        norm_groups: groups of every group norm; 32 in the public checkpoints.
        patch: side of the blocks of pixels that the network sees as one; 1 in the public checkpoints.
        middle_attention: self-attention at the lowest resolution too, whatever `attention_resolutions` says. Without
            any attention the network is fully convolutional.
        norm_epsilon: what is added to the variance in every group norm; 1e-6 in DDPM.
        time_shift: `shift` of `jaxdiff.networks.layers.timestep_embedding`; 1 in DDPM.
        time_sin_first: its order; True in DDPM.
        pad_after_only: strided convolutions are padded below and to the right alone, as in DDPM.

    Raises:
        ValueError: if a width cannot be divided into norm groups or heads, or the image size into levels, or if there
            is no level or more than 100 blocks in one.
    """

    image_size: int
    channels: int
    channel_mult: tuple[int | float, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    num_heads: int = 1
    num_head_channels: int | None = None
    in_channels: int = 3
    out_channels: int = 6
    resblock_updown: bool = True
    scale_shift_norm: bool = True
    new_attention_order: bool = False
    num_classes: int | None = None
    norm_groups: int = 32
    patch: int = 1
    middle_attention: bool = True
    norm_epsilon: float = 1e-5
    time_shift: float = 0.0
    time_sin_first: bool = False
    pad_after_only: bool = False

    def __post_init__(self) -> None:
        if not self.channel_mult or not 1 <= self.num_res_blocks <= 100:
            raise ValueError(
                "a UNet has at least one level, of 1 to 100 residual blocks: "
                f"`channel_mult` is {self.channel_mult}, `num_res_blocks` {self.num_res_blocks}."
            )
        if self.patch < 1:
            raise ValueError(f"`patch` must be at least 1, got {self.patch}.")
        if self.image_size % self.size_factor:
            blocks = f" of blocks of {self.patch} pixels" if self.patch > 1 else ""
            raise ValueError(
                f"`image_size` must be a multiple of {self.size_factor} for {len(self.channel_mult)} levels{blocks}, "
                f"got {self.image_size}."
            )
        for width in self.widths:
            if width < 1 or width % self.norm_groups:
                raise ValueError(f"`norm_groups` must divide every level's width, got {self.norm_groups} for {width}.")

    @property
    def size_factor(self) -> int:
        """What both sides of an image must be multiples of."""
        return self.patch * 2 ** (len(self.channel_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(round(mult * self.channels) for mult in self.channel_mult)

    def attends(self, level: int) -> bool:
        """Whether a level has self-attention."""
        return self.image_size // self.patch >> level in self.attention_resolutions

    def heads(self, width: int) -> int:
        """Returns the number of attention heads of a block with `width` channels."""
        per_head = self.num_head_channels or width // self.num_heads
        if width % per_head:
            raise ValueError(f"`num_head_channels` must divide {width} channels, got {self.num_head_channels}.")
        return width // per_head


FFHQ_256 = UNetConfig(
    image_size=256,
    channels=128,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=1,
    attention_resolutions=(16,),
    num_heads=4,
    num_head_channels=64,
)
"""The 93.6 M parameter network of `ffhq_10m.pt`."""

IMAGENET_256 = UNetConfig(
    image_size=256,
    channels=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    num_res_blocks=2,
    attention_resolutions=(32, 16, 8),
    num_head_channels=64,
)
"""The unconditional ImageNet network of `256x256_diffusion_uncond.pt` (553 M parameters)."""

PUBLISHED = {"ffhq-256": FFHQ_256, "imagenet-256": IMAGENET_256}
"""The networks whose weights `convert_weights` downloads."""

FACES_32 = UNetConfig(
    image_size=32,
    channels=32,
    channel_mult=(1, 2, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    num_head_channels=32,
    out_channels=3,
    norm_groups=8,
)
"""The small network of the shipped face prior."""


class UNet(nnx.Module):
    r"""The network `(x_t, t) -> prediction`, for one image or (`batch`) for several.

    Args:
        config: the architecture.
        dtype: precision of convolutions and matrix products, see `jaxdiff.networks.precision.Dtype`.
        remat: keep only the inputs of blocks for a gradient, and compute the rest anew: less memory for one more
            forward pass. The values are the same. XLA for CPUs undoes it.
        rngs: random numbers for the initial weights. As in the original, the last layer of every block starts at
            zero.

    Deviations:
        No dropout (it has no effect when sampling). Attention runs as linear layers on pixels; the original's 1-d
        convolutions of size one are the same map.
    """

    def __init__(self, config: UNetConfig, *, dtype: Dtype = "float32", remat: bool = False, rngs: nnx.Rngs):
        self.config = config
        self.remat = remat
        products = {**arithmetic(dtype), "rngs": rngs}
        emb_width = 4 * config.channels
        self.time_embed_1 = nnx.Linear(config.channels, emb_width, **products)
        self.time_embed_2 = nnx.Linear(emb_width, emb_width, **products)
        classes = config.num_classes
        self.label_embed = None if classes is None else nnx.Embed(classes, emb_width, rngs=rngs)

        first, blocks = config.widths[0], config.patch**2
        self.input_blocks: nnx.List[Any] = nnx.List([nnx.List([Conv(config.in_channels * blocks, first, **products)])])
        widths, width = self._build_down(config, first, products)
        middle: list[nnx.Module] = [ResBlock(config, width, width, **products)]
        if config.middle_attention:
            middle.append(AttentionBlock(config, width, **products))
        self.middle_block = nnx.List([*middle, ResBlock(config, width, width, **products)])
        self.output_blocks: nnx.List[Any] = nnx.List()
        width = self._build_up(config, widths, width, products)
        self.out_norm = GroupNorm(width, config.norm_groups, config.norm_epsilon)
        self.out_conv = Conv(width, config.out_channels * blocks, zero=True, **products)

    def _build_down(self, config, width, products) -> tuple[list[int], int]:
        widths = [width]
        for level, level_width in enumerate(config.widths):
            for _ in range(config.num_res_blocks):
                block: list[nnx.Module] = [ResBlock(config, width, level_width, **products)]
                width = level_width
                if config.attends(level):
                    block.append(AttentionBlock(config, width, **products))
                self.input_blocks.append(nnx.List(block))
                widths.append(width)
            if level < len(config.channel_mult) - 1:
                down = (
                    ResBlock(config, width, width, resample="down", **products)
                    if config.resblock_updown
                    else Downsample(width, after_only=config.pad_after_only, **products)
                )
                self.input_blocks.append(nnx.List([down]))
                widths.append(width)
        return widths, width

    def _build_up(self, config, widths, width, products) -> int:
        for level, level_width in reversed(list(enumerate(config.widths))):
            for i in range(config.num_res_blocks + 1):
                block: list[nnx.Module] = [ResBlock(config, width + widths.pop(), level_width, **products)]
                width = level_width
                if config.attends(level):
                    block.append(AttentionBlock(config, width, **products))
                if level and i == config.num_res_blocks:
                    block.append(
                        ResBlock(config, width, width, resample="up", **products)
                        if config.resblock_updown
                        else Upsample(width, **products)
                    )
                self.output_blocks.append(nnx.List(block))
        return width

    def __call__(
        self,
        x_t: Float[Array, "h w c"],
        t: Int[Array, ""] | int,
        label: Int[Array, ""] | int | None = None,
    ) -> Float[Array, "h w d"]:
        """Runs the network on one image.

        Args:
            x_t: noisy image, signal part in [-1, 1].
            t: integer time of the training schedule.
            label: class, for class-conditional networks only.
        """
        labels = None if label is None else jnp.asarray(label)[None]
        return self.batch(x_t[None], jnp.asarray(t)[None], labels)[0]

    def batch(
        self,
        x_t: Float[Array, "n h w c"],
        t: Int[Array, " n"],
        label: Int[Array, " n"] | None = None,
    ) -> Float[Array, "n h w d"]:
        """Runs the network on several images, each with its own time (training).

        The weight gradient of `jax.vmap` over one image each is the same but far slower.

        Raises:
            ValueError: if a label is missing, unexpected, or the image size does not fit the levels.
        """
        self._check(x_t, label)
        embedding = self.embed(t)
        if self.label_embed is not None and label is not None:
            embedding = embedding + self.label_embed(label)

        hidden, stack = space_to_depth(x_t, self.config.patch), []
        for block in self.input_blocks:
            hidden = self._run(block, hidden, embedding)
            stack.append(hidden)
        hidden = self._run(self.middle_block, hidden, embedding)
        for block in self.output_blocks:
            hidden = self._run(block, jnp.concatenate([hidden, stack.pop()], axis=-1), embedding)
        output = self.out_conv(self.out_norm(hidden, silu=True)).astype(jnp.float32)
        return depth_to_space(output, self.config.patch)

    def embed(self, t: Int[Array, " n"]) -> Float[Array, "n e"]:
        """Embeds times, as every block gets them."""
        config = self.config
        waves = timestep_embedding(t, config.channels, shift=config.time_shift, sin_first=config.time_sin_first)
        return self.time_embed_2(nnx.silu(self.time_embed_1(waves))).astype(jnp.float32)

    def _run(self, block: nnx.List, x: Array, embedding: Array) -> Array:
        def run(x: Array, embedding: Array) -> Array:
            for layer in block:
                x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
            return x

        return (jax.checkpoint(run) if self.remat else run)(x, embedding)

    def _check(self, x_t: Array, label: Array | None) -> None:
        factor = self.config.size_factor
        if x_t.shape[1] % factor or x_t.shape[2] % factor or x_t.shape[3] != self.config.in_channels:
            raise ValueError(
                f"`x_t` must be (h, w, {self.config.in_channels}) with sides that are multiples of {factor}, "
                f"got {x_t.shape[1:]}."
            )
        if (label is None) != (self.label_embed is None):
            raise ValueError(
                "`label` is needed by a class-conditional network, and by no other; "
                f"this one has num_classes = {self.config.num_classes}."
            )
