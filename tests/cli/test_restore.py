"""The command `jaxdiff`: a picture restored, and every bad input answered by one sentence and exit code 2."""

import csv
import json
import shlex
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from jaxdiff import load_prior, samplers
from jaxdiff.cli import restore as restoring
from jaxdiff.cli.damage import estimate_sigma
from jaxdiff.cli.main import main
from jaxdiff.cli.request import Restore
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image, to_uint8, write_image
from jaxdiff.measurement import Measurement
from jaxdiff.networks.unet import UNetConfig
from jaxdiff.operators import Identity
from jaxdiff.priors.config import PriorConfig
from jaxdiff.priors.storage import save_prior
from jaxdiff.runs.methods import METHODS, TASKS, HyperParameters, check_flags, make_run
from jaxdiff.runs.setups import matched_time
from tests.conftest import SHAPE, gaussian_prior, random_weights

TINY = UNetConfig(16, 4, (1, 2), 1, (8,), num_heads=1, norm_groups=2)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    save_prior(folder, random_weights(TINY), PriorConfig(TINY))
    return str(folder)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with pictures to work on, in which the command runs."""
    monkeypatch.chdir(tmp_path)
    rows, columns = np.mgrid[-1:1:32j, -1:1:40j].astype(np.float32)
    picture = np.stack([rows, columns, rows * columns], -1)
    mask = np.full((32, 40, 1), -1, np.float32)
    mask[10:20, 12:30] = 1
    write_image("photo.png", picture)
    write_image("square.png", picture[:16, :16])
    write_image("mask.png", mask)
    write_image("black.png", np.full((32, 40, 1), -1, np.float32))
    write_image("white.png", np.full((32, 40, 1), 1, np.float32))
    write_image("small.png", picture[:8, :8])
    write_image("other.png", mask[:30])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.png").read_bytes()[:300])
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    np.save("nan.npy", np.full((3, 3), np.nan))
    return tmp_path


def run(prior, *arguments):
    main(["restore", *arguments, "--prior", prior, "--steps", "4", "--samples", "2"])


def test_inpainting_fills_the_hole_and_nothing_else(prior, folder, capsys, monkeypatch):
    run(prior, "photo.png", "--mask", "mask.png")
    out = folder / "results" / "photo-inpaint"
    said = capsys.readouterr().out
    assert "the central 32x32 are kept and resized to 16x16" in said
    assert "0 in [-1, 1] units = 0 in [0, 1] units = 0 of 255 steps" in said
    hidden = read_image(folder / "mask.png")[..., 0] > 0
    for k in range(2):
        before, after = (np.asarray(Image.open(p)) for p in (folder / "photo.png", out / f"restored_{k}.png"))
        np.testing.assert_array_equal(after[~hidden], before[~hidden])
        assert (after[hidden] != before[hidden]).any()
        kept = np.load(out / "measurement.npz")
        known = kept["observed"][..., 0] > 0
        sample = np.asarray(Image.open(out / "samples" / f"sample_{k}.png"))
        np.testing.assert_array_equal(sample[known], to_uint8(kept["y"])[known])
    written = {p.name for p in out.iterdir()}
    assert written >= {"config.json", "command.txt", "env.json", "measurement.npz", "metrics.csv", "grid.png"}
    assert written >= {"mean.png", "std.png", "process.gif", "report.html"}
    assert json.loads((out / "config.json").read_text())["settings"]["damaged"] == "photo.png"
    repeat = shlex.split((out / "command.txt").read_text())
    assert repeat == ["jaxdiff", *f"restore photo.png --mask mask.png --samples 2 --prior {prior} --steps 4".split()]
    assert "not evidence" in (out / "report.html").read_text()
    assert len(list(ImageSequence.Iterator(Image.open(out / "process.gif")))) == 4

    with pytest.raises(SystemExit):
        run(prior, "photo.png", "--mask", "mask.png")
    assert "--resume goes on with them" in capsys.readouterr().err
    before = (out / "samples" / "samples.npz").read_bytes()
    run(prior, "photo.png", "--mask", "mask.png", "--resume")
    assert (out / "samples" / "samples.npz").read_bytes() == before
    # Also from elsewhere, where the paths are others.
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    run(prior, "../photo.png", "--mask", str(folder / "mask.png"), "--out", "../results/photo-inpaint", "--resume")
    assert (out / "samples" / "samples.npz").read_bytes() == before
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        run(prior, "photo.png", "--mask", "mask.png", "--resume", "--invert-mask")
    assert "invert_mask" in capsys.readouterr().err
    # Nothing of the old results is left beside new ones, and nothing else is touched.
    (out / "restored_7.png").write_bytes(b"mine")
    main(
        [
            "restore",
            "photo.png",
            "--mask",
            "mask.png",
            "--prior",
            prior,
            "--steps",
            "4",
            "--samples",
            "1",
            "--overwrite",
        ]
    )
    assert sorted(p.name for p in out.glob("restored_*")) == ["restored_0.png", "restored_7.png"]
    assert (out / "restored_7.png").read_bytes() == b"mine"


def test_simulated_damage_is_scored_and_the_noise_is_what_was_asked(prior, folder, capsys):
    flags = ["--task", "denoise", "--simulate", "--sigma-steps", "25.5", "--out", "results/noisy"]
    run(prior, "photo.png", *flags)
    said = capsys.readouterr().out
    assert "0.2 in [-1, 1] units = 0.1 in [0, 1] units = 25.5 of 255 steps" in said
    kept = np.load(folder / "results" / "noisy" / "measurement.npz")
    noise = kept["y"] - kept["truth"]
    assert noise.std() == pytest.approx(0.2, rel=0.1)
    with (folder / "results" / "noisy" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"]
    samples = np.load(folder / "results" / "noisy" / "samples" / "samples.npz")["samples"]
    found = float(Measurement(Identity(), jnp.asarray(kept["y"]), 0.2).residual_ratio(jnp.clip(samples[1], -1, 1)))
    assert float(rows[1]["residual_ratio"]) == pytest.approx(found, rel=1e-3)
    assert all(np.isfinite([float(row["psnr"]), float(row["lpips_vgg"])]).all() for row in rows)
    config = json.loads((folder / "results" / "noisy" / "config.json").read_text())
    assert config["hyper_parameters"]["start"] == matched_time(load_prior(prior).schedule, 0.2)
    assert config["verdict"]["word"] in {row["verdict"] for row in rows}
    assert f"{config['verdict']['word']}: {config['verdict']['sentence']}" in said


def test_a_clean_photo_is_said_to_need_no_denoising(prior, folder, capsys):
    run(prior, "photo.png", "--task", "denoise", "--samples", "1")
    assert "hardly anything to denoise" in capsys.readouterr().out


def test_noise_of_a_photo_is_estimated_and_averaged_with_its_pixels(prior, folder, capsys):
    flags = ["--task", "deblur", "--blur-std", "2", "--method", "score-ald", "--samples", "1"]
    run(prior, "photo.png", *flags)
    said = capsys.readouterr().out
    assert "a Gaussian of 2 pixels, 1 at 16x16" in said
    assert "after averaging 2 x 2 pixels (estimated from the picture" in said


def test_the_estimate_of_the_noise_is_right():
    rng = np.random.default_rng(0)
    smooth = np.linspace(-0.5, 0.5, 63)[:, None, None] + np.zeros((63, 64, 3))
    for sigma in (0.02, 0.2):
        assert estimate_sigma(smooth + sigma * rng.normal(size=smooth.shape)) == pytest.approx(sigma, rel=0.1)
    assert estimate_sigma(smooth) == pytest.approx(2 / 255 / 12**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["photo.png"], "--task inpaint needs --mask"),
        (["photo.png", "--mask", "absent.png"], "there is no image absent.png"),
        (["absent.png", "--mask", "mask.png"], "there is no image absent.png"),
        (["photo.png", "--mask", "other.png"], "has 40x30 pixels, the picture 40x32"),
        (["photo.png", "--mask", "black.png"], "hides no pixel"),
        (["photo.png", "--mask", "white.png"], "hides every pixel"),
        (["photo.png", "--mask", "black.png", "--invert-mask"], "hides every pixel"),
        (["text.png", "--mask", "mask.png"], "not an image"),
        (["cut.png", "--mask", "mask.png"], "damaged"),
        (["small.png", "--mask", "mask.png"], "fewer than the 16x16"),
        (["empty", "--mask", "mask.png"], "there is no picture in empty"),
        (["photo.png", "--mask", "photo.png"], "looks like a photo"),
        (["photo.png", "--mask", "mask.png", "--mask-colour", "red"], "--mask-colour must be six hexadecimal digits"),
        (["photo.png", "--task", "denoise", "--mask-alpha"], "--mask-alpha does not belong to --task denoise"),
        (["photo.png", "--mask-alpha"], "has no transparent pixel"),
        (["photo.png", "--mask", "mask.png", "--sigma", "-0.1"], "--sigma must be between 0 and 1"),
        (["photo.png", "--mask", "mask.png", "--sigma", "nan"], "--sigma must be between 0 and 1"),
        (["photo.png", "--mask", "mask.png", "--sigma", "5"], "--sigma-steps takes 8-bit steps"),
        (["photo.png", "--mask", "mask.png", "--sigma", "0.1", "--sigma-steps", "5"], "give one of them"),
        (["photo.png", "--mask", "mask.png", "--samples", "0"], "--samples must be at least 1"),
        (["photo.png", "--mask", "mask.png", "--steps", "0"], "--steps must be at least 1"),
        (["photo.png", "--mask", "mask.png", "--steps", "2000"], "--steps must be between 1 and 1000"),
        (["photo.png", "--mask", "mask.png", "--zeta", "-1"], "zeta must be zero or positive"),
        (["photo.png", "--mask", "mask.png", "--gamma", "1", "2"], "--gamma belongs to --method score-ald"),
        (["photo.png", "--mask", "mask.png", "--method", "dsp"], "did you mean 'dps'"),
        (["photo.png", "--mask", "mask.png", "--fit", "crob"], "did you mean 'crop'"),
        (["photo.png", "--mask", "mask.png", "--blur-std", "2"], "does not belong to --task inpaint"),
        (["photo.png", "--mask", "mask.png", "--out", "file/results"], "cannot write to file/results"),
        (["photo.png", "--mask", "mask.png", "--prior", "faces-33"], "no prior named 'faces-33'"),
        (["photo.png", "--task", "inpant"], "unknown task 'inpant' (did you mean 'inpaint'?)"),
        (["photo.png", "--task", "deblur"], "needs one of --kernel"),
        (["photo.png", "--task", "deblur", "--blur-std", "0"], "--blur-std must be a positive"),
        (["photo.png", "--task", "deblur", "--kernel", "nan.npy"], "NaN or infinite"),
        (["photo.png", "--task", "denoise", "--simulate"], "needs the noise to add"),
        (["photo.png", "--task", "denoise", "--method", "sdedit", "--sigma", "0.1", "--start", "-5"], "start time"),
    ],
)
def test_bad_input_is_one_sentence_and_code_two(prior, folder, capsys, arguments, sentence):
    if "--prior" not in arguments:
        arguments = [*arguments, "--prior", prior]
    with pytest.raises(SystemExit) as ended:
        main(["restore", *arguments])
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert sentence in printed
    assert not (folder / "results").exists()


def test_an_interrupt_says_how_to_go_on(prior, folder, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(restoring, "draw", interrupted)
    with pytest.raises(SystemExit) as ended:
        run(prior, "photo.png", "--mask", "mask.png")
    assert ended.value.code == 130
    assert "--resume goes on" in capsys.readouterr().err


def test_info_and_list_print_what_is_there(capsys):
    main(["info"])
    assert "faces-32: 32x32" in capsys.readouterr().out
    main(["list"])
    listed = capsys.readouterr().out
    assert all(name in listed for name in samplers.__all__ if name[0].isupper())
    assert "DPS(prior, measurement, zeta)" in listed
    assert "https://arxiv.org/abs/2209.14687" in listed


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_set_up_for_every_task(method):
    prior, y = gaussian_prior(), jnp.zeros(SHAPE)
    noisy = Measurement(Identity(), y, 0.1)
    for task in TASKS:
        made = make_run(method, task, prior, noisy, 20)
        assert 1 <= len(made.times) - 1 <= 20
        assert made.times[-1] == -1
        assert made.method == method
    if "sigma_y" in made.settings:
        # No noise at all is taken for rounding to 8 bits, but by those that keep the data as they are.
        settings = make_run(method, "inpaint", prior, Measurement(Identity(), y, 0.0), 20).settings
        assert settings["sigma_y"] < 0.01
        assert (settings["sigma_y"] > 0) == (method not in ("ddnm", "ddrm"))
    others = HyperParameters(
        zeta=2.0, gamma=(300.0, 400.0), weighting="over_variance", start=250, iterations=7, integrator="heun"
    )
    for flag in METHODS[method].flags:
        chosen = HyperParameters(**{flag: getattr(others, flag)})
        check_flags(method, chosen)
        assert make_run(method, "inpaint", prior, noisy, 20, chosen).settings != made.settings
    for flag in set(vars(others)) - set(METHODS[method].flags):
        with pytest.raises(UserError, match=f"--{flag} belongs to --method"):
            check_flags(method, HyperParameters(**{flag: getattr(others, flag)}))


def test_the_matched_time_has_just_the_noise_of_the_measurement():
    schedule = gaussian_prior().schedule
    for sigma in (0.0, 0.05, 1.0):
        t = matched_time(schedule, sigma)
        noise = [float(s / a) for a, s in map(schedule, (max(t - 1, 0), t))]
        assert noise[1] >= sigma
        assert t == 0 or noise[0] < sigma


def test_flags_are_checked_before_anything_slow(tmp_path):
    request = Restore(tmp_path / "absent.png", mask=tmp_path / "absent.png")
    request.check()
    assert request.folder.as_posix() == "results/absent-inpaint"


@pytest.mark.thorough
def test_a_prior_that_is_not_square_restores_a_picture(folder, monkeypatch):
    """The crop, the samples, the grid and the report have the prior's aspect ratio."""
    wide = replace(load_prior("faces-32"), image_shape=(16, 24, 3))
    monkeypatch.setattr(restoring, "load_prior", lambda *args, **kwargs: wide)
    main(["restore", "photo.png", "--mask", "mask.png", "--steps", "2", "--samples", "2", "--out", "wide"])
    assert np.load(folder / "wide" / "samples" / "samples.npz")["samples"].shape == (2, 16, 24, 3)
    assert Image.open(folder / "wide" / "restored_0.png").size == (40, 32)
    assert (folder / "wide" / "report.html").exists()
    assert Image.open(folder / "wide" / "mean.png").size == (24, 16)


