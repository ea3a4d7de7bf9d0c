"""Files of denoising-diffusion-pytorch give the same numbers here and return bit for bit; unknown ones are refused."""

import importlib
import sys
import types
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights.__main__ import main
from convert_weights.formats.denoising_diffusion import (
    find_target,
    from_denoising_diffusion,
    infer_rms_unet,
    layout_there,
    to_denoising_diffusion,
    torch_names,
)
from convert_weights.formats.unet import flax_shapes
from jaxdiff.networks.rms_unet import RMSUNetConfig
from jaxdiff.priors.denoiser import implied_x0
from jaxdiff.priors.storage import load_prior, read_config
from tests.convert_weights.by_hand import save_checkpoint
from tests.convert_weights.test_convert_weights import assert_close

SMALL = RMSUNetConfig(16, 8, (1, 2), (False, True), 8, num_heads=2, num_head_channels=4)
WIDE = RMSUNetConfig(16, 8, (2, 1, 3), (True, False, False), 12, num_heads=1, num_head_channels=6)
CASES = {"pred_v": ("sigmoid", SMALL), "pred_noise": ("cosine", WIDE), "pred_x0": ("linear", SMALL)}
TARGETS = {"pred_v": "v", "pred_noise": "epsilon", "pred_x0": "x0"}


def draw(config: RMSUNetConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """The state dict of a `Unet` that is zero nowhere."""
    rng, shapes = np.random.default_rng(seed), flax_shapes(config)
    tensors = {}
    for here, there in torch_names(config).items():
        shape = layout_there(here, np.broadcast_to(0.0, shapes[here])).shape
        scale = 0.3 if here.endswith(("bias", "scale", "memory")) else np.sqrt(3 / np.prod(shape[1:]))
        tensors[there] = (here.endswith("scale") + scale * rng.uniform(-1, 1, shape)).astype(np.float32)
    return tensors


def tables(target: str = "v") -> dict[str, np.ndarray]:
    """Those that tell the schedule and the target, with weights of the loss that the trainer bounded."""
    betas = np.linspace(1e-3, 0.2, 50).astype(np.float32)
    kept = np.cumprod(1 - betas)
    snr = kept / (1 - kept)
    weight = np.minimum(snr, 5) / {"epsilon": snr, "x0": 1, "v": snr + 1}[target]
    return {"betas": betas, "alphas_cumprod": kept, "loss_weight": weight.astype(np.float32)}


def whole(config: RMSUNetConfig = SMALL) -> dict[str, np.ndarray]:
    """The state dict of a `GaussianDiffusion`."""
    return {f"model.{name}": tensor for name, tensor in draw(config).items()} | tables()


@pytest.fixture(scope="module")
def peers():
    """The module of the original, without what only its trainer needs."""
    pytest.importorskip("torch")
    pytest.importorskip("einops")
    spec = find_spec("denoising_diffusion_pytorch")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package denoising-diffusion-pytorch")
    name = "denoising_diffusion_pytorch"
    with pytest.MonkeyPatch.context() as patch:
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        patch.setitem(sys.modules, name, package)
        for only_training in ("torchvision", "accelerate", "ema_pytorch"):
            patch.setitem(sys.modules, only_training, MagicMock())
        yield importlib.import_module(f"{name}.{name}")


def original(peers, config: RMSUNetConfig, objective: str, schedule: str):
    """The original's diffusion with weights that are zero nowhere."""
    import torch  # pyright: ignore[reportMissingImports]

    unet = peers.Unet(
        config.channels,
        init_dim=config.init_channels,
        dim_mults=config.channel_mult,
        attn_dim_head=config.num_head_channels,
        attn_heads=config.num_heads,
        full_attn=config.full_attention,
    )
    unet.load_state_dict({name: torch.from_numpy(array) for name, array in draw(config).items()}, strict=True)
    size = config.image_size
    return peers.GaussianDiffusion(unet, image_size=size, objective=objective, beta_schedule=schedule, timesteps=100)


@jax.jit
def run(network, x, cotangent):
    """The output and the gradient in the input."""
    output, pull = jax.vjp(lambda x: network(x, 41), x)
    return output, pull(cotangent)[0]


@pytest.mark.parametrize("objective", CASES)
def test_a_trainers_file_gives_the_same_numbers_and_returns_bit_for_bit(peers, tmp_path, objective):
    import torch  # pyright: ignore[reportMissingImports]

    schedule, config = CASES[objective]
    diffusion = original(peers, config, objective, schedule).eval()
    online = {name: tensor + 1 for name, tensor in diffusion.state_dict().items()}
    ema = {f"ema_model.{name}": tensor for name, tensor in diffusion.state_dict().items()}
    ema |= {f"online_model.{name}": tensor for name, tensor in online.items()} | {"initted": torch.tensor(True)}
    torch.save({"step": 7, "model": online, "opt": {}, "ema": ema, "scaler": None, "version": "2"}, tmp_path / "x.pt")
    assert main([str(tmp_path / "x.pt"), str(tmp_path / "prior"), "--image-size", "16"]) == 0

    prior = load_prior(tmp_path / "prior")
    assert read_config(tmp_path / "prior").network == config
    assert prior.target == TARGETS[objective]
    kept = np.log(diffusion.alphas_cumprod.double().numpy())
    np.testing.assert_allclose(prior.schedule.log_alpha_bar[:-1], kept, rtol=1e-4, atol=1e-6)

    rng = np.random.default_rng(1)
    x_t, cotangent = (rng.uniform(-1, 1, (8, 16, 3)).astype(np.float32) for _ in range(2))
    batch = lambda x: torch.from_numpy(x.transpose(2, 0, 1)[None].copy())
    x, time = batch(x_t).requires_grad_(), torch.tensor([41])
    expected = diffusion.model(x, time)
    (slope,) = torch.autograd.grad((expected * batch(cotangent)).sum(), x)
    output, gradient = run(prior.network, x_t, cotangent)
    assert_close(output, expected[0].detach().permute(1, 2, 0).numpy())
    assert_close(gradient, slope[0].permute(1, 2, 0).numpy())
    x0 = diffusion.model_predictions(x, time).pred_x_start[0].detach().permute(1, 2, 0).numpy()
    assert_close(implied_x0(prior.target, output, jnp.asarray(x_t), *prior.schedule(41)), x0)

    assert main(["export", str(tmp_path / "prior"), str(tmp_path / "back.pt")]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    diffusion.model.load_state_dict(back, strict=True)
    for name, array in draw(config).items():
        np.testing.assert_array_equal(back[name].numpy(), array, strict=True)


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["small", "wide"])
def test_the_architecture_is_read_off_the_shapes_and_weights_return(config):
    tensors = draw(config)
    assert infer_rms_unet(tensors, 16) == config
    back = to_denoising_diffusion(from_denoising_diffusion(tensors, config), config)
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array, strict=True)


