"""Models of diffusers give the same numbers here, convert from every layout of folder, and return bit for bit."""

import json
import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest

from convert_weights.__main__ import main
from convert_weights.formats.base import Choices
from convert_weights.formats.diffusers.config import DEFAULTS, unet_config
from convert_weights.formats.diffusers.names import OLD_ATTENTION, diffusers_shapes, from_diffusers, to_diffusers
from convert_weights.formats.diffusers.schedule import read_scheduler
from jaxdiff import DDIM, sample
from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.storage import load_prior, read_prior, save_prior
from tests.convert_weights.by_hand import save_checkpoint
from tests.convert_weights.test_convert_weights import assert_close, run_once
from tests.convert_weights.test_safetensors_file import save

SMALL = {
    "sample_size": 16,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
}
"""Defaults for the rest, as in models of the course."""

DDPM = SMALL | {
    "_class_name": "UNet2DModel",
    "block_out_channels": [32, 32, 64],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
"""With the switches of google/ddpm-celebahq-256."""

CELEBAHQ = DDPM | {
    "sample_size": 256,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    "layers_per_block": 2,
}
"""google/ddpm-celebahq-256."""

CIFAR10 = DDPM | {
    "sample_size": 32,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
}
"""google/ddpm-cifar10-32."""

RESNET = SMALL | {
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
}
CONFIGS = {
    "course": SMALL,
    "ddpm": DDPM,
    "residual resampling, scale and shift": RESNET,
    "no attention in the middle": SMALL | {"add_attention": False, "norm_num_groups": 16, "layers_per_block": 2},
    "fractional widths, learned range": SMALL
    | {"block_out_channels": [64, 96], "out_channels": 6, "freq_shift": 1, "norm_eps": 0.01},
    "classes, first names of blocks": SMALL
    | {"num_class_embeds": 3, "down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"]},
}
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "num_train_timesteps": 1000}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def diffusers(torch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        utils = pytest.importorskip("diffusers.utils.import_utils")
        # The network needs none, and its build may not be that of torch.
        utils._torchvision_available = False
        package = pytest.importorskip("diffusers")
        _ = package.UNet2DModel, package.DDPMScheduler, package.DDIMScheduler
        return package


def draw(config, seed=0):
    """Draws a state dict that is zero nowhere, of a scale at which signals neither vanish nor explode."""
    random, shapes = np.random.default_rng(seed), diffusers_shapes(unet_config(config))
    tensors = {}
    for name, shape in shapes.items():
        scale = 0.3 if len(shape) < 2 else np.sqrt(3 / np.prod(shape[1:]))
        middle = float(len(shape) < 2 and name.endswith("weight"))
        tensors[name] = (middle + scale * random.uniform(-1, 1, shape)).astype(np.float32)
    return tensors


def with_old_names(tensors):
    old = {new: name for name, new in OLD_ATTENTION.items()}
    renamed = {}
    for name, tensor in tensors.items():
        for new, before in old.items():
            if f".{new}." in name and "attentions" in name:
                name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    return renamed


def write_model(folder, config, tensors, scheduler=SCHEDULER, scheduler_folder=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save(folder / "diffusion_pytorch_model.safetensors", tensors)
    if scheduler is not None:
        place = folder if scheduler_folder is None else scheduler_folder
        place.mkdir(exist_ok=True)
        (place / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def check_against_diffusers(model, network, size, label=None):
    """Compares outputs and input gradients of a network and its original, on random inputs."""
    import torch  # pyright: ignore[reportMissingImports]

    random = np.random.default_rng(1)
    x_t = random.uniform(-2, 2, (size, size, 3)).astype(np.float32)
    cotangent = random.uniform(-1, 1, (size, size, model.config.out_channels)).astype(np.float32)
    x = torch.from_numpy(x_t.transpose(2, 0, 1)[None].copy()).requires_grad_()
    labels = None if label is None else torch.tensor([label])
    expected = model(x, torch.tensor([417]), class_labels=labels).sample
    (slope,) = torch.autograd.grad((expected * torch.from_numpy(cotangent.transpose(2, 0, 1)[None].copy())).sum(), x)
    output, gradient = run_once(network, x_t, 417, None, cotangent)
    assert_close(output, expected[0].detach().permute(1, 2, 0).numpy())
    assert_close(gradient, slope[0].permute(1, 2, 0).numpy())


@pytest.mark.parity
@pytest.mark.parametrize("name", CONFIGS)
def test_network_matches_diffusers(diffusers, torch, tmp_path, name):
    check_conversion(diffusers, torch, tmp_path, CONFIGS[name], 16)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("config", [CIFAR10, CELEBAHQ], ids=["cifar10", "celebahq"])
def test_published_networks_match_diffusers(diffusers, torch, tmp_path, config):
    """At full width, on pictures of 32x32."""
    check_conversion(diffusers, torch, tmp_path, config, 32)


def check_conversion(diffusers, torch, tmp_path, config, size):
    """Converts a folder that diffusers itself wrote, and compares."""
    tensors = draw(config)
    model = diffusers.UNet2DModel(**{key: value for key, value in config.items() if not key.startswith("_")}).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, strict=True)
    model.save_pretrained(tmp_path / "model")
    label = 2 if config.get("num_class_embeds") else None
    flags = ["--label", "2"] if label else []
    flags += ["--variance", "learned_range"] if config.get("out_channels") == 6 else []
    assert main([str(tmp_path / "model"), str(tmp_path / "prior"), *flags]) == 0
    check_against_diffusers(model, load_prior(tmp_path / "prior").network, size, label)


SCHEDULERS = {
    "ddpm": {},
    "course": {"beta_schedule": "squaredcos_cap_v2"},
    "latent": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    "sigmoid": {"beta_schedule": "sigmoid", "num_train_timesteps": 500},
    "own": {"trained_betas": [0.1, 0.2, 0.15]},
}


@pytest.mark.parity
@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_schedule_matches_diffusers(diffusers, name):
    scheduler = diffusers.DDPMScheduler(**SCHEDULERS[name])
    schedule = PriorConfig(
        unet_config(SMALL), read_scheduler(dict(scheduler.config), Choices()).schedule
    ).make_schedule()
    expected = np.log(scheduler.alphas_cumprod.double().numpy())
    # The original's sums and products are of float32.
    np.testing.assert_allclose(schedule.log_alpha_bar[:-1], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "target", "variance", "clip"),
    [
        ({}, "epsilon", "fixed_small", True),
        ({"prediction_type": "v_prediction", "variance_type": "fixed_large"}, "v", "fixed_large", True),
        ({"prediction_type": "sample", "variance_type": "fixed_small_log"}, "x0", "fixed_small", True),
        ({"clip_sample": False, "variance_type": "learned_range"}, "epsilon", "learned_range", False),
        (None, "epsilon", "fixed_small", True),
    ],
)
def test_scheduler_says_target_variance_and_clip(said, target, variance, clip):
    found = read_scheduler(said, Choices())
    assert (found.target, found.variance, found.clip) == (target, variance, clip)
    given = read_scheduler(said, Choices(target="v", variance="fixed_large", schedule="cosine"))
    assert (given.target, given.variance) == ("v", "fixed_large")
    assert given.schedule == {"kind": "cosine", "num_times": 1000}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"_class_name": "KarrasVeScheduler"}, "its scheduler is 'KarrasVeScheduler'"),
        ({"beta_schedule": "laplace"}, "its beta_schedule is 'laplace'"),
        ({"beta_schedule": ["linear"]}, "its beta_schedule is"),
        ({"prediction_type": "flow"}, "its prediction_type is 'flow', which no prior here has; --target"),
        ({"variance_type": "learned"}, "its variance_type is 'learned', which no prior here has; --variance"),
        ({"variance_type": []}, "its variance_type is"),
        ({"rescale_betas_zero_snr": True}, "rescaled to end in noise alone"),
        ({"clip_sample_range": 2.0}, r"images reach to 2\.0"),
        ({"num_train_timesteps": 10**12}, "it has 1000000000000 times"),
        ({"num_train_timesteps": "9"}, "it has '9' times"),
        ({"beta_end": 2}, r"its betas go from 0\.0001 to 2"),
        ({"trained_betas": ["a"]}, "no list of numbers"),
    ],
)
def test_a_scheduler_that_no_prior_can_have_is_refused(said, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_scheduler(said, Choices())


@pytest.mark.parametrize("config", [SMALL, DDPM, RESNET], ids=["course", "ddpm", "resnet"])
def test_conversion_and_its_inverse_are_bit_exact(config):
    network, tensors = unet_config(config), draw(config)
    back = to_diffusers(from_diffusers(tensors, network), network)
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name], array) for name, array in tensors.items())


