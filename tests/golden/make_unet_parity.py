"""Write `unet_parity.npz`: outputs and input gradients of two small networks in the original PyTorch code.

Run `python -m tests.golden.make_unet_parity` with PyTorch and azula (which carries the original UNet) installed.
The weights are drawn again from a seed when the file is used, so that only results are stored.
"""

from pathlib import Path

import numpy as np

from convert_weights.formats.guided_diffusion.names import torch_shapes
from jaxdiff.networks.unet import UNetConfig

PATH = Path(__file__).with_name("unet_parity.npz")

SMALL = {
    "blocks": UNetConfig(
        image_size=16,
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        num_head_channels=16,
    ),
    "convs": UNetConfig(
        image_size=16,
        channels=32,
        channel_mult=(2, 1),
        num_res_blocks=1,
        attention_resolutions=(16, 8),
        num_heads=4,
        out_channels=3,
        resblock_updown=False,
        scale_shift_norm=False,
        new_attention_order=True,
        num_classes=5,
    ),
}


def draw_weights(config: UNetConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws a state dict that is zero nowhere, of a scale at which signals neither vanish nor explode."""
    random, shapes = np.random.Generator(np.random.PCG64(seed)), torch_shapes(config)

    def draw(name: str) -> np.ndarray:
        shape = shapes[name]
        uniform = (2 * random.random(shape) - 1).astype(np.float32)
        if len(shape) > 1:
            return uniform * np.float32(np.sqrt(3 / np.prod(shape[1:])))
        return uniform * np.float32(0.3) + np.float32(name.endswith("weight"))

    return {name: draw(name) for name in sorted(shapes)}


def run_torch_unet(
    config: UNetConfig,
    weights: dict[str, np.ndarray],
    x_t: np.ndarray,
    t: int,
    label: int | None,
    cotangent: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns output and input gradient `J^T cotangent` of the original, for one image `(h, w, c)`."""
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmark.torch_networks import make_torch_unet

    network = make_torch_unet(config).eval()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=True)
    x = torch.from_numpy(x_t.transpose(2, 0, 1)[None].copy()).requires_grad_()
    labels = None if label is None else torch.tensor([label])
    output = network(x, torch.tensor([t]), labels)
    weight = torch.from_numpy(cotangent.transpose(2, 0, 1)[None].copy())
    (gradient,) = torch.autograd.grad((output * weight).sum(), x)
    return output[0].detach().permute(1, 2, 0).numpy(), gradient[0].permute(1, 2, 0).numpy()


def draw_inputs(config: UNetConfig, size: int, seed: int = 1) -> tuple[np.ndarray, int, int | None, np.ndarray]:
    """Draws an image, a time, a label where one is needed, and a cotangent for the output."""
    random = np.random.Generator(np.random.PCG64(seed))
    x_t = (4 * random.random((size, size, config.in_channels)) - 2).astype(np.float32)
    cotangent = (2 * random.random((size, size, config.out_channels)) - 1).astype(np.float32)
    return x_t, 417, None if config.num_classes is None else 3, cotangent


def main() -> None:
    """Compute and write the file."""
    arrays = {}
    for name, config in SMALL.items():
        weights, inputs = draw_weights(config), draw_inputs(config, config.image_size)
        output, gradient = run_torch_unet(config, weights, *inputs)
        checksum = sum(float(w.sum(dtype=np.float64)) for w in weights.values())
        arrays |= {f"{name}/output": output, f"{name}/gradient": gradient, f"{name}/checksum": np.array(checksum)}
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