@pytest.mark.parametrize("target", ["epsilon", "x0", "v"])
def test_the_weights_of_the_loss_tell_the_target(target):
    """Bounded ones too; others tell none."""
    found = tables(target)
    assert find_target(found) == target
    assert find_target(found | {"loss_weight": found["loss_weight"] * 1.1}) is None


def without(name: str) -> dict[str, np.ndarray]:
    return {key: tensor for key, tensor in whole().items() if key != name}


KEPT = replace(SMALL, in_channels=6, out_channels=3)
REFUSED = {
    "no size": (whole, [], "does not say the size of its images; give --image-size"),
    "odd size": (whole, ["--image-size", "15"], "`image_size` must be a multiple of 2, got 15"),
    "a missing tensor": (lambda: without("model.final_conv.bias"), None, "missing `final_conv.bias`"),
    "an unknown tensor": (lambda: whole() | {"model.extra": np.ones(2, np.float32)}, None, "unexpected `extra`"),
    "an unknown table": (lambda: whole() | {"extra": np.ones(2, np.float32)}, None, "`extra` is no table"),
    "a wrong shape": (
        lambda: whole() | {"model.init_conv.bias": np.ones(9, np.float32)},
        None,
        "`init_conv.bias` (9,) where (8,) is needed",
    ),
    "an empty layer": (
        lambda: whole() | {"model.init_conv.weight": np.ones((0, 3, 7, 7), np.float32)},
        None,
        "must be at least 1",
    ),
    "no axes": (lambda: whole() | {"model.mid_attn.mem_kv": np.ones(9, np.float32)}, None, "has not 4 axes"),
    "an older version": (lambda: without("model.mid_attn.mem_kv"), None, "of a version before 2"),
    "self-conditioning": (lambda: whole(KEPT), None, "self_condition"),
    "learned variance": (lambda: whole(replace(SMALL, out_channels=6)), None, "learned_variance"),
    "learned times": (
        lambda: whole() | {"model.time_mlp.0.weights": np.ones(8, np.float32)},
        None,
        "learned or random frequencies",
    ),
    "no schedule": (lambda: whole() | {"betas": np.ones(50, np.float32)}, None, "`betas` are no noise schedule"),
    "no target": (lambda: without("loss_weight"), None, "give --target"),
    "a foreign flag": (whole, ["--image-size", "16", "--schedule", "linear"], "--schedule means nothing for"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    make, flags, sentence = REFUSED[case]
    save_checkpoint("x.pt", make())
    assert main(["x.pt", "prior", *(["--image-size", "16"] if flags is None else flags)]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not Path("prior").exists()
