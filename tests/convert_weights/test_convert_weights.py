"""Weights of the original PyTorch UNet give the same numbers here, convert strictly, and return bit for bit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convert_weights.formats.guided_diffusion.names import (
    from_torch,
    to_flax_layout,
    to_torch,
    torch_name,
    torch_shapes,
)
from convert_weights.formats.guided_diffusion.shapes import infer_config
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
    with_parameters,
)
from tests.golden.make_unet_parity import PATH, SMALL, draw_inputs, draw_weights, run_torch_unet

# Float32 sums of a few thousand terms, taken in two orders, differ by about 1e-6.
BOUND = 1e-4
BLOCKS, CONVS = SMALL["blocks"], SMALL["convs"]
KEYWORDS = {**arithmetic("float32"), "rngs": nnx.Rngs(0)}


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


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.thorough) if n == "blocks" else n for n in SMALL])
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
    """From a network that agrees only in what shapes do not show; the image size is that of the levels, or given."""
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
    assert infer_config(torch_shapes(config), like, {"image_size": config.image_size}) == config


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
        ({"num_heads": 5, "num_head_channels": None}, "5 heads do not divide an attention block of 64 channels"),
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