def test_old_names_of_attention_are_those_of_today():
    network, tensors = unet_config(DDPM), draw(DDPM)
    old = with_old_names(tensors)
    expected, found = from_diffusers(tensors, network), from_diffusers(old, network)
    assert all(np.array_equal(found[name], array) for name, array in expected.items())
    twice = "mid_block.attentions.0.to_q.bias"
    with pytest.raises(ValueError, match=f"`{twice}` is there twice, under an old name and a new one"):
        from_diffusers(old | {twice: tensors[twice]}, network)


def test_published_networks_have_their_published_size():
    """Sizes of the files on the Hub, 455 and 143 MB."""
    assert (unet_config(CIFAR10).norm_epsilon, unet_config(SMALL).norm_epsilon) == (1e-6, 1e-5)
    count = lambda config: sum(int(np.prod(shape)) for shape in diffusers_shapes(unet_config(config)).values())
    assert (count(CELEBAHQ), count(CIFAR10)) == (113_673_219, 35_746_307)
    assert unet_config(CELEBAHQ).attention_resolutions == unet_config(CIFAR10).attention_resolutions == (16,)


@pytest.mark.thorough
@pytest.mark.parametrize("layout", ["root", "pipeline", "averages", "file", "sharded", "half", "bin"])
def test_every_layout_of_folder_converts(tmp_path, monkeypatch, capsys, layout):
    monkeypatch.chdir(tmp_path)
    tensors, source = with_old_names(draw(SMALL)), tmp_path / "model"
    scheduler = SCHEDULER | {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
    unet = source / {"pipeline": "unet", "averages": "unet_ema", "file": "unet"}.get(layout, "")
    folder = source / "scheduler" if unet != source else None
    write_model(unet, SMALL, tensors, scheduler, folder)
    taken = weights = unet / "diffusion_pytorch_model.safetensors"
    if layout == "averages":
        write_model(source / "unet", SMALL, draw(SMALL, 1), scheduler, folder)
    elif layout == "half":
        half = {name: array.astype(np.float16) for name, array in tensors.items()}
        save(unet / "diffusion_pytorch_model.fp16.safetensors", half)
    elif layout == "bin":
        taken = weights.with_suffix(".bin")
        weights.unlink()
        save_checkpoint(taken, tensors)
    elif layout == "sharded":
        taken = unet / "diffusion_pytorch_model.safetensors.index.json"
        names = sorted(tensors)
        shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
        weights.unlink()
        for shard, inside in shards.items():
            save(unet / shard, {name: tensors[name] for name in inside})
        weight_map = {name: shard for shard, inside in shards.items() for name in inside}
        taken.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert main([str(taken if layout == "file" else source), "prior"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  taken for a UNet2DModel of diffusers, {taken}" in lines
    others = {"averages": ["  not taken: unet"], "half": ["  not taken: diffusion_pytorch_model.fp16.safetensors"]}
    assert [line for line in lines if "not taken" in line] == others.get(layout, [])
    assert "  schedule: cosine, 1000 times, as scheduler_config.json says" in lines
    stored, config = read_prior("prior")
    expected = from_diffusers(draw(SMALL), unet_config(SMALL))
    assert all(np.array_equal(stored[name], array) for name, array in expected.items())
    assert (config.network, config.clip, config.source["format"]) == (unet_config(SMALL), False, "diffusers")
    assert not load_prior("prior").clip


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name 'UNet2DConditionModel'; UNet2DModel or"),
        ({"center_input_sample": True}, "center_input_sample True; False can be converted"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier'; positional can"),
        ({"act_fn": "gelu"}, "act_fn 'gelu'"),
        ({"mid_block_type": None}, "mid_block_type None"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "SkipDownBlock2D; blocks that can be converted"),
        ({"down_block_types": [[], "DownBlock2D"]}, r"\[\]; blocks that can be converted"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "attention on other levels on the way up"),
        ({"down_block_types": ["AttnDownBlock2D"]}, "for the same levels"),
        ({"down_block_types": "DownBlock2D"}, "for the same levels"),
        ({"downsample_type": "fir"}, "downsample_type 'fir'; blocks"),
        ({"upsample_type": "resnet"}, "by convolutions and by residual blocks"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attention in the middle without the norm"),
        ({"time_embedding_dim": 64}, "time_embedding_dim 64, not 128"),
        ({"sample_size": None}, "sample_size None; give --image-size"),
        ({"sample_size": [16, 32]}, r"sample_size \[16, 32\]; give --image-size"),
        ({"sample_size": 15}, "`image_size` must be a multiple of 2"),
        ({"attention_head_dim": 48}, "`num_head_channels` must divide 64 channels"),
        ({"layers_per_block": 10**9}, "layers_per_block 1000000000, which is no count"),
        ({"layers_per_block": 2}, "the tensors do not fit the network: missing"),
        ({"block_out_channels": [0, 64]}, r"block_out_channels \[0, 64\]"),
        ({"block_out_channels": [32, -64]}, "block_out_channels"),
        ({"norm_num_groups": None}, "norm_num_groups None, which is no count"),
        ({"norm_eps": "1"}, "norm_eps '1'"),
        ({"freq_shift": float("nan")}, "freq_shift nan"),
        ({"flip_sin_to_cos": 1}, "neither true nor false"),
        ({"out_channels": 6}, "fixed_small does not fit 6 outputs of the network; --variance"),
        ({"in_channels": 4, "out_channels": 4}, "channels of its pictures is 4"),
        ({"num_class_embeds": 3}, "class-conditional: give --label"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_a_sentence(tmp_path, monkeypatch, capsys, changed, sentence):
    monkeypatch.chdir(tmp_path)
    fits = {"out_channels", "in_channels", "num_class_embeds"}
    write_model(tmp_path / "model", SMALL | changed, draw(SMALL | changed if changed.keys() <= fits else SMALL))
    before = sorted(tmp_path.rglob("*"))
    assert main(["model", "prior"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model/diffusion_pytorch_model.safetensors: ")
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(line)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("config.json", None, "there is no config.json beside it"),
        ("config.json", "[" * 100_000, "config.json beside it is damaged"),
        ("config.json", "[]", "no JSON object"),
        ("config.json", " " * 2**21, "more than 1,048,576 bytes"),
        ("scheduler_config.json", "{", "scheduler_config.json beside it is damaged"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path, monkeypatch, capsys, name, text, sentence):
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "model", SMALL, draw(SMALL))
    (model / name).unlink()
    if text is not None:
        (model / name).write_text(text)
    assert main(["model", "prior"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parity
def test_a_chain_is_that_of_diffusers(diffusers, torch, tmp_path):
    """DDIM without noise, from the same first image, at the times that diffusers takes."""
    config = SMALL | {"sample_size": 8}
    tensors = draw(config)
    scheduler = diffusers.DDIMScheduler(100, clip_sample=False, prediction_type="v_prediction")
    folder = write_model(tmp_path / "model", config, tensors, dict(scheduler.config) | {"_class_name": "DDIMScheduler"})
    assert main([str(folder), str(tmp_path / "prior")]) == 0
    sampler = DDIM(load_prior(tmp_path / "prior"), eta=0.0)
    times, key = np.array([75, 50, 25, 0, -1]), jax.random.key(0)
    state = sampler.init(key, 75)
    found, _ = sample(sampler, key, times, state=state)

    model = diffusers.UNet2DModel(**config).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, strict=True)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [75, 50, 25, 0]
    image = torch.from_numpy(np.array(sampler.image(state)).transpose(2, 0, 1)[None].copy())
    with torch.no_grad():
        for t in scheduler.timesteps:
            image = scheduler.step(model(image, t).sample, t, image).prev_sample
    assert_close(found, image[0].permute(1, 2, 0).numpy())


def test_defaults_are_those_of_the_class(diffusers):
    import inspect

    parameters = inspect.signature(diffusers.UNet2DModel.__init__).parameters
    known = {name: p.default for name, p in parameters.items() if name in DEFAULTS}
    assert known.keys() == DEFAULTS.keys() - {"_class_name"}
    for name, default in known.items():
        assert DEFAULTS[name] == (list(default) if isinstance(default, tuple) else default), name
    left_out = parameters.keys() - DEFAULTS.keys() - {"self", "args", "kwargs"}
    assert left_out == {"dropout", "num_train_timesteps"}


def test_a_prior_returns_to_diffusers_bit_for_bit(torch, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tensors = draw(DDPM)
    write_model(tmp_path / "model", DDPM, with_old_names(tensors))
    assert main(["model", "prior"]) == 0
    assert main(["export", "prior", "back.bin"]) == 0
    assert f"back.bin: {len(tensors)} tensors" in capsys.readouterr().out
    back = torch.load("back.bin", weights_only=True)
    assert back.keys() == tensors.keys()
    assert all(np.array_equal(back[name].numpy(), array) for name, array in tensors.items())


def test_a_network_of_ddpm_is_not_exported_as_one_of_guided_diffusion(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_prior("prior", from_diffusers(draw(DDPM), unet_config(DDPM)), PriorConfig(unet_config(DDPM)))
    assert main(["export", "prior", "x.pt"]) == 2
    assert "holds a UNet of DDPM, which is not that of guided-diffusion" in capsys.readouterr().err


def test_config_is_hashable_and_returns_from_disk(tmp_path):
    network = unet_config(CONFIGS["fractional widths, learned range"])
    assert network.widths == (64, 96)
    assert hash(network) == hash(replace(network))