@pytest.mark.parametrize(
    ("prepare", "arguments", "sentence"),
    [
        (lambda folder: None, ["--out", "."], "lies in the result folder"),
        (lambda folder: (folder / "mine").mkdir() or (folder / "mine" / "mean.png").write_text("x"), ["--out", "mine"],
         "holds files that are no results of jaxdiff restore"),
        (lambda folder: save_prior(folder / "mine", random_weights(TINY), PriorConfig(TINY)), ["--out", "mine"],
         "holds files that are no results of jaxdiff restore"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--resume"]])
def test_what_the_user_owns_is_never_touched(prior, folder, capsys, prepare, arguments, sentence, flags):
    prepare(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        run(prior, "photo.png", "--mask", "mask.png", *arguments, *flags)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_convert_is_a_command_too(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["convert", "unet", "absent.pt", "nowhere"])
    assert ended.value.code == 2
    assert "absent.pt" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["convert", "--help"])
    assert not ended.value.code
    assert "jaxdiff convert" in capsys.readouterr().out


def test_export_writes_a_folder_once(folder, capsys):
    words = [
        "export",
        "photo.png",
        "--mask",
        "mask.png",
        "--out",
        "x",
        "--steps",
        "4",
        "--samples",
        "2",
        "--method",
        "score-ald",
    ]
    write_image("photo.png", np.zeros((32, 32, 3)))
    write_image("mask.png", np.where(np.arange(32)[:, None, None] < 16, 1.0, -1.0) * np.ones((32, 32, 3)))
    main(words)
    about = json.loads((folder / "x" / "about.json").read_text())
    assert about["numbers"]["measurement.y"] == [32, 32, 3]
    assert {path.name for path in (folder / "x").iterdir()} == {"run.py", "program.bin", "arrays.npz", "about.json"}
    for more, sentence in (
        ([], "--overwrite"),
        (["--resume"], "does not belong"),
        (["--platforms", "gpu"], "unknown platform"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        assert ended.value.code == 2
        assert sentence in capsys.readouterr().err
    main([*words, "--overwrite"])
    (folder / "x" / "thesis.tex").write_text("x")
    with pytest.raises(SystemExit):
        main([*words, "--overwrite"])
    assert "thesis.tex" in capsys.readouterr().err


def painted_in(name, hidden):
    """Writes a picture that says itself, or with a mask, what is hidden; returns the arguments for it, and its mode."""
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 200, (32, 40), np.uint8), rng.integers(0, 200, (32, 40, 3), np.uint8)
    clear = np.where(hidden, 0, 255).astype(np.uint8)
    pictures = {
        "grey.png": (Image.fromarray(grey), ["--mask", "mask.png"], "L"),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 300), ["--mask", "mask.png"], "I;16"),
        "profile.png": (Image.fromarray(colour), ["--mask", "mask.png"], "RGB"),
        "see-through.png": (Image.fromarray(np.dstack([colour, clear])), ["--mask", "mask.png"], "RGBA"),
        "erased.png": (Image.fromarray(np.dstack([colour, clear])), [], "RGBA"),
        "erased-twice.png": (Image.fromarray(np.dstack([colour, clear])), ["--mask", "erased-twice.png"], "RGBA"),
        "strokes.png": (
            Image.fromarray(np.where(hidden[..., None], (255, 0, 0), colour).astype(np.uint8)),
            ["--mask-colour", "FF0000"],
            "RGB",
        ),
        "[red]brackets[-red].png": (Image.fromarray(colour), ["--mask", "mask.png"], "RGB"),
        "caf\udce9.png": (Image.fromarray(colour), ["--mask", "mask.png"], "RGB"),
    }
    picture, arguments, mode = pictures[name]
    picture.save(name, icc_profile=b"a profile" * 20)
    return arguments, mode


@pytest.mark.parametrize(
    "name",
    [
        "grey.png",
        "deep.png",
        "profile.png",
        "see-through.png",
        "erased.png",
        "erased-twice.png",
        "strokes.png",
        "[red]brackets[-red].png",
        "caf\udce9.png",
    ],
)
def test_a_restored_photo_is_what_the_photo_was(prior, folder, capsys, name):
    hidden = read_image("mask.png")[..., 0] > 0
    arguments, mode = painted_in(name, hidden)
    run(prior, name, *arguments, "--out", "out")
    said = capsys.readouterr().out
    assert f"{hidden.mean():.1%} of the pixels are hidden" in said
    before, after = Image.open(name), Image.open("out/restored_0.png")
    assert after.mode == before.mode == mode
    assert after.info["icc_profile"] == before.info["icc_profile"]
    given, restored = np.asarray(before), np.asarray(after)
    np.testing.assert_array_equal(restored[~hidden], given[~hidden])
    assert (restored[hidden] != given[hidden]).any()
    if mode == "RGBA":
        opaque = np.full_like(given[..., 3], 255) if "erased" in name else given[..., 3]
        np.testing.assert_array_equal(restored[..., 3], opaque)
        assert ("stay transparent" in said) == (name == "see-through.png")
