"""The commands of `convert_weights`, as a user runs them.

A prior folder `like` says what shapes do not show.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import convert_weights.commands
from convert_weights.__main__ import main
from convert_weights.formats.ffdnet import ffdnet_from_torch
from convert_weights.formats.guided_diffusion.names import from_torch
from jaxdiff.cli.main import main as restore
from jaxdiff.images.files import write_image
from jaxdiff.networks.unet import PUBLISHED, UNetConfig
from jaxdiff.priors.config import PriorConfig, PriorError, read_config
from jaxdiff.priors.storage import load_prior, read_prior, save_prior
from tests.convert_weights import by_hand
from tests.convert_weights.by_hand import save_checkpoint
from tests.convert_weights.test_convert_weights import (
    BLOCKS,
    CONVS,
    assert_close,
    make_network,
    run_once,
)
from tests.golden.make_unet_parity import draw_inputs, draw_weights, run_torch_unet
from tests.networks.test_ffdnet import torch_weights


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


def test_averages_in_a_file_of_their_own_are_named(work, capsys):
    """guided-diffusion's trainer writes model010000.pt and ema_0.9999_010000.pt."""
    for name in ("model010000.pt", "ema_0.9999_010000.pt", "ema_0.9999_020000.pt"):
        shutil.copy("x.pt", name)
    told = "  not taken: ema_0.9999_010000.pt beside it, averages over the training"
    for source, count in (("model010000.pt", 1), ("ema_0.9999_010000.pt", 0)):
        assert main(["unet", source, source.removesuffix(".pt"), *LIKE]) == 0
        assert capsys.readouterr().out.splitlines().count(told) == count


def test_target_variance_and_schedule_are_those_of_guided_diffusion_whatever_config_says(work, capsys):
    other = PriorConfig(BLOCKS, {"kind": "cosine"}, "v", "fixed_small")
    save_prior("other", from_torch(draw_weights(BLOCKS), BLOCKS), other)
    lines, config = converted(capsys, "--config", "other")
    assert (config.target, config.variance, config.schedule["kind"]) == ("epsilon", "learned_range", "linear")
    assert "  target: epsilon, guided-diffusion's default" in lines
    assert lines[-1].startswith("  --config has otherwise --target v --schedule cosine, which is not taken")
    lines, config = converted(capsys, "--config", "other", "--overwrite", "--target", "v", "--schedule", "cosine")
    assert (config.target, config.schedule["kind"]) == ("v", "cosine")
    assert "  target: v, given" in lines
    assert not any("otherwise" in line for line in lines)


def test_every_flag_is_told_as_given(work, capsys):
    flags = ("--image-size", "16", "--num-head-channels", "16", "--norm-groups", "32", "--attention-order", "new")
    lines, config = converted(capsys, *flags)
    assert config.network == replace(BLOCKS, new_attention_order=True)
    assert "  image size: 16, given" in lines
    assert "  attention heads: 16 channels each, given; new order, given" in lines
    assert "  norm groups: 32, given" in lines


OWN = UNetConfig(64, 32, (1, 2, 2), 1, (32, 16), num_heads=2, out_channels=3, norm_groups=16, new_attention_order=True)


