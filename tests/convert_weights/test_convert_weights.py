"""Weights of the original PyTorch UNet give the same numbers here, convert strictly, and return bit for bit."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convert_weights.commands
from convert_weights.__main__ import main
from convert_weights.architecture import infer_config
from convert_weights.unet import from_torch, to_flax_layout, to_torch, torch_name, torch_shapes
from jaxdiff.networks.layers import AttentionBlock, Downsample, ResBlock, Upsample
from jaxdiff.networks.precision import arithmetic
from jaxdiff.networks.unet import (
    FACES_32,
    FFHQ_256,
    IMAGENET_256,
    PUBLISHED,
    UNet,
)
from jaxdiff.priors.storage import (
    PriorConfig,
    PriorError,
    load_prior,
    read_config,
    read_prior,
    save_prior,
    with_parameters,
)
from tests.convert_weights import by_hand
from tests.golden.make_unet_parity import PATH, SMALL, draw_inputs, draw_weights, run_torch_unet

# Float32 sums of a few thousand terms, taken in two orders, differ by about 1e-6.
BOUND = 1e-4
BLOCKS, CONVS = SMALL["blocks"], SMALL["convs"]
KEYWORDS = {**arithmetic("float32"), "rngs": nnx.Rngs(0)}


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("float32"):
        yield


def assert_close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 1e-3, "a comparison of zeros proves nothing"
    assert np.abs(actual - expected).max() < BOUND * scale


def make_network(weights, config) -> UNet:
    network = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    return with_parameters(network, from_torch(weights, config))


def output_and_gradient(network, x_t, t, label, cotangent):
    output, vjp = jax.vjp(lambda x_t: network(x_t, t, label), x_t)
    return output, vjp(cotangent)[0]


# Nearly all the time of small networks goes into compilation, which this halves.
QUICK = {"xla_backend_optimization_level": 0}
run_network = jax.jit(output_and_gradient)
run_once = jax.jit(output_and_gradient, compiler_options=QUICK)


def check_against_torch(config, size, run, seed=0):
    weights, inputs = draw_weights(config, seed), draw_inputs(config, size)
    output, gradient = run_torch_unet(config, weights, *inputs)
    actual_output, actual_gradient = run(make_network(weights, config), *inputs)
    assert_close(actual_output, output)
    assert_close(actual_gradient, gradient)


@pytest.fixture
def adm():
    pytest.importorskip("torch")
    pytest.importorskip("azula")
    import azula.plugins.adm._src.unet as module  # pyright: ignore[reportMissingImports]

    return module


@pytest.mark.parametrize("name", SMALL)
def test_stored_results_of_torch(name):
    """Runs where PyTorch is not installed, from the results that `golden/make_unet_parity.py` stored."""
    config = SMALL[name]
    weights, inputs = draw_weights(config), draw_inputs(config, config.image_size)
    with np.load(PATH) as stored:
        checksum = sum(float(w.sum(dtype=np.float64)) for w in weights.values())
        assert checksum == pytest.approx(float(stored[f"{name}/checksum"]), rel=1e-9), "numpy drew other weights"
        output, gradient = run_once(make_network(weights, config), *inputs)
        assert_close(output, stored[f"{name}/output"])
        assert_close(gradient, stored[f"{name}/gradient"])


def check_block(module, block, place, *shapes):
    """Gives both blocks the same random weights through the conversion rules, and compares them on random inputs."""
    import torch  # pyright: ignore[reportMissingImports]

    random = np.random.default_rng(0)
    tensors = {}
    for name, parameter in module.named_parameters():
        scale = 0.3 if parameter.ndim == 1 else 1 / np.sqrt(parameter[0].numel())
        tensors[name] = (scale * random.standard_normal(parameter.shape)).astype(np.float32)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, strict=True)

    state = nnx.to_flat_state(nnx.state(block, nnx.Param))
    names = {path: ".".join(map(str, path)) for path, _ in state}
    rules = {path: torch_name(f"{place}.{name}").removeprefix(f"{place}.") for path, name in names.items()}
    assert sorted(rules.values()) == sorted(tensors)
    for path, variable in state:
        variable[...] = jnp.asarray(to_flax_layout(f"{place}.{names[path]}", tensors[rules[path]]))
    nnx.update(block, nnx.from_flat_state(state))

    # With a variance of 1e-3 the epsilon of the group norms matters, so that a wrong one would show.
    inputs = [(0.03 * random.standard_normal(shape)).astype(np.float32) for shape in shapes]
    torch_inputs = [torch.from_numpy(np.moveaxis(x, -1, 1).copy()).requires_grad_() for x in inputs]
    output = module(*torch_inputs)
    cotangent = torch.cos(torch.arange(output.numel()) % 97).reshape(output.shape)
    gradients = torch.autograd.grad((output * cotangent).sum(), torch_inputs)

    def run(block, inputs, cotangent):
        output, vjp = jax.vjp(lambda inputs: block(*inputs), inputs)
        return output, vjp(cotangent)[0]

    channels_last = jnp.moveaxis(jnp.asarray(cotangent.numpy()), 1, -1)
    actual, actual_gradients = jax.jit(run, compiler_options=QUICK)(block, inputs, channels_last)
    assert_close(actual, np.moveaxis(output.detach().numpy(), 1, -1))
    for gradient, expected in zip(actual_gradients, gradients, strict=True):
        assert_close(gradient, np.moveaxis(expected.numpy(), 1, -1))


@pytest.mark.parametrize("scale_shift", [True, False], ids=["scale-shift", "added"])
@pytest.mark.parametrize("kind", ["plain", "skip", "up", "down"])
def test_residual_block_matches_torch(adm, kind, scale_shift):
    config = replace(BLOCKS, scale_shift_norm=scale_shift)
    resample = kind if kind in ("up", "down") else None
    width = 96 if kind == "skip" else 64
    block = ResBlock(config, 64, width, resample=resample, **KEYWORDS)
    module = adm.ResBlock(64, 128, 0.0, width, use_scale_shift_norm=scale_shift, up=kind == "up", down=kind == "down")
    check_block(module, block, "input_blocks.1.0", (2, 8, 6, 64), (2, 128))


@pytest.mark.parametrize("new_order", [False, True], ids=["legacy", "new"])
@pytest.mark.parametrize(("num_heads", "per_head"), [(4, None), (2, 16)])
def test_attention_matches_torch(adm, new_order, num_heads, per_head):
    """By number of heads, and by channels per head, which wins where both are given."""
    config = replace(BLOCKS, num_heads=num_heads, num_head_channels=per_head, new_attention_order=new_order)
    block = AttentionBlock(config, 64, **KEYWORDS)
    module = adm.AttentionBlock(64, num_heads, per_head or -1, use_new_attention_order=new_order)
    check_block(module, block, "middle_block.1", (2, 4, 6, 64))


@pytest.mark.parametrize(
    ("module", "block", "place"),
    [("Downsample", Downsample, "input_blocks.3.0"), ("Upsample", Upsample, "output_blocks.1.1")],
)
def test_resampling_by_convolution_matches_torch(adm, module, block, place):
    check_block(getattr(adm, module)(32, True), block(32, **KEYWORDS), place, (2, 8, 6, 32))


@pytest.mark.parametrize(
    "config",
    [
        replace(BLOCKS, scale_shift_norm=False, num_heads=2, num_head_channels=None, num_classes=7, in_channels=1),
        replace(BLOCKS, new_attention_order=True, channel_mult=(2,), num_res_blocks=2, attention_resolutions=()),
    ],
    ids=["added-classes-heads", "one-level-new-order"],
)
def test_network_matches_torch(adm, config):
    check_against_torch(config, config.image_size, run_once, seed=2)


def test_network_with_other_norm_groups_matches_torch(adm, monkeypatch):
    import torch  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(adm, "normalization", lambda channels: torch.nn.GroupNorm(8, channels))
    check_against_torch(replace(FACES_32, channel_mult=(1, 2), attention_resolutions=(16,)), 16, run_once)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 256])
def test_ffhq_network_matches_torch(adm, size):
    """All 93,563,910 parameters, at 256 pixels with the attention over 16 x 16 it was made for."""
    check_against_torch(FFHQ_256, size, run_network)


def test_known_networks_have_their_published_size():
    sizes = {name: sum(int(np.prod(s)) for s in torch_shapes(config).values()) for name, config in PUBLISHED.items()}
    assert sizes == {"ffhq-256": 93_563_910, "imagenet-256": 552_814_086}
    assert len(torch_shapes(FFHQ_256)) == 362


@pytest.mark.parametrize("config", [*SMALL.values(), FFHQ_256, IMAGENET_256], ids=[*SMALL, "ffhq", "imagenet"])
def test_names_and_shapes_are_those_of_torch(adm, config):
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmark.torch_networks import make_torch_unet

    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in make_torch_unet(config).state_dict().items()}
    assert torch_shapes(config) == expected


def test_conversion_and_its_inverse_are_bit_exact():
    weights = draw_weights(CONVS)
    back = to_torch(from_torch(weights, CONVS))
    assert back.keys() == weights.keys()
    for name, array in weights.items():
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("known", [FFHQ_256, IMAGENET_256])
def test_known_network_is_recognised(known):
    assert infer_config(torch_shapes(known)) == known


@pytest.mark.parametrize(
    "config",
    [
        *SMALL.values(),
        replace(BLOCKS, channel_mult=(1, 1, 2), num_res_blocks=3, attention_resolutions=(16, 4), in_channels=1),
        replace(BLOCKS, channel_mult=(3,), attention_resolutions=()),
        replace(FFHQ_256, num_classes=1000, out_channels=3),
    ],
)
def test_all_that_shapes_show_is_inferred(config):
    """From a network that agrees only in what shapes do not show."""
    like = replace(
        config,
        channels=64,
        channel_mult=(1,),
        num_res_blocks=7,
        attention_resolutions=(),
        in_channels=5,
        out_channels=5,
        resblock_updown=False,
        scale_shift_norm=False,
        num_classes=None,
    )
    assert infer_config(torch_shapes(config), like) == config


def test_unknown_network_is_refused_with_what_it_is_and_the_flags_that_it_needs():
    with pytest.raises(
        ValueError, match=r"none of ffhq-256, imagenet-256 .*channels 32, channel_mult \(1, 2\)"
    ) as told:
        infer_config(torch_shapes(BLOCKS))
    assert "give --image-size and --num-heads or --num-head-channels, or name with --config" in str(told.value)


GIVEN = {"image_size": 16, "num_head_channels": 16}


def test_what_shapes_do_not_show_is_given():
    assert infer_config(torch_shapes(BLOCKS), given=GIVEN) == BLOCKS
    other = replace(
        BLOCKS, image_size=32, attention_resolutions=(16,), num_heads=4, num_head_channels=None, norm_groups=8
    )
    given = {"image_size": 32, "num_heads": 4, "norm_groups": 8}
    assert infer_config(torch_shapes(BLOCKS), BLOCKS, given) == other


def test_an_image_size_is_that_of_the_levels():
    """guided-diffusion's own rule, before that of a network with other levels."""
    config = replace(BLOCKS, image_size=64, channel_mult=(1, 2, 3, 4), attention_resolutions=(16, 8))
    assert infer_config(torch_shapes(config), BLOCKS) == config


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"image_size": 0}, "image_size 0: at least 1"),
        ({"num_heads": -1}, "num_heads -1: at least 1"),
        ({"num_heads": 5}, "5 heads do not divide an attention block of 64 channels"),
        ({"num_head_channels": 48}, "heads of 48 channels do not divide"),
        ({"norm_groups": 5}, "`norm_groups` must divide every level's width"),
        ({"image_size": 17}, "`image_size` must be a multiple of 2"),
    ],
)
def test_what_is_given_must_fit(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        infer_config(torch_shapes(BLOCKS), None, GIVEN | given)


@pytest.mark.parametrize("name", ["time_embed.0.weight", "out.2.weight", "output_blocks.0.0.out_layers.3.weight"])
def test_inference_names_what_it_misses(name):
    shapes = torch_shapes(BLOCKS)
    with pytest.raises(ValueError, match=f"`{name}` cannot have shape"):
        infer_config(shapes | {name: ()}, BLOCKS)
    del shapes[name]
    with pytest.raises(ValueError, match=f"`{name}` is missing"):
        infer_config(shapes, BLOCKS)


def test_misfits_are_refused_by_name():
    weights = draw_weights(BLOCKS)
    bias, norm = "middle_block.1.qkv.bias", "input_blocks.1.0.in_layers.0.weight"
    missing = {name: array for name, array in weights.items() if name != bias}
    with pytest.raises(ValueError, match=f"missing `{bias}`$"):
        from_torch(missing, BLOCKS)
    with pytest.raises(ValueError, match=r"unexpected `middle_block\.3\.bias`$"):
        from_torch(weights | {"middle_block.3.bias": weights[bias]}, BLOCKS)
    with pytest.raises(ValueError, match=rf"of another shape: `{norm}` \(31,\) where \(32,\) is needed$"):
        from_torch(weights | {norm: weights[norm][1:]}, BLOCKS)
    for dtype in (np.float64, np.int32):
        with pytest.raises(ValueError, match=f"not float32, float16 or bfloat16: `{norm}` {np.dtype(dtype)}$"):
            from_torch(weights | {norm: weights[norm].astype(dtype)}, BLOCKS)
    with pytest.raises(ValueError, match=r"missing `input_blocks\.0\.0\.bias`, .* and \d+ more; unexpected `x`$"):
        from_torch({"x": weights[norm]}, BLOCKS)


# The commands, as a user runs them. A prior folder that holds only a configuration says what shapes do not show.


def save_checkpoint(path, weights, extra=None, kind="Float"):
    """Writes what `torch.save` would, without PyTorch."""
    storages = {str(i): array.tobytes() for i, array in enumerate(weights.values())}
    content = {}
    for i, (name, array) in enumerate(weights.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        content[name] = by_hand.tensor(by_hand.storage(str(i), array.size, f"{kind}Storage"), 0, array.shape, strides)
    by_hand.write(path, content | (extra or {}), storages)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small prior and its checkpoint, and checkpoints that do not fit it."""
    folder, weights = tmp_path_factory.mktemp("files"), draw_weights(BLOCKS)
    save_prior(folder / "like", from_torch(weights, BLOCKS), PriorConfig(BLOCKS))
    save_checkpoint(folder / "x.pt", weights)
    save_checkpoint(folder / "extra.pt", weights | {"extra.bias": weights["out.0.bias"]})
    save_checkpoint(folder / "classes.pt", draw_weights(replace(BLOCKS, num_classes=5)))
    part = {f"model.{name}": weights[name] for name in weights if name != "out.0.bias"}
    save_checkpoint(folder / "wrapped.pt", part)
    save_checkpoint(folder / "text.pt", {"words.weight": weights["out.0.bias"]})
    bomb = by_hand.call(by_hand.name("posix", "system"), "touch hacked")
    save_checkpoint(folder / "hostile.pt", weights, {"bomb": bomb})
    return folder


@pytest.fixture
def work(files, tmp_path, monkeypatch):
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def added_files(work, files):
    return sorted({p.name for p in work.iterdir()} - {p.name for p in files.iterdir()})


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip_through_files_is_bit_exact(work, files, adm, dtype, capsys):
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.benchmark.torch_networks import make_torch_unet

    weights = draw_weights(BLOCKS)
    tensors = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in weights.items()}
    torch.save(tensors, "x.pt")
    assert main(["unet", "x.pt", "prior", "--config", "like"]) == 0
    assert f"{sum(t.numel() for t in tensors.values()):,} parameters, {dtype}" in capsys.readouterr().out
    assert main(["export", "prior", "back.pt"]) == 0
    back = torch.load("back.pt", weights_only=True)
    make_torch_unet(BLOCKS).load_state_dict(back, strict=True)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert added_files(work, files) == ["back.pt", "prior"]


def test_converted_prior_loads_and_computes_as_torch(work, adm):
    weights, inputs = draw_weights(CONVS), draw_inputs(CONVS, 16)
    save_checkpoint("x.pt", weights)
    save_prior("like", from_torch(weights, CONVS), PriorConfig(CONVS), overwrite=True)
    x_t, t, label, cotangent = inputs
    assert main(["unet", "x.pt", "prior", "--config", "like", "--label", str(label)]) == 0
    config = read_config("prior")
    assert (config.network, config.variance) == (replace(CONVS, num_classes=None), "fixed_large")
    assert config.source["file"] == "x.pt"
    assert len(config.source["sha256"]) == 64
    output, gradient = run_once(load_prior("prior").network, x_t, t, None, cotangent)
    expected_output, expected_gradient = run_torch_unet(CONVS, weights, *inputs)
    assert_close(output, expected_output)
    assert_close(gradient, expected_gradient)


@pytest.mark.parametrize(("channels", "variance"), [(3, "fixed_large"), (6, "learned_range")])
def test_variance_follows_the_output(work, channels, variance):
    save_checkpoint("x.pt", draw_weights(replace(BLOCKS, out_channels=channels)))
    assert main(["unet", "x.pt", "prior", "--config", "like"]) == 0
    assert read_config("prior").variance == variance


LIKE = ("--config", "like")


def converted(capsys, *flags) -> tuple[list[str], PriorConfig]:
    """Converts x.pt to the folder `prior`; returns what is printed and the configuration."""
    assert main(["unet", "x.pt", "prior", *flags]) == 0
    return capsys.readouterr().out.splitlines(), read_config("prior")


def test_averaged_weights_are_taken_and_named(work, capsys):
    torch = pytest.importorskip("torch")
    weights = draw_weights(BLOCKS)
    plain = {name: torch.from_numpy(array) for name, array in weights.items()}
    doubled = [2 * tensor for tensor in plain.values()]
    torch.save({"model": plain, "ema": {"decay": 0.9, "shadow_params": doubled}, "epoch": 3}, "x.pt")
    lines, config = converted(capsys, *LIKE)
    assert "  weights: taken from `ema.shadow_params`, averages over the training; not taken: `model`" in lines
    assert config.source["state_dict"] == "ema.shadow_params"
    np.testing.assert_array_equal(read_prior("prior")[0]["out_norm.bias"], 2 * weights["out.0.bias"])
    lines, config = converted(capsys, *LIKE, "--weights", "model", "--overwrite")
    assert "  weights: taken from `model`; not taken: `ema.shadow_params`" in lines
    np.testing.assert_array_equal(read_prior("prior")[0]["out_norm.bias"], weights["out.0.bias"])


def test_target_variance_and_schedule_are_those_of_guided_diffusion_whatever_config_says(work, capsys):
    other = PriorConfig(BLOCKS, {"kind": "cosine"}, "v", "fixed_small")
    save_prior("other", from_torch(draw_weights(BLOCKS), BLOCKS), other)
    lines, config = converted(capsys, "--config", "other")
    assert (config.target, config.variance, config.schedule["kind"]) == ("epsilon", "learned_range", "linear")
    assert "  target: epsilon, guided-diffusion's default; not v, which --config has (--target v takes it)" in lines
    assert any(line.endswith("not cosine, which --config has (--schedule cosine takes it)") for line in lines)
    lines, config = converted(capsys, "--config", "other", "--overwrite", "--target", "v", "--schedule", "cosine")
    assert (config.target, config.schedule["kind"]) == ("v", "cosine")
    assert "  target: v, given" in lines


def test_every_flag_is_told_as_given(work, capsys):
    flags = "--image-size 16 --num-head-channels 16 --norm-groups 32 --new-attention-order True".split()
    lines, config = converted(capsys, *flags)
    assert config.network == replace(BLOCKS, new_attention_order=True)
    assert "  image size: 16, given" in lines
    assert "  attention heads: 16 channels each, given; new order, given" in lines
    assert "  norm groups: 32, given" in lines


def test_float64_is_rounded_and_said(work, capsys):
    weights = draw_weights(BLOCKS)
    save_checkpoint("x.pt", {name: array.astype(np.float64) / 3 for name, array in weights.items()}, kind="Double")
    lines, _ = converted(capsys, *LIKE)
    assert "  precision: float64 in the file, rounded to float32" in lines
    expected = (weights["out.0.bias"].astype(np.float64) / 3).astype(np.float32)
    np.testing.assert_array_equal(read_prior("prior")[0]["out_norm.bias"], expected, strict=True)


@pytest.mark.parametrize("label", [0, 4])
def test_a_class_conditional_network_becomes_the_prior_of_one_class(work, capsys, label):
    weights, (x_t, t, _, cotangent) = draw_weights(CONVS), draw_inputs(CONVS, 16)
    save_checkpoint("x.pt", weights)
    save_prior("conditional", from_torch(weights, CONVS), PriorConfig(CONVS, variance="fixed_large"))
    lines, _ = converted(capsys, "--config", "conditional", "--label", str(label))
    assert f"  class: {label}, given" in lines
    expected, _ = run_once(make_network(weights, CONVS), x_t, t, label, cotangent)
    output, _ = run_once(load_prior("prior").network, x_t, t, None, cotangent)
    assert_close(output, expected)
    with pytest.raises(PriorError, match="conditional is class-conditional; .* with --label"):
        load_prior("conditional")


CHANNELS = {
    "grey": ((1, 1), "channels of its pictures is 1, `jaxdiff restore` needs 3; --channels 1 converts"),
    "grey, learned variance": ((1, 2), "channels of its pictures is 1, `jaxdiff restore` needs 3; --channels 1"),
    "six": ((6, 6), "channels of its pictures is 6, `jaxdiff restore` needs 3"),
    "upsampler": ((6, 3), "takes 6 channels and gives 3; a prior gives as many or twice as many"),
    "masks": ((3, 1), "takes 3 channels and gives 1; a prior"),
}


@pytest.mark.parametrize("kind", CHANNELS)
def test_other_channels_than_three_are_refused_unless_confirmed(work, capsys, kind):
    (taken, given), sentence = CHANNELS[kind]
    save_checkpoint("x.pt", draw_weights(replace(BLOCKS, in_channels=taken, out_channels=given)))
    assert main(["unet", "x.pt", "prior", *LIKE]) == 2
    assert sentence in capsys.readouterr().err
    assert main(["unet", "x.pt", "prior", *LIKE, "--channels", "3"]) == 2
    assert not (work / "prior").exists()
    if given in (taken, 2 * taken):
        converted(capsys, *LIKE, "--channels", str(taken))
        assert load_prior("prior").image_shape == (16, 16, taken)


def bad(*arguments, sentence):
    return pytest.param(list(arguments), sentence, id=" ".join(arguments))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        bad("unet", "none.pt", "prior", sentence="none.pt: there is no such file"),
        bad("unet", "like/config.json", "prior", sentence="not a PyTorch checkpoint"),
        bad("unet", "x.pt", "prior", sentence="its shapes do not show everything, and it is none of ffhq-256"),
        bad("unet", "x.pt", "prior", *LIKE, "--label", "1", sentence="--label is given, but the network is not class"),
        bad("unet", "x.pt", "prior", *LIKE, "--channels", "1", sentence="--channels 1 does not fit a network of 3"),
        bad(
            "unet", "x.pt", "prior", *LIKE, "--variance", "fixed_small", sentence="--variance fixed_small does not fit"
        ),
        bad("unet", "x.pt", "prior", *LIKE, "--weights", "ema", sentence="holds no weights under ema, but under ."),
        bad(
            "unet", "x.pt", "prior", "--config", "photos", sentence="photos holds a network of kind ffdnet, not a UNet"
        ),
        bad("unet", "classes.pt", "prior", *LIKE, sentence="give --label, the class from 0 to 4 to take"),
        bad("unet", "classes.pt", "prior", *LIKE, "--label", "5", sentence="give --label, the class from 0 to 4"),
        bad("unet", "wrapped.pt", "prior", *LIKE, sentence="wrapped.pt, `model`: the tensors do not fit"),
        bad("unet", "x.pt", "like", sentence="like exists and is not empty"),
        bad("unet", "x.pt", "prior", "--config", "zebra", sentence="zebra is neither the folder of a prior nor one of"),
        bad("unet", "x.pt", "prior", "--config", ".", sentence="has no config.json"),
        bad("unet", "hostile.pt", "prior", "--config", "like", sentence="asks for `posix.system`"),
        bad("unet", "extra.pt", "prior", "--config", "like", sentence="extra.pt: the tensors do not fit the network"),
        bad("unet", "text.pt", "prior", sentence="`time_embed.0.weight` is missing, under any"),
        bad("export", "nowhere", "back.pt", sentence="nowhere is not a prior"),
        bad("export", "like", "x.pt", sentence="x.pt exists"),
        bad("lpips", "none.pth", "x.pt", "l.npz", "--net", "vgg", sentence="none.pth: there is no such file"),
        bad("lpips", "text.pt", "text.pt", "l.npz", "--net", "vgg", sentence="`features.0.weight` is missing"),
        bad("ffdnet", "text.pt", "prior", sentence="text.pt does not hold this kind of network: `0.weight` is missing"),
        bad("download", "ffhq-256", "like", sentence="like exists and is not empty"),
        bad("download", "ffhq-256", "prior", "--url", "file:///x", sentence="'file:///x' is not an http"),
        bad("download", "ffhq-256", "prior", "--url", "http://127.0.0.1:9/x", sentence="cannot be reached"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(work, capsys, arguments, sentence):
    before = sorted(work.rglob("*"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert sorted(work.rglob("*")) == before


def test_module_exits_with_the_code(work, files):
    command = [sys.executable, "-m", "convert_weights", "unet", "none.pt", "prior"]
    environment = os.environ | {"PYTHONPATH": str(Path(convert_weights.__file__).parents[1])}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 2
    assert ended.stderr == "error: none.pt: there is no such file\n"
    assert added_files(work, files) == []


@pytest.mark.parametrize(
    "arguments", [["unet", "x.pt", "new/prior", "--config", "like"], ["export", "like", "new/x.pt"]]
)
def test_full_disk_is_noticed_before_writing(work, files, monkeypatch, capsys, arguments):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("convert_weights.download.shutil.disk_usage", lambda path: usage)
    assert main(arguments) == 2
    assert "1,000 bytes free" in capsys.readouterr().err
    assert added_files(work, files) == []


def test_full_folder_is_replaced_only_on_request(work):
    assert main(["unet", "x.pt", "like", "--config", "like"]) == 2
    assert main(["unet", "x.pt", "like", "--config", "like", "--overwrite"]) == 0
    assert read_config("like").source["file"] == "x.pt"


def test_export_without_torch_says_what_to_install(work, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["export", "like", "back.pt"]) == 2
    assert "`pip install torch`" in capsys.readouterr().err
    assert not (work / "back.pt").exists()


def test_download_converts_and_keeps_the_checkpoint(work, monkeypatch, capsys):
    """The published address is replaced by one on this machine, the network by a small one."""
    fetched = []

    def fake(url, path, min_size, progress):
        fetched.append((url, min_size))
        path.parent.mkdir()
        path.write_bytes((work / "x.pt").read_bytes())
        progress(5, 10)

    monkeypatch.setattr(convert_weights.commands, "download", fake)
    monkeypatch.setitem(PUBLISHED, "ffhq-256", BLOCKS)
    assert main(["download", "ffhq-256", "priors/ffhq"]) == 0
    assert fetched == [(convert_weights.commands.SOURCES["ffhq-256"].url, 4 * 93_563_910)]
    assert read_config("priors/ffhq").source["file"] == "ffhq.pt"
    assert main(["download", "ffhq-256", "priors/ffhq", "--overwrite"]) == 0
    assert len(fetched) == 1
    assert "priors/ffhq.pt is already there" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["unet", "download"])
def test_interrupt_leaves_nothing_half_written(work, monkeypatch, capsys, command):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("orbax.checkpoint.Checkpointer.save", interrupt)
    monkeypatch.setattr(convert_weights.commands, "download", interrupt)
    before = sorted(work.rglob("*"))
    source = "x.pt" if command == "unet" else "ffhq-256"
    assert main([command, source, "prior", *(["--config", "like"] if command == "unet" else [])]) == 130
    assert "stopped: " in capsys.readouterr().err
    assert sorted(work.rglob("*")) == before


def test_lpips_files_convert(work, capsys):
    from jaxdiff.metrics.lpips import load_lpips

    random = np.random.default_rng(0)
    widths = [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)]
    backbone = {"classifier.6.bias": np.zeros(1000, np.float32)}
    for index, (wide, narrow, size) in zip((0, 3, 6, 8, 10), widths, strict=True):
        backbone[f"features.{index}.weight"] = random.random((wide, narrow, size, size), np.float32)
        backbone[f"features.{index}.bias"] = random.random(wide, np.float32)
    heads = {f"lin{i}.model.1.weight": random.random((1, w, 1, 1), np.float32) for i, (w, _, _) in enumerate(widths)}
    save_checkpoint("alex.pth", backbone)
    save_checkpoint("heads.pth", heads)
    assert main(["lpips", "--net", "alex", "alex.pth", "heads.pth", "out/alex.npz"]) == 0
    assert "load_lpips('alex', 'out/alex.npz')" in capsys.readouterr().out
    kernel = load_lpips("alex", "out/alex.npz").convs[1].kernel[...]
    np.testing.assert_array_equal(kernel, backbone["features.3.weight"].transpose(2, 3, 1, 0))
