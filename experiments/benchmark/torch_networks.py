"""The original PyTorch UNet, and one step of the loop in which the DPS authors run it.

Imported only where PyTorch and azula (which carries the original network) are installed.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from azula.plugins.adm._src.unet import UNetModel  # pyright: ignore[reportMissingImports]

from jaxdiff import Denoiser
from jaxdiff.networks.unet import UNetConfig


class Numbers(NamedTuple):
    """The schedule's numbers in a step from `t` to `s`."""

    t: int
    alpha: float
    sigma: float
    from_x0: float
    from_x_t: float
    log_beta: float
    log_small: float


def numbers(denoiser: Denoiser, t: int, s: int) -> Numbers:
    """Computes them; `s` is at least 0."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ((float(x) for x in denoiser.schedule(k)) for k in (t, s))
    beta = 1 - (alpha_t / alpha_s) ** 2
    return Numbers(
        t=t,
        alpha=alpha_t,
        sigma=sigma_t,
        from_x0=beta * alpha_s / sigma_t**2,
        from_x_t=(sigma_s / sigma_t) ** 2 * alpha_t / alpha_s,
        log_beta=float(np.log(beta)),
        log_small=float(np.log(beta * sigma_s**2 / sigma_t**2)),
    )


@dataclass(frozen=True)
class Loop:
    """One step of the authors' loop: mean and learned variance, clip, gradient of the residual's norm.

    Attributes:
        network: the original.
        mask: 1 where a pixel is kept, `(1, c, h, w)`.
        y: the measurement, alike.
        zeta: step size; None for the loop without a measurement.
        target: epsilon, or v as the shipped prior has it.
        variance: as in `jaxdiff.Denoiser`.
        bfloat16: whether the network runs under autocast.
    """

    network: Any
    mask: Any
    y: Any
    zeta: float | None
    target: str
    variance: str
    bfloat16: bool = False

    def step(self, x_t: Any, at: Numbers, noise: Any) -> Any:
        """Returns `x_s`, and keeps no graph."""
        with torch.set_grad_enabled(self.zeta is not None):
            x_t = x_t.detach().requires_grad_(self.zeta is not None)
            x0_hat, log_variance = self._predict(x_t, at)
            x_s = at.from_x0 * x0_hat + at.from_x_t * x_t + torch.exp(log_variance / 2) * noise
            if self.zeta is None:
                return x_s
            # Per image, as the authors' loop has one.
            norms = torch.linalg.vector_norm(self.y - self.mask * x0_hat, dim=(1, 2, 3))
            (gradient,) = torch.autograd.grad(norms.sum(), x_t)
            return (x_s - self.zeta * gradient).detach()

    def _predict(self, x_t: Any, at: Numbers) -> tuple[Any, Any]:
        times = torch.full((len(x_t),), at.t, device=x_t.device)
        precision = torch.autocast(x_t.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        with precision:
            output = self.network(x_t, times)
        output = output.float()
        fraction = torch.full((), float(self.variance == "fixed_large"), device=x_t.device)
        if self.variance == "learned_range":
            output, raw = output.chunk(2, dim=1)
            fraction = (raw + 1) / 2
        x0_hat = (
            (x_t - at.sigma * output) / at.alpha if self.target == "epsilon" else at.alpha * x_t - at.sigma * output
        )
        return x0_hat.clamp(-1, 1), fraction * at.log_beta + (1 - fraction) * at.log_small


def make_torch_unet(config: UNetConfig) -> Any:
    """Makes the original network of an architecture; its attention is placed by factors, not by pixels."""
    return UNetModel(
        image_size=config.image_size,
        in_channels=config.in_channels,
        model_channels=config.channels,
        out_channels=config.out_channels,
        num_res_blocks=config.num_res_blocks,
        attention_resolutions=[config.image_size // pixels for pixels in config.attention_resolutions],
        channel_mult=config.channel_mult,
        num_classes=config.num_classes,
        num_heads=config.num_heads,
        num_head_channels=config.num_head_channels or -1,
        use_scale_shift_norm=config.scale_shift_norm,
        resblock_updown=config.resblock_updown,
        use_new_attention_order=config.new_attention_order,
    )


def make_network(config: UNetConfig, state: dict[str, Any], recompute: bool = False) -> Any:
    """Makes the original network with weights.

    Args:
        config: the architecture.
        state: its weights, which are shared and not copied.
        recompute: compute every block again in the backward pass, as azula's copy does; the original does not.
    """
    with torch.device("meta"):
        network = make_torch_unet(config)
    network.load_state_dict(state, strict=True, assign=True)
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = config.norm_groups
        if not recompute and hasattr(module, "_forward"):
            module.forward = module._forward  # pyright: ignore[reportAttributeAccessIssue]
    return network.eval().requires_grad_(False)