def test_a_network_of_ones_own_training_converts_by_what_is_told(work, capsys):
    """32 channels, 64 pixels: no published network shares what its shapes do not show."""
    weights = draw_weights(OWN)
    save_checkpoint("x.pt", weights)
    assert main(["x.pt", "prior"]) == 2
    assert "give --image-size and --num-heads or --num-head-channels" in capsys.readouterr().err
    flags = ["--image-size", "64", "--num-heads", "2", "--norm-groups", "16", "--attention-order", "new"]
    flags += ["--schedule", "cosine", "--target", "v", "--variance", "fixed_small"]
    assert main(["x.pt", "prior", *flags]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "  taken for a UNet of guided-diffusion, x.pt"
    assert sum(line.endswith("given") for line in told) == 6
    stored, config = read_prior("prior")
    assert (config.network, config.schedule) == (OWN, {"kind": "cosine"})
    assert (config.target, config.variance) == ("v", "fixed_small")
    np.testing.assert_array_equal(stored["output_blocks.0.1.qkv.bias"], weights["output_blocks.0.1.qkv.bias"])
    assert load_prior("prior").image_shape == (64, 64, 3)


def test_float64_is_rounded_and_said(work, capsys):
    weights = draw_weights(BLOCKS)
    save_checkpoint("x.pt", {name: array.astype(np.float64) / 3 for name, array in weights.items()}, kind="Double")
    lines, _ = converted(capsys, *LIKE)
    assert "  precision: float64 in the file, rounded to float32" in lines
    expected = (weights["out.0.bias"].astype(np.float64) / 3).astype(np.float32)
    np.testing.assert_array_equal(read_prior("prior")[0]["out_norm.bias"], expected, strict=True)


@pytest.mark.thorough
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
    with pytest.raises(PriorError, match=r"conditional is class-conditional; .* with --label"):
        load_prior("conditional")


CHANNELS = {
    "grey": ((1, 1), "channels of its pictures is 1, `jaxdiff restore` needs 3; --channels 1 converts"),
    "grey, learned variance": ((1, 2), "channels of its pictures is 1, `jaxdiff restore` needs 3; --channels 1"),
    "six": ((6, 6), "channels of its pictures is 6, `jaxdiff restore` needs 3"),
    "upsampler": ((6, 3), "takes 6 channels and gives 3; a prior gives as many or twice as many"),
    "masks": ((3, 1), "takes 3 channels and gives 1; a prior"),
}


@pytest.mark.thorough
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


def test_restore_says_that_a_prior_is_not_of_colour_pictures(work, capsys):
    save_checkpoint("x.pt", draw_weights(replace(BLOCKS, in_channels=1, out_channels=1)))
    converted(capsys, *LIKE, "--channels", "1")
    write_image("photo.png", np.zeros((16, 16, 3), np.float32))
    with pytest.raises(SystemExit) as ended:
        restore(["restore", "photo.png", "--task", "denoise", "--prior", "prior"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: prior is a prior of images with 1 channels, not 3.\n"
    assert not (work / "results").exists()


@pytest.mark.parametrize("source", ["x.pt", "files"])
def test_the_format_is_found_and_foreign_flags_are_refused(work, capsys, source):
    (work / "files").mkdir()
    save_checkpoint("files/ffdnet.pth", torch_weights())
    if source == "x.pt":
        save_checkpoint("x.pt", torch_weights())
    name = "x.pt" if source == "x.pt" else "files/ffdnet.pth"
    assert main([source, "prior", "--image-size", "64"]) == 2
    told = f"error: {name}: --image-size means nothing for a colour FFDNet, as which it is read\n"
    assert capsys.readouterr().err == told
    assert main(["convert", source, "prior"]) == 0
    assert f"  taken for a colour FFDNet, {name}" in capsys.readouterr().out.splitlines()
    assert read_config("prior").source["format"] == "ffdnet"


def bad(*arguments, sentence):
    return pytest.param(list(arguments), sentence, id=" ".join(arguments))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        bad("unet", "none.pt", "prior", sentence="none.pt: there is no such file"),
        bad("unet", "like/config.json", "prior", sentence="neither a PyTorch checkpoint nor"),
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
        bad("text.pt", "prior", sentence="text.pt does not hold what is known here: a UNet of guided-diffusion, "),
        bad("like", "prior", sentence="like is a folder; give the file with the weights in it (none that ends with"),
        bad(".", "prior", sentence="give the file with the weights in it (classes.pt, extra.pt, hostile.pt"),
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


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_ffdnet_converts_from_both_formats(work, capsys, is_zip):
    torch = pytest.importorskip("torch")
    weights = torch_weights()
    tensors = {f"module.{name}": torch.from_numpy(array).double() for name, array in weights.items()}
    torch.save({"params": tensors}, "ffdnet.pth", _use_new_zipfile_serialization=is_zip)
    assert main(["ffdnet", "ffdnet.pth", "prior"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  weights: taken from `params.module`" in lines
    assert "  precision: float64 in the file, rounded to float32" in lines
    assert "  target: x0, for FFDNet removes the noise" in lines
    stored, config = read_prior("prior")
    expected, network = ffdnet_from_torch(weights)
    assert (config.network, config.target, config.source["state_dict"]) == (network, "x0", "params.module")
    assert stored.keys() == expected.keys()
    assert all(np.array_equal(stored[name], array) for name, array in expected.items())


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
